"""Turn a caption into one vector: with a BERT from scratch or a pretrained text encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
)

from cmssf_lib.data.given import as_texts
from cmssf_lib.encoders.tokens import Ids, tokenize, word_tokenizer
from cmssf_lib.files import home
from cmssf_lib.settings import BelowOne, settings


@settings
class TextConfig:
    """Settings of a text encoder."""

    # A BERT with random weights and a tokenizer built from the captions, or a pretrained model.
    kind: Literal["scratch", "pretrained"]
    width: PositiveInt  # length of a token (scratch)
    depth: PositiveInt  # layers (scratch)
    heads: PositiveInt  # attention heads in each layer (scratch)
    max_length: PositiveInt  # longest caption in tokens, with [CLS] and [SEP] (scratch)
    dropout: BelowOne  # in the layers (scratch); with 0, equal captions get equal vectors
    name: str = ""  # for "pretrained": a name on the hub, or a folder


class TextEncoder(nn.Module):
    """A BERT-like encoder that takes captions as strings.

    Args:
        config: Settings of the encoder.
        captions: Texts to build the tokenizer from (scratch only).
        folder: Folder with the tokenizer and configuration of a pretrained encoder, as
            `save_parts` wrote them. The weights are then random; the caller must load them.

    Attributes:
        width: Length of the vector that `forward` returns.
        tokenizer: A tokenizer of the transformers library.

    Raises:
        ValueError: If there are no captions to build from, or a folder holds a damaged encoder.
        FileNotFoundError: If a pretrained encoder can be neither read nor downloaded.
    """

    def __init__(
        self, config: TextConfig, captions: Sequence[str] = (), folder: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: PreTrainedTokenizerBase
        if config.kind == "scratch":
            self.tokenizer = word_tokenizer(captions, config.max_length)
            bert = BertConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.width,
                max_position_embeddings=config.max_length,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                pad_token_id=self.tokenizer.pad_token_id,
                initializer_range=config.width**-0.5,  # BERT's 0.02 suits 768, not 64
            )
            self.backbone = BertModel(bert, add_pooling_layer=False)
        else:
            where = config.name if folder is None else str(folder)
            where = str(home(where)) if where.startswith("~") else where  # else a name on the hub
            try:
                if not where:  # old versions of the hub's library raise something else
                    raise FileNotFoundError("the name is empty")
                self.tokenizer = AutoTokenizer.from_pretrained(where)
                if folder is None:
                    self.backbone = AutoModel.from_pretrained(where)
                else:
                    self.backbone = AutoModel.from_config(AutoConfig.from_pretrained(where))
            except OSError as error:
                raise FileNotFoundError(
                    f"the text encoder {where!r} is neither a folder on this machine nor a model "
                    "that could be downloaded: connect to the network once, or name a folder "
                    "that save_pretrained wrote"
                ) from error
            except (ValueError, SafetensorError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"{where!r} contains no complete text encoder ({reason}): expected a model "
                    "and its tokenizer as save_pretrained writes them"
                ) from error
            # A tokenizer may allow more tokens than the model has positions for.
            longest = self.tokenizer.model_max_length
            positions = getattr(self.backbone.config, "max_position_embeddings", None) or longest
            self.tokenizer.model_max_length = min(longest, positions)
        # A published one may be in half precision.
        nn.Module.to(self.backbone, torch.get_default_dtype())
        self.width = int(self.backbone.config.hidden_size)
        # The tokens of the last call, by its captions and device. A captured step keeps them.
        self.last: dict[tuple[tuple[str, ...], torch.device], tuple[Ids, Ids | None]] = {}

    @property
    def words(self) -> list[str]:
        """The words of a tokenizer built from scratch; they suffice to build it again."""
        return sorted(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens))

    def save_parts(self, folder: str | Path) -> None:
        """Write tokenizer and configuration, but no weights; ``folder`` reads them again."""
        self.tokenizer.save_pretrained(folder)
        self.backbone.config.save_pretrained(folder)

    def forward(self, captions: Sequence[str]) -> Float[Tensor, "captions width"]:
        """Return the [CLS] vector of each caption."""
        return self.encode(*self._tokenized(captions))

    def encode(self, ids: Ids, mask: Ids | None = None) -> Float[Tensor, "captions width"]:
        """Return the [CLS] vector of each caption, given as token ids and mask (`tokenize`)."""
        hidden: Tensor = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]  # (captions, length, width) -> [CLS] comes first

    def _tokenized(self, captions: Sequence[str]) -> tuple[Ids, Ids | None]:
        """Return token ids, and their mask if any are padding; the last call's are kept.

        Where captions are class names, every training step passes the same ones. With cached
        picture features, tokenizing them again would take a thirtieth of the step.
        """
        asked, device = as_texts(captions), self.backbone.device
        if (asked, device) not in self.last:
            ids, mask = tokenize(self.tokenizer, captions)
            # Without a mask, transformers need not look on a GPU whether it hides anything.
            padded = None if mask.all() else mask.to(device, non_blocking=True)
            self.last = {(asked, device): (ids.to(device, non_blocking=True), padded)}
        return self.last[asked, device]

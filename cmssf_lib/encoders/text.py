"""From a caption to one vector: a BERT from scratch, or a pretrained text encoder."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float, Int
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

from cmssf_lib.captions import tokenize, word_tokenizer
from cmssf_lib.presets import TextConfig


class TextEncoder(nn.Module):
    """A BERT-like encoder that takes captions as strings.

    Args:
        config: From scratch, or a pretrained one by name or folder.
        captions: Texts to build the tokenizer from (scratch only).
        folder: Where the tokenizer and configuration of a pretrained encoder stand, as
            `save_parts` wrote them. Its weights are random then: the caller has them.

    Attributes:
        width: Length of the vector that `forward` returns.
        tokenizer: A tokenizer of the transformers library.

    Raises:
        ValueError: If the kind is unknown, there are no captions to build from, or a folder
            holds a damaged encoder.
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
        elif config.kind == "pretrained":
            where = config.name if folder is None else str(folder)
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(where)
                if folder is None:
                    self.backbone = AutoModel.from_pretrained(where)
                else:
                    self.backbone = AutoModel.from_config(AutoConfig.from_pretrained(where))
            except OSError as error:
                raise FileNotFoundError(
                    f"the text encoder {where!r} is neither a folder on this machine nor "
                    "could it be downloaded: connect to the network once, or name a folder "
                    "that save_pretrained wrote"
                ) from error
            except (ValueError, SafetensorError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"{where!r} holds no complete text encoder ({reason}): expected what "
                    "save_pretrained writes for a model and for its tokenizer"
                ) from error
            # A tokenizer may allow more than the model has positions for.
            positions = getattr(self.backbone.config, "max_position_embeddings", None)
            if positions is not None:
                longest = min(self.tokenizer.model_max_length, positions)
                self.tokenizer.model_max_length = longest
        else:
            raise ValueError(
                f"unknown text encoder {config.kind!r}; choose 'scratch' or 'pretrained'"
            )
        self.width = int(self.backbone.config.hidden_size)
        self._asked: tuple[str, ...] = ()  # the captions of the last call, and their tokens
        self._tokens: tuple[Tensor, Tensor] | None = None

    @property
    def words(self) -> list[str]:
        """The words of a tokenizer from scratch: from them it can be built again."""
        return sorted(set(self.tokenizer.get_vocab()) - set(self.tokenizer.all_special_tokens))

    def save_parts(self, folder: str | Path) -> None:
        """Write tokenizer and configuration, without the weights, for `folder` to read."""
        self.tokenizer.save_pretrained(folder)
        self.backbone.config.save_pretrained(folder)

    def forward(self, captions: Sequence[str]) -> Float[Tensor, "captions width"]:
        """Return the [CLS] vector of each caption."""
        ids, mask = self._tokenized(captions)
        hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]  # (captions, length, width) -> [CLS] stands first

    def _tokenized(
        self, captions: Sequence[str]
    ) -> tuple[Int[Tensor, "captions length"], Int[Tensor, "captions length"]]:
        """Return the captions' tokens; those of the last call again if it asked for the same.

        Where a caption is the name of a class, every step asks for the same ten, and on cached
        features tokens would take a thirtieth of it.
        """
        asked, device = tuple(captions), self.backbone.device
        if self._tokens is None or asked != self._asked or self._tokens[0].device != device:
            self._tokens = tokenize(self.tokenizer, captions, device)
            self._asked = asked
        return self._tokens

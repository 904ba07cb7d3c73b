"""From a caption to one vector: a BERT from scratch, or a pretrained text encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from cmssf_lib.settings import BelowOne, settings

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
Tokens = tuple[Int[Tensor, "captions length"], Int[Tensor, "captions length"]]  # ids and mask


@settings
class TextConfig:
    """A text encoder."""

    # A BERT with random weights and a tokenizer of the captions; or one by name.
    kind: Literal["scratch", "pretrained"]
    width: PositiveInt  # length of a token (scratch)
    depth: PositiveInt  # layers (scratch)
    heads: PositiveInt  # attention heads in each (scratch)
    max_length: PositiveInt  # longest caption in tokens, [CLS] and [SEP] counted (scratch)
    dropout: BelowOne  # in the layers (scratch); zero keeps equal captions equal
    name: str = ""  # for "pretrained": a name on the hub, or a folder


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
        self.width = int(self.backbone.config.hidden_size)
        self._asked: tuple[str, ...] = ()  # the captions of the last call, and their tokens
        self._tokens: Tokens | None = None

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
        hidden: Tensor = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]  # (captions, length, width) -> [CLS] stands first

    def _tokenized(self, captions: Sequence[str]) -> Tokens:
        """Return the captions' tokens; those of the last call again if it asked for the same.

        Where a caption is the name of a class, every step asks for the same ten, and on cached
        features tokens would take a thirtieth of it.
        """
        asked, device = tuple(captions), self.backbone.device
        if self._tokens is None or asked != self._asked or self._tokens[0].device != device:
            self._tokens = tokenize(self.tokenizer, captions, device)
            self._asked = asked
        return self._tokens


def word_tokenizer(captions: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the words of the captions.

    Every caption becomes ``[CLS] word word … [SEP]``, lower-cased, as BERT writes it; the
    vocabulary is small and sorted, so equal captions give equal token ids on any machine.

    Args:
        captions: Texts to collect the words from; repeats are harmless.
        max_length: Longest sequence the encoder takes, ``[CLS]`` and ``[SEP]`` counted.

    Returns:
        A tokenizer of the transformers library, so a pretrained one can take its place.

    Raises:
        ValueError: If there is no word at all.
    """
    splitter = pre_tokenizers.Whitespace()
    words = sorted(
        {word for text in set(captions) for word, _ in splitter.pre_tokenize_str(text.lower())}
    )
    if not words:
        raise ValueError("no words to build a tokenizer from: the captions are empty")
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], device: torch.device | str = "cpu"
) -> Tokens:
    """Turn captions into token ids, all padded to the longest one of this call.

    Nothing is cut and no word is dropped in silence: both would change what a caption says.

    Args:
        tokenizer: From `word_tokenizer`, or of a pretrained text encoder.
        captions: One or more texts.
        device: Where the ids are put.

    Returns:
        Token ids and the attention mask (1 for a token, 0 for padding), int64.

    Raises:
        ValueError: If there is no caption, one is empty, one is longer than the encoder
            takes, or one holds a word the tokenizer has never seen.
    """
    if isinstance(captions, str):
        raise TypeError("captions is a list of texts; got one text: wrap it in a list")
    if len(captions) == 0:
        raise ValueError("no caption to tokenize; expected at least one")
    for i, caption in enumerate(captions):
        if not caption.strip():
            raise ValueError(f"caption {i} is empty; every picture needs a text")
    encoded = tokenizer(list(captions), truncation=False, padding=False, verbose=False)
    for caption, ids in zip(captions, encoded["input_ids"], strict=True):
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"the caption {caption!r} takes {len(ids)} tokens and the text encoder at most "
                f"{tokenizer.model_max_length}: shorten it, or build the encoder with a larger "
                "max_length"
            )
        if (unknown := tokenizer.unk_token_id) in ids:
            alone = {
                w: tokenizer(w, add_special_tokens=False)["input_ids"] for w in caption.split()
            }
            words = ", ".join(repr(word) for word, found in alone.items() if unknown in found)
            raise ValueError(
                f"the caption {caption!r} holds a word that the tokenizer has never seen: {words}. "
                "Use the words of the training captions, or a pretrained text encoder"
            )
    padded = tokenizer.pad(encoded, return_tensors="pt")
    return padded["input_ids"].to(device), padded["attention_mask"].to(device)

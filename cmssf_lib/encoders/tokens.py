"""Turn captions into token ids: with the words of the training captions, or as a model does."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cmssf_lib.data.given import as_texts, text_fault
from cmssf_lib.data.image_text import ImageTextData

#: How the built-in tokenizer reads a text: Unicode's compatible forms (NFKC) as one, in lower case
#: with the two letters that Unicode's case folding changes beyond it, without invisible characters.
READING = normalizers.Sequence(
    [
        normalizers.NFKC(),
        normalizers.Lowercase(),
        normalizers.Replace("ß", "ss"),
        normalizers.Replace("ς", "σ"),
        normalizers.Replace(Regex(r"\p{Cc}"), " "),  # a line's end, or another control character
        normalizers.Replace(Regex(r"\p{Cf}"), ""),
    ]
)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
Ids = Int[Tensor, "captions length"]


def word_tokenizer(captions: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the words of the captions.

    Every caption becomes ``[CLS] word word … [SEP]``, as in BERT. Case, Unicode's compatible forms
    and invisible characters make no difference (`READING`), and punctuation that no caption had is
    left out. The vocabulary is sorted, so the same captions give the same token ids on any machine.

    Args:
        captions: Texts to collect the words from; repetitions are harmless.
        max_length: Longest sequence that the encoder accepts, with ``[CLS]`` and ``[SEP]``.

    Returns:
        A tokenizer of the transformers library; a pretrained one can replace it.

    Raises:
        TypeError: If ``captions`` is a single text.
        ValueError: If an entry is no text, or there is no word.
    """
    splitter, texts = pre_tokenizers.Whitespace(), dict.fromkeys(_texts(captions))
    read = (splitter.pre_tokenize_str(READING.normalize_str(text)) for text in texts)
    words = sorted({word for split in read for word, _ in split})
    if not words:
        raise ValueError("no words to build a tokenizer from: the captions are empty")
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = READING
    known = "|".join(re.escape(word) for word in words if not any(map(str.isalnum, word)))
    strange = Regex(rf"\A(?!({known})\z)\p{{P}}+\z") if known else Regex(r"\A\p{P}+\z")
    leave_out = pre_tokenizers.Split(strange, "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, leave_out])
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
) -> tuple[Ids, Ids]:
    """Turn captions into token ids, all padded to the longest caption of this call.

    Long captions and unknown words are errors: cutting or dropping them would change the meaning.

    Args:
        tokenizer: From `word_tokenizer` or from a pretrained text encoder.
        captions: One or more texts.
        device: Where to put the ids.

    Returns:
        Token ids and the attention mask (1 for a token, 0 for padding), int64.

    Raises:
        TypeError: If ``captions`` is a single text.
        ValueError: If there is no caption, or a caption is empty, is longer than the encoder
            accepts, or contains a word that the tokenizer does not know.
    """
    if not (texts := _texts(captions)):
        raise ValueError("no caption to tokenize; expected at least one")
    # A caption that spells "[SEP]" or "</s>" means these characters, never the special token.
    options = {"split_special_tokens": True, "return_special_tokens_mask": True, "verbose": False}
    encoded = tokenizer(list(texts), truncation=False, padding=False, **options)
    unknown, added = tokenizer.unk_token_id, encoded.pop("special_tokens_mask")
    for caption, ids, marks in zip(texts, encoded["input_ids"], added, strict=True):
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"the caption {caption!r:.200} has {len(ids)} tokens; the text encoder accepts at "
                f"most {tokenizer.model_max_length}: shorten it, or set a larger max_length"
            )
        own = [token for token, mark in zip(ids, marks, strict=True) if not mark]
        if not own:
            raise ValueError(f"the caption {caption!r:.200} holds no word that the tokenizer knows")
        if unknown in own:
            words = dict.fromkeys(caption.split())
            each = {w: tokenizer.encode(w, add_special_tokens=False, **options) for w in words}
            strange = ", ".join(repr(w) for w in words if unknown in each[w])
            raise ValueError(
                f"the caption {caption!r:.200} holds a word that the tokenizer has never seen: "
                f"{strange:.200}. Use the words of the training captions, or a pretrained text "
                "encoder"
            )
    padded = tokenizer.pad(encoded, return_tensors="pt")
    ids, mask = padded["input_ids"], padded["attention_mask"]
    return ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)


def _texts(captions: Sequence[str]) -> tuple[str, ...]:
    """Return captions as a tuple, or refuse what is no text by its place."""
    texts = as_texts(captions)
    if not isinstance(texts, tuple):
        got = "a single text: wrap it in a list" if isinstance(texts, str) else f"{texts!r:.80}"
        raise TypeError(f"captions must be a list of texts; got {got}")
    for i, text in enumerate(texts):
        if fault := text_fault(text):
            raise ValueError(f"caption {i} {fault}; every picture needs a text")
    return texts


def readable(model: nn.Module, data: ImageTextData) -> ImageTextData:
    """Return a data set without the words that a model's tokenizer, if it has one, does not know.

    Natural captions of test pictures have words that no training caption had, and a pretrained
    tokenizer may lack some, too. A warning names the words and counts the captions.

    Raises:
        ValueError: If a caption has no known word, or too many tokens; the message names the data
            set.
    """
    found = (getattr(part, "tokenizer", None) for part in model.modules())
    for tokenizer in filter(None, found):
        left_out, read = Counter[str](), dict[str, str]()  # read: old caption -> new one
        for caption in data.unique_captions:
            rest, words = _known_part(tokenizer, caption)
            read[caption] = rest or caption
            left_out.update(set(words))
        try:
            tokenize(tokenizer, list(read.values()))
        except ValueError as error:
            raise ValueError(f"{data.name}: {error}") from error
        if left_out:
            count = sum(old != new for old, new in read.items())
            warnings.warn(
                f"{data.name}: {count} of {len(read)} captions hold words that the tokenizer "
                f"has never seen. They are left out: {', '.join(map(repr, left_out))}"[:400],
                stacklevel=2,
            )
            captions = tuple(tuple(read[text] for text in texts) for texts in data.caption_sets)
            data = replace(data, captions=captions)
    return data


def _known_part(tokenizer: PreTrainedTokenizerBase, caption: str) -> tuple[str, list[str]]:
    """Return a caption without the words that a tokenizer does not know, and these words."""
    words = []
    read = tokenizer(
        caption, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
    )
    for token, (start, end) in reversed(
        [*zip(read["input_ids"], read["offset_mapping"], strict=True)]
    ):
        if token == tokenizer.unk_token_id:
            words.append(caption[start:end])
            caption = caption[:start] + caption[end:]
    return " ".join(caption.split()) if words else caption, words

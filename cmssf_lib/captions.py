"""What the pictures are called: captions, and the tokenizer that turns them into numbers.

Class captions ("a photo of an automobile") say what every picture of a class says. Scene
captions ("a photo of a small red seven on a blue background") say something about the
single picture. Chapter 7 shows how much hangs on that difference.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: Colours of the digit and of the ground, as RGB in [0, 1]. The two lists share no colour,
#: so that no digit vanishes into its ground.
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "yellow": (0.95, 0.85, 0.15),
    "white": (0.95, 0.95, 0.95),
    "cyan": (0.20, 0.85, 0.90),
}
GROUNDS: Mapping[str, tuple[float, float, float]] = {
    "blue": (0.10, 0.20, 0.65),
    "green": (0.08, 0.42, 0.15),
    "purple": (0.42, 0.12, 0.50),
    "grey": (0.30, 0.30, 0.30),
}
SIZES = ("small", "large")

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def article(noun: str) -> str:
    """Return "an" before a vowel letter and "a" before any other."""
    return "an" if noun.lower().startswith(tuple("aeiou")) else "a"


def class_caption(class_name: str, template: str = "a photo of {}") -> str:
    """Write the caption that every picture of a class shares.

    Args:
        class_name: Such as "automobile". Underscores are read as spaces.
        template: Text with one ``{}``, which is filled with the name and its article.

    Returns:
        Such as "a photo of an automobile", the example of the source chapter (section 3.4).

    Raises:
        ValueError: If the template does not hold exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"a caption template holds exactly one {{}}; got {template!r}")
    name = class_name.replace("_", " ")
    return template.format(f"{article(name)} {name}")


def scene_caption(digit: int, colour: str, ground: str, size: str) -> str:
    """Write what one colour scene shows.

    Returns:
        Such as "a photo of a small red seven on a blue background".
    """
    thing = f"{article(size)} {size} {colour} {DIGIT_WORDS[digit]}"
    return f"a photo of {thing} on {article(ground)} {ground} background"


def scene_prompts(digit: int) -> list[str]:
    """Return every caption a colour scene of this digit can have: one prompt ensemble."""
    return [
        scene_caption(digit, colour, ground, size)
        for colour in COLOURS
        for ground in GROUNDS
        for size in SIZES
    ]


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
) -> tuple[Int[Tensor, "captions length"], Int[Tensor, "captions length"]]:
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
        if tokenizer.unk_token_id in ids:
            raise ValueError(
                f"the caption {caption!r} holds a word that the tokenizer has never seen: "
                f"{_unknown_words(tokenizer, caption)}. Use the words of the training captions, "
                "or a pretrained text encoder"
            )
    padded = tokenizer.pad(encoded, return_tensors="pt")
    return padded["input_ids"].to(device), padded["attention_mask"].to(device)


def _unknown_words(tokenizer: PreTrainedTokenizerBase, caption: str) -> str:
    """Name the words of a caption that become the unknown token."""
    words = caption.split()
    unknown = [
        word
        for word in words
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]
    return ", ".join(repr(word) for word in unknown)

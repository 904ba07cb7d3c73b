"""Captions that can be read back, and a tokenizer whose every id can be worked out by hand."""

import itertools
import logging
import re

import pytest
import torch
from hypothesis import given, strategies as st

from cmssf_lib.captions import (
    COLOURS,
    DIGIT_WORDS,
    GROUNDS,
    SIZES,
    article,
    class_caption,
    scene_caption,
    scene_prompts,
)
from cmssf_lib.encoders import tokenize, word_tokenizer
from cmssf_lib.encoders.text import SPECIAL_TOKENS

SCENE = re.compile(r"a photo of an? (\w+) (\w+) (\w+) on an? (\w+) background")
WORDS = st.lists(st.sampled_from(["red", "Seven", "a", "photo", "blue", "7"]), min_size=1)


# --- captions ---------------------------------------------------------------------------------


# By sound, not by letter: each line is one kind of beginning.
A = (
    *("cat", "seven", "Frog", "truck", "yellow bird", "wolf", ""),
    *("one", "one-way street", "One", "once-over"),  # like "won"
    *("unicorn", "uniform", "union", "university", "unique lamp", "unanimous vote"),  # like "you"
    *("user", "usual day", "utensil", "utility pole", "uranium rod", "ukulele", "UFO", "U-turn"),
    *("European", "eucalyptus", "ewe", "eulogy"),
    *("house", "honey", "hen", "heron"),  # an h that is heard
    *("7", "10", "100", "1", "T-shirt", "B"),
)
AN = (
    *("automobile", "airplane", "eight", "Orange", "ox", "iPod", "onion", "oboe"),
    *("umbrella", "uncle", "unimportant man", "uninhabited island", "unidentified object"),
    *("usher", "urn", "urban street", "udder", "utter mess", "ugly duck", "upright piano"),
    *("hour", "hourglass", "honest man", "honour", "heir", "heirloom"),  # an h that is not
    *("8", "80", "11", "18", "X-ray", "F", "S", "M"),  # letters and numbers, read out
)


@pytest.mark.parametrize(
    ("noun", "expected"), [*((noun, "a") for noun in A), *((noun, "an") for noun in AN)]
)
def test_article_goes_by_the_sound(noun, expected):
    assert article(noun) == expected


def test_recorded_captions_stay_as_they_are():
    """By letter, as all recorded runs had them, wrong "an one" included; see `class_caption`."""
    cifar10 = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    for name in (*DIGIT_WORDS, *cifar10):
        assert class_caption(name) == f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}"
    for word in (*SIZES, *GROUNDS):
        assert article(word) == "a"


def test_the_article_of_other_ones_is_right():
    assert class_caption("one-way_street") == "a photo of a one-way street"
    assert class_caption("one_euro_coin") == "a photo of a one euro coin"


def test_class_caption_is_the_chapters_example():
    assert class_caption("automobile") == "a photo of an automobile"
    assert class_caption("cat") == "a photo of a cat"


def test_class_caption_reads_underscores_as_spaces():
    assert class_caption("ice_cream") == "a photo of an ice cream"


def test_class_caption_fills_the_template_it_is_given():
    assert class_caption("horse", "{} in low light") == "a horse in low light"


@pytest.mark.parametrize("template", ["no place for a name", "{} and {}", ""])
def test_class_caption_refuses_a_template_without_one_place(template):
    with pytest.raises(ValueError, match=r"exactly one \{\}"):
        class_caption("cat", template)


def test_scene_caption_is_the_one_in_the_book():
    caption = scene_caption(7, "red", "blue", "small")
    assert caption == "a photo of a small red seven on a blue background"


def test_every_scene_caption_parses_back_to_what_it_was_made_from():
    combinations = list(itertools.product(range(10), COLOURS, GROUNDS, SIZES))
    captions = [scene_caption(*combination) for combination in combinations]
    for caption, (digit, colour, ground, size) in zip(captions, combinations, strict=True):
        found = SCENE.fullmatch(caption)
        assert found, caption
        assert found.groups() == (size, colour, DIGIT_WORDS[digit], ground)
    assert len(set(captions)) == len(combinations)  # no two scenes share a caption by accident


def test_no_digit_can_vanish_into_its_ground():
    assert not COLOURS.keys() & GROUNDS.keys()
    for colour, ground in itertools.product(COLOURS.values(), GROUNDS.values()):
        assert max(abs(c - g) for c, g in zip(colour, ground, strict=True)) > 0.2


def test_scene_prompts_are_all_captions_of_the_digit():
    prompts = scene_prompts(3)
    assert sorted(prompts) == sorted(
        scene_caption(3, *rest) for rest in itertools.product(COLOURS, GROUNDS, SIZES)
    )
    assert all(" three " in prompt for prompt in prompts)


# --- the tokenizer ----------------------------------------------------------------------------


def test_ids_worked_out_by_hand():
    tokenizer = word_tokenizer(["a photo of a Red seven", "a blue eight"], max_length=8)
    # [PAD] [UNK] [CLS] [SEP] take 0 to 3; then the words by the alphabet.
    words = ["a", "blue", "eight", "of", "photo", "red", "seven"]
    place = {word: 4 + i for i, word in enumerate(words)}
    assert len(tokenizer) == 4 + len(words)
    ids, mask = tokenize(tokenizer, ["a photo of a red seven", "a blue eight"])
    assert ids.tolist() == [
        [2, place["a"], place["photo"], place["of"], place["a"], place["red"], place["seven"], 3],
        [2, place["a"], place["blue"], place["eight"], 3, 0, 0, 0],
    ]
    assert mask.tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert ids.dtype == mask.dtype == torch.int64


def test_special_tokens_are_where_the_encoder_expects_them():
    tokenizer = word_tokenizer(["one"], 4)
    ids = (
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    )
    assert ids == (0, 1, 2, 3)
    assert tuple(tokenizer.convert_ids_to_tokens(list(ids))) == SPECIAL_TOKENS
    assert tokenizer.model_max_length == 4


def test_letters_in_upper_and_lower_case_are_one_word():
    tokenizer = word_tokenizer(["A Photo"], 6)
    assert torch.equal(tokenize(tokenizer, ["a photo"])[0], tokenize(tokenizer, ["A PHOTO"])[0])


def test_a_comma_is_a_word_of_its_own():
    tokenizer = word_tokenizer(["a cat, indoors"], 8)
    ids, _ = tokenize(tokenizer, ["a cat, indoors"])
    words = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    assert words == ["[CLS]", "a", "cat", ",", "indoors", "[SEP]"]


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_and_number_of_captions_change_nothing(captions, random):
    shuffled = captions * 2
    random.shuffle(shuffled)
    first, second = word_tokenizer(captions, 99), word_tokenizer(shuffled, 99)
    assert first.get_vocab() == second.get_vocab()
    ids, mask = tokenize(first, captions)
    again, mask_again = tokenize(second, captions)
    assert torch.equal(ids, again)
    assert torch.equal(mask, mask_again)


@given(st.lists(WORDS, min_size=1, max_size=6))
def test_every_caption_is_cls_words_sep_then_padding(captions):
    texts = [" ".join(words) for words in captions]
    tokenizer = word_tokenizer(texts, 99)
    ids, mask = tokenize(tokenizer, texts)
    assert ids.shape[1] == 2 + max(map(len, captions))  # padded to the longest, no further
    for row, kept, words in zip(ids, mask, captions, strict=True):
        tokens = tokenizer.convert_ids_to_tokens(row.tolist())
        n = 2 + len(words)
        assert tokens[:n] == ["[CLS]", *(word.lower() for word in words), "[SEP]"]
        assert set(tokens[n:]) <= {"[PAD]"}
        assert kept.tolist() == [1] * n + [0] * (len(tokens) - n)


def test_tokenizing_says_nothing(caplog, capfd):
    """A warning of the transformers library would stand in every notebook."""
    with caplog.at_level(logging.WARNING):
        tokenize(word_tokenizer(["a cat", "a black dog"], 8), ["a cat", "a black dog"])
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""


# --- what is refused --------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    return word_tokenizer(["a photo of a red seven"], max_length=6)


def test_one_text_in_place_of_a_list(tokenizer):
    with pytest.raises(TypeError, match="wrap it in a list"):
        tokenize(tokenizer, "a photo")


def test_no_caption(tokenizer):
    with pytest.raises(ValueError, match="at least one"):
        tokenize(tokenizer, [])


@pytest.mark.parametrize("nothing", ["", "  ", "\n"])
def test_an_empty_caption_is_named_by_its_place(tokenizer, nothing):
    with pytest.raises(ValueError, match="caption 1 is empty"):
        tokenize(tokenizer, ["a photo", nothing])


def test_a_caption_too_long_is_not_cut(tokenizer):
    tokenize(tokenizer, ["a photo of red"])  # 6 tokens with [CLS] and [SEP]: just fits
    with pytest.raises(ValueError, match=r"'a photo of a red' has 7 tokens.* at most 6"):
        tokenize(tokenizer, ["a photo", "a photo of a red"])


def test_unknown_words_are_named(tokenizer):
    with pytest.raises(ValueError, match=r"'a green zebra' holds a word.*: 'green', 'zebra'"):
        tokenize(tokenizer, ["a photo", "a green zebra"])


@pytest.mark.parametrize("captions", [[], ["", "  "]])
def test_a_tokenizer_needs_words(captions):
    with pytest.raises(ValueError, match="no words"):
        word_tokenizer(captions, 8)

"""Two-digit scenes with a question: neither the picture nor the question knows the answer."""

from itertools import permutations

import torch
from jaxtyping import Float64, Int64
from sklearn.datasets import load_digits
from torch import Tensor

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS
from cmssf_lib.data.batch import step_seed
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.data.scenes import SIDES, digit_split, place, texture, to_uint8, uniform

ANSWERS = (*DIGIT_WORDS, *COLOURS, "left", "right")
QUESTION_KINDS = (
    "colour of left",
    "colour of right",
    "digit on left",
    "digit on right",
    "colour of digit",
    "digit of colour",
    "place of digit",
    "place of colour",
)


def ask(
    left_digit: int, right_digit: int, left_colour: str, right_colour: str
) -> list[tuple[str, str, str]]:
    """Write down every question that one scene answers.

    Args:
        left_digit: 0 to 9.
        right_digit: Another one.
        left_colour: A word of `cmssf_lib.captions.COLOURS`.
        right_colour: Another one.

    Returns:
        Twelve times (question, answer, kind), in the order of `QUESTION_KINDS`: one of each
        of the four kinds that ask by place, then two, for the left and the right digit, of
        each of the four that do not.

    Raises:
        ValueError: If the digits or the colours are the same, so that a question would have
            two answers, or there is no such digit or colour.
    """
    digits, colours = (left_digit, right_digit), (left_colour, right_colour)
    if left_digit == right_digit or not {*digits} <= {*range(10)}:
        raise ValueError(f"expected two different digits from 0 to 9; got {digits}")
    if left_colour == right_colour or not {*colours} <= {*COLOURS}:
        raise ValueError(f"expected two different colours of {tuple(COLOURS)}; got {colours}")
    left, right = DIGIT_WORDS[left_digit], DIGIT_WORDS[right_digit]
    questions = [
        ("what colour is the left digit", left_colour, "colour of left"),
        ("what colour is the right digit", right_colour, "colour of right"),
        ("which digit is on the left", left, "digit on left"),
        ("which digit is on the right", right, "digit on right"),
    ]
    things = (("left", left, left_colour), ("right", right, right_colour))
    questions += [(f"what colour is the {d}", c, "colour of digit") for _, d, c in things]
    questions += [(f"which digit is {c}", d, "digit of colour") for _, d, c in things]
    questions += [(f"where is the {d}", where, "place of digit") for where, d, _ in things]
    questions += [(f"where is the {c} digit", where, "place of colour") for where, _, c in things]
    return questions


def digit_questions(
    *, train: int = 20_000, test: int = 2_000, image_size: int = 16, seed: int = 0
) -> Splits:
    """Compose scenes with two digits, and ask each scene one question.

    Two different digits of different colours stand in the left and the right half of one
    textured ground. The caption is a question, the label its answer. Every scene is drawn
    anew, so a held-out part shares no picture with the rest.

    Args:
        train: Number of training scenes.
        test: Number of test scenes, made from other handwritten digits.
        image_size: Height of the canvas in pixels, at least 12; it is twice as wide.
        seed: The same seed gives the same scenes on any machine of the same kind.

    Returns:
        Training and test set; the classes are `ANSWERS`. The attributes "left_digit" and
        "right_digit" are digits, "left_colour", "right_colour" and "ground" indices into the
        lists of `cmssf_lib.captions`, "left_id" and "right_id" say which handwritten digits
        were used, and "kind" is an index into `QUESTION_KINDS`. Each kind is equally frequent.

    Raises:
        ValueError: If a number is too small.
    """
    if train < 1 or test < 1 or image_size < 12:
        raise ValueError(
            f"expected at least one scene a split and 12 pixels; got train={train}, test={test}, "
            f"image_size={image_size}"
        )
    train_ids, test_ids = digit_split()
    return Splits(
        _compose(train, train_ids, image_size, step_seed(seed, 0)),
        _compose(test, test_ids, image_size, step_seed(seed, 1)),
    )


def _compose(n: int, digit_ids: Int64[Tensor, " m"], size: int, seed: int) -> ImageTextData:
    """Draw ``n`` scenes from the digits ``digit_ids``, and a question for each."""
    random = torch.Generator().manual_seed(seed)
    digits = load_digits()
    written = torch.from_numpy(digits.target).long()[digit_ids]
    facts = {}
    for key, count in (("digit", 10), ("colour", len(COLOURS))):
        facts[f"left_{key}"] = torch.randint(count, (n,), generator=random)
        further = torch.randint(1, count, (n,), generator=random)  # any but the left one's
        facts[f"right_{key}"] = (facts[f"left_{key}"] + further) % count
    facts["ground"] = torch.randint(len(GROUNDS), (n,), generator=random)
    for side in ("left", "right"):
        rows = torch.empty(n, dtype=torch.int64)
        for digit in range(10):
            drawn = facts[f"{side}_digit"] == digit
            pool = digit_ids[written == digit]
            rows[drawn] = pool[torch.randint(len(pool), (int(drawn.sum()),), generator=random)]
        facts[f"{side}_id"] = rows

    grounds = torch.tensor(list(GROUNDS.values()))[facts["ground"]]  # (n, 3)
    # A square ground of the canvas's width, of which the canvas takes the upper half.
    images = grounds[:, :, None, None] + texture(n, 2 * size, random)[:, :, :size]
    for half, side in zip(images.split(size, dim=3), ("left", "right"), strict=True):
        ink = torch.from_numpy(digits.images).float()[facts[f"{side}_id"], None] / 16
        ink = place(ink, uniform(n, *SIDES[1], random), size, random)  # (n, 1, size, size)
        colour = torch.tensor(list(COLOURS.values()))[facts[f"{side}_colour"]]
        colour = colour + 0.05 * torch.randn(n, 3, generator=random)
        half.lerp_(colour[:, :, None, None].expand_as(half), ink.expand_as(half))

    kinds = torch.randperm(n, generator=random) % len(QUESTION_KINDS)
    which = torch.randint(2, (n,), generator=random).tolist()
    words = tuple(COLOURS)
    asked = []
    for left, right, left_colour, right_colour, kind, pick in zip(
        *(facts[key].tolist() for key in ("left_digit", "right_digit")),
        *(facts[key].tolist() for key in ("left_colour", "right_colour")),
        kinds.tolist(),
        which,
        strict=True,
    ):
        questions = ask(left, right, words[left_colour], words[right_colour])
        # Four kinds with one question each stand first, then four with two each.
        asked.append(questions[kind if kind < 4 else 2 * kind - 4 + pick])
    return ImageTextData(
        images=to_uint8(images),
        labels=torch.tensor([ANSWERS.index(answer) for _, answer, _ in asked]),
        captions=tuple(question for question, _, _ in asked),
        class_names=ANSWERS,
        name="digit scenes, two",
        attributes={**facts, "kind": kinds},
    )


def question_table() -> Float64[Tensor, "pictures questions answers"]:
    """Return how often each picture, question and answer of `digit_questions` come together.

    What counts as a picture here is what it shows: which digit and which colour stands where.

    Returns:
        Probabilities ``(1080, 32, 16)`` that sum to one; the answers are `ANSWERS`.
    """
    pictures = [
        (*digits, *colours)
        for digits in permutations(range(10), 2)
        for colours in permutations(COLOURS, 2)
    ]
    questions = list(dict.fromkeys(q for picture in pictures for q, _, _ in ask(*picture)))
    joint = torch.zeros(len(pictures), len(questions), len(ANSWERS), dtype=torch.float64)
    for row, picture in enumerate(pictures):
        asked = ask(*picture)
        kinds = [kind for _, _, kind in asked]
        for question, answer, kind in asked:
            # Every kind is equally likely, and so is each of the questions of one kind.
            share = 1 / len(pictures) / len(QUESTION_KINDS) / kinds.count(kind)
            joint[row, questions.index(question), ANSWERS.index(answer)] += share
    return joint

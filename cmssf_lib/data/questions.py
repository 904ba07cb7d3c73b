"""Two-digit scenes with a question; the answer needs both the picture and the question."""

from itertools import permutations, product

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS
from cmssf_lib.data import scenes
from cmssf_lib.data.image_text import ImageTextData, Splits
from cmssf_lib.machine import step_seed

ANSWERS = (*DIGIT_WORDS, *COLOURS, "left", "right")


def ask(
    left_digit: int, right_digit: int, left_colour: str, right_colour: str
) -> list[tuple[str, str, str]]:
    """List every question about one scene, with its answer.

    Args:
        left_digit: 0 to 9.
        right_digit: 0 to 9, different from the left one.
        left_colour: A colour name in `cmssf_lib.captions.COLOURS`.
        right_colour: Another one of these.

    Returns:
        Twelve tuples (question, answer, kind). The first four kinds of `QUESTION_KINDS` ask
        about a place and have one question each. The other four kinds have two questions each,
        one for the left and one for the right digit.

    Raises:
        ValueError: If a digit or a colour is unknown, or both are the same, so that a question
            would have two answers.
    """
    digits, colours = (left_digit, right_digit), (left_colour, right_colour)
    if left_digit == right_digit or not {*digits} <= {*range(10)}:
        raise ValueError(f"expected two different digits from 0 to 9; got {digits}")
    if left_colour == right_colour or not {*colours} <= {*COLOURS}:
        raise ValueError(f"expected two different colours of {tuple(COLOURS)}; got {colours}")
    left, right = DIGIT_WORDS[left_digit], DIGIT_WORDS[right_digit]
    things = (("left", left, left_colour), ("right", right, right_colour))
    return [
        *((f"what colour is the {where} digit", c, f"colour of {where}") for where, _, c in things),
        *((f"which digit is on the {where}", d, f"digit on {where}") for where, d, _ in things),
        *((f"what colour is the {d}", c, "colour of digit") for _, d, c in things),
        *((f"which digit is {c}", d, "digit of colour") for _, d, c in things),
        *((f"where is the {d}", where, "place of digit") for where, d, _ in things),
        *((f"where is the {c} digit", where, "place of colour") for where, _, c in things),
    ]


QUESTION_KINDS = tuple(dict.fromkeys(kind for _, _, kind in ask(0, 1, "red", "cyan")))


def digit_questions(*, train: int, test: int, image_size: int = 16, seed: int = 0) -> Splits:
    """Compose scenes with two digits, and ask one question about each.

    Two different digits of different colours stand in the left and the right half of one
    textured ground. The caption is a question, and the label is its answer. Every scene is
    composed separately, so a held-out part shares no picture with the rest.

    Args:
        train: Number of training scenes.
        test: Number of test scenes, made from other handwritten digits.
        image_size: Height of the canvas in pixels, at least 12; it is twice as wide.
        seed: The same seed gives the same scenes on every machine of the same kind.

    Returns:
        Training and test set with `ANSWERS` as the classes. The attributes "left_digit" and
        "right_digit" are digits; "left_colour", "right_colour" and "ground" are indices into
        the lists of `cmssf_lib.captions`; "left_id" and "right_id" say which handwritten digits
        were used; "kind" is an index into `QUESTION_KINDS`. All kinds are equally frequent, up
        to one question.

    Raises:
        ValueError: If a number is too small.
    """
    seeds = [step_seed(seed, split) for split in (0, 1)]
    return scenes.both_splits(_compose, train, test, image_size, seeds)


def _compose(n: int, digit_ids: Int64[Tensor, " m"], size: int, seed: int) -> ImageTextData:
    """Compose ``n`` scenes with handwritten digits from ``digit_ids``, and draw the questions."""
    random = scenes.generator(seed)
    ink, written = scenes.handwritten()
    facts = {}
    for key, count in (("digit", 10), ("colour", len(COLOURS))):
        facts[f"left_{key}"] = torch.randint(count, (n,), generator=random)
        other = torch.randint(1, count, (n,), generator=random)  # never 0: the two must differ
        facts[f"right_{key}"] = (facts[f"left_{key}"] + other) % count
    facts["ground"] = torch.randint(len(GROUNDS), (n,), generator=random)
    for side in ("left", "right"):
        rows = facts[f"{side}_id"] = torch.empty(n, dtype=torch.int64)
        for digit in range(10):
            drawn = facts[f"{side}_digit"] == digit
            pool = digit_ids[written[digit_ids] == digit]
            rows[drawn] = pool[torch.randint(len(pool), (int(drawn.sum()),), generator=random)]

    # Draw square grounds as wide as the canvas, and use their upper half.
    images = scenes.grounds(facts["ground"], 2 * size, random)[:, :, :size]
    for half, side in zip(torch.split(images, size, dim=3), ("left", "right"), strict=True):
        lengths = scenes.uniform(n, *scenes.SIDES[1], random)
        placed = scenes.place(ink[facts[f"{side}_id"]], lengths, size, random)
        colour = scenes.inks(facts[f"{side}_colour"], random)
        half.lerp_(colour[:, :, None, None].expand_as(half), placed.expand_as(half))

    facts["kind"] = torch.randperm(n, generator=random) % len(QUESTION_KINDS)
    which = torch.randint(2, (n,), generator=random)
    keys = ("left_digit", "right_digit", "left_colour", "right_colour", "kind")
    words, asked = tuple(COLOURS), []
    table = torch.stack([*(facts[key] for key in keys), which], dim=1)
    for one, other, left, right, kind, pick in table.tolist():
        questions = ask(one, other, words[left], words[right])
        # First come four kinds with one question each, then four kinds with two each.
        asked.append(questions[kind if kind < 4 else 2 * kind - 4 + pick])
    captions, answers, _ = zip(*asked, strict=True)
    images = scenes.to_uint8(images)
    labels = torch.tensor([ANSWERS.index(answer) for answer in answers])
    return ImageTextData(images, labels, captions, ANSWERS, "digit scenes, two", facts)


def question_table() -> Float64[Tensor, "pictures questions answers"]:
    """Return the joint distribution of picture, question and answer in `digit_questions`.

    Pictures that show the same digits in the same colours and places count as one here.

    Returns:
        Probabilities ``(1080, 32, 16)`` that sum to one; the answers are `ANSWERS`.
    """
    pairs = product(permutations(range(10), 2), permutations(COLOURS, 2))
    pictures = [ask(*digits, *colours) for digits, colours in pairs]
    questions = list(dict.fromkeys(question for asked in pictures for question, _, _ in asked))
    joint = torch.zeros(len(pictures), len(questions), len(ANSWERS), dtype=torch.float64)
    for row, asked in enumerate(pictures):
        kinds = [kind for _, _, kind in asked]
        for question, answer, kind in asked:
            # All kinds are equally likely, and so are the questions of one kind.
            share = 1 / len(pictures) / len(QUESTION_KINDS) / kinds.count(kind)
            joint[row, questions.index(question), ANSWERS.index(answer)] += share
    return joint

"""The exercises' checker: ``check("01.1", my_caption)``.

An exercise is a function that tries the reader's function on small examples. It raises `Wrong`
with the likely misconception, or returns what was shown. There is one file a chapter. To add an
exercise, write its function in the file of its chapter and name it last in that file's
``EXERCISES``::

    def area(answer: Answer) -> str:
        "01.7: ``area(width, height)`` of rectangles."
        width, height = torch.tensor([3.0, 4.0]), torch.tensor([2.0, 5.0])  # the example
        hints = {  # misconception → what a function with it would give
            "That is the perimeter.": 2 * (width + height),
            "You add up over the rectangles. Each has an area of its own.": (width * height).sum(),
        }
        right = width * height
        compare(ask(answer, width, height), right, hints=hints, what="one area a rectangle, shape")
        return "Twice as wide and twice as high is four times as large."

`answers` has what exercises share: `ask` calls the reader's function, `compare` judges its result
by the right one and the table, and `refuse` judges by a table of conditions where chance or choice
leaves more than one right result. Choose an example on which every misconception gives another
result. A solution, and a wrong answer for each hint, go into ``tests/exercises/``. A new chapter
also needs its place in `CHAPTERS`.
"""

from cmssf_lib.check import (
    chapter_00,
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_04,
    chapter_05,
    chapter_06,
    chapter_07,
    chapter_08,
    chapter_09,
    chapter_10,
)
from cmssf_lib.check.answers import Exercise, Wrong

CHAPTERS = (
    chapter_00,
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_04,
    chapter_05,
    chapter_06,
    chapter_07,
    chapter_08,
    chapter_09,
    chapter_10,
)
#: Every exercise of the book by its number, "chapter.exercise".
EXERCISES: dict[str, Exercise] = {
    f"{number:02}.{place}": exercise
    for number, chapter in enumerate(CHAPTERS)
    for place, exercise in enumerate(chapter.EXERCISES, start=1)
}

__all__ = ["EXERCISES", "check", "verdict"]


def check(exercise: str, answer: object) -> None:
    """Try a reader's function, and print what it shows: that it is right, or where to look.

    Args:
        exercise: Its number, such as "01.2".
        answer: The function that the exercise asks for.

    Raises:
        ValueError: If there is no such exercise.
        TypeError: If the answer is not a function.
    """
    _, sentence = verdict(exercise, answer)
    print(sentence)


def verdict(exercise: str, answer: object) -> tuple[bool, str]:
    """Return whether the answer is right, and what `check` prints.

    Args:
        exercise: Its number.
        answer: The function.

    Raises:
        ValueError: If there is no such exercise.
        TypeError: If the answer is not a function.
    """
    if exercise not in EXERCISES:
        raise ValueError(f"no exercise {exercise!r}; there are {', '.join(EXERCISES)}")
    if not callable(answer):
        raise TypeError(
            f"exercise {exercise} asks for a function; got {type(answer).__name__}. Give its "
            "name without brackets: check(..., my_function)"
        )
    try:
        shown = EXERCISES[exercise](answer)
    except Wrong as wrong:
        return False, f"{exercise}: not yet. {wrong}"
    return True, f"{exercise}: right. {shown}"

"""Check answers to the book's exercises: ``check("01.1", my_caption)``.

An exercise is a function that tries the reader's function on small examples. It raises `Wrong`
with the likely misconception, or returns a sentence that says what the right answer shows. There is
one file per chapter. To add an exercise, write its function in the file of its chapter and append
it to that file's ``EXERCISES``::

    def area(answer: Answer) -> str:
        "01.7: ``area(width, height)`` of rectangles."
        width, height = torch.tensor([3.0, 4.0]), torch.tensor([2.0, 5.0])  # the example
        hints = {  # misconception → the result that it leads to
            "That is the perimeter.": 2 * (width + height),
            "You add up over the rectangles. Each has an area of its own.": (width * height).sum(),
        }
        right = width * height
        compare(ask(answer, width, height), right, hints=hints, what="one area each, of shape")
        return "Twice as wide and twice as high is four times as large."

The module `answers` has the functions that the exercises share. `ask` calls the reader's function.
`compare` compares its result with the right one and with the wrong ones in the table of hints.
`refuse` takes a table of conditions instead, for exercises with more than one right result. Choose
an example on which each misconception leads to a different result. Add a solution, and a wrong
answer for each hint, to ``tests/exercises/``. Add a new chapter to `CHAPTERS` as well.
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
    """Check a reader's function, and print that it is right, or a hint at what is wrong.

    Args:
        exercise: The number of the exercise, such as "01.2".
        answer: The function that the exercise asks for.

    Raises:
        ValueError: If there is no such exercise.
        TypeError: If the answer is not a function.
    """
    _, sentence = verdict(exercise, answer)
    print(sentence)


def verdict(exercise: str, answer: object) -> tuple[bool, str]:
    """Return whether the answer is right, and the sentence that `check` prints.

    Args:
        exercise: The number of the exercise, such as "01.2".
        answer: The function that the exercise asks for.

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

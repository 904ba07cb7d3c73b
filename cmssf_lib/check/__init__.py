"""The exercises' checker: ``check("01.1", my_caption)``.

An exercise is a function that tries the reader's function on small examples. It raises `Wrong`
with the likely misconception, or returns what was shown. One file a chapter: a chapter to come
adds its file and its line in `EXERCISES`.
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

#: Every exercise of the book by its number, "chapter.exercise".
EXERCISES: dict[str, Exercise] = {
    **chapter_00.EXERCISES,
    **chapter_01.EXERCISES,
    **chapter_02.EXERCISES,
    **chapter_03.EXERCISES,
    **chapter_04.EXERCISES,
    **chapter_05.EXERCISES,
    **chapter_06.EXERCISES,
    **chapter_07.EXERCISES,
    **chapter_08.EXERCISES,
    **chapter_09.EXERCISES,
    **chapter_10.EXERCISES,
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

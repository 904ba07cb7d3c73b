"""Solutions and typical wrong answers of all exercises, a file a chapter, for test_check.py.

A solution is a function; a wrong answer is (exercise, function, pattern of the hint).
"""

from exercises import (
    chapter_00_01,
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

CHAPTERS = (
    chapter_00_01,
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
SOLUTIONS = {name: answer for chapter in CHAPTERS for name, answer in chapter.SOLUTIONS.items()}
WRONG = {
    f"{answer[0]} {name}": answer for chapter in CHAPTERS for name, answer in chapter.WRONG.items()
}

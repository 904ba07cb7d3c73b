"""What the pictures are called: captions and clues, as sentences.

Class captions ("a photo of an automobile") say what every picture of a class says. Scene
captions ("a photo of a small red seven on a blue background") say something about the
single picture. Chapter 7 shows how much hangs on that difference. A clue ("it is even") is true
of several classes: it helps a model that sees the picture as well, and cannot replace the picture.
Captions of a reader's own come from a table.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from torch import Tensor

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
COLUMNS = ("file_name", "text")  # of a table of captions

#: Each sentence with the digits it is true of. They are about the number and its name, never
#: about its shape: a four is written with or without a loop.
DIGIT_CLUES: Mapping[str, tuple[str, ...]] = {
    "it is even": ("zero", "two", "four", "six", "eight"),
    "it is odd": ("one", "three", "five", "seven", "nine"),
    "it is less than five": ("zero", "one", "two", "three", "four"),
    "it is five or more": ("five", "six", "seven", "eight", "nine"),
    "it is prime": ("two", "three", "five", "seven"),
    "its name has three letters": ("one", "two", "six"),
    "its name has four letters": ("zero", "four", "five", "nine"),
    "its name has five letters": ("three", "seven", "eight"),
}

#: Each sentence with the classes of CIFAR-10 it is true of. Wings, not flight: some of the
#: birds are ostriches.
CIFAR10_CLUES: Mapping[str, tuple[str, ...]] = {
    "it is a machine": ("airplane", "automobile", "ship", "truck"),
    "it is an animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
    "it has wings": ("airplane", "bird"),
    "it drives on roads": ("automobile", "truck"),
    "people travel in it or on it": ("airplane", "automobile", "horse", "ship", "truck"),
    "it is at home in the air or on water": ("airplane", "bird", "frog", "ship"),
    "it has four legs": ("cat", "deer", "dog", "frog", "horse"),
    "it has fur": ("cat", "deer", "dog", "horse"),
    "it has claws": ("bird", "cat", "dog"),
    "it has hooves": ("deer", "horse"),
    "it lays eggs": ("bird", "frog"),
}

# It is the sound that counts: "a European", "a one-way street", "a unicorn", "a U-turn" begin with
# a consonant, "an hour", "an 8", "an X-ray" with a vowel.
CONSONANT_SOUND = re.compile(
    r"one\b|once|eu|ewe|ouija|uni(?![dmn])|unanim|u[rst][aeiou]|ubi|ufo|uga|uk|uv|u\b"
)
VOWEL_SOUND = re.compile(r"[aeiou]|hour|honou?r|honest|heir|8|1[18]\b|[fhlmnrsx]\b")


def article(noun: str) -> str:
    """Return "an" before a word that begins with the sound of a vowel, and else "a"."""
    word = noun.lower()
    return "an" if VOWEL_SOUND.match(word) and not CONSONANT_SOUND.match(word) else "a"


def class_caption(class_name: str, template: str = "a photo of {}") -> str:
    """Write the caption that every picture of a class shares.

    Args:
        class_name: Such as "automobile". Underscores are read as spaces.
        template: Text with one ``{}``, which is filled with the name and its article.

    Returns:
        Such as "a photo of an automobile", the example of the source chapter (section 3.4).
        One caption is wrong on purpose: the class "one" gets "an one", as in the recorded runs.

    Raises:
        ValueError: If the template does not hold exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"a caption template holds exactly one {{}}; got {template!r}")
    name = class_name.replace("_", " ")
    # The recorded runs learned from digit scenes that say "an one"; "a one" would be other data.
    before = "an" if name == "one" else article(name)
    return template.format(f"{before} {name}")


def named_by_class(labels: Int64[Tensor, " n"], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a caption for each label that names its class, such as "a photo of a cat"."""
    captions = [class_caption(name) for name in class_names]
    return tuple(captions[label] for label in labels.tolist())


def scene_caption(digit: int, colour: str, ground: str, size: str) -> str:
    """Write what one colour scene shows.

    Returns:
        Such as "a photo of a small red seven on a blue background".
    """
    thing = f"{article(size)} {size} {colour} {DIGIT_WORDS[digit]}"
    return f"a photo of {thing} on {article(ground)} {ground} background"


def scene_prompts(digit: int) -> list[str]:
    """Return every caption a colour scene of this digit can have: one prompt ensemble."""
    return [scene_caption(digit, *facts) for facts in product(COLOURS, GROUNDS, SIZES)]


def read_captions(table: Path, pictures: Sequence[str]) -> dict[str, str]:
    """Read a caption for each of these pictures from a table: CSV or JSON lines, in UTF-8.

    Args:
        table: Ends in ``.csv``, whose first line names the columns, or in ``.jsonl``, with an
            object a line. ``file_name`` and ``text`` are read, as in the image folders of the
            library `datasets`, and others passed over.
        pictures: The names of the files, as they stand in the table.

    Returns:
        The name of each picture → its caption, without the white space around it.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If it ends in something else, is not UTF-8 or has no caption for some picture;
            or if a line cannot be read, lacks a column, has an empty one, or names a picture that
            is not there or has a caption already. The message says which line.
    """
    rows = {".csv": _csv, ".jsonl": _json_lines}.get(table.suffix.lower())
    if rows is None:
        raise ValueError(f"{table}: captions are read from files that end in .csv or .jsonl")
    if not table.is_file():
        raise FileNotFoundError(f"no file {table} with captions")
    captions: dict[str, str] = {}
    wanted = set(pictures)
    with table.open(encoding="utf-8-sig", newline="") as file:  # Excel begins with a mark
        lines = _Counted(file)
        try:
            for row in rows(lines):
                for column in COLUMNS:
                    if not isinstance(said := row.get(column), str) or not said.strip():
                        raise ValueError(f"expected a text as {column!r}; got {row!s:.200}")
                name, text = (row[column].strip() for column in COLUMNS)
                if name not in wanted:
                    raise ValueError(f"no picture {name}; expected a path such as {pictures[0]}")
                if name in captions:
                    raise ValueError(f"{name} has a caption already")
                captions[name] = text
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not UTF-8 ({error}): save it in that encoding") from error
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{table}, line {max(1, lines.read)}: {error}") from error
    if silent := [name for name in pictures if name not in captions]:
        raise ValueError(
            f"{table}: no caption for {silent[0]} ({len(silent):,} of {len(pictures):,} pictures "
            "have none)"
        )
    return captions


class _Counted:
    """Lines of a file, and how many were read."""

    def __init__(self, file: Iterable[str]) -> None:
        self.read, self.file = 0, file

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.read += 1
            yield line


def _csv(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the cells of each line by column."""
    rows = csv.DictReader(lines, strict=True)
    header = rows.fieldnames or ()
    if missing := [column for column in COLUMNS if column not in header]:
        raise ValueError(
            f"no column {' and no '.join(missing)}; the first line names the columns, such as "
            f"{','.join(COLUMNS)}"
        )
    for row in rows:
        if None in row or None in row.values():  # cells without a column, or the reverse
            raise ValueError(
                f"not {len(header)} columns as in the first line; a caption with a comma stands in "
                "quotes"
            )
        yield row


def _json_lines(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the object in each line that is not blank."""
    for row in map(json.loads, filter(str.strip, lines)):
        if not isinstance(row, dict):
            raise ValueError("expected an object in braces")
        yield row

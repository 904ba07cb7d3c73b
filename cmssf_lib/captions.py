"""Captions and clues: sentences that describe pictures.

A class caption ("a photo of an automobile") is the same for every picture of a class. A scene
caption ("a photo of a small red seven on a blue background") describes a single picture.
Chapter 7 shows how much depends on that difference. A clue ("it is even") is true of several
classes: it helps a model that also sees the picture, but it cannot replace the picture. Readers
can load their own captions from a table.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fileinput import FileInput
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from torch import Tensor

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: Colours of the digit and of the background, as RGB in [0, 1]. The two lists share no colour,
#: so that every digit stands out.
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

#: Each sentence with the digits for which it is true. All are about the number or its name, never
#: about its shape, because a four, for example, may be written with or without a loop.
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

#: Each sentence with the classes of CIFAR-10 for which it is true. One says that birds have wings,
#: not that they fly: some of them are ostriches.
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

# The first sound counts, not the first letter: "a European", "a one-way street", "a unicorn" and
# "a U-turn" begin with a consonant, "an hour", "an 8" and "an X-ray" with a vowel.
CONSONANT_SOUND = re.compile(
    r"one\b|once|eu|ewe|ouija|uni(?![dmn])|unanim|u[rst][aeiou]|ubi|ufo|uga|uk|uv|u\b"
)
VOWEL_SOUND = re.compile(r"[aeiou]|hour|honou?r|honest|heir|8|1[18]\b|[fhlmnrsx]\b")


def article(noun: str) -> str:
    """Return "an" for a word that begins with a vowel sound, otherwise "a"."""
    word = noun.lower()
    return "an" if VOWEL_SOUND.match(word) and not CONSONANT_SOUND.match(word) else "a"


def class_caption(class_name: str, template: str = "a photo of {}") -> str:
    """Write the caption that every picture of a class shares.

    Args:
        class_name: Such as "automobile". Underscores are read as spaces.
        template: Text with one ``{}``, which is replaced by the name and its article.

    Returns:
        A caption such as "a photo of an automobile", the example of the source chapter (section
        3.4). The class "one" deliberately gets "an one", as in the recorded runs.

    Raises:
        ValueError: If the template does not contain exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"a caption template must contain exactly one {{}}; got {template!r}")
    name = class_name.replace("_", " ")
    # The recorded runs learned from captions with "an one"; "a one" would change their data.
    before = "an" if name == "one" else article(name)
    return template.format(f"{before} {name}")


def named_by_class(labels: Int64[Tensor, " n"], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return for each label the caption of its class, such as "a photo of a cat"."""
    captions = [class_caption(name) for name in class_names]
    return tuple(captions[label] for label in labels.tolist())


def scene_caption(digit: int, colour: str, ground: str, size: str) -> str:
    """Describe one colour scene.

    Returns:
        A caption such as "a photo of a small red seven on a blue background".
    """
    thing = f"{article(size)} {size} {colour} {DIGIT_WORDS[digit]}"
    return f"a photo of {thing} on {article(ground)} {ground} background"


def scene_prompts(digit: int) -> list[str]:
    """Return every caption that a colour scene of this digit can have, as a prompt ensemble."""
    return [scene_caption(digit, *facts) for facts in product(COLOURS, GROUNDS, SIZES)]


def read_captions(table: Path, pictures: Sequence[str]) -> dict[str, str]:
    """Read a caption for each of these pictures from a table (CSV or JSON lines, in UTF-8).

    Args:
        table: Path of a ``.csv`` file, whose first line names the columns, or of a ``.jsonl`` file
            with one object per line. The columns ``file_name`` and ``text`` are read, as in the
            image folders of the library `datasets`; other columns are ignored.
        pictures: File names of the pictures, written as in the table.

    Returns:
        The name of each picture → its caption, without surrounding white space.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If the table has another ending, is not UTF-8 or lacks a caption for a picture;
            or if a line cannot be read, lacks a column, has an empty one, or names a picture that
            does not exist or already has a caption. The message then gives the line number.
    """
    rows = {".csv": _csv, ".jsonl": _json_lines}.get(table.suffix.lower())
    if rows is None:
        raise ValueError(f"expected a table of captions that ends in .csv or .jsonl; got {table}")
    if not table.is_file():
        raise FileNotFoundError(f"the table of captions {table} does not exist")
    captions: dict[str, str] = {}
    wanted = set(pictures)
    opened = partial(open, encoding="utf-8-sig", newline="")  # Excel begins files with a mark
    with FileInput(table, openhook=opened) as lines:  # counts the lines it reads
        try:
            for row in rows(lines):
                for column in COLUMNS:
                    if not isinstance(said := row.get(column), str) or not said.strip():
                        raise ValueError(f"{column!r} must be a non-empty text; got {row!s:.200}")
                name, text = (row[column].strip() for column in COLUMNS)
                if name not in wanted:
                    raise ValueError(f"no picture {name}; expected a path such as {pictures[0]}")
                if name in captions:
                    raise ValueError(f"{name} already has a caption")
                captions[name] = text
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not UTF-8 ({error}): save it as UTF-8") from error
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{table}, line {max(1, lines.lineno())}: {error}") from error
    if silent := [name for name in pictures if name not in captions]:
        raise ValueError(
            f"{table}: no caption for {silent[0]} ({len(silent):,} of {len(pictures):,} missing)"
        )
    return captions


def _csv(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield each line as a dictionary from column to cell."""
    rows = csv.DictReader(lines, strict=True)
    header = rows.fieldnames or ()
    if missing := [column for column in COLUMNS if column not in header]:
        raise ValueError(
            f"no column {' and no '.join(missing)}: the first line must name {','.join(COLUMNS)}"
        )
    for row in rows:
        if None in row or None in row.values():  # more cells than columns, or fewer
            raise ValueError(
                f"expected {len(header)} columns as in line 1: quote captions that contain commas"
            )
        yield row


def _json_lines(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the object of each line that is not blank."""
    for row in map(json.loads, filter(str.strip, lines)):
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object in braces")
        yield row

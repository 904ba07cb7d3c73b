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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fileinput import FileInput
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

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
    """Return the whole caption of a colour scene, the first of `scene_parts`."""
    return scene_parts(digit, colour, ground, size)[0]


def scene_parts(digit: int, colour: str, ground: str, size: str) -> tuple[str, ...]:
    """Describe one colour scene in full, and in every shorter way that names the digit.

    Returns:
        First "a photo of a small red seven on a blue background", then 23 parts of it, without
        "a photo of" (or "a photo of a"), the size, the colour, the background, or several of them.
    """
    parts, on = [], f" on {article(ground)} {ground} background"
    leads = ("a photo of {} ", "{} ", "")
    for lead, side, shade, behind in product(leads, (f"{size} ", ""), (f"{colour} ", ""), (on, "")):
        thing = f"{side}{shade}{DIGIT_WORDS[digit]}"
        parts.append(lead.format(article(thing)) + thing + behind)
    return tuple(parts)


def scene_prompts(digit: int) -> list[str]:
    """Return every caption that a colour scene of this digit can have, as a prompt ensemble."""
    return [scene_caption(digit, *facts) for facts in product(COLOURS, GROUNDS, SIZES)]


def read_captions(table: Path, pictures: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Read the captions of these pictures from a table (CSV or JSON lines, in UTF-8).

    A picture with several captions has a row for each of them, or in JSON lines a list as ``text``.

    Args:
        table: Path of a ``.csv`` file, whose first line names the columns, or of a ``.jsonl`` file
            with one object per line. The columns ``file_name`` and ``text`` are read, as in the
            image folders of the library `datasets`; other columns are ignored.
        pictures: Paths of the pictures, such as "train/boat/1.png". The table may write more of a
            path (the folders above) or less (the file's name), if it can only mean one picture.

    Returns:
        Each picture → its caption, without surrounding white space, or a tuple of several.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If the table has another ending, is not UTF-8 or lacks a caption for a picture;
            or if a line cannot be read, lacks a column, has it twice or empty, or names no
            picture, or one of several. The message then gives the line number.
    """
    rows = {".csv": _csv, ".jsonl": _json_lines}.get(table.suffix.lower())
    if rows is None:
        raise ValueError(f"expected a table of captions that ends in .csv or .jsonl; got {table}")
    if not table.is_file():
        raise FileNotFoundError(f"the table of captions {table} does not exist")
    captions: dict[str, dict[str, None]] = {}  # a caption that is repeated counts once
    meant = _finder(pictures)
    opened = partial(open, encoding="utf-8-sig", newline="")  # Excel begins files with a mark
    with FileInput(table, openhook=opened) as lines:  # counts the lines it reads
        try:
            for row in rows(lines):
                name, text = (row.get(column) for column in COLUMNS)
                texts: list[Any] = text if isinstance(text, list) and text else [text]
                for column, cell in (("file_name", name), *(("text", one) for one in texts)):
                    if not isinstance(cell, str) or not cell.strip():
                        raise ValueError(f"{column!r} must be a non-empty text; got {row!s:.200}")
                    cell.encode()  # refuses half of a character, which JSON can write
                own = captions.setdefault(meant(str(name).strip()), {})
                own |= dict.fromkeys(one.strip() for one in texts)
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not UTF-8 ({error}): save it as UTF-8") from error
        except (csv.Error, ValueError, RecursionError) as error:
            raise ValueError(f"{table}, line {max(1, lines.lineno())}: {error}") from error
    if silent := [name for name in pictures if name not in captions]:
        raise ValueError(
            f"{table}: no caption for {silent[0]!r} ({len(silent):,} of {len(pictures):,} missing)"
        )
    said = zip(captions, map(tuple, captions.values()), strict=True)
    return {name: own if own[1:] else own[0] for name, own in said}


def _finder(pictures: Sequence[str]) -> Callable[[str], str]:
    """Return a function from a name in a table to the picture that it means."""
    whole, ends = set(pictures), dict[str, list[str]]()  # the end of a path → who ends so
    for picture in pictures:
        parts = normalize("NFC", picture).split("/")  # macOS takes accents apart
        for i in range(len(parts)):
            ends.setdefault("/".join(parts[i:]), []).append(picture)

    def meant(name: str) -> str:
        path = PurePosixPath(normalize("NFC", name.replace("\\", "/"))).as_posix()
        parts = path.split("/")
        found = [name] if name in whole else ends.get(path, [])
        for i in range(1, len(parts) - 1):  # it may begin above the folder of the pictures
            fits = ends.get("/".join(parts[i:]), [])
            found = found or [one for one in fits if one.count("/") == len(parts) - i - 1]
        if not found:
            raise ValueError(f"no picture {name!r:.200}; expected a path such as {pictures[0]!r}")
        if len(found) > 1:
            raise ValueError(
                f"{name!r:.200} may be {found[0]!r} or {found[1]!r}: write the whole path"
            )
        return found[0]

    return meant


def _once(columns: Sequence[str]) -> Sequence[str]:
    """Refuse a table in which a column that is read stands twice."""
    if twice := [column for column in COLUMNS if columns.count(column) > 1]:
        raise ValueError(f"several columns are named {twice[0]!r}: write a row for each caption")
    return columns


def _csv(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield each line as a dictionary from column to cell."""
    rows = csv.DictReader(lines, strict=True, skipinitialspace=True)
    rows.fieldnames = header = _once([name.strip() for name in rows.fieldnames or ()])
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

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _once([name for name, _ in pairs])
        return dict(pairs)

    for row in map(partial(json.loads, object_pairs_hook=read), filter(str.strip, lines)):
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object in braces")
        yield row

"""Captions from a file: what a reader writes about pictures of their own."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = ("file_name", "text")  # as in the image folders of the library `datasets`


def read_captions(path: str | Path) -> dict[str, tuple[int, str]]:
    """Read a table of captions, from CSV with a header line or from JSON lines.

    Args:
        path: Ends in ``.csv`` or ``.jsonl``. Columns, or keys, are ``file_name`` and ``text``;
            others are passed over. UTF-8.

    Returns:
        The file's name → the line of its caption, counted from 1, and the caption, without the
        white space around it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it ends in something else, is not UTF-8, holds no caption, or a line cannot
            be read, lacks a column, has an empty one, or names a file that had its caption. The
            message says which line.
    """
    path = Path(path)
    readers = {".csv": _csv, ".jsonl": _json_lines}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: captions are read from files that end in .csv or .jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with captions")
    captions: dict[str, tuple[int, str]] = {}
    try:
        for line, row in readers[path.suffix.lower()](path):
            name, text = (_column(path, line, row, column) for column in COLUMNS)
            if name in captions:
                raise ValueError(
                    f"{path}, line {line}: {name} has a caption already, in line "
                    f"{captions[name][0]}; a picture has one"
                )
            captions[name] = (line, text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it in that encoding") from error
    if not captions:
        raise ValueError(f"{path} holds no caption")
    return captions


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins with a mark
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            if missing := [column for column in COLUMNS if column not in header]:
                raise ValueError(
                    f"{path}, line 1: no column {' and no '.join(missing)}; the first line names "
                    f"the columns, such as {','.join(COLUMNS)}"
                )
            for row in rows:
                if not row:
                    continue  # an empty line
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {rows.line_num}: {len(row)} columns where the first line "
                        f"has {len(header)}; a caption with a comma stands in quotes"
                    )
                yield rows.line_num, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {line}: expected an object in braces")
            yield line, row


def _column(path: Path, line: int, row: dict[str, Any], column: str) -> str:
    if not isinstance(value := row.get(column), str):
        raise ValueError(
            f"{path}, line {line}: {column!r} is {value!r}; expected a text"
            if column in row
            else f"{path}, line {line}: no {column!r}; there are {', '.join(row) or 'no keys'}"
        )
    if not value.strip():
        raise ValueError(f"{path}, line {line}: {column!r} is empty")
    return value.strip()

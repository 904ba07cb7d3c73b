"""How results are printed: a Markdown table for each benchmark, and whether its promise holds."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """One benchmark's table.

    Attributes:
        title: What was measured, on which pictures.
        header: Of the columns.
        rows: The first cell of each is its name.
        kept: The name of each promise, and whether it was kept.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kept: dict[str, bool]

    def __str__(self) -> str:
        promises = [f"{'kept' if kept else 'MISSED'}: {name}" for name, kept in self.kept.items()]
        return "\n".join([f"\n### {self.title}\n", *table(self.header, self.rows), "", *promises])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; all columns but the first stand to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        texts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(texts)} |"

    return [line(header), line(rule), *map(line, rows)]

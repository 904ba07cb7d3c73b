"""Where a figure comes from: the recorded runs behind it, as a table that folds away."""

import re
import statistics
from collections.abc import Iterable, Mapping
from html import escape

from cmssf_lib.runs.run import Run
from cmssf_lib.runs.setup import machines

SEED = re.compile(r"-s(\d+)$")
HEAD = ("run", "seeds", "epochs", "minutes each", "machine", "made again by")


class RunCard:
    """What a reader must know of the runs that a figure is drawn from.

    One row for each training. Runs of one name that differ in the seed, ``-s0``, ``-s1`` and so
    on, are one training; their minutes are the median. A notebook shows it as a line that opens.

    Args:
        found: Runs, or lists or dictionaries of them.

    Attributes:
        rows: A tuple of six texts for each training, in the order of `HEAD`.

    Raises:
        ValueError: If there are no runs, or something among them is none.
    """

    def __init__(self, *found: object) -> None:
        groups: dict[str, list[Run]] = {}
        for run in {run.name: run for run in _runs(found)}.values():
            groups.setdefault(SEED.sub("", run.name), []).append(run)
        if not groups:
            raise ValueError("there are no runs to make a card of")
        self.rows = [(name, *_row(of)) for name, of in groups.items()]

    @property
    def line(self) -> str:
        """The sentence that is seen before the card is opened."""
        seeds = sorted({len(row[1].split(",")) for row in self.rows})
        many = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
        count = _counted(len(self.rows), "recorded training")
        return f"Drawn from {count}, {many} seed{'s' * (seeds[-1] > 1)} each"

    def __str__(self) -> str:
        lines = [" | ".join(row) for row in (HEAD, *self.rows)]
        return "\n".join([f"{self.line}.", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = [_html_row(HEAD, "th"), *(_html_row(row, "td") for row in self.rows)]
        return (
            f'<details class="run-card"><summary>{self.line}</summary>'
            f"<table>{''.join(cells)}</table></details>"
        )


def _runs(found: object) -> Iterable[Run]:
    if isinstance(found, Run):
        yield found
    elif isinstance(found, Mapping):
        yield from _runs(list(found.values()))
    elif isinstance(found, Iterable) and not isinstance(found, str):
        for part in found:
            yield from _runs(part)
    else:
        raise ValueError(f"{found!r} is no run")


def _row(of: list[Run]) -> tuple[str, ...]:
    minutes = statistics.median(
        sum(row.get("seconds", 0.0) for row in run.history) / 60 for run in of
    )
    found = dict.fromkeys(machines(run.environment) for run in of)
    epochs = dict.fromkeys(str(len(run.history)) for run in of)
    return (
        ", ".join(str(run.config["train"]["seed"]) for run in of),
        " or ".join(epochs),
        f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}",
        " or ".join(found),
        of[0].command,
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _html_row(row: Iterable[str], cell: str) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(text)}</{cell}>' for text in row)}</tr>"

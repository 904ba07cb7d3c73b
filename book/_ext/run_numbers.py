"""Numbers out of recorded runs, so that no page can quote one from nowhere: two roles and a table.

``{run}`quick/cmssf-colour:zero_shot|percent` `` reads ``book/runs/quick/cmssf-colour/results.json``
(a flat mapping from metric to number) and prints the value. The run's name, the full value and the
command that makes the run again stand in the tooltip. A run, metric or format that does not exist
is a Sphinx warning; the book is built with ``-W``, so the build fails.

``{compare}`02_fusion:F1 concat − mean` `` prints one of the comparisons that a chapter declares in
``book/runs/comparisons.toml``, with its interval; ``|verdict`` after it says what follows, with
all comparisons of the chapter taken together.

The directive ``run-table`` sets one metric of many runs side by side, a column for each seed:

    ```{run-table} Long trainings (chapter 5)
    :name: tab-long-runs
    :metric: linear_10_per_class

    SimCLR = quick/simclr
    late fusion, mean = quick/clues-late:mean.accuracy
    ```

A line is a label and the runs' name without ``-s0``, ``-s1``, …; a metric of its own may follow.
"""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from cmssf_lib import seeds
from cmssf_lib.evaluate import Comparison, verdicts

logger = logging.getLogger(__name__)
MARGIN = 0.02  # on digits, two are called equal within two points (the page "The protocol")

FORMATS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.1f} %",
    "points": lambda value: f"{100 * value:.1f}",
    "count": lambda value: f"{value:,.0f}",
    "seconds": lambda value: f"{value:.0f} s",
    "minutes": lambda value: f"{value / 60:.1f} min",
}
DECIMALS = re.compile(r"\.\d+[fge]")
CONTENT = re.compile(r"(?P<name>[\w.\-/]+):(?P<metric>[\w.@\-/]+)(\|(?P<format>[\w.]+))?")


def read_number(directory: Path, name: str, metric: str) -> float:
    """Return one metric of one recorded run.

    Raises:
        ValueError: If the run, its results or the metric is missing, or is not a finite number.
    """
    path = directory / name / "results.json"
    if ".." in Path(name).parts or not path.is_file():
        known = sorted(
            p.parent.relative_to(directory).as_posix() for p in directory.rglob("results.json")
        )
        raise ValueError(f"no recorded run {name!r}; there are: {', '.join(known) or 'none'}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"results of run {name!r} are not JSON: {error}") from error
    if metric not in results:
        raise ValueError(
            f"run {name!r} has no metric {metric!r}; it has: {', '.join(sorted(results))}"
        )
    value = results[metric]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"metric {metric!r} of run {name!r} is {value!r}, not a finite number")
    return float(value)


def show(value: float, style: str | None) -> str:
    """Write a number in one of `FORMATS` or with decimals such as ``.3f``; else as it is.

    Raises:
        ValueError: If the format is neither.
    """
    if style is None:
        return f"{value:.4g}"
    if style in FORMATS:
        return FORMATS[style](value)
    if DECIMALS.fullmatch(style):
        return format(value, style)
    raise ValueError(
        f"no format {style!r}; there are {', '.join(FORMATS)} and .1f, .3g and the like"
    )


class RunRole(SphinxRole):
    """The role itself: ``NAME:METRIC`` or ``NAME:METRIC|FORMAT``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Print the number, or warn and print what is missing."""
        directory = Path(self.env.srcdir) / self.config.run_numbers_directory
        try:
            match = CONTENT.fullmatch(self.text.strip())
            if match is None:
                raise ValueError(f"{self.text!r} is not NAME:METRIC or NAME:METRIC|FORMAT")
            name, metric = match["name"], match["metric"]
            # Noted before reading: a run recorded later rebuilds the page that waits for it.
            self.env.note_dependency(str(directory / name / "results.json"))
            value = read_number(directory, name, metric)
            text = show(value, match["format"])
        except ValueError as error:
            logger.warning("run number: %s", error, location=self.get_location())
            return [nodes.strong(text=f"[missing: {self.text}]")], []
        tip = f"Run {name}: {metric} = {value:.6g}. Make it again: cmssf reproduce {name}"
        return [nodes.abbreviation(text, text, explanation=tip, classes=["run-number"])], []


@cache
def compared(chapter: str) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Return a chapter's comparisons and what follows from them together."""
    family = seeds.family(chapter)
    return family, verdicts(family, MARGIN)


class CompareRole(SphinxRole):
    """A comparison: ``CHAPTER:LABEL``, or ``CHAPTER:LABEL|verdict``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Print the difference with its interval, or the verdict; or warn about what is missing."""
        directory = Path(self.env.srcdir) / self.config.run_numbers_directory
        self.env.note_dependency(str(directory / "comparisons.toml"))
        asked, _, style = self.text.strip().partition("|")
        chapter, _, label = asked.partition(":")
        try:
            family, said = compared(chapter)
            if label not in family or style not in ("", "verdict"):
                raise ValueError(f"no {self.text!r}; there are {', '.join(family)}")
        except (OSError, LookupError, ValueError) as error:
            logger.warning("comparison: %s", error, location=self.get_location())
            return [nodes.strong(text=f"[missing: {self.text}]")], []
        found = family[label]
        low, middle, high = (
            f"{100 * end:+.1f}".replace("-", "\N{MINUS SIGN}")
            for end in (found.low, found.difference, found.high)
        )
        text = said[label] if style else f"{middle} points ({low} to {high})"
        tip = (
            f"{label}: {middle} percentage points, 95 % interval {low} to {high}; "
            f"{said[label]}, of {len(family)} comparisons together"
        )
        classes = ["run-number", "run-difference"]
        return [nodes.abbreviation(text, text, explanation=tip, classes=classes)], []


class RunTable(SphinxDirective):
    """The directive itself: writes a ``list-table`` full of roles, and lets Sphinx read that."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {
        "name": directives.unchanged_required,
        "metric": directives.unchanged_required,
        "format": directives.unchanged_required,
        "head": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the table, or warn about what cannot be one."""
        try:
            return self.parse_text_to_nodes("\n".join(self._written_out()))
        except ValueError as error:
            logger.warning("run table: %s", error, location=self.get_location())
            return []

    def _written_out(self) -> list[str]:
        directory = Path(self.env.srcdir) / self.config.run_numbers_directory
        known = [
            p.parent.relative_to(directory).as_posix() for p in directory.rglob("results.json")
        ]
        rows, seeds = [], set()
        for line in filter(str.strip, self.content):
            label, equals, rest = line.partition("=")
            runs, _, metric = rest.strip().partition(":")
            metric = metric or self.options.get("metric", "")
            if not (equals and label.strip() and runs and metric):
                raise ValueError(f"{line!r} is not LABEL = RUNS or LABEL = RUNS:METRIC")
            seed = re.compile(re.escape(runs) + r"-s(\d+)")
            numbers = {int(m[1]) for name in known if (m := seed.fullmatch(name))}
            if not numbers:
                raise ValueError(f"no recorded run is called {runs}-s0, {runs}-s1 and so on")
            seeds |= numbers
            rows.append((label.strip(), runs, metric))
        if not rows:
            raise ValueError("there is no line LABEL = RUNS in it")
        style = self.options.get("format", "percent")
        columns = sorted(seeds)  # a run that lacks a seed of the others is a warning of its role
        named = [f":name: {self.options['name']}"] if "name" in self.options else []
        head = [self.options.get("head", "What"), "Runs", *(f"Seed {seed}" for seed in columns)]
        cells = [head] + [
            [label, f"`{runs}`"]
            + [f"{{run}}`{runs}-s{seed}:{metric}|{style}`" for seed in columns]
            for label, runs, metric in rows
        ]  # fmt: skip
        lines = [
            f"{'* ' if i == 0 else '  '}- {cell}" for row in cells for i, cell in enumerate(row)
        ]
        title = self.arguments[0]
        return [f"```{{list-table}} {title}", *named, ":header-rows: 1", "", *lines, "```"]


def setup(app: Sphinx) -> dict[str, object]:
    """Register the role, the table and where the recorded runs are."""
    app.add_config_value("run_numbers_directory", "book/runs", "env", types=[str])
    app.add_role("run", RunRole())
    app.add_role("compare", CompareRole())
    app.add_directive("run-table", RunTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

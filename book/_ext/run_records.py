"""When, where, how long, in how much memory: tables of the recorded runs and of the notebooks.

The directive ``run-records`` has a row for each training below a folder of ``book/runs``; runs
that differ in the seed alone share it:

    ```{run-records} The runs of the quick preset
    :folder: quick
    :name: tab-records-quick
    ```

``run-costs`` sums up their hours. ``notebook-records`` has a row for each notebook, from what
`make notebooks` stored in it. Under these two stands a list of the sets of versions, each with the
letter by which the rows name it. A record that lacks one of these facts is a Sphinx warning, and so
fails the build.
"""

import csv
import json
import statistics
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from cmssf_lib.environment import machines
from cmssf_lib.plots import SEED

logger = logging.getLogger(__name__)

VERSIONS = ("python", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy")
HEAD = ("Date", "Machine", "Minutes", "GB", "Versions")


class Records(SphinxDirective):
    """What both tables share: writes a ``list-table`` and a list of versions for Sphinx to read."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"name": directives.unchanged_required, "folder": directives.path}

    def run(self) -> list[nodes.Node]:
        """Return the table, or warn about what cannot be one."""
        self.letters: dict[str, str] = {}
        try:
            rows = list(self.rows())
            if len(rows) < 2:
                raise ValueError(f"none in {self.options.get('folder', 'notebooks')!r}")
        except KeyError as error:
            logger.warning("a record lacks %s", error, location=self.get_location())
            return []
        except (ValueError, OSError) as error:
            logger.warning("records: %s", error, location=self.get_location())
            return []
        named = [f":name: {self.options['name']}"] if "name" in self.options else []
        cells = [
            f"{'* ' if i == 0 else '  '}- {cell}" for row in rows for i, cell in enumerate(row)
        ]
        table = [f"```{{list-table}} {self.arguments[0]}", *named, ":header-rows: 1", "", *cells]
        versions = [f"- **{letter}**: {text}" for text, letter in self.letters.items()]
        return self.parse_text_to_nodes("\n".join([*table, "```", "", *versions]))

    def rows(self) -> Iterable[tuple[str, ...]]:
        """Yield the head and the rows."""
        raise NotImplementedError

    def facts(self, of: Iterable[Mapping[str, Any]], seconds: Iterable[float]) -> tuple[str, ...]:
        """Write the five columns of `HEAD` for environments that share a row.

        Raises:
            KeyError: If one of them lacks a fact.
        """
        of = list(of)
        return (
            _joined(here["date"].replace("-", "\N{NON-BREAKING HYPHEN}") for here in of),
            _joined(machines(here) for here in of),
            f"{statistics.median(seconds) / 60:.1f}",
            _joined(_memory(here) for here in of),
            _joined(self._letter(here) for here in of),
        )

    def _letter(self, here: Mapping[str, Any]) -> str:
        text = ", ".join(f"{name} {here[name]}" for name in VERSIONS)
        return self.letters.setdefault(text, chr(ord("A") + len(self.letters)))


class RunRecords(Records):
    """The table of the recorded runs of one folder."""

    def rows(self) -> Iterable[tuple[str, ...]]:
        """Yield a row for each training."""
        directory = Path(self.env.srcdir) / self.config.run_numbers_directory
        folder = directory / self.options["folder"]
        paths = sorted(path.parent for path in folder.rglob("environment.json"))
        yield ("Run", "Seeds", *HEAD)
        # Sorted anew: between x-s0 and x-s1 there may be others, such as x-long-s0.
        paths.sort(key=lambda path: (SEED.sub("", path.name), path.name))
        for name, group in groupby(paths, key=lambda path: SEED.sub("", path.name)):
            found = list(group)
            seeds = [_read(path / "config.json")["train"]["seed"] for path in found]
            environments = [_read(path / "environment.json") for path in found]
            seconds = [_seconds(path / "history.csv") for path in found]
            yield (f"`{name}`", _joined(map(str, seeds)), *self.facts(environments, seconds))


class RunCosts(Records):
    """The hours of training behind all recorded runs, by folder and machine."""

    def rows(self) -> Iterable[tuple[str, ...]]:
        """Yield a row for each folder and kind of machine."""
        directory = Path(self.env.srcdir) / self.config.run_numbers_directory
        yield ("Runs", "On", "Trainings", "Hours")
        spent: dict[tuple[str, str], list[float]] = {}
        for path in sorted(directory.rglob("environment.json")):
            device = _read(path)["device"]
            where = "processor" if device == "cpu" else device
            key = (path.relative_to(directory).parts[0], where)
            spent.setdefault(key, []).append(_seconds(path.parent / "history.csv"))
        for (folder, where), seconds in spent.items():
            yield (f"`{folder}/…`", where, str(len(seconds)), f"{sum(seconds) / 3600:.1f}")


class NotebookRecords(Records):
    """The table of the notebooks."""

    def rows(self) -> Iterable[tuple[str, ...]]:
        """Yield a row for each notebook."""
        yield ("Notebook", *HEAD)
        for path in sorted((Path(self.env.srcdir) / "notebooks").glob("*.ipynb")):
            here = _read(path)["metadata"].get("executed")
            if here is None:
                raise ValueError(f"{path.name} does not say when it was executed: make notebooks")
            yield (
                f"{{doc}}`{path.stem} </notebooks/{path.stem}>`",
                *self.facts([here], [here["seconds"]]),
            )


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _seconds(history: Path) -> float:
    """Seconds of the training; none if it has no epochs."""
    if not history.is_file():
        return 0.0
    with history.open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def _memory(here: Mapping[str, Any]) -> str:
    card = f" and {here['peak_gpu_memory_gb']:.1f}" if "peak_gpu_memory_gb" in here else ""
    return f"{here['peak_memory_gb']:.1f}{card}"


def _joined(texts: Iterable[str]) -> str:
    """Each text once."""
    return ", ".join(dict.fromkeys(texts))


def setup(app: Sphinx) -> dict[str, object]:
    """Register both tables; where the runs are is known from `run_numbers`."""
    app.setup_extension("run_numbers")
    app.add_directive("run-records", RunRecords)
    app.add_directive("run-costs", RunCosts)
    app.add_directive("notebook-records", NotebookRecords)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The book's own Sphinx extensions, each on a page made for the test."""

import json
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

application = pytest.importorskip("sphinx.application")
docutils_namespace = pytest.importorskip("sphinx.util.docutils").docutils_namespace
pytest.importorskip("myst_parser")
bs4 = pytest.importorskip("bs4")

DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="t">
  <title id="t">Short</title><circle r="3"/></svg>"""


@pytest.fixture
def build(tmp_path: Path, repository: Path, monkeypatch):
    """Build one Markdown page with the book's extensions; return its tree and the warnings."""
    monkeypatch.syspath_prepend(str(repository / "book" / "_ext"))
    results = tmp_path / "book" / "runs" / "quick" / "trial" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(
        json.dumps({"zero_shot": 0.91234, "images": 4000, "seconds": 95.2, "broken": None})
    )
    (tmp_path / "drawing.svg").write_text(DRAWING)

    def run(text: str, **config: object):
        (tmp_path / "index.md").write_text("# Page\n\n" + text, encoding="utf-8")
        warnings = StringIO()
        with docutils_namespace():
            build_site(config, warnings)
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        return bs4.BeautifulSoup(page, "html.parser"), warnings.getvalue()

    def build_site(config: dict[str, object], warnings: StringIO) -> None:
        application.Sphinx(
            srcdir=tmp_path,
            confdir=None,
            outdir=tmp_path / "out",
            doctreedir=tmp_path / "doctrees",
            buildername="html",
            confoverrides={
                "extensions": ["myst_parser", "run_records", "inline_svg", "site_repairs"],
                "numfig": True,
                **config,
            },
            status=None,
            warning=warnings,
            freshenv=True,
        ).build()

    return run


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("quick/trial:zero_shot", "0.9123"),
        ("quick/trial:zero_shot|percent", "91.2 %"),
        ("quick/trial:zero_shot|points", "91.2"),
        ("quick/trial:zero_shot|.2f", "0.91"),
        ("quick/trial:images|count", "4,000"),
        ("quick/trial:seconds|seconds", "95 s"),
        ("quick/trial:seconds|minutes", "1.6 min"),
    ],
)
def test_a_number_is_read_from_its_run(build, quoted, shown):
    page, warnings = build(f"The result is {{run}}`{quoted}`.")
    number = page.select_one("abbr.run-number")
    assert not warnings
    assert number.get_text() == shown
    assert "quick/trial" in number["title"]
    assert "cmssf reproduce quick/trial" in number["title"]


@pytest.mark.parametrize(
    ("quoted", "complaint"),
    [
        ("quick/other:zero_shot", "no recorded run 'quick/other'; there are: quick/trial"),
        ("../book/runs/quick/trial:zero_shot", "no recorded run"),
        ("quick/trial:recall", "no metric 'recall'; it has: broken, images, seconds, zero_shot"),
        ("quick/trial:broken", "is None, not a finite number"),
        ("quick/trial:zero_shot|nice", "no format 'nice'"),
        ("quick/trial", "is not NAME:METRIC"),
    ],
)
def test_a_number_without_a_source_is_a_warning(build, quoted, complaint):
    page, warnings = build(f"The result is {{run}}`{quoted}`.")
    assert complaint in warnings
    assert "WARNING" in warnings
    assert "index.md:3" in warnings
    assert page.select_one("abbr.run-number") is None
    assert f"[missing: {quoted}]" in page.get_text()


def test_damaged_results_are_a_warning(build, tmp_path):
    (tmp_path / "book/runs/quick/trial/results.json").write_text('{"zero_shot": 0.9')
    assert "are not JSON" in build("{run}`quick/trial:zero_shot`")[1]


@pytest.fixture
def chapter(monkeypatch, build):
    """Comparisons of a chapter: one clear, one that is clear only if it is taken alone."""
    import run_numbers

    from cmssf_lib.evaluate import Comparison

    family = {
        "A one − other": Comparison(0.034, 0.021, 0.047, 0.0004),
        "B two − other": Comparison(-0.031, -0.061, -0.001, 0.04),
        "C three − other": Comparison(0.01, -0.03, 0.05, 0.6),
    }
    monkeypatch.setattr(run_numbers.seeds, "family", {"02_x": family}.__getitem__)
    run_numbers.compared.cache_clear()


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("02_x:A one − other", "+3.4 points (+2.1 to +4.7)"),
        ("02_x:A one − other|verdict", "higher"),
        ("02_x:B two − other", "−3.1 points (−6.1 to −0.1)"),
        ("02_x:B two − other|verdict", "open"),
    ],
)
def test_a_comparison_is_read_from_what_its_chapter_declares(build, chapter, quoted, shown):
    page, warnings = build(f"So it is: {{compare}}`{quoted}`.")
    assert not warnings
    number = page.select_one("abbr.run-number")
    assert number.get_text() == shown
    assert "of 3 comparisons together" in number["title"]


@pytest.mark.parametrize(
    ("quoted", "complaint"),
    [
        ("02_x:C", "no '02_x:C'; there are A one − other, B two − other, C three − other"),
        ("02_x:A one − other|percent", "no '02_x:A one − other|percent'"),
        ("03_y:A", "03_y"),
    ],
)
def test_a_comparison_that_is_not_declared_is_a_warning(build, chapter, quoted, complaint):
    page, warnings = build(f"So it is: {{compare}}`{quoted}`.")
    assert complaint in warnings
    assert f"[missing: {quoted}]" in page.get_text()


@pytest.fixture
def seeds(tmp_path):
    """Recorded runs: two seeds of one setting, and a setting whose name goes on."""
    for name, accuracy in {"one-s0": 0.5, "one-s1": 0.25, "one-short-s2": 0.9}.items():
        results = tmp_path / "book" / "runs" / "quick" / name / "results.json"
        results.parent.mkdir(parents=True)
        results.write_text(json.dumps({"accuracy": accuracy, "knn": accuracy / 2}))


def test_a_table_of_runs_has_a_column_for_each_seed(build, seeds):
    page, warnings = build(
        "```{run-table} The title\n:name: tab-t\n:metric: accuracy\n:head: Model\n\n"
        "the *one* = quick/one\nits neighbours = quick/one:knn\n```\n\nSee {numref}`tab-t`."
    )
    assert not warnings
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    assert rows == [
        ["Model", "Runs", "Seed 0", "Seed 1"],
        ["the one", "quick/one", "50.0 %", "25.0 %"],
        ["its neighbours", "quick/one", "25.0 %", "12.5 %"],
    ]
    assert "The title" in page.select_one("table caption").get_text()
    assert page.select_one("a.reference.internal[href='#tab-t']")
    assert "cmssf reproduce quick/one-s1" in page.select("td abbr")[1]["title"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("one quick/one", "is not LABEL = RUNS"),
        ("one = quick/on", "no recorded run is called quick/on-s0"),
        ("", "no line LABEL = RUNS"),
        ("one = quick/one:recall", "no metric 'recall'"),
    ],
)
def test_a_table_of_runs_that_cannot_be_is_a_warning(build, seeds, line, complaint):
    _, warnings = build(f"```{{run-table}} Title\n:metric: accuracy\n\n{line}\n```")
    assert complaint in warnings


def test_a_run_that_lacks_a_seed_of_the_others_is_a_warning(build, seeds):
    table = "one = quick/one\nshort = quick/one-short"
    _, warnings = build(f"```{{run-table}} Title\n:metric: accuracy\n\n{table}\n```")
    assert "no recorded run 'quick/one-s2'" in warnings


FACTS = {
    "date": "2026-11-26", "processor": "Chip", "threads": 1, "device": "cpu",
    "peak_memory_gb": 1.24, "python": "3.11", "torch": "2.1", "torchvision": "0.1",
    "timm": "1", "transformers": "5", "accelerate": "1", "numpy": "2",
}  # fmt: skip


@pytest.fixture
def recorded(tmp_path):
    """Records of two trainings, one of them of two seeds; and of a notebook."""
    card = {"device": "Card", "peak_gpu_memory_gb": 0.5, "torch": "2.2", "earlier": ["Old"]}
    for name, seconds, own in (("x-s0", 60, {}), ("x-s1", 180, {}), ("x-long", 30, card)):
        folder = tmp_path / "book" / "runs" / "small" / name
        folder.mkdir(parents=True)
        (folder / "environment.json").write_text(json.dumps(FACTS | own))
        (folder / "config.json").write_text(json.dumps({"train": {"seed": int("s1" in name)}}))
        (folder / "history.csv").write_text(f"epoch,seconds\n1,{seconds}\n2,{seconds}\n")
    notebook = {"cells": [], "metadata": {"executed": FACTS | {"seconds": 90}}}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_a.ipynb").write_text(json.dumps(notebook))


def test_a_table_of_records_says_when_and_where_each_training_was_made(build, recorded):
    page, warnings = build("```{run-records} Title\n:folder: small\n:name: tab-r\n```")
    assert not warnings
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    day = "2026\N{NON-BREAKING HYPHEN}11\N{NON-BREAKING HYPHEN}26"
    assert rows == [
        ["Run", "Seeds", "Date", "Machine", "Minutes", "GB", "Versions"],
        ["x", "0, 1", day, "Chip, 1 thread", "4.0", "1.2", "A"],
        ["x-long", "0", day, "Old, then Card", "1.0", "1.2 and 0.5", "B"],
    ]
    versions = [item.get_text() for item in page.select("li")]
    assert versions[0].startswith("A: python 3.11, torch 2.1, ")
    assert versions[1].startswith("B: python 3.11, torch 2.2, ")


def test_the_hours_of_all_records_are_summed_up(build, recorded):
    page, warnings = build("```{run-costs} Title\n```")
    assert not warnings
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    assert rows == [
        ["Runs", "On", "Trainings", "Hours"],
        ["small/…", "Card", "1", "0.0"],
        ["small/…", "processor", "2", "0.1"],
    ]


def test_a_table_of_notebooks_says_when_and_where_each_was_executed(build, recorded, tmp_path):
    (tmp_path / "notebooks" / "01_a.md").write_text("# A\n")  # the page that the row leads to
    page, warnings = build("```{notebook-records} Title\n```", suppress_warnings=["toc"])
    assert not [line for line in warnings.splitlines() if "toctree" not in line]
    row = page.select("tr")[1]
    name, _, *facts = [cell.get_text() for cell in row.select("td")]
    assert name == "01_a"
    assert facts == ["Chip, 1 thread", "1.5", "1.2", "A"]
    assert row.select_one("a.reference.internal")["href"] == "notebooks/01_a.html"


@pytest.mark.parametrize("lacking", ["date", "peak_memory_gb", "timm"])
def test_a_record_that_lacks_a_fact_is_a_warning(build, recorded, tmp_path, lacking):
    path = tmp_path / "book" / "runs" / "small" / "x-s1" / "environment.json"
    path.write_text(json.dumps({name: fact for name, fact in FACTS.items() if name != lacking}))
    assert f"a record lacks '{lacking}'" in build("```{run-records} Title\n:folder: small\n```")[1]


def test_records_that_are_not_there_are_a_warning(build, recorded, tmp_path):
    assert "records: none in 'large'" in build("```{run-records} Title\n:folder: large\n```")[1]
    (tmp_path / "notebooks" / "01_a.ipynb").rename(tmp_path / "away")
    assert "records: none in 'notebooks'" in build("```{notebook-records} Title\n```")[1]
    (tmp_path / "notebooks" / "01_a.ipynb").write_text('{"cells": [], "metadata": {}}')
    _, warnings = build("```{notebook-records} Title\n```")
    assert "01_a.ipynb does not say when it was executed" in warnings


def test_a_drawing_stands_in_the_page_with_its_alt_text(build):
    page, warnings = build(
        '```{figure} drawing.svg\n:name: fig-d\n:alt: A "round" thing & more\n'
        ":class: inline-svg\n\nThe caption.\n```\n\nSee {numref}`fig-d`."
    )
    assert not warnings
    drawing = page.select_one("figure#fig-d .inline-svg > svg")
    assert drawing["aria-label"] == 'A "round" thing & more'
    assert drawing.find("title") is None
    assert not drawing.has_attr("aria-labelledby")
    assert page.select_one("figure figcaption").get_text(strip=True).startswith("Fig. 1")
    assert page.find("img") is None


def test_a_drawing_without_alt_text_is_a_warning(build):
    page, warnings = build("```{image} drawing.svg\n:class: inline-svg\n```")
    assert "drawing.svg has no alt text" in warnings
    assert page.select_one(".inline-svg > svg") is None


def test_a_drawing_that_cannot_be_labelled_is_a_warning(build, tmp_path):
    (tmp_path / "drawing.svg").write_text(DRAWING.replace("aria-labelledby", "data-nothing"))
    assert (
        "aria-labelledby" in build("```{image} drawing.svg\n:class: inline-svg\n:alt: A b\n```")[1]
    )


ROOM = '''"""A room.

How it flows:

    a → b
      → c
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.artist import Artist
from torch import Tensor


class Box:
    """A box."""

    @property
    def factor(self) -> float:
        """What is multiplied: one number."""
        return 1.0


class Shelf(Artist):
    """A class that matplotlib gives a method `set`."""


def f(a: Float[Tensor, "batch dim"], where: torch.device, names: Sequence[str]) -> Box:
    """Do it with `a`.

    Args:
        a: The first of two arguments.
        where: The second.
        names: The third.

    Returns:
        A box.
    """
    return Box()
'''


@pytest.fixture
def documented(build, tmp_path, monkeypatch):
    """Document a module of a package called ``cmssf_lib``, whose source is given."""

    def run(source: str):
        (tmp_path / "cmssf_lib").mkdir()
        (tmp_path / "cmssf_lib/__init__.py").write_text('"""The package."""\n')
        (tmp_path / "cmssf_lib/room.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        kept = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "cmssf_lib"}
        for name in kept:
            del sys.modules[name]
        try:
            return build(
                "```{eval-rst}\n.. automodule:: cmssf_lib.room\n   :members:\n```",
                extensions=[
                    "myst_parser",
                    "sphinx.ext.autodoc",
                    "sphinx.ext.napoleon",
                    "library_reference",
                    "site_repairs",
                ],
                nitpicky=True,
                default_role="literal",
                autodoc_typehints_format="short",
                python_use_unqualified_type_names=True,
                python_maximum_signature_line_length=60,
            )
        finally:
            for name in [n for n in sys.modules if n.split(".")[0] == "cmssf_lib"]:
                del sys.modules[name]
            sys.modules.update(kept)

    return run


def test_a_docstring_becomes_a_readable_page_without_a_warning(documented):
    page, warnings = documented(ROOM)
    assert not warnings
    lines = [line.get_text() for line in page.select("dt.sig .sig-lines > .sig-line")]
    assert lines[0] == "a: Float[Tensor, 'batch dim'],"
    assert len(lines) == 3
    assert "a → b\n  → c" in page.select_one("pre").get_text()
    assert "What is multiplied: one number." in page.get_text()
    assert page.find(id="cmssf_lib.room.Shelf") is not None
    assert page.find(id="cmssf_lib.room.Shelf.set") is None
    assert not [dl for dl in page.find_all("dl") if dl.find("dt", recursive=False) is None]


def test_a_room_documents_what_it_hands_on_and_nothing_else(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "book" / "_ext"))
    from library_reference import offered

    source = """
from cmssf_lib.room.inside import Box as Box, helper, shut as shut
from torch import Tensor

LIMIT: int = 3
_HIDDEN = 4

def fill(box): ...
def _empty(box): ...
"""
    assert offered(source) == ["Box", "shut", "LIMIT", "fill"]


def test_a_type_of_ours_that_is_not_documented_is_a_warning(documented):
    source = (
        ROOM.replace("-> Box", "-> Hidden")
        .replace("class Box", "class Hidden")
        .replace('"""A box."""', "")
    )
    assert "reference target not found: cmssf_lib.room.Hidden" in documented(source)[1]


def test_a_type_variable_is_printed_as_it_is(documented):
    source = f"""{ROOM}

from typing import TypeVar

Kept = TypeVar("Kept")


def same(thing: Kept) -> Kept:
    \"\"\"Return it.\"\"\"
    return thing
"""
    page, warnings = documented(source)
    assert not warnings
    assert "same(thing: Kept) → Kept" in page.get_text()


def test_a_name_that_no_library_has_is_a_warning(documented):
    source = ROOM.replace("Do it with `a`.", "Do it as :class:`torch.Tensorr` does.")
    assert "reference target not found: torch.Tensorr" in documented(source)[1]


def test_a_changed_library_makes_the_quickstart_stale(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "book" / "_ext"))
    import fresh_pages

    room = tmp_path / "cmssf_lib" / "room.py"
    room.parent.mkdir()
    room.write_text("x = 1\n")
    changed = room.stat().st_mtime_ns // 1000
    pages = {"notebooks/00_quickstart", "notebooks/01_data", "book/references", "book/status"}

    def asked(read_at: dict[str, int]) -> set[str]:
        app = SimpleNamespace(srcdir=tmp_path)
        env = SimpleNamespace(all_docs=read_at, found_docs=pages)
        return set(fresh_pages.outdated(app, env, set(), set(), set()))

    always = {"book/references", "book/status"}
    assert asked(dict.fromkeys(pages, changed + 1)) == always
    assert asked(dict.fromkeys(pages, changed - 1)) == always | {"notebooks/00_quickstart"}

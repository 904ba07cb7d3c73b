"""The form of the notebooks: what a reader, GitHub, Colab, nbval and the site rely on."""

import copy
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((HERE.parents[1] / "notebooks").glob("*.ipynb"))
FIRST_CELL = (HERE / "first_cell.py.txt").read_text(encoding="utf-8").strip()

LONGEST_CELL = 55  # lines
LARGEST_FILE = 1_500_000  # bytes
# What says which recorded runs a figure was drawn from; it stands right under the figure.
RUN_CARD = re.compile(r"(card|plots\.RunCard)\(")
CHAPTER_WORDS = range(1_500, 4_001)  # without its photographs
PHOTOGRAPH_WORDS = range(150, 301)
EXERCISES = range(4, 7)
# They have nothing else, on a GPU or anywhere.
WITHOUT_PHOTOGRAPHS = ("00_quickstart", "10_results", "11_own_data")
# The home folders and temporary folders of a machine, kernels' temporary files, a virtual
# environment's packages.
MACHINE_PATH = re.compile(
    r"(?<![\w:/.])/(?:home|root|Users|tmp|work|mnt|var|opt|usr|content)/[\w.-]+"
    r"|[A-Z]:\\{1,2}Users\\|ipykernel_\d+|site-packages/"
)


def first_cell(stem: str) -> str:
    """The standard first cell, with this notebook's name in it."""
    return FIRST_CELL.replace("NOTEBOOK", stem)


def text_of(output: nbformat.NotebookNode) -> str:
    """Everything an output shows as text; pictures left out."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    return "\n".join(
        text for kind, text in output.data.items() if kind.startswith("text/") and text is not None
    )


def pictures(cell: nbformat.NotebookNode) -> list[str]:
    """The picture formats among a cell's outputs."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [kind for kinds in data for kind in kinds if kind.startswith("image/")]


def words(prose: str) -> int:
    """Words of prose; fenced code, formulas, HTML tags and link targets are none."""
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"<[^>]+>", r"\]\([^)]*\)"):
        prose = re.sub(pattern, " ", prose, flags=re.S)
    return len(re.findall(r"[^\W\d_][\w'’-]*", prose))


def problems(notebook: nbformat.NotebookNode, stem: str) -> list[str]:
    """Everything that is wrong with one notebook, one sentence each."""
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    found = []

    if not code or code[0].source.strip() != first_cell(stem):
        found.append("the first code cell is not the one of tests/notebooks/first_cell.py.txt")
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"cells are not executed once each, in order: {counts}")
    if not any("nbval-check-output" in cell.metadata.get("tags", []) for cell in code):
        found.append("no cell is tagged nbval-check-output, so nbval compares nothing")

    for cell in code:
        place = f"code cell {cell.execution_count}"
        if len(cell.source.splitlines()) > LONGEST_CELL:
            found.append(f"{place} is longer than {LONGEST_CELL} lines")
        if not cell.source.strip():
            found.append(f"{place} is empty")
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if pictures(cell) and len(alt.split()) < 4:
            found.append(f"{place} shows a picture without alternative text")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{place} ends in an error")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{place} prints on stderr: {output.text[:80]!r}")
            if hit := MACHINE_PATH.search(text_of(output)):
                found.append(f"{place} shows a path of the machine: {hit[0]}")
            if re.search(r"\bat 0x[0-9a-f]{6,}", text_of(output)):
                found.append(f"{place} shows an object's place in memory, new at every run")
            if any("widget" in kind for kind in output.get("data", {})):
                found.append(f"{place} shows a widget, which a stored page cannot")
    for cell in cells:
        if cell.cell_type != "raw" and (hit := MACHINE_PATH.search(cell.source)):
            found.append(f"the source of a cell names a path of a machine: {hit[0]}")

    for before, after in pairwise(cells):
        if before.cell_type == after.cell_type == "code" and not RUN_CARD.match(after.source):
            found.append(f"no text between code cells {before.execution_count} and the next")
        if after.cell_type == "code" and RUN_CARD.match(after.source) and not pictures(before):
            found.append(f"the run card in cell {after.execution_count} stands under no figure")

    return found + problems_of_the_text(notebook, stem)


def problems_of_the_text(notebook: nbformat.NotebookNode, stem: str) -> list[str]:
    """What is wrong with the prose: title, length, summary, exercises."""
    cells = notebook.cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = []
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        found.append("the notebook does not begin with its title")
    photographs = re.search(r"^## On photographs$.*?(?=^## )", prose, re.M | re.S)
    section = photographs[0] if photographs else ""
    if section and words(section) not in PHOTOGRAPH_WORDS:
        found.append(f"{words(section)} words on photographs, not {PHOTOGRAPH_WORDS}")
    count = words(prose) - words(section)
    if stem != "00_quickstart" and count not in CHAPTER_WORDS:
        found.append(f"{count} words, not {CHAPTER_WORDS[0]} to {CHAPTER_WORDS[-1]}")
    if re.search(r"!\[\s*\]\(", prose) or re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", prose):
        found.append("a picture in the text has no alternative text")

    sections = re.split(r"^## +(.+?) *$", prose, flags=re.M)
    headings, bodies = sections[1::2], sections[2::2]
    if headings[-2:] != ["Summary", "Exercises"]:
        found.append(f"the last two sections are {headings[-2:]}, not Summary and Exercises")
    elif stem not in WITHOUT_PHOTOGRAPHS and headings[-3:-2] != ["On photographs"]:
        found.append(f"before the summary stands {headings[-3:-2]}, not On photographs")
    else:
        solutions = re.findall(r"<details>\s*<summary>.+?</summary>.+?</details>", bodies[-1], re.S)
        if len(solutions) not in EXERCISES:
            found.append(
                f"{len(solutions)} exercises with a solution in <details>, "
                f"not {EXERCISES[0]} to {EXERCISES[-1]}"
            )
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form_of_every_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = problems(notebook, path.stem)
    if path.stat().st_size > LARGEST_FILE:
        found.append(f"the file has {path.stat().st_size:,} bytes, over {LARGEST_FILE:,}")
    assert not found, "\n".join([f"{path.name}:", *found])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_when_and_where_it_was_executed(path):
    executed = nbformat.read(path, as_version=4).metadata["executed"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", executed["date"])
    assert executed["processor"]
    assert 0 < executed["seconds"] < 600
    assert executed["peak_memory_gb"] > 0.1


def test_there_are_notebooks():
    assert "00_quickstart" in [path.stem for path in NOTEBOOKS]


def test_the_first_cell_is_short():
    assert len(FIRST_CELL.splitlines()) <= 10


# --- the lint itself: a good notebook passes, and each defect is found ---


def good_notebook() -> nbformat.NotebookNode:
    new = nbformat.v4
    png = new.new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})
    cells = [
        new.new_markdown_cell("# A title\n\n" + "word " * 1_600),
        new.new_code_cell(first_cell("07_good"), execution_count=1),
        new.new_markdown_cell("A sum, and a link to [the book](https://example.org/root/book)."),
        new.new_code_cell(
            "1 + 1",
            execution_count=2,
            metadata={"tags": ["nbval-check-output"]},
            outputs=[
                new.new_output("execute_result", {"text/plain": "2 / 1"}, execution_count=2),
                new.new_output("stream", name="stdout", text="see book/runs/quick and a/b"),
            ],
        ),
        new.new_markdown_cell("## On photographs\n\nA picture. " + "word " * 200),
        new.new_code_cell(
            "plot()",
            execution_count=3,
            metadata={"mystnb": {"image": {"alt": "A loss that falls to its floor"}}},
            outputs=[png],
        ),
        new.new_code_cell("plots.RunCard(groups)", execution_count=4),
        new.new_markdown_cell("## Summary\n\n- done"),
        new.new_markdown_cell(
            "## Exercises\n\n"
            + "\n\n".join(
                f"{i}. Try.\n\n<details>\n<summary>Solution</summary>\n\nSo.\n\n</details>"
                for i in range(4)
            )
        ),
    ]
    return new.new_notebook(cells=cells)


def test_a_good_notebook_passes():
    assert problems(good_notebook(), "07_good") == []


def stream(name: str, text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


DEFECTS = {
    "another first cell": (lambda cells: cells[1].update(source="import torch"), "first code cell"),
    "a count missing": (lambda cells: cells[3].update(execution_count=None), "in order"),
    "counts of a second run": (lambda cells: cells[1].update(execution_count=4), "in order"),
    "nothing compared": (lambda cells: cells[3].metadata.update(tags=[]), "nbval compares nothing"),
    "a long cell": (lambda cells: cells[3].update(source="x = 1\n" * 56), "longer than"),
    "an empty cell": (lambda cells: cells[3].update(source=""), "is empty"),
    "no alternative text": (lambda cells: cells[5].metadata.clear(), "without alternative text"),
    "a file name for alternative text": (
        lambda cells: cells[5].metadata.mystnb.image.update(alt="figure_1.png"),
        "without alternative text",
    ),
    "an error": (
        lambda cells: cells[3].outputs.append(
            nbformat.v4.new_output("error", ename="E", evalue="", traceback=["E"])
        ),
        "ends in an error",
    ),
    "a warning": (lambda cells: cells[3].outputs.append(stream("stderr", "Warn")), "stderr"),
    "a path in an output": (
        lambda cells: cells[3].outputs.append(stream("stdout", "saved to /home/ada/runs/x")),
        "path of the machine",
    ),
    "a kernel's file": (
        lambda cells: cells[3].outputs.append(stream("stdout", "ipykernel_4711/1.py:3")),
        "path of the machine",
    ),
    "a place in memory": (
        lambda cells: cells[3].outputs.append(stream("stdout", "[<Line2D at 0x7f8f0802fd90>]")),
        "place in memory",
    ),
    "a widget": (
        lambda cells: cells[3].outputs[0].data.update({"application/vnd.jupyter.widget-view": {}}),
        "widget",
    ),
    "a path in the source": (
        lambda cells: cells[3].update(source="load('/Users/ada/data')"),
        "path of a machine",
    ),
    "code after code": (lambda cells: cells.pop(4), "no text between"),
    "a card without a figure": (
        lambda cells: cells[3].update(source="card(names)"),
        "under no figure",
    ),
    "no title": (lambda cells: cells[0].update(source="word " * 1_600), "title"),
    "too short": (lambda cells: cells[0].update(source="# A title"), "words, not"),
    "too long": (lambda cells: cells[0].update(source="# A title\n" + "word " * 5_000), "words"),
    "a bare picture": (lambda cells: cells[2].update(source="![](a.png)"), "alternative text"),
    "much on photographs": (
        lambda cells: cells[4].update(source="## On photographs\n\n" + "word " * 400),
        "words on photographs",
    ),
    "no photographs": (
        lambda cells: cells[4].update(source="A picture."),
        "not On photographs",
    ),
    "no summary": (lambda cells: cells.pop(7), "last two sections"),
    "no solutions": (
        lambda cells: cells[8].update(source="## Exercises\n\n1. Try."),
        "0 exercises",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_found(name):
    spoil, expected = DEFECTS[name]
    notebook = copy.deepcopy(good_notebook())
    spoil(notebook.cells)
    found = problems(notebook, "07_good")
    assert any(expected in problem for problem in found), found


def test_the_quickstart_may_be_short():
    notebook = good_notebook()
    notebook.cells[0].source = "# A title"
    notebook.cells[1].source = first_cell("00_quickstart")
    assert problems(notebook, "00_quickstart") == []

"""The exercises' checker: solutions pass, typical wrong answers fail with the right hint."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import torch
from exercises import SOLUTIONS, WRONG
from exercises.chapter_00_01 import cosine
from torch.nn import functional as F

from cmssf_lib.check import EXERCISES, check, verdict
from cmssf_lib.check.answers import Wrong, ask, compare, refuse, same

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def test_every_exercise_has_a_solution():
    assert list(SOLUTIONS) == list(EXERCISES)


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_the_solution_passes(exercise):
    right, sentence = verdict(exercise, SOLUTIONS[exercise])
    assert right, sentence
    assert re.fullmatch(rf"{exercise}: right\. .+[.!]", sentence)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_gets_its_hint(name):
    exercise, answer, hint = WRONG[name]
    right, sentence = verdict(exercise, answer)
    assert not right
    assert sentence.startswith(f"{exercise}: not yet. ")
    assert re.search(hint, sentence), sentence


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_unfinished_function_is_told_so(exercise):
    right, sentence = verdict(exercise, lambda *_: None)
    assert not right
    assert "returns nothing yet" in sentence


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_error_is_reported_and_not_raised(exercise):
    def broken(*_):
        raise IndexError("index 9 is out of bounds")

    right, sentence = verdict(exercise, broken)
    assert not right
    assert "stopped with IndexError: index 9 is out of bounds" in sentence


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("returned", ["text", {}, 0.0, torch.zeros(0), torch.zeros(2, 2, 2), []])
def test_whatever_is_returned_the_checker_keeps_standing(exercise, returned):
    right, sentence = verdict(exercise, lambda *_: returned)
    assert not right, sentence


def changed(returned):
    """Numbers that fit no misconception; what holds none stays as it is."""
    if isinstance(returned, torch.Tensor | int | float):
        return returned * 1.37 + 0.11
    if isinstance(returned, list | tuple) and not any(isinstance(x, str) for x in returned):
        return type(returned)(changed(x) for x in returned)
    return returned


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_result_without_a_hint_is_told_in_a_whole_sentence(exercise, call):
    results = []

    def wrong_once(*arguments):
        right = SOLUTIONS[exercise](*arguments)
        results.append(changed(right) if len(results) == call else right)
        return results[-1]

    right, sentence = verdict(exercise, wrong_once)
    if call == 0 and not isinstance(results[0], str | dict) and exercise != "08.4":
        assert not right
    assert re.fullmatch(rf"{exercise}: (right|not yet)\. [^{{}}]+", sentence, re.S), sentence


# --- the checker itself ---


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_stands_at_its_number(exercise):
    assert EXERCISES[exercise].__doc__.startswith(f"{exercise}: ``")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"x": x}, lambda x: ([x],)])
def test_a_changed_tensor_is_noticed_wherever_it_is_given(wrap):
    given = torch.ones(3)

    def change(held):
        while not isinstance(held, torch.Tensor):
            held = held["x"] if isinstance(held, dict) else held[0]
        return held.add_(1)

    with pytest.raises(Wrong, match="changes the tensor"):
        ask(change, wrap(given))
    assert same(given, torch.ones(3))


def test_the_right_result_passes_though_a_hint_would_fit():
    compare(2.0, 2.0, hints={"No hint is said to what is right.": 2.0})


def test_a_table_says_its_first_hint_that_fits():
    table = {"other": 3, "shown": False, "this": 2, "too late": True}
    with pytest.raises(Wrong, match=r"^this$"):
        compare(torch.tensor(2.0), 5, hints=table)
    with pytest.raises(Wrong, match=r"^too late$"):
        refuse(table, 7)


@pytest.mark.parametrize(
    ("returned", "right", "message"),
    [
        (torch.ones(3), 1.0, r"Expected one number; got a tensor of shape \(3,\)\."),
        ([1, 2], torch.ones(3), r"Expected one a row, shape \(3,\); got \(2,\)\."),
        ("text", torch.ones(3), "Expected a tensor of numbers; got str 'text'"),
        (torch.ones(2), torch.zeros(2), r"Here 0 and \[1, 1\]; of 7\."),
    ],
)
def test_what_fits_no_hint_is_shown(returned, right, message):
    shown = "Here {right[0]} and {got}; of {n}."
    with pytest.raises(Wrong, match=f"^{message}"):
        compare(returned, right, shown, what="one a row, shape", n=7)


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no exercise '99\.9'.*00\.1.*01\.6"):
        check("99.9", cosine)


def test_a_result_in_place_of_a_function_is_refused():
    with pytest.raises(TypeError, match="without brackets"):
        verdict("00.1", cosine(torch.eye(2), torch.eye(2)))


def test_check_prints_one_line(capsys):
    assert check("00.1", cosine) is None
    assert check("00.1", F.cosine_similarity) is None
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("00.1: right.")
    assert second.startswith("00.1: not yet.")


# --- the notebooks' own solutions ---


def solutions_of(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Run a notebook's imports and its solutions; return what they define."""
    space: dict[str, object] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "google.colab" not in cell.source:
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    exec(ast.unparse(node), space)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for details in re.findall(r"<details>(.*?)</details>", cell.source, re.S):
                for code in re.findall(r"```python\n(.*?)```", details, re.S):
                    exec(code, space)
    return space


@pytest.mark.parametrize("chapter", sorted({name[:2] for name in EXERCISES}))
def test_the_solutions_printed_in_the_notebook_pass(chapter):
    paths = list(NOTEBOOKS.glob(f"{chapter}_*.ipynb"))
    if not paths:
        pytest.skip(f"there is no notebook {chapter} yet")
    notebook = nbformat.read(paths[0], as_version=4)
    calls = re.findall(
        r"check\(\"(\d\d\.\d)\", (\w+)\)", "\n".join(cell.source for cell in notebook.cells)
    )
    assert sorted(set(dict(calls))) == [name for name in EXERCISES if name.startswith(chapter)]
    space = solutions_of(notebook)
    for exercise, name in calls:
        right, sentence = verdict(exercise, space[name])
        assert right, sentence

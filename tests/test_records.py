"""The recorded runs of the book: whole, readable, and small enough to travel with it."""

import importlib.util
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cmssf_lib import cli
from cmssf_lib.cli.commands import preset_asked_for
from cmssf_lib.cli.measure import headline
from cmssf_lib.runs import Run, all_runs, preset_of

RECORDS = Path(__file__).resolve().parents[1] / "book" / "runs"
RUNS = all_runs(RECORDS)
FEATURES = ("simclr", "moco", "byol", "dino", "mae", "supervised")  # judged by their features


def of(*methods):
    """The recorded runs of some methods."""
    return [run for run in RUNS if run.config["method"] in methods]


def is_count(name):
    """Whether a result is a number of something, and no share."""
    return name.endswith(("_k", "_draws", "_steps")) or "labels_" in name


def test_there_are_records():
    assert RUNS


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_record_is_whole(run):
    preset = preset_of(run.config)
    assert run.finished
    assert len(run.history) == preset.train.epochs
    for row in run.history:
        assert all(math.isfinite(value) for value in row.values())
    assert date.fromisoformat(run.environment["date"])
    assert run.environment["processor"]
    assert run.environment["peak_memory_gb"] > 0.1
    assert "dirty" not in run.environment["commit"]
    assert run.results


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_record_has_a_headline(run):
    name, value = headline(run)
    assert value == run.results[name]
    assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"knn": 0.5, "fine_tuned_10_per_class": 0.7}, ("fine_tuned_10_per_class", 0.7)),
        ({"knn": 0.5, "fine_tuned_1pct": 0.6, "fine_tuned_10pct": 0.8}, ("fine_tuned_1pct", 0.6)),
        ({"knn": 0.5}, ("knn", 0.5)),
        ({}, None),
    ],
)
def test_the_headline_is_the_first_that_was_measured(results, expected):
    """The standard preset asks for parts of the labels, and not for ten of each class."""
    run = Run()
    run.config, run.results = {"method": "mae"}, results
    assert headline(run) == expected


@pytest.mark.parametrize("run", of("cmssf"), ids=lambda run: run.name)
def test_a_record_of_cmssf_can_be_true(run):
    if run.config["cmssf"]["loss"] in ("one_hot", "multi_positive"):
        for row in run.history:
            # A theorem: lower would be a bug. Of a model with a task beside, its own loss alone.
            assert row.get("image_text_loss", row["loss"]) > row["floor"]
    for name, value in run.results.items():
        if not is_count(name):
            assert -1 <= value <= 1, name
    for k in (1, 5, 10):
        assert run.results[f"exact_caption_R@{k}"] <= run.results[f"exact_caption_R@{k}_ceiling"]


@pytest.mark.parametrize("run", of("fusion"), ids=lambda run: run.name)
def test_a_record_of_fusion_can_be_true(run):
    for name, value in run.results.items():
        if name != "parameters":
            assert 0 <= value <= 1, name
    kinds = [value for name, value in run.results.items() if name.startswith("kind_")]
    if kinds:  # each kind of question is asked equally often
        assert sum(kinds) / len(kinds) == pytest.approx(run.results["accuracy"], abs=1e-3)
    assert sum(row["seconds"] for row in run.history) <= 600, "a recorded quick run: ten minutes"


@pytest.mark.parametrize("run", of(*FEATURES), ids=lambda run: run.name)
def test_a_record_of_features_can_be_true(run):
    for name, value in run.results.items():
        if not is_count(name):
            assert 0 <= value <= 1, name
    if run.name.startswith("quick/"):
        seconds = sum(row["seconds"] for row in run.history)
        assert seconds <= 600, "a recorded quick run: ten minutes"
    for row in run.history:
        assert row.get("rank", 1) >= 1
        if run.config["method"] == "dino":  # a cross-entropy is an entropy and a divergence
            assert row["loss"] == pytest.approx(row["teacher_entropy"] + row["kl"], abs=1e-3)


def test_every_record_of_features_has_three_seeds():
    names = [run.name for run in of(*FEATURES) if run.name.startswith("quick/")]
    settings = {name.rpartition("-s")[0] for name in names}
    assert sorted(names) == sorted(f"{name}-s{seed}" for name in settings for seed in range(3))


def record_runs():
    """The script that makes the runs."""
    path = RECORDS.parents[1] / ".ci" / "record_runs.py"
    spec = importlib.util.spec_from_file_location("record_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded_as():
    """Each run that the list of runs to record names, with the command that makes it."""
    return dict(record_runs().commands())


def test_a_name_that_no_run_has_is_refused(monkeypatch, capsys):
    script = record_runs()
    monkeypatch.setattr("sys.argv", ["record_runs.py", "--list", "quick/moco", "quick/simcrl"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "no run is called quick/simcrl" in said.err
    assert not said.out
    monkeypatch.setattr("sys.argv", ["record_runs.py", "--list", "quick/moco", "standard/dino"])
    assert script.main() == 0


LISTED = [run for run in of(*FEATURES, "cmssf") if run.name in recorded_as()]


def test_every_quick_record_but_the_oldest_is_listed():
    """Those of CMSSF's quickstart were made before there was a list."""
    others = {run.name for run in of(*FEATURES, "cmssf")} - {run.name for run in LISTED}
    assert others == {f"quick/cmssf-s{seed}" for seed in range(3)}


@pytest.mark.parametrize("run", LISTED, ids=lambda run: run.name)
def test_a_record_is_what_its_command_makes_today(run):
    """A preset that changes leaves its records behind; they must be made again."""
    chosen = preset_asked_for(cli.parser().parse_args(recorded_as()[run.name]))
    recorded = preset_of(run.config)  # a field that is newer than the record has its default
    for section in run.config:
        if section not in ("method", "preset", "data_fingerprint"):
            assert getattr(recorded, section) == getattr(chosen, section), section


def test_the_models_of_a_comparison_have_as_many_parameters():
    """All models that answer questions lie within ten per cent of one count; likewise the clues."""
    for task in ("questions", "clues"):
        runs = [run for run in of("fusion") if run.name.startswith(f"quick/{task}-")]
        counts = {run.results["parameters"] for run in runs}
        middle = (min(counts) + max(counts)) / 2
        assert max(abs(count / middle - 1) for count in counts) <= 0.10


@pytest.mark.parametrize("task", ["questions", "clues", "match"])
def test_every_model_of_a_comparison_has_three_seeds(task):
    names = [run.name for run in of("fusion") if run.name.startswith(f"quick/{task}-")]
    models = {name.rpartition("-s")[0] for name in names}
    assert models
    assert sorted(names) == sorted(f"{model}-s{seed}" for model in models for seed in range(3))


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.outputs] or [None], ids=lambda r: r.name if r else "none"
)
def test_results_follow_from_the_outputs(run):
    if run is None:
        pytest.skip("no recorded run holds outputs yet")
    o = run.outputs
    if run.config["method"] == "fusion":
        right = (o["predictions"] == o["labels"]).mean()
        assert right == pytest.approx(run.results["accuracy"])
        return
    answers = [name for name in o if name in run.results]  # behind the accuracy of that name
    for name in answers:
        assert (o[name] == o["labels"]).mean() == pytest.approx(run.results[name]), name
    if run.config["method"] in FEATURES:
        assert {"knn"} <= set(answers) == set(o) - {"labels"}
        return
    assert (o["predictions"] == o["labels"]).mean() == pytest.approx(run.results["zero_shot"])
    if "image" not in o:  # too large to be kept with every record
        return
    similarity = o["image"].astype(np.float32) @ o["prompts"].astype(np.float32).T
    again = o["prompt_classes"][similarity.argmax(1)]
    assert (again == o["labels"]).mean() == pytest.approx(run.results["zero_shot"], abs=1e-3)


def test_the_records_are_small_and_hold_no_pickle_and_no_picture():
    files = [path for path in RECORDS.rglob("*") if path.is_file()]
    allowed = {".json", ".csv", ".npz", ".safetensors"}
    assert {path.suffix for path in files if not path.name.startswith(".")} <= allowed
    assert sum(path.stat().st_size for path in files) <= 60e6

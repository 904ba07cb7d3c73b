"""The recorded runs of the book: whole, readable, and small enough to travel with it."""

import math
from pathlib import Path

import numpy as np
import pytest

from cmssf_lib.runs import all_runs, preset_of

RECORDS = Path(__file__).resolve().parents[1] / "book" / "runs"
RUNS = all_runs(RECORDS)


def test_there_are_records():
    assert RUNS


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_record_is_whole(run):
    preset = preset_of(run.config)
    assert run.finished
    assert len(run.history) == preset.train.epochs
    for row in run.history:
        assert all(math.isfinite(value) for value in row.values())
        if run.config["cmssf"]["loss"] in ("one_hot", "multi_positive"):
            assert row["loss"] > row["floor"]  # a theorem: lower would be a bug
    assert run.environment["processor"]
    assert run.results
    for name, value in run.results.items():
        if name != "knn_k":
            assert -1 <= value <= 1, name
    for k in (1, 5, 10):
        assert run.results[f"exact_caption_R@{k}"] <= run.results[f"exact_caption_R@{k}_ceiling"]


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.outputs] or [None], ids=lambda r: r.name if r else "none"
)
def test_results_follow_from_the_outputs(run):
    if run is None:
        pytest.skip("no recorded run holds outputs yet")
    o = run.outputs
    assert (o["predictions"] == o["labels"]).mean() == pytest.approx(run.results["zero_shot"])
    similarity = o["image"].astype(np.float32) @ o["prompts"].astype(np.float32).T
    again = o["prompt_classes"][similarity.argmax(1)]
    assert (again == o["labels"]).mean() == pytest.approx(run.results["zero_shot"], abs=1e-3)


def test_the_records_are_small_and_hold_no_pickle_and_no_picture():
    files = [path for path in RECORDS.rglob("*") if path.is_file()]
    allowed = {".json", ".csv", ".npz", ".safetensors"}
    assert {path.suffix for path in files if not path.name.startswith(".")} <= allowed
    assert sum(path.stat().st_size for path in files) <= 60e6

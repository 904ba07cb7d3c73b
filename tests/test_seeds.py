"""One training with several seeds: what it scored, and what it is compared with."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cmssf_lib import seeds
from cmssf_lib.data import load
from cmssf_lib.evaluate import compare
from cmssf_lib.presets import preset
from cmssf_lib.runs import Run

PRESET = preset("quick", "fusion")
DATA = replace(PRESET.data, train=300, test=40)


def record(folder, name, answers, labels=None, data=DATA, **results):
    """Write a run with these answers behind its measures."""
    run = Run(folder / "runs" / name)
    run.config = {"method": "fusion", "preset": "quick", "data": asdict(data)}
    run.config |= {"fusion": asdict(PRESET.fusion), "train": asdict(PRESET.train)}
    run.outputs = {key: np.asarray(given) for key, given in answers.items()}
    run.outputs["labels"] = np.zeros(40, int) if labels is None else labels
    run.results = {"accuracy": 0.5, **results}
    run.save()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "records", lambda: tmp_path / "runs")
    draw = np.random.default_rng(0)
    for seed in range(3):
        one = (draw.random(40) > 0.7).astype(int)  # 0 is right
        other = (draw.random((2, 40)) > 0.4).astype(int)
        record(tmp_path, f"quick/one-s{seed}", {"predictions": one, "blind": 1 - one}, knn=seed)
        record(tmp_path, f"quick/other-s{seed}", {"linear": other, "accuracy": other[0]})
    return tmp_path


def test_every_seed_is_read_and_no_other_training(place):
    for other in ("one-more-s0", "one-short-s0", "one-s1-short-s0"):
        record(place, f"quick/{other}", {})
    assert [run.path.name for run in seeds.recorded("quick/one")] == ["one-s0", "one-s1", "one-s2"]
    assert seeds.numbers("quick/one", "knn") == [0, 1, 2]
    record(place, "quick/other-s10", {})
    assert len(seeds.recorded("quick/other")) == 4
    with pytest.raises(FileNotFoundError, match="quick/nobody-s0"):
        seeds.recorded("quick/nobody")
    unfinished = Run(place / "runs" / "quick/one-s3")
    unfinished.config = {"method": "fusion"}
    unfinished.save()
    with pytest.raises(ValueError, match="a run has no results"):
        seeds.recorded("quick/one")


def test_right_answers_are_those_of_the_outputs(place):
    outputs = [Run.load(place / "runs" / f"quick/one-s{seed}").outputs for seed in range(3)]
    expected = torch.stack([torch.from_numpy(o["predictions"] == 0).float() for o in outputs])
    assert torch.equal(seeds.right("quick/one", "accuracy"), expected)
    lost = seeds.right("quick/one", "accuracy - blind")  # blind answers the opposite
    assert torch.equal(lost, 2 * expected - 1)
    draws = seeds.right("quick/other", "linear")
    assert draws.shape == (3, 40)
    assert {*draws.unique().tolist()} == {0, 0.5, 1}  # two draws of the labels
    with pytest.raises(KeyError, match="keeps no answers behind 'knn'"):
        seeds.right("quick/one", "knn")


def test_two_trainings_are_compared_picture_by_picture_in_clusters(place):
    digits = load(DATA).test.attributes["digit_id"]
    found = seeds.difference("quick/one", "quick/other", "accuracy", "linear")
    scores = seeds.right("quick/one", "accuracy"), seeds.right("quick/other", "linear")
    assert found == compare(*scores, digits)
    assert len(digits.unique()) < 40, "no digit repeats, so clusters change nothing"
    assert found != compare(*scores)
    assert seeds.difference("quick/one", "quick/other", "accuracy") != found


def test_two_digits_are_two_clusters_and_photographs_none(place):
    two = replace(DATA, flavour="two", text="caption", sound="none")
    record(place, "quick/two-s0", {}, data=two)
    facts = load(two).test.attributes
    both = torch.stack([facts["left_id"], facts["right_id"]], dim=1)
    assert torch.equal(seeds.clusters("quick/two"), both)
    record(place, "standard/photos-s0", {}, data=preset("standard").data)
    assert seeds.clusters("standard/photos") is None


def test_other_pictures_are_refused(place):
    record(place, "quick/else-s0", {"accuracy": np.zeros(40)}, labels=np.ones(40, int))
    with pytest.raises(ValueError, match="tested on different pictures"):
        seeds.difference("quick/one", "quick/else", "accuracy")


def test_a_chapter_declares_its_comparisons(place):
    text = '[ch]\n"A one − other" = ["quick/one", "quick/other", "accuracy"]\n'
    text += '"B" = ["quick/one", "quick/other", "accuracy - blind", "accuracy - linear"]\n'
    (place / "runs" / "comparisons.toml").write_text(text, "utf-8")
    found = seeds.family("ch")
    assert list(found) == ["A one − other", "B"]
    assert found["A one − other"] == seeds.difference("quick/one", "quick/other", "accuracy")
    with pytest.raises(ValueError, match="no comparisons of 'nowhere'; there are those of ch"):
        seeds.family("nowhere")


def test_what_chapter_2_declares_can_be_compared():
    found = seeds.family("02_fusion")
    assert len(found) == 59
    assert all(one.low <= one.difference <= one.high for one in found.values())

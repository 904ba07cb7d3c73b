"""The recorded runs of the book: whole, readable, and small enough to travel with it."""

import importlib.util
import math
import shutil
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from cmssf_lib.build import build, image_encoder, preset_of, run_config
from cmssf_lib.cli import read_settings
from cmssf_lib.cli.measure import headline
from cmssf_lib.data import load
from cmssf_lib.evaluate import (
    accuracy,
    embed,
    exact_caption_retrieval,
    pair_similarity,
    retrieval,
    zero_shot,
)
from cmssf_lib.files import read_tensors
from cmssf_lib.presets import preset
from cmssf_lib.runs import Run, all_runs

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
    name, value = headline(run, run.results)
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
    run.config = {"method": "mae"}
    assert headline(run, results) == expected


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
    if run.name.startswith("quick/"):
        seconds = sum(row["seconds"] for row in run.history)
        assert seconds <= 600, "a recorded quick run: ten minutes"


@pytest.mark.parametrize("run", of(*FEATURES), ids=lambda run: run.name)
def test_a_record_of_features_can_be_true(run):
    for name, value in run.results.items():
        if not is_count(name):
            assert 0 <= value <= 1, name
    if run.name.startswith("quick/"):
        seconds = sum(row["seconds"] for row in run.history)
        assert seconds <= 600, "a recorded quick run: ten minutes"
    for row in run.history:
        assert row.get("effective_rank", 1) >= 1
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
    _, chosen = read_settings(recorded_as()[run.name][1:])
    # Older than the choice of a precision by the device: all were trained in float32.
    chosen = replace(chosen, train=replace(chosen.train, precision="no"))
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
def test_every_model_of_a_comparison_has_the_same_seeds(task):
    names = [run.name for run in of("fusion") if run.name.startswith(f"quick/{task}-")]
    models = {name.rpartition("-s")[0] for name in names}
    seeds = {"questions": 3, "clues": 5, "match": 5}[task]
    assert models
    assert sorted(names) == sorted(f"{model}-s{seed}" for model in models for seed in range(seeds))


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.outputs] or [None], ids=lambda r: r.name if r else "none"
)
def test_results_follow_from_the_outputs(run):
    if run is None:
        pytest.skip("no recorded run holds outputs yet")
    o = run.outputs
    if run.config["method"] == "fusion":
        for name in o.keys() - {"labels"}:
            number = run.results[name if name != "predictions" else "accuracy"]
            assert (o[name] == o["labels"]).mean() == pytest.approx(number), name
        return
    answers = [name for name in o if name in run.results]  # behind the accuracy of that name
    for name in answers:
        assert (o[name] == o["labels"]).mean() == pytest.approx(run.results[name]), name
    if run.config["method"] in FEATURES:
        assert {"knn"} <= set(answers) == set(o) - {"labels"}
        return
    assert (o["predictions"] == o["labels"]).mean() == pytest.approx(run.results["zero_shot"])


PLACED = [run for run in of("cmssf") if {"image", "similarity"} & run.outputs.keys()]


def places(outputs):
    """Vectors of pictures and of captions, as similar to each other as they were.

    Where similarities alone are kept, these are other vectors, in one dimension more than there
    are captions: a picture's part along the captions, and how long the rest is.
    """
    text = F.normalize(torch.from_numpy(outputs["text"]).double(), dim=1)  # (u, dim)
    if "image" in outputs:
        return torch.from_numpy(outputs["image"]).float(), text.float()
    captions = torch.linalg.cholesky(text @ text.T)  # (u, u)
    similarity = torch.from_numpy(outputs["similarity"]).double()  # (n, u)
    along = torch.linalg.solve_triangular(captions.T, similarity, upper=True, left=False)
    across = (1 - along.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([along, across], dim=1).float(), F.pad(captions, (0, 1)).float()


@pytest.mark.parametrize("run", PLACED, ids=lambda run: run.name)
def test_what_cmssf_claims_of_pictures_and_captions_follows_from_the_outputs(run):
    """Every number behind which there are no answers, to four digits."""
    image, text = places(run.outputs)
    labels, caption = (torch.from_numpy(run.outputs[n]).long() for n in ("labels", "caption_index"))
    own = text[caption]
    np.testing.assert_array_equal(run.outputs["prompts"], run.outputs["text"])  # one a class
    classes = torch.from_numpy(run.outputs["prompt_classes"]).long()
    again = dict.fromkeys(
        ("zero_shot", "zero_shot_ensemble"), accuracy(zero_shot(image, text, classes), labels)
    )
    for name, found in {
        "image_to_text_{}": retrieval(image, own, labels, labels, mean_ap=False),
        "text_to_image_{}": retrieval(text, image, classes, labels),
        "exact_caption_{}": exact_caption_retrieval(image, text, caption),
        "{}_similarity": pair_similarity(image, own, labels),
    }.items():
        again |= {name.format(measure): value for measure, value in found.items()}
    claimed = {name: value for name, value in run.results.items() if name in again}
    assert len(claimed) == len(again) - 3  # no P@k of captions: one right one is all there is
    for name, value in claimed.items():
        assert again[name] == pytest.approx(value, abs=5e-5), name


def test_every_training_of_cmssf_says_where_its_pictures_lie():
    trainings = {run.name for run in of("cmssf") if run.name.startswith("standard/")}
    seeds = {name for name in trainings if name.endswith(("-s1", "-s2"))}
    assert {run.name for run in PLACED} == trainings - seeds


WEIGHTED = [run for run in RUNS if (run.path / "model.safetensors").is_file()]


def test_the_records_with_weights_are_those_that_something_reads():
    """Those of the standard preset that chapters load, those others begin with, and chapter 3's."""
    script = record_runs()
    standard = {f"standard/{name}" for name in script.EQUAL | script.CLUES} - script.WITHOUT_WEIGHTS
    begun = {f"quick/{name}-s{seed}" for name in script.BEFORE for seed in script.SEEDS}
    assert {run.name for run in WEIGHTED} == standard | begun | {"quick/questions-coattention-s0"}


@pytest.mark.parametrize("run", WEIGHTED, ids=lambda run: run.name)
def test_a_record_keeps_the_weights_that_serve_after_its_training(run):
    kept = record_runs().lasting(run.config["method"])
    with safe_open(run.path / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    assert all(name.startswith(kept) for name in stored)
    assert all(any(name.startswith(part) for name in stored) for part in kept)
    matrices = {t.get_dtype() for t in stored.values() if len(t.get_shape()) > 1}
    # A quick run that others begin with keeps all digits: they are to come out as recorded.
    assert matrices == {"F16" if preset_of(run.config).train.half_weights else "F32"}


@pytest.mark.parametrize(
    "run",
    [run for run in RUNS if run.config.get("vision", {}).get("weights", "") not in ("", "timm")],
    ids=lambda run: run.name,
)
def test_the_weights_that_a_record_begins_with_are_there(run):
    vision = preset_of(run.config).vision
    image_encoder(replace(vision, weights=str(RECORDS / vision.weights)))  # or it would refuse


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "dino", "mae", "supervised"])
def test_a_run_is_recorded_with_the_weights_that_serve(tmp_path, name):
    """The features are those of all weights."""
    chosen = preset("quick", name)
    splits = load(replace(chosen.data, train=200, test=40))
    run = Run(tmp_path / "run")
    run.config = run_config(chosen, name, splits.train)
    method = build(chosen, name, splits.train).eval()
    with torch.no_grad():
        for parameter in method.parameters():  # a teacher is a copy; let it differ
            parameter.add_(0.02 * torch.randn_like(parameter))
        before = method.features(splits.test.images)
    run.save_weights(method)
    run.save()
    record_runs().lighten("quick/dino-plain-s0", run.path)
    tensors, _ = read_tensors(run.path / "model.safetensors", "cmssf-weights-1")
    fresh = build(chosen, name, splits.train).eval()
    assert not fresh.load_state_dict(tensors, strict=False).unexpected_keys
    with torch.no_grad():
        assert torch.equal(fresh.features(splits.test.images), before)
    assert name in ("mae", "supervised") or len(tensors) < len(method.state_dict())
    record_runs().lighten("standard/untrained", run.path)
    assert not (run.path / "model.safetensors").exists()


def test_a_quick_run_that_no_other_begins_with_is_its_history_and_results(tmp_path):
    run = Run(tmp_path)
    run.config, run.results = {"method": "mae"}, {"knn": 0.5}
    run.outputs = {"labels": np.zeros(2)}
    run.save_weights(torch.nn.Linear(2, 2))
    run.save()
    record_runs().lighten("quick/mae-mask-0.25-s0", run.path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "results.json"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_of_cmssf_is_recorded_with_similarities(tmp_path, seed):
    """In place of the pictures' places; of one seed."""
    chosen = preset("quick", "cmssf")
    chosen = replace(
        chosen,
        data=replace(chosen.data, train=200, test=40),
        train=replace(chosen.train, seed=seed),
    )
    splits = load(chosen.data)
    run = Run(tmp_path / "run")
    run.config = run_config(chosen, "cmssf", splits.train)
    method = build(chosen, "cmssf", splits.train).eval()
    found = embed(method, splits.test)
    run.outputs = {"image": found.image.half().numpy(), "text": found.text.half().numpy()}
    run.save_weights(method)
    run.save()
    record_runs().lighten("standard/other", run.path)
    outputs = Run.load(run.path).outputs
    assert set(outputs) == ({"text"} if seed else {"text", "similarity"})
    if not seed:
        np.testing.assert_array_equal(outputs["similarity"], (found.image @ found.text.T).numpy())


def test_the_records_hold_no_pickle_and_no_picture():
    files = [path for path in RECORDS.rglob("*") if path.is_file()]
    allowed = {".json", ".csv", ".npz", ".safetensors", ".toml"}
    assert {path.suffix for path in files if not path.name.startswith(".")} <= allowed


def test_all_tracked_files_together_take_at_most_45_mib(repository):
    """Tree, pictures and wheels are to fit where 64 MiB may travel."""
    if shutil.which("git") is None or not (repository / ".git").exists():
        pytest.skip("no clone, or no git to ask")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, check=True).stdout
    files = [repository / name for name in listed.decode().split("\0") if name]
    sizes = {path: path.lstat().st_size for path in files if path.exists()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) <= 45 * 2**20, f"the largest: {', '.join(map(str, largest))}"

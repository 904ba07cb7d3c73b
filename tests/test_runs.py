"""Runs on disk: written whole, read back equal, refused when damaged."""

import errno
import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from cmssf_lib import environment as described, files
from cmssf_lib.build import build, preset_of, run_config, trained
from cmssf_lib.data import digit_scenes
from cmssf_lib.environment import environment
from cmssf_lib.files import read_tensors, write_tensors
from cmssf_lib.presets import PRESETS, QUICK
from cmssf_lib.runs import Run, all_runs

TINY = replace(
    QUICK,
    data=replace(QUICK.data, train=40, test=20, validation=10, image_size=12),
    vision=replace(QUICK.vision, image_size=12, width=32, depth=1),
    text=replace(QUICK.text, width=32, depth=1),
)


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=40, test=20, image_size=12).train


@pytest.fixture
def run(tmp_path, data):
    run = Run(tmp_path / "runs" / "quick" / "tiny")
    run.config = run_config(TINY, "cmssf", data)
    run.history = [{"epoch": 1.0, "loss": 2.5, "seconds": 3.0}, {"epoch": 2.0, "loss": 1.25}]
    run.environment = environment()
    run.results = {"zero_shot": 0.5}
    run.outputs = {"image": np.zeros((2, 3), np.float16), "labels": np.arange(2)}
    return run


def test_a_run_reads_back_as_it_was_written(run):
    run.save()
    again = Run.load(run.path)
    assert again.config == run.config
    assert again.environment == run.environment
    assert again.results == run.results
    assert again.history == run.history
    assert {k: v.tolist() for k, v in again.outputs.items()} == {
        k: v.tolist() for k, v in run.outputs.items()
    }
    assert again.outputs["image"].dtype == np.float16


def test_a_run_in_memory_writes_nothing(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    run = Run()
    run.history = [{"epoch": 1.0}]
    run.save()
    run.save_weights(build(TINY, "cmssf", data))
    assert list(tmp_path.iterdir()) == []
    assert run.name == "in memory"


def test_a_recorded_run_is_named_by_its_place_and_reproduced(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "runs"))
    assert run.name == "quick/tiny"
    assert run.command == "cmssf reproduce quick/tiny"
    # Whatever the folder of the records is called, and wherever it lies.
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "runs" / "book" / "records"))
    inside = Run(tmp_path / "runs" / "book" / "records" / "quick" / "other")
    assert (inside.name, inside.command) == ("quick/other", "cmssf reproduce quick/other")
    assert Run(tmp_path / "runs" / "mine" / "runs" / "a").name == "a"


def test_the_command_of_another_run_is_what_was_typed(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "elsewhere"))
    run.environment["command"] = "cmssf train cmssf --train.lr 1e-5"
    assert run.command == "cmssf train cmssf --train.lr 1e-5"
    assert Run().command == "a call of fit"


def test_series_returns_a_column_or_names_the_columns_there_are(run):
    assert run.series("loss") == [2.5, 1.25]
    with pytest.raises(KeyError, match="no column 'accuracy'; it has epoch, loss"):
        run.series("accuracy")
    with pytest.raises(KeyError, match="no epoch is done"):
        Run().series("loss")


def test_a_missing_run_is_refused_with_the_names_of_its_neighbours(run):
    run.save()
    with pytest.raises(FileNotFoundError, match=r"no run at .*tony.*runs beside it: tiny"):
        Run.load(run.path.parent / "tony")


@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "environment.json", "history.csv", "outputs.npz"]
)
def test_a_damaged_file_is_named(run, name):
    run.save()
    whole = (run.path / name).read_bytes()
    (run.path / name).write_bytes(whole[:-8] + b'"')
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        Run.load(run.path)


@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "environment.json", "history.csv", "outputs.npz"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", b"[1]\n", b"null"])
def test_a_damaged_run_is_named_and_hides_no_other(run, tmp_path, name, damage):
    run.save()
    other = Run(tmp_path / "runs" / "quick" / "whole")
    other.config, other.history = run.config, run.history
    other.save()
    (run.path / name).write_bytes(damage)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = {each.name for each in all_runs(tmp_path)}
    assert "quick/whole" in found
    assert ("quick/tiny" in found) or any(str(run.path) in str(each.message) for each in said)


def test_other_folders_with_a_configuration_are_no_runs(run, tmp_path):
    run.save()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"vision": {}}')
    assert [found.name for found in all_runs(tmp_path)] == ["quick/tiny"]


def test_weights_come_back_ready_to_be_measured(run, data):
    run.save()
    run.save_weights(build(preset_of(run.config), run.config["method"], data))
    assert not any(module.training for module in trained(run, data).modules())


def test_a_run_of_ones_own_method_is_not_guessed_at():
    with pytest.raises(ValueError, match="trained by `fit` without a configuration"):
        preset_of({"train": {}, "data_fingerprint": "0"})


def test_weights_read_back_equal(run, data):
    method = build(preset_of(run.config), run.config["method"], data)
    with torch.no_grad():
        method.image_head[0].weight.add_(1)
    run.save()
    run.save_weights(method)
    again = trained(Run.load(run.path), data)
    for name, tensor in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_run_without_weights_says_how_to_make_them(run, data, monkeypatch, tmp_path):
    run.save()
    run.environment["command"] = f"cmssf train cmssf --run {run.path}"
    with pytest.raises(FileNotFoundError, match=r"holds no weights.*: cmssf train cmssf --run"):
        trained(run, data)
    (run.path / "checkpoint.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=rf"is not finished; .* --run {run.path}$"):
        trained(run, data)
    (run.path / "checkpoint.safetensors").unlink()
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "runs"))
    with pytest.raises(FileNotFoundError, match=r"holds no weights.*cmssf reproduce quick/tiny"):
        trained(run, data)


def test_truncated_weights_are_refused(run, data):
    run.save()
    run.save_weights(build(preset_of(run.config), run.config["method"], data))
    path = run.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        trained(run, data)


def test_weights_of_another_model_are_refused_by_name(run, data):
    run.save()
    other = replace(TINY, cmssf=replace(TINY.cmssf, dim=8))
    run.save_weights(build(other, "cmssf", data))
    with pytest.raises(ValueError, match=r"not for this model.*image_head.2.bias"):
        trained(run, data)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    write_tensors(path, {"a": torch.zeros(2)}, {"format": "pt"})
    with pytest.raises(ValueError, match=r"not written by this library.*'pt'"):
        read_tensors(path, "cmssf-weights-1")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {"format": "x"})

    def fail(tensors, unfinished, metadata):
        Path(unfinished).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match=r"the disk is full: .*untouched"):
        write_tensors(path, {"a": torch.zeros(2)}, {"format": "x"})
    assert torch.equal(read_tensors(path, "x")[0]["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_the_system_s_own_full_disk_error_is_recognised(tmp_path):
    with (
        pytest.raises(OSError, match="the disk is full") as caught,
        files.replacing(tmp_path / "file"),
        open("/dev/full", "wb") as full,
    ):
        full.write(b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


def test_a_file_is_synced_while_it_may_be_written(tmp_path, monkeypatch):
    """Windows refuses to sync a file that was opened for reading."""
    modes = []
    monkeypatch.setattr(
        files.os, "fsync", lambda number: modes.append(fcntl.fcntl(number, fcntl.F_GETFL))
    )
    files.write_json(tmp_path / "a.json", {"a": 1})
    assert [mode & os.O_ACCMODE for mode in modes] == [os.O_RDWR]
    assert files.read_json(tmp_path / "a.json") == {"a": 1}


def test_only_one_process_trains_in_a_folder(run):
    lock = files.lock_folder(run.path)
    code = (
        "from pathlib import Path\nfrom cmssf_lib.files import lock_folder\n"
        f"lock_folder(Path({str(run.path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode == 1
    assert "RuntimeError: another process is training in" in other.stderr
    lock.release()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_survives_its_record(name, data):
    config = json.loads(json.dumps(run_config(PRESETS[name], "cmssf", data)))
    assert replace(preset_of(config), minutes=PRESETS[name].minutes) == PRESETS[name]


@pytest.mark.parametrize("junk", ["gone", None, "x", 3, [], [1], {"x": 1}])
@pytest.mark.usefixtures("as_shipped")
def test_a_damaged_configuration_is_refused_in_one_sentence(junk, data):
    """Whatever stands in the place of a section, or of all of them."""
    whole = json.loads(json.dumps(run_config(TINY, "cmssf", data)))
    assert preset_of(whole).vision == TINY.vision
    damaged = [{}, {**whole, "wings": {}}, *([] if junk == "gone" else [junk])]
    for key in whole.keys() - {"data_fingerprint", "judge", "fine_tune"}:
        rest = {k: v for k, v in whole.items() if k != key}
        damaged.append(rest if junk == "gone" else {**whole, key: junk})
    for config in damaged:
        with pytest.raises(
            ValueError, match=r"damaged|not the settings of|unknown|by `fit`"
        ) as said:
            preset_of(config)
        assert "\n" not in str(said.value)


def test_unknown_fields_and_methods_are_refused(data):
    config = run_config(TINY, "cmssf", data)
    config["train"]["momentum"] = 0.9
    with pytest.raises(ValueError, match=r"settings of a TrainConfig: momentum: Unexpected"):
        preset_of(config)
    with pytest.raises(ValueError, match="unknown method 'clap'; choose one of cmssf"):
        run_config(TINY, "clap", data)


def test_a_seed_decides_the_initial_weights(data):
    first, second = build(TINY, "cmssf", data), build(TINY, "cmssf", data)
    assert torch.equal(first.image_head[0].weight, second.image_head[0].weight)
    other = replace(TINY, train=replace(TINY.train, seed=1))
    third = build(other, "cmssf", data)
    assert not torch.equal(first.image_head[0].weight, third.image_head[0].weight)


def test_all_runs_finds_them_in_order(run):
    run.save()
    second = Run(run.path.parent / "another")
    second.config = run.config
    second.save()
    assert [r.name for r in all_runs(run.path.parents[1])] == ["quick/another", "quick/tiny"]


def test_the_environment_names_versions_and_processor():
    here = environment("cpu")
    assert here["torch"] == importlib.metadata.version("torch")
    # A wheel may name its kind in one place and not in the other: 2.9.0 and 2.9.0+cpu.
    assert here["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert here["processor"]
    assert here["cores"] >= 1
    today = datetime.now(UTC).date()
    assert today - date.fromisoformat(here["date"]) <= timedelta(days=1)  # midnight may pass
    json.dumps(here)


def test_a_run_that_moved_names_the_machines_before():
    def moved_to(here, /, **before):
        return environment(here, before).get("earlier")

    card = {"device": "NVIDIA H200", "processor": "Chip", "threads": 2}
    assert environment("cpu").get("earlier") is None  # nothing was trained there yet
    assert moved_to("cpu", **card) == ["NVIDIA H200"]
    assert moved_to("cpu", **card, earlier=["Chip, 1 thread"]) == ["Chip, 1 thread", "NVIDIA H200"]
    here = environment("cpu")
    assert moved_to("cpu", **here) is None
    assert moved_to("cpu", **here, earlier=["NVIDIA H200"]) == ["NVIDIA H200"]


def test_the_environment_names_a_graphics_card_by_its_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert environment("cuda:1")["device"] == "Card 1"
    assert environment("cpu")["device"] == "cpu"


def repository(folder):
    """Make a repository of one commit, and return the commit."""
    folder.mkdir(parents=True)
    git = ["git", "-C", folder, "-c", "user.name=A", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    said = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def test_the_commit_is_the_librarys_own(tmp_path, monkeypatch):
    """Of a clone or a worktree; not of a repository that a virtual environment lies in."""
    clone, tree = tmp_path / "clone", tmp_path / "tree"
    commit = repository(clone)
    subprocess.run(["git", "-C", clone, "worktree", "add", "-q", tree], check=True)
    assert (tree / ".git").is_file()
    installed = clone / ".venv" / "lib" / "site-packages"
    for root in (clone, tree, installed):
        (root / "cmssf_lib" / "runs").mkdir(parents=True)
        monkeypatch.setattr(described, "__file__", str(root / "cmssf_lib" / "environment.py"))
        named = environment()["commit"]
        assert named == "not in a repository" if root == installed else commit.startswith(named)


def test_a_machine_without_git_trains_too(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(described, "__file__", str(tmp_path / "cmssf_lib" / "environment.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] == "not in a repository"

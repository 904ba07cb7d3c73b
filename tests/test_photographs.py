"""The chapters' photographs: at hand or one sentence, as recorded or trained again."""

import dataclasses

import pytest
import torch

from cmssf_lib import data, photographs
from cmssf_lib.build import run_config
from cmssf_lib.data import ImageTextData
from cmssf_lib.methods import SimCLR
from cmssf_lib.presets import STANDARD, preset
from cmssf_lib.runs import Run
from cmssf_lib.train import fit


@pytest.fixture
def no_photographs(monkeypatch, tmp_path):
    monkeypatch.setenv("CMSSF_DATA", str(tmp_path))
    return tmp_path


def test_without_photographs_there_is_one_sentence(no_photographs, capsys):
    assert photographs.load(STANDARD.data, download=False) is None
    printed = capsys.readouterr().out
    assert printed.startswith("CIFAR-10 is not on this machine")
    assert "CMSSF_DATA" in printed
    assert printed.count("\n") == 1


def test_a_download_that_fails_is_the_same_sentence(no_photographs, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(data.picture_files, "_from_torchvision", fail)
    assert photographs.load(STANDARD.data, download=True) is None
    printed = capsys.readouterr().out
    assert printed.startswith("CIFAR-10 is not on this machine")
    assert str(no_photographs) in printed
    assert "CMSSF_DATA" in printed


def test_damaged_photographs_are_no_missing_ones(no_photographs):
    (no_photographs / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="incomplete or damaged"):
        photographs.load(STANDARD.data, download=False)


@pytest.fixture
def record(monkeypatch, tmp_path):
    """A recorded run of two epochs, in float32 and with half precision's weights."""
    chosen = preset("quick", "simclr")
    chosen = dataclasses.replace(
        chosen,
        data=dataclasses.replace(chosen.data, train=96, test=20, validation=32),
        train=dataclasses.replace(
            chosen.train, epochs=2, batch_size=32, precision="no", half_weights=True
        ),
    )
    splits = data.load(chosen.data)
    run = Run(tmp_path / "runs" / "standard" / "simclr")
    run.config = run_config(chosen, "simclr", splits.train)
    method = photographs.build(chosen, "simclr", splits.train)
    learning, _ = splits.train.hold_out(32, chosen.data.seed)
    fit(method, learning, chosen.train, run=run, progress=False)
    run.save_weights(method)
    monkeypatch.setattr(photographs, "records", lambda: tmp_path / "runs")
    return run, splits.train, method


@pytest.mark.parametrize("live", [False, True])
def test_a_method_as_recorded_and_trained_again_are_one(record, live):
    run, training, method = record
    found, of = photographs.learned("standard/simclr", training, live)
    assert isinstance(found, SimCLR)
    assert not found.training
    torch.testing.assert_close(found.state_dict(), method.state_dict())
    assert of.series("loss") == pytest.approx(run.series("loss"), rel=1e-5)
    assert (of.path is None) is live  # a live training writes nothing among the records


def test_a_live_training_takes_the_precision_of_the_machine(record, monkeypatch):
    asked = []

    def remember(method, learning: ImageTextData, config):
        asked.append((config, len(learning)))
        return Run()

    monkeypatch.setattr(photographs, "fit", remember)
    _, training, _ = record
    photographs.learned("standard/simclr", training, live=True)
    ((config, count),) = asked
    assert config.precision == "auto"
    assert count == 64  # what the record held out is held out again


def test_a_record_that_is_not_there_is_named(record):
    with pytest.raises(FileNotFoundError, match="simclr"):
        photographs.learned("standard/none", record[1], live=True)

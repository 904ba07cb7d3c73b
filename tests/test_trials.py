"""The search for settings: the same for every method, kept whole in a ledger, and resumable."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cmssf_lib import cli
from cmssf_lib.presets import METHODS, preset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def trials(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("trials", ROOT / ".ci" / "trials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LEDGER", tmp_path / "trials.csv")
    return module


@pytest.mark.parametrize("part", ["card", "cores"])
def test_every_method_has_as_many_trials_of_the_declared_search(trials, part):
    drawn = list(trials.drawn(part))
    assert drawn == list(trials.drawn(part)), "always the same ones"
    count, divisor = trials.PARTS[part]
    assert Counter(method for method, _, _ in drawn) == dict.fromkeys(trials.OWN, count)
    assert trials.OWN.keys() == set(METHODS) - {"fusion"}
    for method, _, settings in drawn:
        low, high = trials.RATES
        assert low <= settings["train.lr"] <= high
        whole = preset("standard", method).train.epochs
        assert abs(settings["train.epochs"] - whole / divisor) <= 0.5
        for name, values in (trials.SHARED | trials.OWN[method]).items():
            assert settings[f"{method}.views.erase" if name == "erase" else name] in values


def test_the_protocol_declares_what_is_drawn(trials):
    said = (ROOT / "book" / "protocol.md").read_text("utf-8")
    said = said.split("## How settings are chosen")[1].split("\n## ")[0]
    for values in (
        "between 3e-4 and 6e-3", "0.02, 0.05, 0.1 and 0.3", "AdamW or Muon", "0.1, 0.2, 0.5",
        "0.96, 0.98, 0.99, 0.996", "0.5, 0.65, 0.75", "10, 25, 50", "There are 16",
        "4 at an eighth",
    ):  # fmt: skip
        assert values in said
    assert trials.RATES == (3e-4, 6e-3)
    assert {(16, 4), (4, 8)} == {*trials.PARTS.values()}


@pytest.mark.parametrize("trial", range(16))
def test_every_trial_is_a_training_that_the_command_accepts(trials, trial):
    for method, number, settings in trials.drawn("card"):
        if number == trial:
            _, chosen = cli.read_settings(trials.words(method, settings))
            assert chosen.train.lr == settings["train.lr"]
            assert getattr(chosen, method).views.erase == settings[f"{method}.views.erase"]


def test_a_trial_is_judged_on_held_out_pictures(trials, monkeypatch):
    chosen = preset("quick", "simclr")
    small = replace(chosen.data, train=600, test=40, validation=100)
    small = replace(chosen, data=small, train=replace(chosen.train, epochs=1, batch_size=64))
    monkeypatch.setattr(trials.cli, "read_settings", lambda words: ("simclr", small))
    seen = []
    real = trials.linear_probe
    monkeypatch.setattr(trials, "linear_probe", lambda *x: seen.append(x) or real(*x))
    found = trials.make("simclr", {})
    ((bank, labels, queries),) = seen
    assert len(bank) == len(labels) == 500
    assert len(queries) == 100
    assert 0 <= found["linear"] <= 1
    assert found["device"]


def test_the_ledger_keeps_every_trial_and_a_second_start_goes_on(trials, monkeypatch, capsys):
    made = []

    def pretend(method, trial, part):
        made.append((method, trial))
        if len(made) == 6:
            return None  # one fails
        linear = {0: 0.5, 1: 0.75}.get(trial, 0.25)
        return {"linear": linear, "loss": 1, "seconds": 2, "device": "cpu", "commit": "x"}

    monkeypatch.setattr(trials, "in_a_process", pretend)
    monkeypatch.setattr("sys.argv", ["trials.py", "--part", "cores"])
    assert trials.main() == 1
    assert len(trials.ledger()) < 32
    assert trials.main() == 0
    assert len(trials.ledger()) == len({(r["method"], r["trial"]) for r in trials.ledger()}) == 32
    assert Counter(made)[made[5]] == 2
    assert max(Counter(made).values()) == 2
    settings = {(m, str(t)): s for m, t, s in trials.drawn("cores")}
    for row in trials.ledger():
        own = settings[row["method"], row["trial"]]
        assert float(row["lr"]) == own["train.lr"]
        assert row["optimizer"] == own["train.optimizer"]
    assert {row["trial"] for row in trials.best().values()} == {"1"}
    monkeypatch.setattr("sys.argv", ["trials.py", "--part", "cores", "--list"])
    capsys.readouterr()
    assert trials.main() == 0
    assert not capsys.readouterr().out.strip()

"""Captured steps: a recorder that replays on the CPU stands for CUDA graphs."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from test_session import PICTURE_METHODS, small
from test_train import TINY, same_weights

from cmssf_lib.build import build
from cmssf_lib.data import digit_scenes, with_class_captions
from cmssf_lib.runs import Run
from cmssf_lib.train import fit, graph
from cmssf_lib.train.graph import CapturedStep, distance
from cmssf_lib.train.session import Session


@pytest.fixture(scope="module")
def data():
    """With class captions: batches with the same captions are of one kind."""
    return with_class_captions(digit_scenes(train=96, test=20, image_size=12).train)


class Tape(CapturedStep):
    """Captures as a CUDA graph would: what is replayed reads and writes the same memory."""

    def __init__(self, session, step, spoil=None, times=1):
        super().__init__(session, step, self.take)
        self.recorded, self.replayed, self.spoil, self.times = 0, 0, spoil, times
        TAPES.append(self)

    def take(self, work):
        self.recorded += 1
        work()  # a graph only notes it; what it changed is put back

        def replay():
            self.replayed += 1
            groups = self.session.optimizer.param_groups
            rates = [group["lr"] for group in groups]
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate * self.times
            with self._unlogged() as logged:
                work()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            ((losses, norm),) = logged
            (mine,) = self.captured.values()
            mine.losses.update(losses)
            mine.norm.copy_(norm)
            if self.spoil:
                self.spoil(self.session.method)

        return replay


TAPES = []


def trained(name, data, monkeypatch, make=None, **changes):
    """Train; by captured steps if it is said how they are made."""
    monkeypatch.setattr(Session, "quicken", [make] if make else [])
    config = replace(TINY.train, epochs=4, batch_size=32, **changes)
    method = build(small(name), name, data)
    run = fit(method, data, config, progress=False)
    return run, {key: value.clone() for key, value in method.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("name", PICTURE_METHODS)
def test_captured_steps_end_at_the_weights_of_plain_ones(name, data, monkeypatch, optimizer):
    plain, weights = trained(name, data, monkeypatch, optimizer=optimizer)
    captured, others = trained(name, data, monkeypatch, Tape, optimizer=optimizer)
    assert TAPES[-1].recorded >= 1
    assert TAPES[-1].replayed >= 5  # of twelve steps; three of each kind warm up
    # Learning rates in memory are float32, and Adam magnifies what is nearly zero.
    start = build(small(name), name, data).state_dict()
    moved, apart = (
        distance([weights[key] for key in weights], [other[key] for key in weights])
        for other in (start, others)
    )
    assert apart < 1e-3 * moved
    assert captured.series("loss") == pytest.approx(plain.series("loss"), rel=1e-4)


def halved(method):
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.mul_(0.5)


def test_a_captured_step_that_goes_elsewhere_is_given_up(data, monkeypatch):
    _, weights = trained("simclr", data, monkeypatch)
    with pytest.warns(UserWarning, match="not captured as CUDA graphs: a replayed step does not"):
        _, others = trained("simclr", data, monkeypatch, partial(Tape, spoil=halved))
    assert TAPES[-1].replayed == 1
    assert same_weights(weights, others)  # as if nothing had been tried


@pytest.mark.parametrize("name", PICTURE_METHODS)
@pytest.mark.parametrize("times", [0, 2])
def test_another_learning_rate_in_a_replay_is_noticed(name, data, monkeypatch, times):
    """Also where statistics and a queue move further than the weights."""
    with pytest.warns(UserWarning, match="a replayed step does not"):
        trained(name, data, monkeypatch, partial(Tape, times=times))
    assert TAPES[-1].replayed == 1


def test_a_step_that_cannot_be_captured_is_a_plain_one(data, monkeypatch):
    def refuses(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    _, weights = trained("simclr", data, monkeypatch)
    with pytest.warns(UserWarning, match="not captured as CUDA graphs: operation not permitted"):
        _, others = trained("simclr", data, monkeypatch, partial(CapturedStep, record=refuses))
    assert same_weights(weights, others)


def test_captions_that_change_are_never_captured(monkeypatch):
    scenes = digit_scenes("colour", train=96, test=20, image_size=12).train
    trained("cmssf", scenes, monkeypatch, Tape)
    assert TAPES[-1].recorded == 0


def test_without_a_gpu_steps_stay_as_they_are(data):
    method = build(small("simclr"), "simclr", data)
    session = Session(method, data, TINY.train, Run(), None, None, False)
    with session.open():
        for group in session.optimizer.param_groups:
            group["capturable"] = True  # as a checkpoint of a GPU says
        assert session.fast(print) is print
        assert not any(group["capturable"] for group in session.optimizer.param_groups)


@pytest.mark.parametrize("refused", ["", "cpu", "processes", "scaler", "method"])
def test_steps_are_captured_on_one_gpu_without_a_scaler_if_the_method_allows_it(refused):
    gpu = torch.device("cpu" if refused == "cpu" else "cuda")
    accelerator = SimpleNamespace(
        device=gpu,
        num_processes=2 if refused == "processes" else 1,
        scaler=object() if refused == "scaler" else None,
    )
    method = SimpleNamespace(capturable=refused != "method")
    groups = SimpleNamespace(param_groups=[{}])
    session = SimpleNamespace(accelerator=accelerator, method=method, optimizer=groups)
    made = []
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(graph, "CapturedStep", lambda *given: made.append(given) or "captured")
        step = unchecked(graph.quicken)(session, print)
    assert step == (print if refused else "captured")
    assert len(made) == (not refused)
    assert groups.param_groups[0]["capturable"] is (not refused)


def unchecked(function):
    """The function without the check of its arguments' types, which `SimpleNamespace` is not."""
    return getattr(function, "__wrapped__", function)

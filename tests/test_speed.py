"""Speed changes no result: Muon in batches, numbers read late, threads chosen by time."""

import functools
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import timm.optim
import timm.optim.muon
import torch
from hypothesis import given, strategies as st
from settings import TrainConfig
from test_session import PICTURE_METHODS, small
from test_train import TINY, Linear, same_weights
from torch import nn

from cmssf_lib.build import build
from cmssf_lib.data import batches, digit_scenes
from cmssf_lib.losses.precision import group_numbers
from cmssf_lib.methods import Method
from cmssf_lib.runs import Run
from cmssf_lib.train import fit, muon, threads
from cmssf_lib.train.log import READ_EVERY, Log
from cmssf_lib.train.muon import QUINTIC, Muon
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import precision_on
from cmssf_lib.train.threads import Pace, Way

CARD = Path(__file__).parent / "card"
GPU = torch.device("meta")  # any that is not the CPU


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=96, test=20, image_size=12).train


@contextmanager
def killed_after_an_epoch(monkeypatch):
    """Let the training inside end as if its process had been killed after one epoch."""
    finish = Session._end_epoch

    def killed(self, epoch):
        finish(self, epoch)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_end_epoch", killed)
        with pytest.raises(ZeroDivisionError):
            yield


# --- Muon ---------------------------------------------------------------------------------------

SHAPES = [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (16, 8), (16, 8), (8, 16), (16, 16), (8, 4)]


def trained_by(kind, steps=3, lr=0.02):
    """Parameters after some steps on the same random gradients; one has none."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    rest = [nn.Parameter(torch.randn(8)) for _ in range(2)]
    optimizer = kind(
        [
            {"params": matrices, "weight_decay": 0.1, "use_fallback": False},
            {"params": rest, "weight_decay": 0.0, "use_fallback": True},
        ],
        lr=lr,
        nesterov=True,
        betas=(0.9, 0.999),
        ns_coefficients=QUINTIC,
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr / (1 + step)
        for parameter in [*matrices[:-1], *rest]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    return [*matrices, *rest]


@pytest.fixture
def in_float32(monkeypatch):
    exact = functools.partial(timm.optim.muon.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", exact)
    monkeypatch.setattr(muon, "has_bfloat16", lambda _: False)


def test_muon_in_batches_is_timms_muon(in_float32):
    ours, theirs = trained_by(Muon), trained_by(timm.optim.Muon)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    for number, start in enumerate(trained_by(Muon, steps=0)):
        has_gradient = number != len(SHAPES) - 1
        assert torch.equal(ours[number], start) is not has_gradient


def test_the_coefficients_are_timms():
    assert timm.optim.muon._COEFFICIENTS["quintic"] == QUINTIC


def test_matrices_of_one_shape_are_turned_together(monkeypatch):
    seen = []

    def noted(matrices, *args, **kwargs):
        seen.append((tuple(matrices.shape), kwargs["dtype"]))
        return usual(matrices, *args, **kwargs)

    usual = muon.zeropower_via_newtonschulz
    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", noted)
    for has, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        seen.clear()
        monkeypatch.setattr(muon, "has_bfloat16", lambda _, has=has: has)
        trained_by(Muon, steps=1)
        assert sorted(seen, key=str) == sorted(
            [
                ((1, 8, 27), dtype),
                ((2, 8, 72), dtype),
                ((2, 16, 8), dtype),
                ((1, 8, 16), dtype),
                ((1, 16, 16), dtype),
            ],
            key=str,
        )


@pytest.mark.parametrize("has", [True, False])
def test_muon_computes_in_bfloat16_only_where_the_processor_has_it(monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    assert muon.has_bfloat16(torch.device("cpu")) is has
    assert not muon.has_bfloat16(torch.device("mps"))


def test_a_run_by_muon_that_was_stopped_goes_on_bit_for_bit(tmp_path, data, monkeypatch):
    def trained(folder):
        method = build(small("simclr"), "simclr", data)
        return fit(method, data, config, run=folder, progress=False)

    config = replace(TINY.train, optimizer="muon", epochs=3)
    whole = trained(tmp_path / "whole")
    with killed_after_an_epoch(monkeypatch):
        trained(tmp_path / "again")
    assert same_weights(whole.weights(), trained(tmp_path / "again").weights())


# --- numbers of groups, without a wait -----------------------------------------------------------


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=40))
def test_groups_are_numbered_as_unique_does(values):
    groups = torch.tensor(values)
    _, number, size = groups.unique(return_inverse=True, return_counts=True)
    ours, sizes = group_numbers(groups)
    assert torch.equal(ours, number)
    assert torch.equal(sizes[: len(size)], size)
    assert not sizes[len(size) :].any()


# --- what a GPU reads late -----------------------------------------------------------------------


def logged(device, steps, each):
    log = Log(Run(), device, steps_an_epoch=1000, scaled=False)
    for step in range(steps):
        log.add(step, each(step), torch.tensor(1.0))
    return log


def losses(step):
    return {
        "loss": torch.tensor(1.0 / (step + 1)),
        "chance": torch.tensor(2.5),
        "embeddings": torch.randn(4, 3, generator=torch.Generator().manual_seed(step)),
    }


def test_a_gpus_numbers_are_read_rarely_and_add_up_to_the_same(monkeypatch):
    often = logged(torch.device("cpu"), 120, losses)
    rarely = logged(GPU, 120, losses)
    assert len(rarely.unread) == 120 % READ_EVERY
    assert often.loss == pytest.approx(1 / 120)
    assert rarely.loss == pytest.approx(1 / 100)
    few, many = often.means(), rarely.means()
    assert few["loss"] == pytest.approx(sum(1 / (n + 1) for n in range(120)) / 120)
    assert many["loss"] == few["loss"]
    assert many["chance"] == 2.5
    assert few.keys() == many.keys() == {"loss", "chance", "feature_std", "effective_rank"}
    assert often.means() == {}  # the next epoch begins with nothing


def test_a_number_that_is_not_finite_is_named_with_its_step_and_never_saved(tmp_path, data):
    def broken(step):
        return {"loss": torch.tensor(math.nan if step == 7 else 1.0)}

    with pytest.raises(FloatingPointError, match="step 8: training stopped before the step"):
        logged(torch.device("cpu"), 20, broken)
    log = logged(GPU, 20, broken)  # not yet noticed
    with pytest.raises(FloatingPointError, match=r"step 8: training stopped\. Try a lower"):
        log.read()
    bad = Log(Run(), GPU, 10, scaled=False)
    bad.add(0, {"loss": torch.tensor(1.0)}, torch.tensor(math.inf))
    with pytest.raises(FloatingPointError, match="norm inf"):
        bad.means()


def test_under_float16_a_gradient_may_overflow_and_a_loss_may_not():
    log = Log(Run(), GPU, 10, scaled=True)
    log.add(0, {"loss": torch.tensor(1.0)}, torch.tensor(math.inf))
    log.read()
    log.add(1, {"loss": torch.tensor(math.inf)}, torch.tensor(1.0))
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        log.read()


def test_no_checkpoint_is_written_before_the_numbers_are_read(tmp_path, data, monkeypatch):
    """As on a GPU, where a loss that is not finite has spoiled the weights already."""

    class Spoiled(Linear):
        def loss(self, batch):
            found = super().loss(batch)
            self.seen.append(None)
            return found if len(self.seen) < 8 else {"loss": found["loss"] * math.nan}

    usual = Log.__init__

    def late(self, *args, **kwargs):
        usual(self, *args, **kwargs)
        self.every = 50

    monkeypatch.setattr(Log, "__init__", late)
    with pytest.raises(FloatingPointError, match=r"epoch 2.*untouched"):
        fit(Spoiled(), data, TrainConfig(epochs=3, batch_size=32), run=tmp_path, progress=False)
    assert not (tmp_path / "model.safetensors").exists()
    assert len(Run.load(tmp_path).history) == 1


@pytest.mark.slow
def test_no_method_waits_for_the_card_inside_a_step():
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(CARD / "waits.py")], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {*PICTURE_METHODS, "fusion"}
    assert all(waits == [] for waits in found.values()), found


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bf16", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_the_precision_is_the_devices(monkeypatch, bf16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert precision_on(torch.device("cuda"), "auto") == chosen
    assert precision_on(torch.device("cuda"), "no") == "no"
    assert precision_on(torch.device("cpu"), "auto") == "no"
    assert precision_on(torch.device("mps"), "auto") == "no"
    assert precision_on(torch.device("cpu"), "bf16") == "bf16"


def test_the_record_says_the_precision(data):
    run = fit(Linear(), data, TrainConfig(epochs=1, batch_size=32), progress=False)
    assert run.environment["precision"] == "no"


# --- threads ------------------------------------------------------------------------------------


class Clock:
    """Time that passes only where a step is taken, by the way of computing."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds, self.way = 100.0, seconds, Way(2)
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 2)
        monkeypatch.setattr(threads.sys, "platform", "linux")

        def compute_in(_, way):
            self.way = way

        monkeypatch.setattr(Pace, "_compute_in", compute_in)

    def step(self):
        self.now += self.seconds[self.way]


SPINNING, SLEEPING, ONE = Way(2), Way(2, sleeping=True), Way(1)
QUIET = {SPINNING: 0.010, SLEEPING: 0.013, ONE: 0.016}
BESIDE_ONE = {SPINNING: 0.050, SLEEPING: 0.022, ONE: 0.017}
BESIDE_THREE = {SPINNING: 0.100, SLEEPING: 0.025, ONE: 0.030}
EQUAL = {SPINNING: 0.0105, SLEEPING: 0.010, ONE: 0.010}


BATCH = next(batches(digit_scenes(train=8, test=1, image_size=12).train, 4))


class Steps(Method):
    """A method whose step takes what the clock says."""

    def __init__(self, clock):
        super().__init__()
        self.weight, self.clock = nn.Parameter(torch.ones(())), clock

    def __deepcopy__(self, _):
        return self

    def loss(self, batch):
        self.clock.step()
        return {"loss": self.weight * 1}


@pytest.mark.parametrize(
    ("seconds", "best"),
    [(QUIET, SPINNING), (BESIDE_ONE, ONE), (BESIDE_THREE, SLEEPING), (EQUAL, SPINNING)],
)
def test_the_fastest_way_is_chosen_and_the_usual_one_unless_it_is_worth_it(
    monkeypatch, seconds, best
):
    clock = Clock(monkeypatch, seconds)
    pace = Pace(None, steps=500)
    assert pace.asks()  # after the first step
    told = pace.choose(Steps(clock), BATCH)
    assert clock.way == pace.way == best
    assert told == (None if best == SPINNING else best)
    assert not pace.asks()


def test_a_new_choice_is_made_when_the_pace_halves_and_when_it_recovers(monkeypatch):
    clock = Clock(monkeypatch, QUIET)
    pace = Pace(None, steps=500)
    assert pace.asks()
    pace.choose(Steps(clock), BATCH)

    def until_it_asks(most):
        for count in range(most):
            clock.step()
            if pace.asks():
                return count
        return None

    assert until_it_asks(5000) is None  # a quiet minute
    clock.seconds = BESIDE_ONE
    assert until_it_asks(500) is not None
    assert pace.choose(Steps(clock), BATCH) == ONE
    assert until_it_asks(3000) is None
    clock.seconds = {way: time / 2 for way, time in QUIET.items()}
    assert until_it_asks(8000) is not None
    assert pace.choose(Steps(clock), BATCH) == SPINNING


def test_an_interrupted_run_keeps_its_number_of_threads(monkeypatch):
    Clock(monkeypatch, QUIET)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    assert Pace(2, steps=500).ways == [SPINNING, SLEEPING]
    assert Pace(1, steps=500).ways == [ONE]
    assert Pace(8, steps=500).ways == [SPINNING, SLEEPING]  # began where there were more
    assert Pace(None, steps=500).ways == [SPINNING, SLEEPING, ONE]
    assert Pace(None, steps=threads.FEWEST - 1).ways == [SPINNING]


def test_there_is_nothing_to_choose_where_one_thread_is_asked_for(monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 1)
    pace = Pace(None, steps=500)
    assert [pace.asks() for _ in range(3)] == [False] * 3
    pace.end()


def train(data, folder, monkeypatch, ways=None, name="simclr", epochs=2):
    """Train with three steps an epoch, after a choice among these ways if any are given."""
    if ways:
        usual = Pace.__init__

        def choosing(self, number, steps):
            usual(self, number, steps)
            self.ways = [Way(number)] if number else ways

        monkeypatch.setattr(Pace, "__init__", choosing)
    method = build(small(name), name, data)
    config = replace(TINY.train, epochs=epochs)
    return fit(method, data, config, run=folder, progress=False)


@pytest.mark.parametrize("name", PICTURE_METHODS)
def test_timing_steps_of_a_copy_changes_nothing(tmp_path, data, monkeypatch, name):
    before = torch.get_num_threads()
    plain = train(data, tmp_path / "plain", monkeypatch, name=name)
    monkeypatch.setattr(threads, "WORTH", math.inf)  # the usual way stays
    timed = train(data, tmp_path / "timed", monkeypatch, [Way(before), Way(before, True)], name)
    assert same_weights(plain.weights(), timed.weights())
    assert "threads_from_step" not in timed.environment
    assert torch.get_num_threads() == before


def test_the_record_says_which_threads_computed_from_which_step(tmp_path, data, monkeypatch):
    before, sleepers = torch.get_num_threads(), threads.threading.active_count()
    monkeypatch.setattr(Pace, "_seconds", lambda self, way, step: -way.threads)
    run = train(data, tmp_path, monkeypatch, [Way(1), Way(2, sleeping=True)])
    assert run.environment["threads"] == 2
    assert run.environment["threads_from_step"] == {"1": "2 threads that sleep while waiting"}
    assert torch.get_num_threads() == before
    assert threads.threading.active_count() == sleepers


def test_a_resumed_run_goes_on_with_its_threads_and_ends_with_the_same_weights(
    tmp_path, data, monkeypatch
):
    monkeypatch.setattr(Pace, "_seconds", lambda self, way, step: -way.threads)
    ways = [Way(1), Way(2)]
    whole = train(data, tmp_path / "whole", monkeypatch, ways)
    with killed_after_an_epoch(monkeypatch):
        train(data, tmp_path / "again", monkeypatch, ways)
    seen = []
    usual = Pace._compute_in
    monkeypatch.setattr(Pace, "_compute_in", lambda s, way: (seen.append(way), usual(s, way)))
    again = train(data, tmp_path / "again", monkeypatch, ways)
    assert seen[0] == Way(2)
    assert same_weights(whole.weights(), again.weights())

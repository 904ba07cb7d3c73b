"""What surrounds a training: whatever ends it, the caller's world is as it was."""

import signal
from dataclasses import replace

import pytest
import torch
from settings import TrainConfig
from test_train import TINY, Linear, new_run, same_weights
from torch import nn

from cmssf_lib import files
from cmssf_lib.build import build
from cmssf_lib.data import batches, digit_scenes
from cmssf_lib.machine import interruptible
from cmssf_lib.presets import METHODS, preset
from cmssf_lib.train import fit

PICTURE_METHODS = [name for name in METHODS if name != "fusion"]


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=96, test=20, image_size=12).train


def small(name):
    return replace(preset("quick", name), vision=TINY.vision, text=TINY.text, train=TINY.train)


class Fails(Linear):
    """Raises in its fifth step, at a place of one's choice."""

    def __init__(self, error, place):
        super().__init__()
        self.error, self.place = error, place

    def loss(self, batch):
        torch.rand(3)  # a training draws random numbers
        if self.place == "loss" and len(self.seen) == 4:
            raise self.error
        return super().loss(batch)

    def after_step(self, progress):
        super().after_step(progress)
        if self.place == "after_step" and len(self.progress) == 5:
            raise self.error


ERRORS = [ZeroDivisionError("mine"), KeyboardInterrupt(), MemoryError("full"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["loss", "after_step", "each_epoch", "watch"])
def test_after_any_error_mode_random_state_signals_and_lock_are_the_callers(
    tmp_path, data, error, place
):
    method, before = Fails(error, place), signal.getsignal(signal.SIGINT)

    def now(_):
        torch.rand(5)
        if place in ("each_epoch", "watch"):
            raise error
        return {}

    watching = {place: now} if place in ("each_epoch", "watch") else {}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    method.train()
    with pytest.raises(type(error)):
        fit(method, data, TrainConfig(epochs=3, batch_size=32), run=tmp_path, **watching)
    assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in method.modules())
    assert signal.getsignal(signal.SIGINT) is before
    files.lock_folder(tmp_path).release()  # nobody holds it


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
def test_after_any_error_the_run_goes_on_to_the_same_bits(tmp_path, data, error):
    whole, method, config = new_run(data, tmp_path / "whole")
    fit(method, data, config, run=whole, progress=False)

    def stop(run):
        if len(run.history) == 1:
            raise error

    run, method, config = new_run(data, tmp_path / "stopped")
    with pytest.raises(type(error)):
        fit(method, data, config, run=run, watch=stop, progress=False)
    again, method, config = new_run(data, tmp_path / "stopped")
    fit(method, data, config, run=again, progress=False)
    assert same_weights(whole.weights(), again.weights())


def test_no_hook_of_the_stopwatch_stays(data):
    method = build(small("simclr"), "simclr", data)
    fit(method, data, replace(TINY.train, epochs=1), progress=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.modules())


@pytest.mark.parametrize("name", PICTURE_METHODS)
def test_every_methods_views_are_timed_and_its_signs_of_collapse_are_logged(data, name):
    method = build(small(name), name, data)
    row = fit(method, data, replace(TINY.train, epochs=1), progress=False).history[0]
    assert 0 < row["views_share"] < 1
    if name != "cmssf":
        assert row["feature_std"] > 0
        assert row["effective_rank"] >= 1
    assert "embeddings" not in row


@pytest.mark.parametrize("name", PICTURE_METHODS)
@pytest.mark.parametrize("what", ["weights", "gradient"])
def test_every_method_is_stopped_before_a_step_that_is_not_finite(tmp_path, data, name, what):
    """The promised error, whatever a method would compute of numbers that are none."""
    method = build(small(name), name, data)
    with torch.no_grad():
        parameter = next(p for p in method.image_encoder.parameters() if p.ndim > 1)
        if what == "weights":
            parameter.fill_(float("nan"))
    if what == "gradient":
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = {k: v.clone() for k, v in method.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: training stopped .*lower lea"):
        fit(method, data, TINY.train, run=tmp_path, progress=False)
    for key, value in method.named_parameters():
        assert torch.equal(value, before[key]) or value.isnan().any(), key


def mappings(path):
    """How often this process has the file mapped; Windows would refuse to replace such a file."""
    with open("/proc/self/maps") as lines:
        return sum(str(path) in line for line in lines)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="/proc is Linux'")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_no_file_is_mapped_while_it_is_replaced(tmp_path, data, monkeypatch, optimizer):
    if not (files.Path("/proc/self/maps")).exists():
        pytest.skip("no /proc here")
    run, method, config = new_run(data, tmp_path, optimizer=optimizer)

    def stop(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(method, data, config, run=run, watch=stop, progress=False)
    seen, replaced = [], files.os.replace

    def noted(source, target):
        seen.append(mappings(target))
        replaced(source, target)

    monkeypatch.setattr(files.os, "replace", noted)
    run, method, config = new_run(data, tmp_path, optimizer=optimizer)
    fit(method, data, config, run=run, progress=False)
    tensors = run.weights()  # held, as a reader may hold them
    run.save_weights(method)
    assert len(seen) >= 3
    assert set(seen) == {0}
    assert tensors


def test_a_mapping_would_be_seen(tmp_path):
    from safetensors.torch import load_file

    files.write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(5000)}, {"format": "x"})
    held = load_file(tmp_path / "x.safetensors")
    assert mappings(tmp_path / "x.safetensors") >= 1
    del held


def test_a_handler_that_python_did_not_set_is_no_error(monkeypatch):
    """`signal.signal` returns None for it, and refuses None."""
    real, given = signal.signal, []

    def foreign(number, handler):
        if not given or handler is not None:
            given.append(handler)
        before = real(number, handler)
        return None if callable(handler) and handler.__module__ == "cmssf_lib.machine" else before

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signal, "signal", foreign)
    with interruptible():
        pass
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_method_is_its_three_verbs(data):
    """Whoever writes one has to write `loss`; the rest has defaults."""
    from cmssf_lib.methods import Method

    class Mine(Method):
        def __init__(self):
            super().__init__()
            self.image_encoder = nn.Flatten()

    mine, pictures = Mine(), torch.rand(2, 3, 4, 4)
    assert mine.features(pictures).shape == (2, 48)
    assert mine.after_step(0.5) is None
    with pytest.raises(NotImplementedError):
        mine.loss(next(batches(data, 32)))

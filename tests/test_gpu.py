"""What needs a GPU: precision, no waiting, resume, and the same results as on the CPU.

``pytest -m gpu`` runs these alone. Without a GPU they are skipped; `test_devices` then trains on a
stand-in.
"""

from dataclasses import replace

import pytest
import torch
from test_session import PICTURE_METHODS, small
from test_speed import killed_after_an_epoch
from test_train import TINY, same_weights

from cmssf_lib import evaluate
from cmssf_lib.build import build
from cmssf_lib.data import digit_scenes
from cmssf_lib.presets import preset
from cmssf_lib.train import fit
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import precision_on

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
METHODS = [*PICTURE_METHODS, "fusion"]


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=160, test=40, image_size=12).train


@pytest.fixture(scope="module")
def fusion_data():
    return digit_scenes("plain", train=160, test=40, image_size=16).train


def made(name, data, fusion_data):
    """A method, its pictures and settings; fusion reads captions as well as pictures."""
    if name != "fusion":
        return build(small(name), name, data), data
    chosen = preset("quick", "fusion")
    chosen = replace(chosen, fusion=replace(chosen.fusion, modalities=("image", "text")))
    return build(chosen, name, fusion_data), fusion_data


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_the_precision_of_the_card(name, data, fusion_data):
    method, pictures = made(name, data, fusion_data)
    run = fit(method, pictures, TINY.train, progress=False)
    assert run.environment["precision"] == precision_on(torch.device("cuda"), "auto") != "no"
    assert run.environment["device"] == torch.cuda.get_device_name()
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.history)
    weights = [value for value in method.state_dict().values() if value.is_floating_point()]
    assert all(value.isfinite().all() for value in weights)
    assert {value.device.type for value in weights} == {"cpu"}  # brought back


@pytest.mark.parametrize("name", METHODS)
def test_no_method_waits_for_the_card_inside_a_step(name, data, fusion_data, monkeypatch):
    forward, finish = Session.forward, Session.save_or_stop

    def strict(self):
        if self.done % self.steps_an_epoch:  # the first step of an epoch measures embeddings
            torch.cuda.set_sync_debug_mode("error")
        return forward(self)

    def lenient(self):
        torch.cuda.set_sync_debug_mode("default")
        finish(self)

    monkeypatch.setattr(Session, "forward", strict)
    monkeypatch.setattr(Session, "save_or_stop", lenient)
    method, pictures = made(name, data, fusion_data)
    try:
        fit(method, pictures, replace(TINY.train, precision="bf16"), progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", PICTURE_METHODS)
def test_an_interrupted_run_ends_where_a_whole_one_does(name, data, tmp_path, monkeypatch):
    """Bit for bit where the card adds in the same order each time, and nearly so elsewhere."""
    config = replace(TINY.train, epochs=2, precision="no")
    torch.use_deterministic_algorithms(True, warn_only=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        whole = fit(
            build(small(name), name, data), data, config, run=tmp_path / "a", progress=False
        )
        with killed_after_an_epoch(monkeypatch):
            fit(build(small(name), name, data), data, config, run=tmp_path / "b", progress=False)
        again = fit(
            build(small(name), name, data), data, config, run=tmp_path / "b", progress=False
        )
    finally:
        torch.use_deterministic_algorithms(False)
    if not same_weights(whole.weights(), again.weights()):
        for key, value in whole.weights().items():
            torch.testing.assert_close(value, again.weights()[key], rtol=1e-3, atol=1e-4)


def test_features_and_neighbours_are_those_of_the_cpu(data, monkeypatch):
    method = build(small("simclr"), "simclr", data).eval()
    there = evaluate.embed_features(method, data)
    near = evaluate.knn(there, data.labels, there, 10, k=5)
    monkeypatch.setenv("CMSSF_DEVICE", "cpu")
    here = evaluate.embed_features(method, data)
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
    assert torch.equal(near, evaluate.knn(here, data.labels, here, 10, k=5))

"""The training loop: it learns, it stops in time, and it goes on bit for bit."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from settings import TrainConfig
from torch import nn

from cmssf_lib import files, machine, train
from cmssf_lib.build import build, preset_of, run_config, trained
from cmssf_lib.captions import class_caption
from cmssf_lib.data import ImageTextData, batches, digit_scenes
from cmssf_lib.machine import interruptible, seed_all
from cmssf_lib.methods import Method
from cmssf_lib.presets import PAPER, QUICK, preset
from cmssf_lib.runs import Run
from cmssf_lib.train import (
    CollapseWarning,
    fit,
    flops_per_picture,
    learning_rate,
    make_optimizer,
    steps,
)
from cmssf_lib.train.log import CHECKPOINT_FORMAT

TINY = replace(
    QUICK,
    data=replace(QUICK.data, train=96, test=20, validation=10, image_size=12),
    vision=replace(QUICK.vision, image_size=12, width=32, depth=1),
    text=replace(QUICK.text, width=32, depth=1, dropout=0.1),  # dropout draws random numbers too
    train=TrainConfig(epochs=2, batch_size=32, lr=1e-3),
)


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=96, test=20, image_size=12).train


def new_run(data, path=None, **changes):
    preset = replace(TINY, train=replace(TINY.train, **changes))
    run = Run(path)
    run.config = run_config(preset, "cmssf", data)
    return run, build(preset_of(run.config), run.config["method"], data), preset.train


class Linear(Method):
    """The smallest method there is: a softmax classifier on the mean colour."""

    lasting = ("",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 10)
        self.progress = []
        self.seen = []

    def loss(self, batch):
        self.seen.append(batch.index.clone())
        logits = self.layer(batch.images.float().mean(dim=(2, 3)) / 255)
        return {"loss": nn.functional.cross_entropy(logits, batch.labels)}

    def after_step(self, progress):
        self.progress.append(progress)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_weights_are_kept_in_half_precision_if_asked(data, tmp_path):
    """They are rounded in the model as well, so that what is measured is what is kept."""
    run, method, config = new_run(data, tmp_path / "half", half_weights=True)
    fit(method, data, config, run=run)
    state = method.state_dict()
    short = {name: torch.equal(tensor, tensor.half().float()) for name, tensor in state.items()}
    assert all(short[name] for name, tensor in state.items() if tensor.ndim > 1)
    assert not all(short.values())  # a bias has all its digits
    again = trained(Run.load(run.path), data)
    assert same_weights(again.state_dict(), method.state_dict())
    whole, method, config = new_run(data, tmp_path / "whole")
    fit(method, data, config, run=whole)
    size, rounded = ((r.path / "model.safetensors").stat().st_size for r in (whole, run))
    assert rounded < 0.55 * size


def test_history_has_a_row_an_epoch_with_the_columns_of_the_record(data):
    run, method, config = new_run(data)
    seen = []
    fit(
        method,
        data,
        config,
        run=run,
        each_epoch=lambda m: {"validation_training_mode": float(m.training)},
        watch=lambda r: seen.append(len(r.history)),
        progress=False,
    )
    assert seen == [1, 2]
    assert [row["epoch"] for row in run.history] == [1.0, 2.0]
    for column in ("loss", "floor", "positive_similarity", "negative_similarity", "logit_scale"):
        assert all(torch.isfinite(torch.tensor(run.series(column))))
    assert run.series("validation_training_mode") == [0.0, 0.0]  # measured in evaluation mode
    assert all(rate > 0 for rate in run.series("images_per_second"))
    assert all(0 <= row[f"{part}_share"] < 1 for row in run.history for part in train.OVERHEAD)
    assert run.environment["peak_memory_gb"] > 0


def test_the_loop_takes_every_step_once_and_reports_progress(data):
    method = Linear()
    fit(method, data, TrainConfig(epochs=2, batch_size=32), progress=False)
    assert method.progress == pytest.approx([(i + 1) / 6 for i in range(6)])
    for epoch in range(2):
        indices = torch.cat(method.seen[3 * epoch : 3 * epoch + 3])
        assert sorted(indices.tolist()) == list(range(96))


def test_the_loss_in_the_history_is_the_mean_over_the_epoch(data):
    method, losses = Linear(), []
    original = method.loss

    def noted(batch):
        result = original(batch)
        losses.append(result["loss"].item())
        return result

    method.loss = noted
    run = fit(method, data, TrainConfig(epochs=1, batch_size=32), progress=False)
    assert run.history[0]["loss"] == pytest.approx(sum(losses) / 3)


def test_training_equals_a_loop_written_by_hand(data):
    """Adam without decay, warm-up or clipping, on the same batches, step for step."""
    config = TrainConfig(
        epochs=2,
        batch_size=32,
        lr=0.01,
        weight_decay=0.0,
        optimizer="adam",
        schedule="constant",
        warmup=0.0,
        clip=0.0,
    )
    torch.manual_seed(0)
    ours, hand = Linear(), Linear()
    hand.load_state_dict(ours.state_dict())
    fit(ours, data, config, progress=False)
    optimizer = torch.optim.Adam(hand.parameters(), lr=0.01)
    for index in ours.seen:
        pixels = data.images[index].float().mean(dim=(2, 3)) / 255
        loss = nn.functional.cross_entropy(hand.layer(pixels), data.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert same_weights(ours.state_dict(), hand.state_dict())


def test_muon_turns_all_directions_of_a_matrix_alike():
    torch.manual_seed(0)
    layer = nn.Linear(24, 16)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, TrainConfig(optimizer="muon", lr=0.01, weight_decay=0.0))
    # Of the gradient's sixteen directions one is a hundred times as steep as the flattest.
    u, _, v = torch.linalg.svd(torch.randn(16, 24), full_matrices=False)
    layer.weight.grad = u @ torch.diag(torch.logspace(0, -2, 16)) @ v
    layer.bias.grad = torch.ones(16)
    optimizer.step()
    moved = torch.linalg.svdvals(before - layer.weight.detach())
    # All of one length (to the digits of bfloat16), such that an entry moves as AdamW moves it:
    # 0.2 of the learning rate in the mean square.
    assert moved.max() < 1.6 * moved.min()
    assert (before - layer.weight.detach()).square().mean().sqrt().item() == pytest.approx(
        0.2 * 0.01, rel=0.15
    )


def test_muon_has_the_maps_of_the_image_side_and_nothing_else(data):
    _, method, config = new_run(data, optimizer="muon")
    optimizer = make_optimizer(method, config)
    names = {id(p): name for name, p in method.named_parameters()}
    by_muon = {
        names[id(p)]
        for group in optimizer.param_groups
        for p in group["params"]
        if not group.get("use_fallback")
    }
    assert {n for n in by_muon if n.startswith("text_")} == set()
    assert "image_head.0.weight" in by_muon
    assert "image_encoder.backbone.patch_embed.layers.0.weight" in by_muon  # a convolution
    assert "image_encoder.backbone.blocks.0.attn.qkv.weight" in by_muon
    assert not {n for n in by_muon if "pos_embed" in n or "cls_token" in n or "norm" in n}
    assert all(g["lr_factor"] == config.text_lr for g in optimizer.param_groups
               if names[id(g["params"][0])].startswith("text_"))  # fmt: skip


def test_a_run_with_muon_that_was_stopped_ends_with_the_same_bits(tmp_path, data):
    def stop(run):
        if len(run.history) == 1 and run.path.name == "stopped":
            raise KeyboardInterrupt

    weights = []
    for name in ("stopped", "stopped", "whole"):
        run, method, config = new_run(data, tmp_path / name, optimizer="muon")
        try:
            fit(method, data, config, run=run, watch=stop if not weights else None, progress=False)
        except KeyboardInterrupt:
            weights.append(None)
            continue
        weights.append(method.state_dict())
    assert weights[0] is None
    assert same_weights(weights[1], weights[2])


class Collapsed(Linear):
    """Reports a spread that falls to nothing in its third epoch, or never."""

    def __init__(self, falls):
        super().__init__()
        self.falls = falls

    def loss(self, batch):
        collapsed = self.falls and len(self.progress) >= 6  # three steps an epoch
        spread = torch.tensor(0.01 if collapsed else 0.9)
        return {**super().loss(batch), "feature_std": spread, "effective_rank": torch.tensor(20.0)}


def test_a_collapse_is_said_once_with_its_likely_cause(data):
    config = replace(TINY.train, epochs=5)
    with pytest.warns(CollapseWarning, match=r"epoch 3: .*same embedding.*predictor") as said:
        run = fit(Collapsed(True), data, config, progress=False)
    assert len(said) == 1
    assert run.series("feature_std") == pytest.approx([0.9, 0.9, 0.01, 0.01, 0.01])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Collapsed(False), data, config, progress=False)


def test_it_learns(data):
    run, method, config = new_run(data, epochs=40, lr=3e-3)
    fit(method, data, config, run=run, progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"] - 0.5


def test_the_numbers_before_the_first_update_are_recorded(data, tmp_path):
    modes, method = [], Linear()
    first = next(batches(data, 32, seed=0, epoch=0))
    expected = float(method.loss(first)["loss"]), float(method.layer.weight.sum())

    def look(method):
        modes.append(method.training)
        return {"validation_weight": float(method.layer.weight.sum())}

    config, path = TrainConfig(epochs=2, batch_size=32), tmp_path / "run"
    run = fit(method, data, config, run=path, each_epoch=look, progress=False)
    assert modes == [False] * 3
    assert (run.start["loss"], run.start["validation_weight"]) == pytest.approx(expected)
    assert run.start["validation_weight"] != run.history[0]["validation_weight"]
    assert Run.load(path).start == run.start


def test_the_progress_bar_can_be_silenced_from_outside(data, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    fit(Linear(), data, TrainConfig(epochs=1, batch_size=32))
    assert capsys.readouterr().err == ""
    assert machine.hide_bars() is True
    monkeypatch.delenv("TQDM_DISABLE")
    assert machine.hide_bars() is None
    assert machine.hide_bars(True) is True
    bars = [
        file
        for file in sorted(Path(files.__file__).parent.rglob("*.py"))
        if "tqdm(" in file.read_text("utf-8")
    ]
    assert len(bars) == 3
    assert all("hide_bars(" in file.read_text("utf-8") for file in bars)


def test_the_callers_random_numbers_are_left_alone(data):
    method = Linear()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit(method, data, TrainConfig(epochs=1, batch_size=32), progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_seeding_is_that_of_pytorch():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.rand(5)
    seed_all(7)
    assert torch.equal(torch.rand(3), expected)


def test_two_runs_with_a_seed_are_equal_and_with_another_differ(data):
    weights = []
    for seed in (0, 0, 1):
        run, method, config = new_run(data, seed=seed, epochs=1)
        fit(method, data, config, run=run, progress=False)
        weights.append(method.state_dict())
    assert same_weights(weights[0], weights[1])
    assert not same_weights(weights[0], weights[2])


def test_the_first_step_of_the_paper_preset():
    """The source chapter's own set-up, but for the download: random weights, a batch of four."""
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    names = ("airplane", "automobile")
    photos = ImageTextData(
        images=images.byte(),
        labels=torch.tensor([0, 1, 0, 1]),
        captions=tuple(class_caption(names[i % 2]) for i in range(4)),
        class_names=names,
    )
    preset = replace(
        PAPER,
        vision=replace(PAPER.vision, weights=""),
        train=replace(PAPER.train, epochs=1, batch_size=4),
    )
    run = Run()
    run.config = run_config(preset, "cmssf", photos)
    method = build(preset_of(run.config), run.config["method"], photos)
    assert type(method.image_encoder.backbone).__name__ == "VisionTransformer"
    assert method.image_encoder.width == 384
    assert method.image_head[-1].out_features == 256
    before = method.image_encoder.backbone.patch_embed.proj.weight.clone()
    fit(method, photos, preset.train, run=run, progress=False)
    # Adam's first step moves every weight by the learning rate, 1e-4, up or down.
    moved = (method.image_encoder.backbone.patch_embed.proj.weight - before).abs()
    assert moved.max().item() == pytest.approx(1e-4, rel=0.01)
    assert run.series("lr") == [1e-4]


# ---- interruption -----------------------------------------------------------------------------

SCRIPT = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from test_train import TINY, digit_scenes, new_run
    from cmssf_lib.train import fit
    data = digit_scenes(train=96, test=20, image_size=12).train
    run, method, config = new_run(data, {folder!r}, epochs=3, checkpoint_minutes=0.0)
    step = method.after_step
    def slowly(progress):
        step(progress)
        print(f"step {{progress:.4f}}", flush=True)
        time.sleep({pause})
    method.after_step = slowly
    fit(method, data, config, run=run, progress=False)
    print("done", flush=True)
"""


def start(folder, pause):
    code = textwrap.dedent(SCRIPT).format(
        tests=os.path.dirname(__file__), folder=str(folder), pause=pause
    )
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder):
    process = start(folder, 0)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def wait_for_steps(process, count):
    """Return once so many steps have been reported."""
    seen = 0
    for line in process.stdout:
        seen += line.startswith("step")
        if seen == count:
            return
    raise AssertionError(process.stderr.read())


def assert_same_run(one, other):
    a, b = Run.load(one), Run.load(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    for column in ("loss", "floor", "positive_similarity", "logit_scale", "lr"):
        assert a.series(column) == b.series(column), column


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_killed_in_mid_epoch_ends_with_the_same_bits(tmp_path, uninterrupted, number):
    folder = tmp_path / "run"
    process = start(folder, 0.3)
    wait_for_steps(process, 5)  # three steps are an epoch: this is the middle of the second
    time.sleep(0.1)  # into the pause after the fifth step
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert (folder / "checkpoint.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    if number != signal.SIGKILL:
        assert "KeyboardInterrupt: stopped after step 5 of 9" in err
    rest = finish(folder)
    assert 4 <= rest.count("step") < 9  # it went on and did not start again
    assert not (folder / "checkpoint.safetensors").exists()
    assert_same_run(folder, uninterrupted)


def test_ctrl_c_outside_the_main_thread_is_not_ours_to_catch():
    import threading

    caught = []

    def inside():
        with interruptible() as received:
            caught.append(received)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert caught == [[]]


def test_ctrl_c_in_the_last_step_is_heard_once_the_weights_are_kept(tmp_path, data):
    class Stopped(Linear):
        def after_step(self, progress):
            if progress == 1:
                signal.raise_signal(signal.SIGINT)

    config = TrainConfig(epochs=1, batch_size=32)
    with pytest.raises(KeyboardInterrupt, match="the training is over"):
        fit(Stopped(), data, config, run=tmp_path, progress=False)
    assert (tmp_path / "model.safetensors").is_file()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_each_training_has_its_own_precision(data):
    kinds = []

    class Watched(Linear):
        def loss(self, batch):
            kinds.append((self.layer.weight.new_ones(1, 3) @ self.layer.weight.T).dtype)
            return super().loss(batch)

    for precision in ("no", "bf16", "no"):
        config = TrainConfig(epochs=1, batch_size=96, precision=precision)
        fit(Watched(), data, config, progress=False)
    assert kinds == [torch.float32, torch.bfloat16, torch.float32]


def test_signal_handlers_are_put_back(data):
    before = signal.getsignal(signal.SIGINT)
    fit(Linear(), data, TrainConfig(epochs=1, batch_size=32), progress=False)
    assert signal.getsignal(signal.SIGINT) is before


# ---- bad input --------------------------------------------------------------------------------


class Spoiled(Linear):
    """Its loss or its gradient stops being a number at the fifth step."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def loss(self, batch):
        result = super().loss(batch)
        if len(self.seen) == 5:
            if self.what == "loss":
                result["loss"] = result["loss"] * float("nan")
            else:  # a finite loss whose gradient is infinite
                weight = self.layer.weight
                result["loss"] = result["loss"] + (weight - weight.detach()).abs().sqrt().sum()
        return result


def test_a_first_step_that_fails_promises_no_checkpoint_and_binds_nobody(tmp_path, data):
    run, method, config = new_run(data, tmp_path, lr=0.5)
    with torch.no_grad():
        next(method.image_head.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError) as error:
        fit(method, data, config, run=run, progress=False)
    assert "untouched" not in str(error.value)
    run, method, config = new_run(data, tmp_path)  # with another learning rate, in the same folder
    fit(method, data, config, run=run, progress=False)
    assert Run.load(tmp_path).config["train"]["lr"] == 1e-3


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, data, what):
    method = Spoiled(what)
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 5.*checkpoint in .* untouched"):
        fit(method, data, TrainConfig(epochs=2, batch_size=32), run=tmp_path, progress=False)
    assert all(torch.isfinite(p).all() for p in method.parameters())
    tensors, _ = files.read_tensors(tmp_path / "checkpoint.safetensors", CHECKPOINT_FORMAT)
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer: .*'adamw'.* got 'sgd'"),
        ({"schedule": "step"}, "schedule: .*'cosine', got 'step'"),
        ({"epochs": 0}, "epochs=0 trains nothing"),
        ({"lr": -1.0}, "lr: .* greater than 0, got -1.0"),
        ({"warmup": 1.0}, "warmup: .* less than 1, got 1.0"),
        ({"precision": "fp8"}, "precision: .*'fp16', got 'fp8'"),
        ({"batch_size": 97}, "holds 96 pictures, fewer than one batch of 97"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_at_once(data, changes, message):
    method = Linear()
    with pytest.raises(ValueError, match=message):
        fit(method, data, replace(TINY.train, **changes))
    assert method.seen == []


def test_data_of_one_class_is_refused(data):
    zeros = data.subset(torch.nonzero(data.labels == 0).flatten())
    with pytest.raises(ValueError, match=r"all pictures of .* are of one class \(zero\)"):
        fit(Linear(), zeros, TrainConfig(epochs=1, batch_size=2))


def test_a_frozen_method_is_refused(data):
    method = Linear()
    method.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(method, data, TrainConfig(epochs=1, batch_size=32), progress=False)


def interrupted_run(data, folder):
    """Leave a run behind that stopped after its first epoch."""
    run, method, config = new_run(data, folder)

    def stop(_run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(method, data, config, run=run, watch=stop, progress=False)
    assert (folder / "checkpoint.safetensors").is_file()


def test_a_resume_under_another_configuration_names_the_field_and_changes_nothing(tmp_path, data):
    interrupted_run(data, tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    run, method, config = new_run(data, tmp_path, lr=0.5)
    with pytest.raises(ValueError, match=r"train.lr \(recorded 0.001, asked for 0.5\)"):
        fit(method, data, config, run=run, progress=False)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_what_changes_memory_and_not_the_result_may_change_on_the_way(tmp_path):
    old = Run(tmp_path)
    others = {"train": {}, "data_fingerprint": "0"}  # by which a run is known
    old.config = {"cmssf": {"dim": 8, "chunk": 0, "micro_batch": 0}, **others}
    old.results = {"zero_shot": 0.5}
    old.save()
    new = Run(tmp_path)
    new.config = {"cmssf": {"dim": 8, "chunk": 4, "micro_batch": 2}, **others}
    assert new.state() == "measured"
    new.config["cmssf"]["dim"] = 9
    with pytest.raises(
        ValueError, match=r"configuration: cmssf\.dim \(recorded 8, asked for 9\)\. Go"
    ):
        new.state()


def test_a_run_that_goes_on_elsewhere_says_where_it_began(tmp_path, data):
    interrupted_run(data, tmp_path)
    there = json.loads((tmp_path / "environment.json").read_text())
    (tmp_path / "environment.json").write_text(json.dumps({**there, "device": "NVIDIA H200"}))
    run, method, config = new_run(data, tmp_path)
    fit(method, data, config, run=run, progress=False)
    assert Run.load(tmp_path).environment == {**run.environment, "earlier": ["NVIDIA H200"]}


def test_the_states_of_a_run_and_what_each_means(tmp_path, data):
    run, method, config = new_run(data, tmp_path)
    assert new_run(data)[0].state() == run.state() == "new"
    run.save()  # nothing was trained: another try is free
    assert new_run(data, tmp_path, lr=0.5)[0].state() == "new"
    (tmp_path / "config.json").unlink()
    interrupted_run(data, tmp_path)
    assert run.state() == "under way"
    run = fit(method, data, config, run=run, progress=False)
    assert run.state() == "trained"
    run.results = {"zero_shot": 0.5}
    run.save()
    (tmp_path / "model.safetensors").unlink()  # as most records have
    assert run.state() == "measured"
    with pytest.raises(ValueError, match="holds a finished run"):
        fit(method, data, config, run=new_run(data, tmp_path)[0], progress=False)


def test_a_resume_with_other_pictures_is_refused(tmp_path, data):
    interrupted_run(data, tmp_path)
    other = digit_scenes(train=96, test=20, image_size=12, seed=1).train
    run, method, config = new_run(other, tmp_path)
    with pytest.raises(ValueError, match="data_fingerprint"):
        fit(method, other, config, run=run, progress=False)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "text"])
def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path, data, damage):
    interrupted_run(data, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    else:
        files.write_tensors(path, {"a": torch.zeros(1)}, {"format": "pt"})
    before = path.read_bytes()
    run, method, config = new_run(data, tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors (is damaged|was not written)"):
        fit(method, data, config, run=run, progress=False)
    assert path.read_bytes() == before


def test_a_finished_run_is_not_overwritten(tmp_path, data):
    config = TrainConfig(epochs=1, batch_size=32)
    fit(Linear(), data, config, run=tmp_path, progress=False)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a finished run"):
        fit(Linear(), data, config, run=tmp_path, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_too_little_disk_is_said_before_the_first_step(tmp_path, data, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: usage)
    method = Linear()
    with pytest.raises(OSError, match="free some space"):
        fit(method, data, TrainConfig(epochs=1, batch_size=32), run=tmp_path, progress=False)
    assert method.seen == []


@pytest.mark.parametrize(
    "name", ["simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised", "cmssf"]
)
def test_a_step_that_outgrows_the_memory_is_refused_before_it_is_used_up(data, monkeypatch, name):
    chosen = replace(preset("quick", name), vision=TINY.vision, train=TINY.train)
    method = build(chosen, name, data)
    before = {k: v.clone() for k, v in method.named_parameters()}
    memory = type("Memory", (), {"available": 100_000})
    monkeypatch.setattr(steps.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(MemoryError, match=r"0\.0 GB, and 0\.0 GB are free: choose a smaller"):
        fit(method, data, chosen.train, progress=False)
    assert all(torch.equal(p, before[k]) for k, p in method.named_parameters())


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(tmp_path, data, monkeypatch):
    interrupted_run(data, tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(tensors, path, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmssf_lib.files.save_file", full)
    run, method, config = new_run(data, tmp_path)
    with pytest.raises(OSError, match="the disk is full"):
        fit(method, data, config, run=run, progress=False)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_second_process_in_the_folder_is_refused(tmp_path, data):
    with files.lock_folder(tmp_path):
        code = (
            "from cmssf_lib.data import digit_scenes\n"
            "from cmssf_lib.presets import QUICK\n"
            "from cmssf_lib.train import fit\n"
            "import torch\n"
            "data = digit_scenes(train=200, test=20, image_size=12).train\n"
            f"fit(torch.nn.Linear(2, 2), data, QUICK.train, run={str(tmp_path)!r})\n"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: another process is training in" in other.stderr


# ---- the pieces -------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    config = TrainConfig(lr=1.0, warmup=0.1, schedule="cosine")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[99] < 1e-3
    constant = replace(config, schedule="constant")
    assert {learning_rate(step, 100, constant) for step in range(10, 100)} == {1.0}


def test_only_matrices_decay_and_the_text_tower_has_its_own_rate(data):
    _, method, config = new_run(data, weight_decay=0.3, text_lr=0.25)
    optimizer = make_optimizer(method, config)
    names = {id(p): name for name, p in method.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["weight_decay"], group["lr_factor"])
    assert found.keys() == dict(method.named_parameters()).keys()
    assert found["log_scale"] == (0.0, 1.0)
    for name, parameter in method.named_parameters():
        expected = (
            0.3 if parameter.ndim >= 2 else 0.0,
            0.25 if name.startswith("text_") else 1.0,
        )
        assert found[name] == expected, name


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    """Once warm, a large tensor costs no fresh pages; before, each one costs all of them."""
    code = textwrap.dedent("""
        import resource, torch
        from cmssf_lib.train.threads import keep_freed_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                torch.ones(16_000_000)  # 64 MB, 16,000 pages
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults()
        fresh = faults()
        keep_freed_memory()
        faults()
        print(fresh, faults())
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    if fresh < 1000:
        pytest.skip("this C library keeps freed memory by itself, or uses huge pages")
    assert kept < fresh / 10


@pytest.mark.skipif(sys.platform != "linux", reason="only there does a child begin at its parent's")
def test_the_peak_of_memory_is_this_process_own():
    # A system's own count of the peak survives the start of another program.
    large = torch.ones(250_000_000)  # 1 GB
    program = """
        from cmssf_lib.environment import peak_memory_gb

        before = peak_memory_gb()
        held = b"x" * 200_000_000
        print(before, peak_memory_gb() - before)
    """
    child = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(child, capture_output=True, text=True, check=True).stdout.split()
    before, more = map(float, found)
    assert before < 0.9 < large.nbytes / 1e9
    assert more == pytest.approx(0.2, abs=0.05)


# --- arithmetic -------------------------------------------------------------------------------


class OneMatrix(nn.Module):
    """Ten numbers of a picture times a matrix, and dropout."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(10, 4))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, batch):
        answers = self.norm(batch.images.float().flatten(1)[:, :10] @ self.matrix)
        return {"loss": nn.functional.dropout(answers).sum()}


def test_operations_are_counted_there_and_back(data):
    method, batch = OneMatrix(), next(batches(data, 32))
    method.matrix.grad = torch.ones(10, 4)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.get_rng_state()
    # There: 10 x 4 products and as many sums. Back: as much again, for the matrix alone.
    assert flops_per_picture(method, batch) == 2 * 10 * 4 * 2
    assert all(value.equal(state[name]) for name, value in method.state_dict().items())
    assert method.matrix.grad.equal(torch.ones(10, 4))
    assert torch.get_rng_state().equal(random)


def test_two_views_cost_twice_one_picture(data):
    simclr, supervised = (
        flops_per_picture(
            build(replace(preset("quick", name), vision=TINY.vision), name, data),
            next(batches(data, 32)),
        )
        for name in ("simclr", "supervised")
    )
    assert simclr == pytest.approx(2 * supervised, rel=0.05)  # and its head
    assert simclr > 2 * supervised

"""Several processes train as one would: the same loss and gradients, and one record of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from settings import (
    CMSSFConfig,
    DINOConfig,
    SimCLRConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
    new_cmssf,
)
from torch.nn.parallel import DistributedDataParallel

from cmssf_lib import cli, machine
from cmssf_lib.build import build, preset_of, run_config
from cmssf_lib.data import batches, digit_scenes
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.machine import (
    from_all_processes,
    in_any_process,
    process_count,
    process_index,
)
from cmssf_lib.methods import DINO, SimCLR
from cmssf_lib.methods.cmssf import GROUPED
from cmssf_lib.presets import QUICK
from cmssf_lib.runs import Run
from cmssf_lib.train import fit
from cmssf_lib.train.watch import require_one_model
from cmssf_lib.views import ViewsConfig

LOSSES = ("one_hot", *GROUPED)

TWO = 2
VISION = VisionConfig(image_size=12, width=16, depth=1, heads=2, norm="group")
TEXT = TextConfig(width=16, depth=1, heads=2)
MEMORY = ({}, {"chunk": 5, "micro_batch": 3})  # all at once; some at a time


def pictures():
    """Plain scenes: with ten captions, each stands several times in a batch."""
    return digit_scenes("plain", train=96, test=10, image_size=12).train


def model(loss, memory):
    torch.manual_seed(0)
    config = CMSSFConfig(dim=8, hidden=16, loss=loss, **memory)
    return new_cmssf(VISION, TEXT, config, pictures().unique_captions)


def one_step(module, batch):
    """Return loss, logged quantities and gradients, by name."""
    found = module(batch)
    found["loss"].backward()
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    gradients = {name: p.grad for name, p in inner.named_parameters()}
    return {k: v.detach().clone() for k, v in found.items()} | gradients


def meet(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(TWO)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def gathers(rank, port, folder):
    """What one of two processes finds; the first writes it down."""
    meet(rank, port)
    rows = torch.tensor([[1.0], [2.0]]) + 10 * rank
    rows.requires_grad_(True)
    together = from_all_processes(rows)
    # Other weights in each process: the gradient must be the sum of both.
    (together[:, 0] * torch.arange(4.0) * (1 + rank)).sum().backward()
    numbers = from_all_processes(torch.tensor([rank, 7]))
    said = [in_any_process(rank == 1, "cpu"), in_any_process(False, "cpu")]
    batch = next(batches(pictures(), 32))
    found = {"together": together.detach(), "numbers": numbers, "said": torch.tensor(said)}
    found["gradient"] = rows.grad
    for loss, (i, memory) in product(LOSSES, enumerate(MEMORY)):
        module = DistributedDataParallel(model(loss, memory))
        step = one_step(module, batch.part(rank, TWO))
        found |= {f"{loss}.{i}.{name}": value for name, value in step.items()}
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("gather")
    mp.spawn(gathers, (free_port(), folder), TWO)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(TWO)]


def test_gather_brings_all_rows_and_takes_their_gradients_back(found):
    for rank, one in enumerate(found):
        assert one["together"].tolist() == [[1], [2], [11], [12]]
        assert one["numbers"].tolist() == [0, 7, 1, 7]
        assert one["gradient"].flatten().tolist() == [[0, 3], [6, 9]][rank]  # 1 and 2 times


def test_a_signal_to_one_is_heard_by_all(found):
    assert all(one["said"].tolist() == [True, False] for one in found)


@pytest.mark.parametrize("memory", range(len(MEMORY)))
@pytest.mark.parametrize("loss", LOSSES)
def test_two_processes_find_loss_and_gradients_of_one(found, loss, memory):
    """With captions that both of them have, so that pairs of a group lie in two processes."""
    batch = next(batches(pictures(), 32))
    parts = [set(batch.part(rank, TWO).captions) for rank in range(TWO)]
    assert parts[0] & parts[1], "some caption must be in both"
    alone = one_step(model(loss, MEMORY[memory]), batch)
    for one in found:
        for name, value in alone.items():
            theirs = one[f"{loss}.{memory}.{name}"]
            assert torch.allclose(theirs, value, atol=1e-5, rtol=0), name


def test_what_processes_exchange_lies_on_the_devices_of_their_group(monkeypatch):
    """NCCL exchanges tensors of the cards alone; a signal's flag is made in the processor."""
    seen = []
    monkeypatch.setattr(
        machine, "from_all_processes", lambda rows: seen.append(rows.device) or torch.ones(2)
    )
    monkeypatch.setattr(machine, "process_count", lambda: 2)
    assert in_any_process(False, torch.device("meta"))
    assert seen == [torch.device("meta")]


def test_alone_nothing_is_gathered():
    rows = torch.rand(3, 2, requires_grad=True)
    assert from_all_processes(rows) is rows
    assert (process_count(), process_index()) == (1, 0)
    assert in_any_process(True, "cpu")
    assert not in_any_process(False, "cpu")


def test_the_parts_of_a_batch_are_the_batch():
    batch = next(batches(pictures(), 32))
    parts = [batch.part(number, 4) for number in range(4)]
    for name in ("images", "labels", "index", "groups"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
    for part in parts:
        assert len(part) == 8
        texts = [part.captions[i] for i in part.caption_index.tolist()]
        assert texts == [batch.captions[i] for i in part.groups.tolist()]
        assert len(part.captions) == len(set(texts)), "a part brings the captions it needs"


# fit ----------------------------------------------------------------------------------------

TINY = replace(
    QUICK,
    vision=VISION,
    text=TEXT,
    cmssf=CMSSFConfig(dim=8, hidden=16, views=ViewsConfig()),
    train=TrainConfig(epochs=2, batch_size=32, lr=1e-3),
)


def train(folder, preset=TINY, **watching):
    data = pictures()
    run = Run(folder)
    run.config = run_config(preset, "cmssf", data)
    method = build(preset_of(run.config), run.config["method"], data)
    return fit(method, data, preset.train, run=run, progress=False, **watching), method


def trains(rank, port, folder):
    """Train in two processes: a whole run, and one that a signal to the second interrupts."""
    meet(rank, port)
    train(folder / "whole")
    if rank == 1:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        train(folder / "stopped", replace(TINY, train=replace(TINY.train, epochs=500)))
    except KeyboardInterrupt:
        (folder / f"interrupted-{rank}").touch()
    views = replace(TINY, cmssf=replace(TINY.cmssf, views=ViewsConfig(shift=0.3)))
    _, method = train(folder / "views", views)
    (folder / f"state-{rank}").write_text(str(sum(p.sum().item() for p in method.parameters())))
    dist.destroy_process_group()


def felt(weights, name):
    """Return a weight without the bias of keys, which attention cannot feel.

    It adds the same to all scores of a query. Its gradient is rounding, and Adam, which divides
    by the gradient's size, makes steps of it.
    """
    if name.endswith("attention.self.key.bias"):
        return torch.zeros(0)
    if name.endswith("attn.qkv.bias"):
        queries, _, values = weights[name].chunk(3)
        return torch.cat([queries, values])
    return weights[name]


def test_fit_in_two_processes(tmp_path):
    mp.spawn(trains, (free_port(), tmp_path), TWO)
    whole = Run.load(tmp_path / "whole")
    alone, method = train(None)
    assert whole.environment["processes"] == TWO
    assert alone.environment["processes"] == 1
    for name in ("loss", "floor", "positive_similarity", "logit_scale"):
        assert whole.series(name) == pytest.approx(alone.series(name), abs=1e-4), name
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    for name, value in method.state_dict().items():
        assert torch.allclose(felt(weights, name), felt({name: value}, name), atol=1e-4), name
    assert not (tmp_path / "whole" / "checkpoint.safetensors").exists()
    # The signal reached one; both stopped after the same step, and a checkpoint is there.
    assert all((tmp_path / f"interrupted-{rank}").exists() for rank in range(TWO))
    assert (tmp_path / "stopped" / "checkpoint.safetensors").exists()
    # Each draws its own views, and the weights stay the same.
    states = {(tmp_path / f"state-{rank}").read_text() for rank in range(TWO)}
    assert len(states) == 1


def launch(folder, epochs, more=""):
    """Start `cmssf train` in two processes, as a reader does."""
    settings = (
        "data.train=360 data.validation=40 data.test=40 data.image_size=12 vision.image_size=12 "
        "vision.width=16 vision.depth=1 vision.heads=2 vision.norm=group text.width=16 "
        f"text.depth=1 text.heads=2 train.batch_size=32 {more}"
    )
    sets = [f"--{setting}" for setting in settings.split()]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    flags = f"--num_processes {TWO} --main_process_port {free_port()} --no_python".split()
    cmssf = str(Path(sys.executable).with_name("cmssf"))
    return subprocess.Popen(
        [*accelerate, *flags, cmssf, "train", "cmssf", "--preset", "quick",
         "--train.epochs", str(epochs), *sets, "--run", str(folder)],
        env=os.environ | {"TQDM_DISABLE": "1"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_accelerate_launch_finishes_and_resumes(tmp_path):
    folder, epochs = tmp_path / "run", 12
    first = launch(folder, epochs)
    until = time.monotonic() + 120
    while not (folder / "history.csv").exists():
        if first.poll() is not None or time.monotonic() > until:
            pytest.fail(first.communicate()[0])
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=120)
    done = len(Run.load(folder).history)
    assert 1 <= done < epochs, said
    assert (folder / "checkpoint.safetensors").exists(), said

    second = launch(folder, epochs)
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 0, said
    run = Run.load(folder)
    assert [row["epoch"] for row in run.history] == list(range(1, epochs + 1))
    assert run.results["zero_shot"] >= 0
    assert (folder / "model.safetensors").exists()
    assert said.count(f"epoch {epochs}/{epochs}") == 1, "one of the two tells it"


def test_what_takes_one_process_is_left_to_evaluate(tmp_path, capsys):
    """Fine-tuning is a training of its own, which the first process must not begin alone."""
    judged = (
        "judge.per_class=0 judge.fractions=0.5 judge.draws=1 judge.fine_tune=True "
        "fine_tune.steps=4 fine_tune.batch_size=32"
    )
    launched = launch(tmp_path / "run", 1, judged)
    said, _ = launched.communicate(timeout=240)
    assert launched.returncode == 0, said
    assert f"run cmssf evaluate {tmp_path / 'run'}" in said
    run = Run.load(tmp_path / "run")
    assert len(run.history) == 1
    assert not run.results
    assert run.environment["mflop_per_picture"] > 0
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "fine_tuned_50pct" in Run.load(tmp_path / "run").results


# What cannot work ---------------------------------------------------------------------------


def test_what_several_processes_cannot_train_is_refused():
    config = TrainConfig(batch_size=32)
    fine = model("one_hot", {})
    require_one_model(fine, config, 4)
    with pytest.raises(ValueError, match="batch_size=32 does not divide among 3 processes"):
        require_one_model(fine, config, 3)
    with pytest.raises(ValueError, match="SimCLR would compare the pictures of one process only"):
        require_one_model(SimCLR(ImageEncoder(VISION), SimCLRConfig()), config, 2)
    for name, kind, own in (("simclr", SimCLR, SimCLRConfig()), ("dino", DINO, DINOConfig())):
        beside = replace(TINY.cmssf, image_loss=name)
        joint = new_cmssf(
            VISION, TEXT, beside, ["a one"], image_task=kind(ImageEncoder(VISION), own)
        )
        require_one_model(joint, config, 1)
        with pytest.raises(ValueError, match=rf"{kind.__name__}, the second loss, would compare"):
            require_one_model(joint, config, 2)
    normed = new_cmssf(replace(VISION, norm="batch"), TEXT, CMSSFConfig(), ["a one"])
    with pytest.raises(ValueError, match=r"batch norm .* set vision\.norm=group"):
        require_one_model(normed, config, 2)
    require_one_model(normed, config, 1)

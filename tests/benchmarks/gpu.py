"""Speed on a GPU: `fit` for every method, beside a plain loop and lightly's; `paper`; evaluation.

A row says how many pictures a second, what that is in operations a second (those of the method's
loss, forward and backward, as `flops_per_picture` counts them), and which share of what this GPU
reaches in a product of large matrices in bfloat16.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import torch
from lightly.loss import NTXentLoss
from torch import nn

from benchmarks.pictures import lightlys_loader, photo_views, pictures
from benchmarks.report import Report
from cmssf_lib import evaluate
from cmssf_lib.build import build
from cmssf_lib.data import ImageTextData, Splits, batches
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import nt_xent
from cmssf_lib.machine import fastest_device
from cmssf_lib.methods import SimCLR
from cmssf_lib.presets import Preset, preset
from cmssf_lib.train import CollapseWarning, fit, flops_per_picture, make_optimizer
from cmssf_lib.train.session import Session

METHODS = ("simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised", "cmssf")
#: Pictures a second on one H100.
TARGETS = {("simclr", 128): 20_000, ("simclr", 1024): 50_000, ("paper", 128): 8_000}
LIGHTLY = 5  # times lightly's loop


def of_size(name: str, method: str, batch_size: int, steps: int) -> tuple[Preset, ImageTextData]:
    """Return a preset for three epochs of so many steps, and pictures for them."""
    chosen = preset(name, method)
    train = replace(chosen.train, epochs=3, batch_size=batch_size)
    if method == "moco":  # a whole number of batches
        queue = max(batch_size, chosen.moco.queue // batch_size * batch_size)
        chosen = replace(chosen, moco=replace(chosen.moco, queue=queue))
    if name == "quick":
        chosen = replace(chosen, data=replace(chosen.data, train=batch_size * steps))
    if name == "paper":  # weights from the hub change no time
        chosen = replace(chosen, vision=replace(chosen.vision, weights=""))
    photographs = replace(chosen, data=replace(chosen.data, name="cifar10", image_size=32))
    data, _ = pictures(photographs if name == "paper" else chosen, batch_size * steps)
    return replace(chosen, train=train), data


def by_fit(chosen: Preset, method: str, data: ImageTextData) -> tuple[float, float]:
    """Return images a second in the best epoch but the first, and operations for a picture."""
    model = build(chosen, method, data)
    device, size = fastest_device(), chosen.train.batch_size
    flops = flops_per_picture(model.to(device), next(batches(data.to(device), size)))
    run = fit(model.cpu(), data, chosen.train, progress=False)
    return max(row["images_per_second"] for row in run.history[1:]), flops


def uncaptured(chosen: Preset, method: str, data: ImageTextData) -> float:
    """Return images a second of `fit` without CUDA graphs."""
    usual, Session.quicken = Session.quicken, []
    try:
        run = fit(build(chosen, method, data), data, chosen.train, progress=False)
    finally:
        Session.quicken = usual
    return max(row["images_per_second"] for row in run.history[1:])


def by_a_plain_loop(chosen: Preset, method: str, data: ImageTextData) -> float:
    """Return images a second of the least loop there is: bfloat16, no log, no seeds."""
    device, size = fastest_device(), chosen.train.batch_size
    model = build(chosen, method, data).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    there, taken = data.to(device), 0.0
    for _ in range(2):  # the first one warms up
        wait(device)
        start = time.perf_counter()
        for batch in batches(there, size):
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.after_step(0.5)
        wait(device)
        taken = time.perf_counter() - start
    return len(data) // size * size / taken


def by_lightlys_loop(chosen: Preset, data: ImageTextData) -> float:
    """Return images a second of lightly's SimCLR example around the same encoder."""
    device, size = fastest_device(), chosen.train.batch_size
    loader = lightlys_loader(data, photo_views(), size)
    same = SimCLR(ImageEncoder(chosen.vision), chosen.simclr)
    model = nn.Sequential(same.image_encoder, same.head).to(device).train()
    criterion = NTXentLoss(temperature=chosen.simclr.temperature)
    optimizer, taken = make_optimizer(model, chosen.train), 0.0
    for _ in range(2):
        wait(device)
        start = time.perf_counter()
        for (first, second), _labels in loader:
            loss = criterion(model(first.to(device)), model(second.to(device)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wait(device)
        taken = time.perf_counter() - start
    return len(data) // size * size / taken


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(size: int) -> float:
    """Return the operations a second of a product of large matrices in bfloat16."""
    device = fastest_device()
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        wait(device)
        best = max(best, 5 * 2 * size**3 / (time.perf_counter() - start))
    return best


@contextmanager
def quietly():
    """Ignore what a training says that nobody wants to learn from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        yield


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes, the second time."""
    work()
    wait(fastest_device())
    start = time.perf_counter()
    work()
    wait(fastest_device())
    return time.perf_counter() - start


def trainings(
    name: str, sizes: tuple[int, ...], steps: int, large: int, methods: tuple[str, ...] = METHODS
) -> Report:
    """Measure every method of a preset at these batch sizes."""
    device, best = fastest_device(), peak(large)
    rows, kept = [], {}
    for method in methods:
        for size in sizes:
            chosen, data = of_size(name, method, size, steps)
            with quietly():
                rate, flops = by_fit(chosen, method, data)
                launched = uncaptured(chosen, method, data)
                plain = by_a_plain_loop(chosen, method, data)
                print(
                    f"{name} {method} {size}: {rate:,.0f} {launched:,.0f} {plain:,.0f}", flush=True
                )
            label = "paper" if name == "paper" else method
            numbers = (f"{rate:,.0f}", f"{launched:,.0f}", f"{plain:,.0f}")
            numbers += (f"{rate * flops / 1e12:.2f}",)
            rows.append((f"{method}, {size}", *numbers, f"{rate * flops / best:.1%}"))
            if target := TARGETS.get((label, size)) if name != "quick" else None:
                kept[f"{label}, batches of {size}: {target:,} pictures/s"] = rate >= target
            if (method, size) == ("simclr", 128) and name == "standard":
                theirs = by_lightlys_loop(chosen, data)
                rows.append(("lightly's simclr, 128", f"{theirs:,.0f}", "", "", "", ""))
                kept[f"simclr: at least {LIGHTLY} times lightly's loop"] = rate >= LIGHTLY * theirs
    where = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    return Report(
        f"fit on {where}, {name} preset; a product of large matrices reaches "
        f"{best / 1e12:.1f} TFLOP/s",
        ("", "pictures/s", "without graphs", "plain loop", "TFLOP/s", "of the peak"),
        tuple(rows),
        kept,
    )


def evaluation(count: int = 10_000) -> Report:
    """Measure embeddings, neighbours, a linear classifier and fine-tuning of a standard encoder."""
    chosen, data = of_size("standard", "simclr", 128, -(-2 * count // 128))
    method = build(chosen, "simclr", data)
    bank, asked = data.subset(range(count)), data.subset(range(count, 2 * count))
    splits = Splits(bank, asked)
    features = [evaluate.embed_features(method, part) for part in splits]
    k, recipe = min(200, count // 2), chosen.fine_tune
    work = {
        "embeddings": lambda: evaluate.embed_features(method, bank),
        f"neighbours, {k}": lambda: evaluate.knn(features[0], bank.labels, features[1], 10, k=k),
        "linear classifier": lambda: evaluate.linear_probe(features[0], bank.labels, features[1]),
        "fine-tuning": lambda: evaluate.fine_tune_report(
            method, splits, {"all": [torch.arange(count)]}, recipe
        ),
    }
    with quietly():
        rows = [(what, f"{seconds_of(do):.2f}") for what, do in work.items()]
    return Report(f"Evaluation, {count:,} pictures", ("", "seconds"), tuple(rows), {})


def time_of_nt_xent() -> Report:
    """Time the largest loss of the chapters, forward and backward, at large batches."""
    device = fastest_device()
    rows = []
    for n in (1024, 4096):
        a, b = (torch.randn(n, 128, device=device, requires_grad=True) for _ in range(2))
        rows.append(
            (
                f"{n} pairs",
                f"{1e3 * seconds_of(lambda a=a, b=b: nt_xent(a, b, 0.2).backward()):.2f}",
            )
        )
    return Report("NT-Xent, forward and backward", ("", "ms"), tuple(rows), {})


def reports() -> list[Callable[[], Report]]:
    """Return what ``make bench BENCH=gpu`` runs: nothing without a GPU."""
    if fastest_device().type != "cuda":
        return []
    return [
        lambda: trainings("standard", (128, 1024), 40, 8192),
        lambda: trainings("paper", (128,), 30, 8192, ("cmssf",)),
        lambda: trainings("quick", (128,), 60, 8192),
        evaluation,
        time_of_nt_xent,
    ]

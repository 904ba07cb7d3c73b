"""MAE's step on the visible patches, and the same encoder and decoder on all of them."""

import time
from statistics import median

import torch
from torch import nn

from benchmarks.alternate import ratio
from benchmarks.pictures import pictures
from benchmarks.report import Report
from cmssf_lib.data import batches
from cmssf_lib.encoders import ImageEncoder, VisionConfig
from cmssf_lib.methods import MAE, MAEConfig
from cmssf_lib.presets import preset
from cmssf_lib.train import make_optimizer

TARGET = 2.0


class AllPatches(MAE):
    """MAE without its saving: the hidden patches are encoded too, and the loss is the same.

    Args:
        vision: As for `MAE`.
        config: As for `MAE`.
        apart: Whether the stem takes each patch for a picture of its own, as MAE's must. If not,
            it goes over the whole picture at once, as the other methods' does.
    """

    def __init__(self, vision: VisionConfig, config: MAEConfig, *, apart: bool) -> None:
        super().__init__(ImageEncoder(vision), config)
        stem, encode = self.image_encoder.transformer.patch_embed, self.image_encoder.tokens
        if hasattr(stem, "apart"):
            stem.apart = apart
        self.image_encoder.tokens = lambda images, keep: encode(images)

    def decode(self, tokens, keep):
        everything = torch.arange(len(self.positions)).expand(len(tokens), -1)
        return super().decode(tokens, everything)


def run(name: str, *, steps: int, batch_size: int | None = None) -> Report:
    """Take steps in turn: visible patches, all patches, all patches with an undivided stem."""
    chosen = preset(name, "mae")
    train, b = chosen.train, batch_size or chosen.train.batch_size
    data, what = pictures(chosen, (steps + 1) * b)
    torch.manual_seed(0)
    methods: dict[str, MAE] = {
        "visible patches": MAE(ImageEncoder(chosen.vision), chosen.mae),
        "all patches": AllPatches(chosen.vision, chosen.mae, apart=True),
        "all patches, stem over the whole picture": AllPatches(
            chosen.vision, chosen.mae, apart=False
        ),
    }
    optimizers = {key: make_optimizer(method, train) for key, method in methods.items()}
    seconds: dict[str, list[float]] = {key: [] for key in methods}
    for batch in batches(data, b):
        for key, method in methods.items():
            start = time.perf_counter()
            method.loss(batch)["loss"].backward()
            nn.utils.clip_grad_norm_(method.parameters(), train.clip or float("inf"))
            optimizers[key].step()
            optimizers[key].zero_grad()
            seconds[key].append(time.perf_counter() - start)
    visible, *others = ({key: times[1:] for key, times in seconds.items()}).items()  # 0: warm-up
    ratios = {key: ratio(times, visible[1]) for key, times in others}
    rows = [(visible[0], f"{1000 * median(visible[1]):,.1f}", "")]
    rows += [(key, f"{1000 * median(t):,.1f}", str(ratios[key])) for key, t in others]
    return Report(
        f"MAE's step, {name} encoder, batches of {b} ({what})",
        ("", "ms a step", "times as long"),
        tuple(rows),
        {
            f"{name}: {key} takes at least {TARGET:g} times as long": r.median >= TARGET
            for key, r in ratios.items()
        },
    )

"""Train, measure and use every method, with or without the stand-in, and print what came out.

usage: python everything.py [card]
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

if "card" in sys.argv[1:]:
    import stand_in  # noqa: F401  (from now on it is the machine's accelerator)

import torch
from PIL import Image

from cmssf_lib import data, share, train
from cmssf_lib.build import build
from cmssf_lib.cli import measure
from cmssf_lib.machine import fastest_device
from cmssf_lib.methods import CMSSF, DINO, MAE
from cmssf_lib.presets import METHODS, preset

DEVICES = set()


def small(method, **changes):
    """The quick preset with a few scenes and steps."""
    chosen = preset("quick", method)
    return replace(
        chosen,
        data=replace(chosen.data, train=360, test=60, validation=60),
        train=replace(chosen.train, epochs=1, batch_size=32),
        judge=replace(chosen.judge, per_class=2, draws=1, fine_tune=True, pixels=True),
        fine_tune=replace(chosen.fine_tune, steps=2, batch_size=10),
        **{part: replace(getattr(chosen, part), **values) for part, values in changes.items()},
    )


def tried(name, chosen):
    splits = data.load(chosen.data)
    training, held_out = splits.train.hold_out(60, 0)
    method = build(chosen, name, splits.train)
    if isinstance(method, CMSSF) and chosen.cmssf.freeze_image:
        quiet = {"say": lambda _: None, "keep": False, "progress": False}
        training = train.cache_features(method, training, views=2, **quiet)
        held_out = train.cache_features(method, held_out, **quiet)

    def look(now):
        DEVICES.add(next(now.parameters()).device.type)
        return measure.each_epoch(now, training, held_out, 32)

    run = train.fit(method, training, chosen.train, each_epoch=look, progress=False)
    if name == "fusion" and method.config.kind == "late":
        method.fit_rule(held_out)
    results, _ = measure.judge(method, splits, chosen)
    # What a reader does next, with what lies at hand.
    few = splits.test.subset(range(4))
    batch = next(data.batches(few, 4))
    with torch.no_grad():
        loss = float(method.eval().loss(batch)["loss"])
        if isinstance(method, MAE):
            method.reconstruct(few.images)
        if isinstance(method, DINO):
            method.attention(few.images)
        if name != "fusion":
            method.features(few.images).numpy()
    if isinstance(method, CMSSF) and not chosen.cmssf.image_loss:
        results |= search(method, few)
    row = {k: v for k, v in run.history[-1].items() if "second" not in k and "share" not in k}
    where = {tensor.device.type for tensor in method.state_dict().values()}
    assert where == {"cpu"}, where  # brought back
    return {"loss": loss, **row, **results}


def search(method, few):
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(few.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(Path(folder, f"{i}.png"))
        share.save_pretrained(method, Path(folder, "model"))
        model = share.from_pretrained(Path(folder, "model"))
        hits = share.index_folder(model, folder).find(model, few.captions[:1], 2)[0]
        return {f"hit {i}": hit.similarity for i, hit in enumerate(hits)}


VARIANTS = {name: (name, small(name)) for name in METHODS} | {
    "late": ("fusion", small("fusion", fusion={"kind": "late", "rule": "stacked"})),
    "coattention": (
        "fusion",
        small(
            "fusion",
            fusion={"kind": "coattention", "rule": "separate", "modalities": ("image", "text")},
        ),
    ),
    "frozen": ("cmssf", small("cmssf", cmssf={"freeze_image": True, "loss": "masked"})),
    "beside": ("cmssf", small("cmssf", cmssf={"image_loss": "dino", "loss": "excess", "chunk": 8})),
    "supcon": ("supervised", small("supervised", supervised={"loss": "supcon"})),
    "crops": ("dino", small("dino", dino={"local_crops": 2})),
}
found = {name: tried(*variant) for name, variant in VARIANTS.items()}
assert {fastest_device().type} == DEVICES, DEVICES  # it was trained there
print(json.dumps({"device": fastest_device().type, "found": found}), flush=True)
os._exit(0)  # not through the interpreter's end, where PyTorch's thread for the device may abort

"""Train, measure and use every method, with or without the stand-in, and print what came out.

usage: python everything.py [card]
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__" and "card" in sys.argv[1:]:
    import stand_in  # noqa: F401  (from now on it is the machine's accelerator)

import torch
from PIL import Image

from cmssf_lib import data, evaluate, share, train
from cmssf_lib.build import build
from cmssf_lib.cli import measure
from cmssf_lib.fusion import LateFusion
from cmssf_lib.machine import fastest_device
from cmssf_lib.methods import CMSSF, DINO, MAE
from cmssf_lib.presets import METHODS, preset
from cmssf_lib.views.geometry import affine, resize

DEVICES = set()


def small(method, **changes):
    """The quick preset with a few scenes and steps."""
    chosen = preset("quick", method)
    chosen = replace(chosen, data=replace(chosen.data, train=360, test=60, validation=60))
    return replace(
        chosen,
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


def measured():
    """Every measure, and what cards lack, with tensors that lie on the card."""
    device, random = fastest_device(), torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=random).to(device)

    x, y, labels = draw(60, 8), draw(60, 8), (torch.arange(60) % 3).to(device)
    predicted = {
        "knn": evaluate.knn(x, labels, y, 3, 5),
        "linear": evaluate.linear_probe(x, labels, y),
        "zero_shot": evaluate.zero_shot(x, y[:3]),
    }
    found = {name: evaluate.accuracy(each, labels) for name, each in predicted.items()}
    found["right"] = int(evaluate.confusion(predicted["linear"], labels, 3).trace())
    found |= evaluate.retrieval(x, y, labels, labels)
    found |= evaluate.exact_caption_retrieval(x, y[:5], labels)
    found |= evaluate.pair_similarity(x, y, labels)
    found["nearest"] = float(share.nearest(x, y, 2)[0].sum())
    chosen = replace(preset("quick", "fusion").fusion, kind="late", rule="stacked")
    late = LateFusion(chosen, vocabulary=5, classes=3).to(device)
    modalities = len(chosen.modalities)
    answers, presence = draw(60, modalities, 3).log_softmax(2), draw(60, modalities) < 2
    late.fit_rules(answers, presence, labels)
    for rule in late.rules:
        found[rule] = float(late.combine(answers, presence, rule).std())
    pictures = draw(2, 3, 8, 8).sigmoid()
    found["resized"] = float(resize(pictures, (5, 5), "bicubic").std())
    found["turned"] = float(affine(pictures, turn=0.3).mean())
    return found


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

if __name__ == "__main__":
    found = {name: tried(*variant) for name, variant in VARIANTS.items()}
    found["measures"] = measured()
    assert {fastest_device().type} == DEVICES, DEVICES  # it was trained there
    print(json.dumps({"device": fastest_device().type, "found": found}), flush=True)
    os._exit(
        0
    )  # not through the interpreter's end, where PyTorch's thread for the device may abort

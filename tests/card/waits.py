"""Count how often each method waits for the stand-in in a training step.

A real card computes while Python goes on. Whatever needs a number of it (`item`, a copy to the
processor, a shape that depends on values) waits until all earlier work is done.
"""

import json
import os
import sys
import traceback
from dataclasses import replace

import stand_in
import torch

from cmssf_lib import data, train
from cmssf_lib.build import build
from cmssf_lib.presets import METHODS, preset

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "is_nonzero", "equal"}
UPLOADS = "uploads" in sys.argv[1:]  # copies from the processor, too, which no graph can hold
waits = []
usual = stand_in.OnCard.__torch_dispatch__.__func__


def counted(cls, operation, types, args=(), kwargs=None):
    name = operation._schema.name.removeprefix("aten::")
    device = (kwargs or {}).get("device")
    uploaded = name in ("_to_copy", "copy_", "_copy_from") and any(
        isinstance(x, torch.Tensor) and not isinstance(x, cls) for x in args
    )
    down = name == "_to_copy" and device is not None and device.type == "cpu"
    if name in WAITING or down or (uploaded and UPLOADS):
        ours = [f for f in traceback.extract_stack() if "/cmssf_lib/" in f.filename]
        waits.append(f"{name} at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}")
    return usual(cls, operation, types, args, kwargs)


stand_in.OnCard.__torch_dispatch__ = classmethod(counted)


def with_views_of_photographs(chosen, name):
    """They change colours, too; fusion has no views."""
    if name == "fusion":
        return chosen
    views = getattr(preset("standard", name), name).views
    return replace(chosen, **{name: replace(getattr(chosen, name), views=views)})


def waits_in(name, steps):
    """Train one epoch of this many steps; return where it waited."""
    waits.clear()
    chosen = with_views_of_photographs(preset("quick", name), name)
    chosen = replace(chosen, data=replace(chosen.data, train=16 * steps + 8, test=20))
    config = replace(chosen.train, epochs=1, batch_size=16)
    if name == "moco":
        chosen = replace(chosen, moco=replace(chosen.moco, queue=64))
    training = data.load(chosen.data).train
    train.fit(build(chosen, name, training), training, config, progress=False)
    return sorted(waits)


found = {}
for name in METHODS:
    few, many = waits_in(name, 3), waits_in(name, 7)
    for wait in few:
        if wait in many:
            many.remove(wait)
    found[name] = many
print(json.dumps(found), flush=True)
os._exit(0)  # not through the interpreter's end, where PyTorch's thread for the device may abort

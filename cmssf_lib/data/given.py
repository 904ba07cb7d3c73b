"""What people give as pictures, labels and texts: taken where that is harmless, else refused."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmssf_lib.data.stored import StoredPictures


def taken(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `ImageTextData`, with arrays and lists as tensors and tuples.

    Integers of any kind become int64 labels. What is neither stays, for `problems` to name.
    """
    own = {name: as_texts(fields[name]) for name in ("captions", "class_names")}
    own |= {name: _as_tensor(fields[name]) for name in ("images", "labels", "sounds", "features")}
    if isinstance(labels := own["labels"], Tensor) and torch.can_cast(labels.dtype, torch.int64):
        own["labels"] = labels.long()
    attributes = {key: _as_tensor(value) for key, value in fields["attributes"].items()}
    return {**own, "attributes": attributes}


def problems(data: Any) -> Iterator[str]:
    """Yield what is wrong with an `ImageTextData`; each check assumes that the earlier passed."""
    if isinstance(data.images, Tensor | StoredPictures) and data.images.shape.numel() == 0:
        yield "the data is empty; expected at least one picture"
    # A word in a shape stands for any length above zero.
    if not isinstance(data.images, StoredPictures):  # those are of one kind
        yield from _misfit("images", data.images, torch.uint8, ("n", 3, "height", "width"))
    n, classes = len(data), len(data.class_names)
    yield from _misfit("labels", data.labels, torch.int64, (n,))
    if data.sounds is not None:
        yield from _misfit("sounds", data.sounds, torch.float32, (n, "samples"))
    if data.features is not None:
        yield from _misfit("features", data.features, torch.float32, (n, "views", "length"))
    for key, value in data.attributes.items():
        kind, more = getattr(value, "dtype", "numbers"), getattr(value, "shape", ())[1:]
        yield from _misfit(f"attributes[{key!r}]", value, kind, (n, *more))
    for what, texts in (("class name", data.class_names), ("caption", data.captions)):
        if not isinstance(texts, tuple):
            yield f"{what}s must be a list of texts; got {texts!r:.80}"
        for i, entry in enumerate(texts):
            several = what == "caption" and entry and isinstance(entry, tuple)
            for fault in filter(None, map(text_fault, entry if several else [entry])):
                yield f"{what} {i} {fault}; every image needs a text, every class a name"
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= classes:
        yield f"labels run from {low} to {high}, but {classes} classes need 0 to {classes - 1}"
    if len(data.captions) != n:
        yield f"{n} images but {len(data.captions)} captions; every image needs one"
    if data.sounds is not None:
        for i in (~data.sounds.isfinite()).any(dim=1).nonzero().flatten().tolist():
            yield f"sound {i} holds NaN or infinity"


def text_fault(text: object) -> str:
    """Return what keeps this from being a caption, such as "is empty"; "" if it can be one."""
    if not isinstance(text, str):
        return f"is {text!r:.80}, not a text"
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can write it, and a shell with bytes that are not UTF-8
        return f"holds half of a character: {text!a:.80}"
    return "" if text.strip() else "is empty"


def as_texts(given: Any) -> Any:
    """Return lists and arrays of texts as tuples, and numpy's texts as Python's.

    Anything else (None, a number, or a set, which has no order) stays as it is.
    """
    if type(given) is str:  # nearly always
        return given
    given = _as_list(given)
    return tuple(map(as_texts, given)) if isinstance(given, list | tuple) else given


def _as_list(given: Any) -> Any:
    """Return arrays of numpy and pandas as lists; anything else stays as it is."""
    return given.tolist() if hasattr(given, "tolist") else given


def _as_tensor(given: Any) -> Any:
    """Return an array or a list of numbers as a tensor; anything else stays as it is."""
    if given is None or isinstance(given, Tensor | StoredPictures):
        return given
    try:  # torch warns of an array that is read-only, and refuses one that runs backwards
        return torch.as_tensor(np.require(given, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError):
        return given


def _misfit(what: str, given: Any, dtype: object, shape: Sequence[int | str]) -> Iterator[str]:
    """Yield why something is not a tensor of this kind, if it is not."""
    got = ""
    if not isinstance(given, Tensor):
        each = enumerate(given) if isinstance(given := _as_list(given), list | tuple) else ()
        strange = (f"{entry!r:.80} at {i}" for i, entry in each if not isinstance(entry, Number))
        got = next(strange, f"{given!r:.80}")
    elif given.dtype != dtype or not _fits(given.shape, shape):
        got = f"{given.dtype} of shape {tuple(given.shape)}"
        if what == "images":
            got += "; scale floats in [0, 1] by 255 and put the channels first"
        elif given.isnan().any():
            got += f" with NaN at {int(given.flatten().isnan().nonzero()[0])}"
    if got:
        written = str(tuple(shape)).replace("'", "")
        yield f"{what}: expected {dtype} of shape {written}, one for each image; got {got}"


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(
        got > 0 if isinstance(wanted, str) else got == wanted
        for got, wanted in zip(shape, expected, strict=True)
    )

"""The one shape all data takes: pictures, labels, captions and perhaps sounds, all in memory."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

Rows = Int[Tensor, " m"] | Bool[Tensor, " mask"] | Sequence[int]


@dataclass(frozen=True, eq=False)
class ImageTextData:
    """A set of pictures, each with a label and a caption.

    Attributes:
        images: ``(n, 3, height, width)``, uint8, RGB.
        labels: ``(n,)``, int64, each an index into ``class_names``.
        captions: One text for each picture.
        class_names: What the labels stand for.
        name: Shown in figures and errors, such as "digit scenes, colour".
        attributes: What else is known about each picture, ``(n,)`` each. For colour scenes
            "colour", "ground" and "size" are indices into the lists of `cmssf_lib.captions`,
            and "digit_id" says which handwritten digit was used.
        sounds: ``(n, samples)``, float32, one waveform for each picture, or ``None`` if the data
            has no sounds.
        features: ``(n, views, length)``, float32, what a frozen image encoder made of some views
            of each picture (see `cmssf_lib.train.cache_features`), or ``None``.

    Raises:
        ValueError: If a tensor has another dtype or shape, a label is no index into
            ``class_names``, a caption is empty, a sound is not finite, or there is no picture.
    """

    images: UInt8[Tensor, "n 3 height width"]
    labels: Int64[Tensor, " n"]
    captions: tuple[str, ...]
    class_names: tuple[str, ...]
    name: str = "unnamed"
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    sounds: Float[Tensor, "n samples"] | None = None
    features: Float[Tensor, "n views length"] | None = None

    def __post_init__(self) -> None:
        if problem := next(self._problems(), None):
            raise ValueError(f"{self.name}: {problem}")

    def _problems(self) -> Iterator[str]:
        """Say what is wrong with the data. Each check relies on those before it."""
        if self.images.numel() == 0:
            yield "the data is empty; expected at least one picture"
        n: tuple[int, ...] = self.images.shape[:1]
        attributes = self.attributes.items()
        for what, tensor, dtype, shape in (  # in a shape, a word is any length but zero
            ("images", self.images, torch.uint8, ("n", 3, "height", "width")),
            ("labels", self.labels, torch.int64, n),
            ("sounds", self.sounds, torch.float32, (*n, "samples")),
            ("features", self.features, torch.float32, (*n, "views", "length")),
            *((f"attributes[{k!r}]", v, v.dtype, (*n, *v.shape[1:])) for k, v in attributes),
        ):
            if tensor is not None and not (tensor.dtype == dtype and _fits(tensor.shape, shape)):
                written = str(tuple(shape)).replace("'", "")
                got = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                if what == "images":
                    got += "; scale floats in [0, 1] by 255 and put the channels first"
                yield f"{what}: expected {dtype} of shape {written}, one for each image; got {got}"
        low, high, classes = int(self.labels.min()), int(self.labels.max()), len(self.class_names)
        if low < 0 or high >= classes:
            yield f"labels run from {low} to {high}; {classes} classes are 0 to {classes - 1}"
        if len(self.captions) != len(self):
            yield f"{len(self)} images but {len(self.captions)} captions; every image needs one"
        for i, caption in enumerate(self.captions):
            if not caption.strip():
                yield f"caption {i} is empty; every image needs a text"
        if self.sounds is not None:
            for i in (~self.sounds.isfinite()).any(dim=1).nonzero().flatten().tolist():
                yield f"sound {i} holds a value that is not finite"

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def unique_captions(self) -> tuple[str, ...]:
        """The different captions, in the order of their first appearance."""
        return tuple(dict.fromkeys(self.captions))

    @cached_property
    def caption_index(self) -> Int64[Tensor, " n"]:
        """For each picture, where its caption stands in ``unique_captions``; shape ``(n,)``."""
        place = {caption: i for i, caption in enumerate(self.unique_captions)}
        return torch.tensor([place[c] for c in self.captions], device=self.images.device)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when an image, label, caption or sound does."""
        # repr puts each text in quotes: two texts never look like one.
        facts = (tuple(self.images.shape), tuple(self.class_names))
        parts = [facts, self.images, self.labels, tuple(self.captions)]
        if self.sounds is not None:  # data without them keeps what runs recorded before
            parts += [tuple(self.sounds.shape), self.sounds]
        digest = hashlib.sha256()
        for part in parts:
            bits = part.cpu().contiguous().numpy().data if isinstance(part, Tensor) else None
            digest.update(repr(part).encode() if bits is None else bits)
        return digest.hexdigest()[:16]

    def subset(self, indices: Rows) -> "ImageTextData":
        """Return the pictures at these places, in this order.

        Args:
            indices: Whole numbers, or a mask such as ``data.labels == 3``.

        Raises:
            ValueError: If nothing is chosen, or a mask is not as long as the data.
        """
        chosen = torch.as_tensor(indices, device=self.images.device)
        mask = chosen.dtype == torch.bool
        if mask and chosen.shape != self.labels.shape:
            raise ValueError(f"a mask of {len(chosen)} cannot choose among {len(self)} pictures")
        rows = chosen.nonzero().flatten() if mask else chosen.to(torch.int64)
        captions = tuple(self.captions[i] for i in rows.tolist())
        return self._each(lambda tensor: tensor[rows], captions)

    def hold_out(self, count: int, seed: int) -> tuple["ImageTextData", "ImageTextData"]:
        """Split off a validation set, so that choices never look at the test set.

        Args:
            count: Number of pictures held out, drawn at random.
            seed: The same seed holds out the same pictures.

        Returns:
            The rest, and the held-out part.

        Raises:
            ValueError: If nothing would be held out or nothing left.
        """
        if not 0 < count < len(self):
            raise ValueError(f"cannot hold out {count} of {len(self)} pictures")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[count:].sort().values), self.subset(order[:count].sort().values)

    def to(self, device: torch.device | str) -> "ImageTextData":
        """Return the same data with its tensors on ``device``."""
        return self._each(lambda tensor: tensor.to(device), self.captions)

    def _each(self, change: Callable[[Tensor], Tensor], texts: tuple[str, ...]) -> "ImageTextData":
        """Return the data with every tensor changed and with these texts for captions."""
        own = {name: getattr(self, name) for name in ("images", "labels", "sounds", "features")}
        changed: dict[str, Any] = {k: change(v) for k, v in own.items() if v is not None}
        attributes = {key: change(value) for key, value in self.attributes.items()}
        return replace(self, captions=texts, attributes=attributes, **changed)


class Splits(NamedTuple):
    """A training set and a test set that share no picture."""

    train: ImageTextData
    test: ImageTextData


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Turn pictures in [0, 1] into bytes, clipping what lies outside."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(
        got > 0 if isinstance(wanted, str) else got == wanted
        for got, wanted in zip(shape, expected, strict=True)
    )

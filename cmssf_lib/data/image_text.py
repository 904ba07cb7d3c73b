"""The one shape all data takes, in memory as a whole, and the batches that a step is given."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from cmssf_lib.machine import step_seed

Rows = Int[Tensor, " m"] | Bool[Tensor, " mask"] | Sequence[int]


@dataclass(frozen=True, eq=False)
class ImageTextData:
    """A set of pictures, each with a label and a caption.

    Raises:
        ValueError: If a tensor has another dtype or shape, a label is no index into
            ``class_names``, a caption is empty, a sound is not finite, or there is no picture.
    """

    images: UInt8[Tensor, "n 3 height width"]  # RGB
    labels: Int64[Tensor, " n"]  # each an index into `class_names`
    captions: tuple[str, ...]  # one text for each picture
    class_names: tuple[str, ...]  # what the labels stand for
    name: str = "unnamed"  # shown in figures and errors, such as "digit scenes, colour"
    # What else is known about each picture, (n,) each: of colour scenes which "colour", "ground"
    # and "size" (indices into the lists of `captions`) and which handwritten digit ("digit_id").
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    sounds: Float[Tensor, "n samples"] | None = None  # one waveform for each picture
    # What a frozen image encoder made of some views of each picture (`train.cache_features`).
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


@dataclass(frozen=True, eq=False)
class Batch:
    """What a training step is given: b pictures, and the u different captions among them."""

    images: UInt8[Tensor, "b 3 height width"]
    labels: Int64[Tensor, " b"]
    captions: tuple[str, ...]  # different ones: each is encoded once, whoever shares it
    caption_index: Int64[Tensor, " b"]  # where each picture's caption stands in `captions`
    index: Int64[Tensor, " b"]  # where each picture stands in the data
    sounds: Float[Tensor, "b samples"] | None = None
    features: Float[Tensor, "b views length"] | None = None
    # In a part of a batch: where each caption stands among those of the whole batch.
    whole_index: Int64[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def groups(self) -> Int64[Tensor, " b"]:
        """Equal numbers for equal captions, here and in the other parts of the batch."""
        return self.caption_index if self.whole_index is None else self.whole_index

    def part(self, number: int, of: int) -> "Batch":
        """Return part ``number``, from 0, ``of`` so many equal ones; each process trains on one."""
        first, last = number * len(self) // of, (number + 1) * len(self) // of
        rows = torch.arange(first, last, device=self.index.device)
        part = make_batch(self, rows)
        return replace(part, index=self.index[rows], whole_index=self.caption_index[rows])


def make_batch(source: ImageTextData | Batch, rows: Int64[Tensor, " b"]) -> Batch:
    """Collect some pictures of the data, or of a larger batch, and the captions among them."""
    captions = source.captions if isinstance(source, Batch) else source.unique_captions
    used, caption_index = torch.unique(source.caption_index[rows], return_inverse=True)
    # images[rows] would copy byte by byte; index_select copies whole pictures, ten times as fast.
    return Batch(
        images=source.images.index_select(0, rows),
        labels=source.labels[rows],
        captions=tuple(captions[i] for i in used.tolist()),
        caption_index=caption_index,
        index=rows,
        sounds=None if source.sounds is None else source.sounds.index_select(0, rows),
        features=None if source.features is None else source.features.index_select(0, rows),
    )


def batches(
    data: ImageTextData,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Iterator[Batch]:
    """Go through the data once.

    The order follows from ``seed`` and ``epoch`` alone, so a run that was interrupted after
    ``start`` batches goes on with the same epoch where it stopped.

    Args:
        data: Already on the device it is wanted on.
        batch_size: Pictures in each batch.
        seed: Of the run.
        epoch: Counted from 0; every epoch has an order of its own.
        start: Number of batches to leave out at the beginning.
        shuffle: If false, the data's own order.
        drop_last: Leave out a last batch that is not full. A contrastive loss needs it: its
            value depends on the size of the batch.

    Yields:
        One `Batch` after another.

    Raises:
        ValueError: If the batch size is not positive, or no full batch can be made.
    """
    n = len(data)
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive; got {batch_size}")
    if drop_last and n < batch_size:
        raise ValueError(f"{data.name} holds {n} pictures, fewer than one batch of {batch_size}")
    random = torch.Generator().manual_seed(step_seed(seed, epoch))
    order = torch.randperm(n, generator=random) if shuffle else torch.arange(n)
    if drop_last:
        order = order[: n - n % batch_size]
    for rows in torch.split(order.to(data.images.device), batch_size)[start:]:
        yield make_batch(data, rows)


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(
        got > 0 if isinstance(wanted, str) else got == wanted
        for got, wanted in zip(shape, expected, strict=True)
    )

"""The one format of all data sets, held in memory, and the batches that a step trains on."""

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
        ValueError: If there is no picture, a tensor has the wrong dtype or shape, a label is out
            of range, a caption is empty or missing, or a sound holds NaN or infinity.
    """

    images: UInt8[Tensor, "n 3 height width"]  # RGB
    labels: Int64[Tensor, " n"]  # each an index into `class_names`
    captions: tuple[str, ...]  # one text for each picture
    class_names: tuple[str, ...]  # one for each label value
    name: str = "unnamed"  # shown in figures and errors, such as "digit scenes, colour"
    # Further facts about each picture, (n,) each. Colour scenes have "colour", "ground" and "size"
    # (indices into the lists of `captions`) and "digit_id" (which handwritten digit was used).
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    sounds: Float[Tensor, "n samples"] | None = None  # one waveform for each picture
    # Outputs of a frozen image encoder for some views of each picture (`train.cache_features`).
    features: Float[Tensor, "n views length"] | None = None

    def __post_init__(self) -> None:
        if problem := next(self._problems(), None):
            raise ValueError(f"{self.name}: {problem}")

    def _problems(self) -> Iterator[str]:
        """Yield what is wrong with the data. Each check assumes that the earlier ones passed."""
        if self.images.numel() == 0:
            yield "the data is empty; expected at least one picture"
        n: tuple[int, ...] = self.images.shape[:1]
        attributes = self.attributes.items()
        for what, tensor, dtype, shape in (  # a word in a shape stands for any length above zero
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
            yield f"labels run from {low} to {high}, but {classes} classes need 0 to {classes - 1}"
        if len(self.captions) != len(self):
            yield f"{len(self)} images but {len(self.captions)} captions; every image needs one"
        for i, caption in enumerate(self.captions):
            if not caption.strip():
                yield f"caption {i} is empty; every image needs a text"
        if self.sounds is not None:
            for i in (~self.sounds.isfinite()).any(dim=1).nonzero().flatten().tolist():
                yield f"sound {i} holds NaN or infinity"

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def unique_captions(self) -> tuple[str, ...]:
        """The distinct captions, in order of first appearance."""
        return tuple(dict.fromkeys(self.captions))

    @cached_property
    def caption_index(self) -> Int64[Tensor, " n"]:
        """The index of each picture's caption in ``unique_captions``, ``(n,)``, on the CPU."""
        place = {caption: i for i, caption in enumerate(self.unique_captions)}
        return torch.tensor([place[caption] for caption in self.captions])

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when an image, label, caption or sound does."""
        # repr quotes each text, so two texts cannot be mistaken for one.
        facts = (tuple(self.images.shape), tuple(self.class_names))
        parts = [facts, self.images, self.labels, tuple(self.captions)]
        if self.sounds is not None:  # without sounds the digits stay those of earlier records
            parts += [tuple(self.sounds.shape), self.sounds]
        digest = hashlib.sha256()
        for part in parts:
            bits = part.cpu().contiguous().numpy().data if isinstance(part, Tensor) else None
            digest.update(repr(part).encode() if bits is None else bits)
        return digest.hexdigest()[:16]

    def subset(self, indices: Rows) -> "ImageTextData":
        """Return the pictures at these indices, or of a mask such as ``data.labels == 3``.

        Raises:
            ValueError: If nothing is chosen, or a mask and the data differ in length.
        """
        chosen = torch.as_tensor(indices, device=self.images.device)
        mask = chosen.dtype == torch.bool
        if mask and chosen.shape != self.labels.shape:
            raise ValueError(f"a mask of length {len(chosen)} does not fit {len(self)} pictures")
        rows = chosen.nonzero().flatten() if mask else chosen.to(torch.int64)
        captions = tuple(self.captions[i] for i in rows.tolist())
        return self._each(lambda tensor: tensor[rows], captions)

    def hold_out(self, count: int, seed: int) -> tuple["ImageTextData", "ImageTextData"]:
        """Split off a random validation set, so that no choice depends on the test set.

        Args:
            count: Number of pictures to hold out.
            seed: The same seed holds out the same pictures.

        Returns:
            The rest, and the held-out part.

        Raises:
            ValueError: If one of the two parts would be empty.
        """
        if not 0 < count < len(self):
            raise ValueError(f"cannot hold out {count} of {len(self)} pictures")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[count:].sort().values), self.subset(order[:count].sort().values)

    def to(self, device: torch.device | str) -> "ImageTextData":
        """Return the same data with its tensors on ``device``."""
        return self._each(lambda tensor: tensor.to(device), self.captions)

    def _each(self, change: Callable[[Tensor], Tensor], texts: tuple[str, ...]) -> "ImageTextData":
        """Return a copy with ``change`` applied to every tensor, and ``texts`` as captions."""
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
    """The input of a training step: b pictures, and the u distinct captions among them."""

    images: UInt8[Tensor, "b 3 height width"]
    labels: Int64[Tensor, " b"]
    captions: tuple[str, ...]  # distinct: a caption that several pictures share is encoded once
    caption_index: Int64[Tensor, " b"]  # of each picture's caption in `captions`
    index: Int64[Tensor, " b"]  # of each picture in the data
    sounds: Float[Tensor, "b samples"] | None = None
    features: Float[Tensor, "b views length"] | None = None
    # In a part of a batch: the index of each caption in the captions of the whole batch.
    whole_index: Int64[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def groups(self) -> Int64[Tensor, " b"]:
        """An id of each picture's caption, the same in all parts of a batch."""
        return self.caption_index if self.whole_index is None else self.whole_index

    def part(self, number: int, of: int) -> "Batch":
        """Return part ``number`` (from 0) of ``of`` equal parts; each process trains on one."""
        first, last = number * len(self) // of, (number + 1) * len(self) // of
        rows = slice(first, last)
        part = make_batch(self, torch.arange(first, last))
        return replace(part, index=self.index[rows], whole_index=self.caption_index[rows])


def make_batch(source: ImageTextData | Batch, rows: Int64[Tensor, " b"]) -> Batch:
    """Make a batch of these rows of a data set or of a larger batch."""
    captions = source.captions if isinstance(source, Batch) else source.unique_captions
    # On the CPU, where the strings are: it would have to wait for a GPU's numbers.
    used, own = torch.unique(source.caption_index.cpu()[rows.cpu()], return_inverse=True)
    rows, caption_index = (x.to(source.images.device, non_blocking=True) for x in (rows, own))
    # index_select copies whole pictures: ten times as fast as images[rows], which copies bytes.
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
    """Iterate over the data once.

    The order depends only on ``seed`` and ``epoch``, so a run that was interrupted after
    ``start`` batches can continue the same epoch.

    Args:
        data: Already on the device where the batches are needed.
        batch_size: Number of pictures in each batch.
        seed: Of the run.
        epoch: Counted from 0; every epoch has its own order.
        start: Number of batches to skip at the beginning.
        shuffle: If false, keep the order of the data.
        drop_last: Skip a last batch that is not full. Contrastive losses need this, because
            their value depends on the batch size.

    Yields:
        One `Batch` after another.

    Raises:
        ValueError: If the batch size is not positive, or ``drop_last`` would skip everything.
    """
    n = len(data)
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive; got {batch_size}")
    if drop_last and n < batch_size:
        raise ValueError(f"{data.name} has {n} pictures, too few for a batch of {batch_size}")
    random = torch.Generator().manual_seed(step_seed(seed, epoch))
    order = torch.randperm(n, generator=random) if shuffle else torch.arange(n)
    if drop_last:
        order = order[: n - n % batch_size]
    for rows in torch.split(order, batch_size)[start:]:
        yield make_batch(data, rows)


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(
        got > 0 if isinstance(wanted, str) else got == wanted
        for got, wanted in zip(shape, expected, strict=True)
    )

"""What a training step is given: pictures, and the different captions among them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from cmssf_lib.data.image_text import ImageTextData


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method's ``loss`` is given.

    Attributes:
        images: ``(b, 3, height, width)``, uint8.
        labels: ``(b,)``, int64.
        captions: The ``u`` different captions of this batch. A text encoder encodes each of
            them once, however many pictures share it.
        caption_index: ``(b,)``, int64, where each picture's caption stands in ``captions``.
        index: ``(b,)``, int64, where each picture stands in the data.
        sounds: ``(b, samples)``, float32, or ``None`` if the data has no sounds.
        features: ``(b, views, length)``, float32, of a frozen image encoder, or ``None``.
        whole_index: ``(b,)``, int64, in a part of a batch: where each caption stands among the
            captions of the whole batch. ``None`` if this is the whole batch.
    """

    images: UInt8[Tensor, "b 3 height width"]
    labels: Int64[Tensor, " b"]
    captions: tuple[str, ...]
    caption_index: Int64[Tensor, " b"]
    index: Int64[Tensor, " b"]
    sounds: Float[Tensor, "b samples"] | None = None
    features: Float[Tensor, "b views length"] | None = None
    whole_index: Int64[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def groups(self) -> Int64[Tensor, " b"]:
        """Equal numbers for equal captions, here and in the other parts of the batch."""
        return self.caption_index if self.whole_index is None else self.whole_index

    def part(self, number: int, of: int) -> "Batch":
        """Return one of several equal parts; each process trains on one.

        Args:
            number: Which part, counted from 0.
            of: How many parts; it divides the number of pictures.
        """
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


def step_seed(*parts: int) -> int:
    """Mix whole numbers (a run's seed, an epoch, a step, a process) into one seed of 63 bits."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

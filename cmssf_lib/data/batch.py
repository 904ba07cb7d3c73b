"""What a training step is given: pictures, and the different captions among them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

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
        captions: The ``u`` different captions of this batch: a text encoder that encodes
            each of them once does all the work there is.
        caption_index: ``(b,)``, int64, where each picture's caption stands in ``captions``.
        index: ``(b,)``, int64, where each picture stands in the data.
        sounds: ``(b, samples)``, float32, or ``None`` where nothing is heard.
        features: ``(b, views, length)``, float32, of a frozen image encoder, or ``None``.
        whole_index: ``(b,)``, int64, of a part of a batch: where each caption stands among those
            of the whole batch. ``None`` where this is the whole.
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
        """Return one of several equal parts, for one of as many processes.

        Args:
            number: From 0.
            of: How many parts; the pictures divide among them.
        """
        rows = slice(number * len(self) // of, (number + 1) * len(self) // of)
        captions, index = torch.unique(self.caption_index[rows], return_inverse=True)
        return Batch(
            images=self.images[rows],
            labels=self.labels[rows],
            captions=tuple(self.captions[i] for i in captions.tolist()),
            caption_index=index,
            index=self.index[rows],
            sounds=None if self.sounds is None else self.sounds[rows],
            features=None if self.features is None else self.features[rows],
            whole_index=self.caption_index[rows],
        )


def make_batch(data: ImageTextData, index: Int64[Tensor, " b"]) -> Batch:
    """Collect the pictures at ``index`` and the different captions among them."""
    unique, inverse = torch.unique(data.caption_index[index], return_inverse=True)
    # images[index] would copy byte by byte; index_select copies whole pictures, ten times as fast.
    return Batch(
        images=data.images.index_select(0, index),
        labels=data.labels[index],
        captions=tuple(data.unique_captions[i] for i in unique.tolist()),
        caption_index=inverse,
        index=index,
        sounds=None if data.sounds is None else data.sounds.index_select(0, index),
        features=None if data.features is None else data.features.index_select(0, index),
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
    ``start`` batches takes up the same epoch where it stopped.

    Args:
        data: Already on the device it is wanted on.
        batch_size: Pictures a batch.
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
        raise ValueError(
            f"{data.name} holds {n} pictures, fewer than one batch of {batch_size}: "
            "choose a smaller batch"
        )
    order = torch.arange(n)
    if shuffle:
        generator = torch.Generator().manual_seed(step_seed(seed, epoch))
        order = torch.randperm(n, generator=generator)
    order = order.to(data.images.device)
    end = n - n % batch_size if drop_last else n
    for first in range(start * batch_size, end, batch_size):
        yield make_batch(data, order[first : first + batch_size])


def step_seed(*parts: int) -> int:
    """Mix whole numbers (a run's seed, an epoch, a step, a rank) into one seed of 63 bits."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

"""The one shape all data takes: pictures, labels, captions and perhaps sounds, all in memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor


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
        sounds: ``(n, samples)``, float32, one waveform for each picture, or ``None`` where
            nothing is heard.
    """

    images: UInt8[Tensor, "n 3 height width"]
    labels: Int64[Tensor, " n"]
    captions: tuple[str, ...]
    class_names: tuple[str, ...]
    name: str = "unnamed"
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    sounds: Float[Tensor, "n samples"] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"{self.name}: images are uint8 of shape (n, 3, height, width); got "
                f"{images.dtype} of shape {tuple(images.shape)}. Scale floats in [0, 1] by 255 "
                "and put the channels first"
            )
        if len(images) == 0:
            raise ValueError(f"{self.name}: the data is empty; expected at least one picture")
        if labels.shape != (len(images),) or labels.dtype != torch.int64:
            raise ValueError(
                f"{self.name}: labels are int64 of shape ({len(images)},), one an image; got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        if len(self.captions) != len(images):
            raise ValueError(
                f"{self.name}: {len(images)} images but {len(self.captions)} captions; "
                "every image needs one"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{self.name}: labels run from {low} to {high}, but there are "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1})"
            )
        empty = next((i for i, text in enumerate(self.captions) if not text.strip()), None)
        if empty is not None:
            raise ValueError(f"{self.name}: caption {empty} is empty; every image needs a text")
        for key, value in self.attributes.items():
            if value.shape[:1] != (len(images),):
                raise ValueError(
                    f"{self.name}: the attribute {key!r} has shape {tuple(value.shape)}; expected "
                    f"one value for each of {len(images)} images"
                )
        if self.sounds is not None:
            self._check_sounds(self.sounds)

    def _check_sounds(self, sounds: Tensor) -> None:
        n, shape = len(self.images), tuple(sounds.shape)
        if sounds.ndim != 2 or shape[0] != n or shape[1] == 0 or sounds.dtype != torch.float32:
            raise ValueError(
                f"{self.name}: sounds are float32 of shape ({n}, samples), one an image; got "
                f"{sounds.dtype} of shape {shape}"
            )
        broken = (~sounds.isfinite()).any(dim=1).nonzero().flatten()
        if len(broken):
            raise ValueError(
                f"{self.name}: sound {int(broken[0])} holds a value that is not finite; "
                "every sample has to be a number"
            )

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
        digest = hashlib.sha256()
        digest.update(repr((tuple(self.images.shape), tuple(self.class_names))).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        digest.update(repr(tuple(self.captions)).encode())  # quoted: no text passes for two
        if self.sounds is not None:  # without them, the digits that older runs recorded
            digest.update(repr(tuple(self.sounds.shape)).encode())
            digest.update(self.sounds.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def subset(
        self, indices: Int[Tensor, " m"] | Bool[Tensor, " mask"] | Sequence[int]
    ) -> "ImageTextData":
        """Return the pictures at these places, in this order.

        Args:
            indices: Whole numbers, or a mask such as ``data.labels == 3``.

        Raises:
            ValueError: If nothing is chosen, or a mask is not as long as the data.
        """
        chosen = torch.as_tensor(indices, device=self.images.device)
        if chosen.dtype == torch.bool:
            if chosen.shape != (len(self),):
                raise ValueError(
                    f"{self.name}: a mask of shape {tuple(chosen.shape)} cannot choose among "
                    f"{len(self)} pictures"
                )
            chosen = chosen.nonzero().flatten()
        chosen = chosen.to(torch.int64)
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            captions=tuple(self.captions[i] for i in chosen.tolist()),
            attributes={key: value[chosen] for key, value in self.attributes.items()},
            sounds=None if self.sounds is None else self.sounds[chosen],
        )

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
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            attributes={key: value.to(device) for key, value in self.attributes.items()},
            sounds=None if self.sounds is None else self.sounds.to(device),
        )


class Splits(NamedTuple):
    """A training set and a test set that share no picture."""

    train: ImageTextData
    test: ImageTextData


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
    """

    images: UInt8[Tensor, "b 3 height width"]
    labels: Int64[Tensor, " b"]
    captions: tuple[str, ...]
    caption_index: Int64[Tensor, " b"]
    index: Int64[Tensor, " b"]
    sounds: Float[Tensor, "b samples"] | None = None

    def __len__(self) -> int:
        return len(self.images)


def make_batch(data: ImageTextData, index: Int64[Tensor, " b"]) -> Batch:
    """Collect the pictures at ``index`` and the different captions among them."""
    unique, inverse = torch.unique(data.caption_index[index], return_inverse=True)
    return Batch(
        images=data.images[index],
        labels=data.labels[index],
        captions=tuple(data.unique_captions[i] for i in unique.tolist()),
        caption_index=inverse,
        index=index,
        sounds=None if data.sounds is None else data.sounds[index],
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

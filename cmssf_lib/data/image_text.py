"""The one format of all data sets, and the batches that a step trains on."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from cmssf_lib.data.given import problems, taken
from cmssf_lib.data.stored import StoredPictures, in_turn
from cmssf_lib.machine import step_seed

Captions = tuple[str | tuple[str, ...], ...]
Indices = Int64[Tensor, " _"]
Rows = Int[Tensor, " m"] | Bool[Tensor, " mask"] | Sequence[int]


@dataclass(frozen=True, eq=False)
class ImageTextData:
    """A set of pictures, each with a label and a caption, or several.

    Lists and arrays of numpy or pandas are taken as tensors and tuples. Of several captions,
    `batches` draws one for each picture and epoch, and evaluation counts them all.

    Raises:
        ValueError: If there is no picture, a tensor has the wrong dtype or shape, a label is out
            of range, a caption is empty, missing or no text, or a sound holds NaN or infinity.
    """

    images: UInt8[Tensor, "n 3 height width"] | StoredPictures  # RGB; in memory, or on disk
    labels: Int64[Tensor, " n"]  # each an index into `class_names`
    captions: Captions  # for each picture a text, or a tuple of several
    class_names: tuple[str, ...]  # one for each label value
    name: str = "unnamed"  # shown in figures and errors, such as "digit scenes, colour"
    # Further facts about each picture, (n,) each. Colour scenes have "colour", "ground" and "size"
    # (indices into the lists of `captions`) and "digit_id" (which handwritten digit was used).
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    sounds: Float[Tensor, "n samples"] | None = None  # one waveform for each picture
    # Outputs of a frozen image encoder for some views of each picture (`train.cache_features`).
    features: Float[Tensor, "n views length"] | None = None

    def __post_init__(self) -> None:
        vars(self).update(taken(vars(self)))  # frozen, so that it cannot be assigned
        if problem := next(problems(self), None):
            raise ValueError(f"{self.name}: {problem}")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def caption_sets(self) -> tuple[tuple[str, ...], ...]:
        """All captions of each picture, without repetitions."""
        return tuple((x,) if type(x) is str else tuple(dict.fromkeys(x)) for x in self.captions)

    @cached_property
    def unique_captions(self) -> tuple[str, ...]:
        """The distinct captions, in order of first appearance."""
        return tuple(dict.fromkeys(text for texts in self.caption_sets for text in texts))

    @cached_property
    def caption_pairs(self) -> Int64[Tensor, "2 pairs"]:
        """Each picture with each of its captions, picture by picture, on the CPU.

        The first row holds indices of pictures, the second indices in ``unique_captions``.
        """
        place = {caption: i for i, caption in enumerate(self.unique_captions)}
        pairs = [(i, place[text]) for i, texts in enumerate(self.caption_sets) for text in texts]
        return torch.tensor(pairs).T.contiguous()

    @cached_property
    def caption_index(self) -> Int64[Tensor, " n"]:
        """The index of each picture's (first) caption in ``unique_captions``, on the CPU."""
        return self.drawn_captions(None)

    def drawn_captions(self, random: torch.Generator | None) -> Int64[Tensor, " n"]:
        """Draw one of each picture's captions, or take the first; return their indices."""
        picture, caption = self.caption_pairs
        count = picture.bincount()
        row = count.cumsum(0) - count  # of the first caption
        if random is not None:
            row += (torch.rand(len(row), generator=random, dtype=torch.float64) * count).long()
        return caption[row]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when an image, label, caption or sound does."""
        # repr quotes each text, so two texts cannot be mistaken for one.
        facts = (tuple(self.images.shape), tuple(self.class_names))
        parts = [facts, getattr(self.images, "identity", self.images), self.labels, self.captions]
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
            ValueError: If nothing is chosen, a mask and the data differ in length, or an index is
                no whole number.
        """
        chosen = torch.as_tensor(indices, device=self.images.device)
        if chosen.numel() and not torch.can_cast(chosen.dtype, torch.int64):
            raise ValueError(f"indices must be whole numbers or a mask; got {chosen.dtype}")
        mask = chosen.dtype == torch.bool
        if mask and chosen.shape != self.labels.shape:
            raise ValueError(f"a mask of length {len(chosen)} does not fit {len(self)} pictures")
        rows = chosen.nonzero().flatten() if mask else chosen.to(torch.int64)
        captions = tuple(self.captions[i] for i in rows.tolist())
        return self._each(lambda t: t[rows] if isinstance(t, Tensor) else t.only(rows), captions)

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

    def _each(self, change: Callable[[Any], Any], texts: Captions) -> "ImageTextData":
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
        rows = slice(number * len(self) // of, (number + 1) * len(self) // of)
        part = make_batch(self, torch.arange(len(self))[rows])
        return replace(part, index=self.index[rows], whole_index=self.caption_index[rows])


def make_batch(
    source: ImageTextData | Batch, rows: Indices, said: Indices | None = None, read: Any = None
) -> Batch:
    """Make a batch of these rows of a data set or of a larger batch.

    ``said``: index of each picture's caption, by default its own or first. ``read``: the pictures.
    """
    captions = source.captions if isinstance(source, Batch) else source.unique_captions
    # On the CPU, where the strings are: it would have to wait for a GPU's numbers.
    said = (source.caption_index if said is None else said).cpu()
    used, own = torch.unique(said[rows.cpu()], return_inverse=True)
    rows, caption_index = (x.to(source.images.device, non_blocking=True) for x in (rows, own))
    # index_select copies whole pictures: ten times as fast as images[rows], which copies bytes.
    return Batch(
        images=source.images.index_select(0, rows) if read is None else read,
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

    The order, and which of a picture's captions it brings, depend only on ``seed`` and ``epoch``,
    so a run that was interrupted after ``start`` batches can continue the same epoch.

    Args:
        data: Already on the device where the batches are needed.
        batch_size: Number of pictures in each batch.
        seed: Of the run.
        epoch: Counted from 0; every epoch has its own order.
        start: Number of batches to skip at the beginning.
        shuffle: If false, keep the order of the data, and each picture's first caption.
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
    order = order[: n - n % batch_size if drop_last else n]
    said = data.drawn_captions(random if shuffle else None)
    for rows, read in in_turn(data.images, torch.split(order, batch_size)[start:]):
        yield make_batch(data, rows, said, read)

"""The one shape all data takes: pictures, labels, captions and perhaps sounds, all in memory."""

import hashlib
from collections.abc import Mapping, Sequence
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
        features: ``(n, views, length)``, float32, what a frozen image encoder made of some views
            of each picture (see `cmssf_lib.train.cache_features`), or ``None``.
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
        features = self.features
        if features is not None and (features.ndim != 3 or len(features) != len(images)):
            raise ValueError(
                f"{self.name}: features have the shape ({len(images)}, views, length); got "
                f"{tuple(features.shape)}"
            )

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
            features=None if self.features is None else self.features[chosen],
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
            features=None if self.features is None else self.features.to(device),
        )


class Splits(NamedTuple):
    """A training set and a test set that share no picture."""

    train: ImageTextData
    test: ImageTextData

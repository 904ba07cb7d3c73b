"""From pictures and captions to frozen embeddings, once, in evaluation mode."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import ImageTextData

if TYPE_CHECKING:
    from cmssf_lib.cmssf import CMSSF


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a method makes of a data set, on the CPU.

    Attributes:
        features: The encoder's output for each picture, before the projection head.
        image: Each picture's place in the shared space, of length one.
        text: Each *different* caption's place there, in the order of `data.unique_captions`.
        labels: Each picture's class.
        caption_index: For each picture, where its caption stands in `text`.
    """

    features: Float[Tensor, "n width"]
    image: Float[Tensor, "n dim"]
    text: Float[Tensor, "u dim"]
    labels: Int[Tensor, "n"]
    caption_index: Int[Tensor, "n"]

    @property
    def text_per_image(self) -> Float[Tensor, "n dim"]:
        """Each picture's own caption in the shared space; equal captions repeat."""
        return self.text[self.caption_index]


def embed(method: "CMSSF", data: ImageTextData, batch_size: int = 256) -> Embeddings:
    """Embed all pictures and all different captions of a data set.

    Pictures are shown as they are, without random views, in evaluation mode and without
    gradients. Afterwards every part of the method is in the mode it was in before. The batch size
    bounds the memory and changes nothing else.

    Args:
        method: A method with pictures and texts, such as `CMSSF`.
        data: What to embed.
        batch_size: Pictures or captions that are encoded at a time.

    Returns:
        The embeddings, on the CPU.

    Raises:
        ValueError: `batch_size` is below 1, or an embedding holds NaN or infinity.
    """
    features = embed_features(method, data, batch_size)
    return Embeddings(
        features=features,
        image=_in_batches(method, method.project, features, batch_size),
        text=embed_texts(method, data.unique_captions, batch_size),
        labels=data.labels.cpu(),
        caption_index=data.caption_index.cpu(),
    )


def embed_features(
    method: nn.Module, data: ImageTextData, batch_size: int = 256
) -> Float[Tensor, "n width"]:
    """Return what a method's `features` makes of each picture, without any head.

    Where the data brings them, cached from a frozen encoder, the first view of each is taken.
    """
    if (cached := _cached(method, data)) is not None:
        return cached.cpu()
    features = cast(Callable[..., Tensor], method.features)
    return _in_batches(method, features, data.images, batch_size)


def embed_images(
    method: "CMSSF", data: ImageTextData | UInt8[Tensor, "n 3 h w"], batch_size: int = 256
) -> Float[Tensor, "n dim"]:
    """Return the place in the shared space of each picture of a data set, or of pictures alone.

    Args:
        method: Encodes the pictures.
        data: A data set, or pictures ``(n, 3, h, w)``, uint8.
        batch_size: Pictures encoded at a time.
    """
    if isinstance(data, Tensor):
        return _in_batches(method, method.encode_image, data, batch_size)
    if (cached := _cached(method, data)) is not None:
        return _in_batches(method, method.project, cached, batch_size)
    return _in_batches(method, method.encode_image, data.images, batch_size)


def embed_mirrored(
    method: "CMSSF", images: UInt8[Tensor, "n 3 h w"], batch_size: int = 256
) -> Float[Tensor, "n dim"]:
    """Return the mean place of each picture and of its mirror image, of length one.

    Two looks instead of one, at twice the cost. For pictures that mean the same when mirrored, and
    models that learned from both: a digit is not such a picture.

    Args:
        method: Encodes the pictures.
        images: uint8.
        batch_size: Pictures encoded at a time.
    """
    seen = embed_images(method, images, batch_size)
    mirrored = embed_images(method, images.flip(-1), batch_size)
    return F.normalize(seen + mirrored, dim=1)


def embed_texts(
    method: "CMSSF", captions: Sequence[str], batch_size: int = 256
) -> Float[Tensor, "u dim"]:
    """Return each caption's place in the shared space."""
    return _in_batches(method, method.encode_text, captions, batch_size)


def _cached(method: nn.Module, data: ImageTextData) -> Float[Tensor, "n width"] | None:
    """Return the features that come with the data, if the method's image encoder is frozen."""
    frozen = getattr(getattr(method, "config", None), "freeze_image", False)
    return data.features[:, 0] if frozen and data.features is not None else None


def _in_batches(
    method: nn.Module,
    encode: Callable[..., Tensor],
    items: Tensor | Sequence[str],
    batch_size: int,
) -> Float[Tensor, "n dim"]:
    """Encode pictures or captions, a batch at a time; collect on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one item is encoded at a time.")
    if len(items) == 0:
        raise ValueError("there is nothing to embed: expected at least one picture or caption.")
    device = next(method.parameters()).device
    parts = []
    with evaluating(method):
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            part = encode(batch.to(device) if isinstance(batch, Tensor) else batch)
            # A copy: [CLS] is a view, and a view keeps the tokens of the whole batch in memory.
            parts.append(part.float().cpu().clone())
    result = torch.cat(parts)
    if not result.isfinite().all():
        broken = int((~result.isfinite().all(dim=1)).sum())
        raise ValueError(
            f"{broken} of {len(result)} embeddings hold NaN or infinity: the weights are broken. "
            "Load the last good checkpoint, and train on with a smaller learning rate."
        )
    return result


@contextmanager
def evaluating(method: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; then every module gets its own old mode back.

    One flag for the whole method would not do: a frozen tower stays in evaluation mode while the
    rest trains.

    On NVIDIA's cards all digits of float32 count here, where PyTorch may drop half of them for
    speed (TF32): a number must be the same on another machine.
    """
    modes = {module: module.training for module in method.modules()}
    convolutions = torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    method.eval()
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.no_grad():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        for module, training in modes.items():
            module.training = training

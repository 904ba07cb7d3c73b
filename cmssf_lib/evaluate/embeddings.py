"""From pictures, captions and prompts to frozen embeddings, once, in evaluation mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import ImageTextData
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.methods.base import evaluating

Pictures = UInt8[Tensor, "n 3 h w"]
#: Pictures or captions that are encoded at a time: it bounds the memory and changes nothing else.
BATCH = 256


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a method makes of a data set, on the CPU."""

    features: Float[Tensor, "n width"]  # the encoder's output for each picture, before the head
    image: Float[Tensor, "n dim"]  # each picture's place in the shared space, of length one
    text: Float[Tensor, "u dim"]  # that of each *different* caption, as in `data.unique_captions`
    labels: Int[Tensor, " n"]  # each picture's class
    caption_index: Int[Tensor, " n"]  # for each picture, where its caption stands in `text`

    @property
    def text_per_image(self) -> Float[Tensor, "n dim"]:
        """Each picture's own caption in the shared space; equal captions repeat."""
        return self.text[self.caption_index]


def embed(method: CMSSF, data: ImageTextData) -> Embeddings:
    """Embed all pictures and all different captions of a data set.

    Pictures are shown as they are, without random views, in evaluation mode and without
    gradients. Afterwards every part of the method is in the mode it was in before.

    Args:
        method: A method with pictures and texts, such as `CMSSF`.
        data: What to embed.

    Returns:
        The embeddings, on the CPU.

    Raises:
        ValueError: There is nothing to embed, or an embedding holds NaN or infinity.
    """
    features = embed_features(method, data)
    return Embeddings(
        features=features,
        image=_in_batches(method, method.project, features),
        text=embed_texts(method, data.unique_captions),
        labels=data.labels.cpu(),
        caption_index=data.caption_index.cpu(),
    )


def embed_features(method: Method, data: ImageTextData | Pictures) -> Float[Tensor, "n width"]:
    """Return what a method's `features` makes of each picture, without any head.

    Where a data set brings them, cached from a frozen encoder, the first view of each is taken.
    """
    if isinstance(data, ImageTextData):
        if data.features is not None:
            encoder = method.get_submodule("image_encoder")
            if not any(weight.requires_grad for weight in encoder.parameters()):
                return data.features[:, 0].cpu()
        data = data.images
    return _in_batches(method, method.features, data)


def pixel_features(data: ImageTextData) -> Float[Tensor, "n values"]:
    """Return the raw pixels in [0, 1] as features: what a method must beat.

    Every value is a feature: 768 on scenes of 16×16, 3,072 on CIFAR-10.
    """
    return data.images.flatten(1).float().cpu() / 255


def embed_images(method: CMSSF, data: ImageTextData | Pictures) -> Float[Tensor, "n dim"]:
    """Return the place in the shared space of each picture of a data set, or of pictures alone."""
    return _in_batches(method, method.project, embed_features(method, data))


def embed_mirrored(
    method: CMSSF, images: Pictures, seen: Float[Tensor, "n dim"]
) -> Float[Tensor, "n dim"]:
    """Return the mean place of each picture and of its mirror image, of length one.

    Two looks instead of one, at twice the cost. For pictures that mean the same when mirrored, and
    models that learned from both: a digit is not such a picture.

    Args:
        method: Encodes the pictures.
        images: uint8.
        seen: What `embed_images` makes of them.
    """
    return F.normalize(seen + embed_images(method, images.flip(-1)), dim=1)


def embed_texts(method: CMSSF, captions: Sequence[str]) -> Float[Tensor, "u dim"]:
    """Return each caption's place in the shared space."""
    return _in_batches(method, method.encode_text, captions)


def class_captions(data: ImageTextData) -> list[list[str]]:
    """Collect, for each class, the different captions of its pictures, in order of appearance.

    Args:
        data: Take the training set: prompts must not come from what they are tested on.
    """
    found: list[dict[str, None]] = [{} for _ in data.class_names]
    for label, caption in zip(data.labels.tolist(), data.captions, strict=True):
        found[label][caption] = None
    return [list(captions) for captions in found]


def embed_prompts(
    method: CMSSF, captions: Sequence[Sequence[str]]
) -> tuple[Float[Tensor, "prompts dim"], Int[Tensor, " prompts"]]:
    """Embed every caption of every class, for `zero_shot`: one row a caption, and its class.

    Args:
        method: Encodes the texts.
        captions: For each class its captions, as `class_captions` returns them.

    Raises:
        ValueError: There is no class, or a class has no caption.
    """
    silent = [label for label, texts in enumerate(captions) if not texts]
    if silent:
        raise ValueError(f"no caption for the classes {silent}; every class needs at least one.")
    text = embed_texts(method, [caption for texts in captions for caption in texts])
    sizes = torch.tensor([len(texts) for texts in captions])
    return text, torch.arange(len(captions)).repeat_interleave(sizes)


def zero_shot_prompts_from_captions(
    method: CMSSF, captions: Sequence[Sequence[str]]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the normalised mean of the captions that speak of it.

    For colour scenes these are all captions of a digit, over colours, grounds and sizes
    (`captions.scene_prompts`): what they have in common is the digit. Arguments and errors are
    those of `embed_prompts`.

    References:
        Radford et al. 2021 (CLIP), section 3.1.4: the ensemble is made in embedding space.
    """
    text, owner = embed_prompts(method, captions)
    parts = F.normalize(text, dim=1).split(owner.bincount().tolist())
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def _in_batches(
    method: Method, encode: Callable[..., Tensor], items: Tensor | Sequence[str]
) -> Float[Tensor, "n dim"]:
    """Encode pictures or captions, a batch at a time; collect on the CPU."""
    if len(items) == 0:
        raise ValueError("there is nothing to embed: expected at least one picture or caption.")
    parts = []
    with evaluating(method) as device:
        dtype = next(method.parameters()).dtype
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            if isinstance(batch, Tensor):  # features come in float32, whatever the weights are
                batch = batch.to(device, dtype if batch.is_floating_point() else batch.dtype)
            # A copy: [CLS] is a view, and a view keeps the tokens of the whole batch in memory.
            parts.append(encode(batch).float().cpu().clone())
    result = torch.cat(parts)
    if not result.isfinite().all():
        broken = int((~result.isfinite().all(dim=1)).sum())
        raise ValueError(
            f"{broken} of {len(result)} embeddings hold NaN or infinity: the weights are broken. "
            "Load the last good checkpoint, and train on with a smaller learning rate."
        )
    return result

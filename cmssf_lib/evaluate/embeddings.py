"""From pictures, captions and prompts to frozen embeddings, once, in evaluation mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.captions import class_caption
from cmssf_lib.data import ImageTextData
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.methods.base import evaluating

Pictures = UInt8[Tensor, "n 3 h w"]


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


def embed(method: CMSSF, data: ImageTextData, batch_size: int = 256) -> Embeddings:
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
    method: Method, data: ImageTextData | Pictures, batch_size: int = 256
) -> Float[Tensor, "n width"]:
    """Return what a method's `features` makes of each picture, without any head.

    Where a data set brings them, cached from a frozen encoder, the first view of each is taken.
    """
    if isinstance(data, ImageTextData):
        if data.features is not None:
            encoder = method.get_submodule("image_encoder")
            if not any(weight.requires_grad for weight in encoder.parameters()):
                return data.features[:, 0].cpu()
        data = data.images
    return _in_batches(method, method.features, data, batch_size)


def embed_images(
    method: CMSSF, data: ImageTextData | Pictures, batch_size: int = 256
) -> Float[Tensor, "n dim"]:
    """Return the place in the shared space of each picture of a data set, or of pictures alone."""
    features = embed_features(method, data, batch_size)
    return _in_batches(method, method.project, features, batch_size)


def embed_mirrored(
    method: CMSSF, images: Pictures, seen: Float[Tensor, "n dim"] | None = None
) -> Float[Tensor, "n dim"]:
    """Return the mean place of each picture and of its mirror image, of length one.

    Two looks instead of one, at twice the cost. For pictures that mean the same when mirrored, and
    models that learned from both: a digit is not such a picture.

    Args:
        method: Encodes the pictures.
        images: uint8.
        seen: What `embed_images` makes of them, if that is known already.
    """
    seen = embed_images(method, images) if seen is None else seen
    return F.normalize(seen + embed_images(method, images.flip(-1)), dim=1)


def embed_texts(
    method: CMSSF, captions: Sequence[str], batch_size: int = 256
) -> Float[Tensor, "u dim"]:
    """Return each caption's place in the shared space."""
    return _in_batches(method, method.encode_text, captions, batch_size)


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
    sizes = torch.tensor([len(texts) for texts in captions], dtype=torch.int64)
    if len(sizes) == 0:
        raise ValueError("no classes: expected at least one caption for each class.")
    if (sizes == 0).any():
        raise ValueError(
            f"no caption for the classes {(sizes == 0).nonzero()[:, 0].tolist()}; every class "
            "needs at least one text."
        )
    text = embed_texts(method, [caption for texts in captions for caption in texts])
    return text, torch.arange(len(captions)).repeat_interleave(sizes)


def zero_shot_prompts_from_captions(
    method: CMSSF, captions: Sequence[Sequence[str]]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the normalised mean of the captions that speak of it.

    For colour scenes these are all captions of a digit, over colours, grounds and sizes
    (`captions.scene_prompts`): what they have in common is the digit. Arguments and errors are
    those of `embed_prompts`.
    """
    text, owner = embed_prompts(method, captions)
    parts = F.normalize(text, dim=1).split(owner.bincount().tolist())
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def zero_shot_prompts(
    method: CMSSF, class_names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the mean of its name in several templates.

    Args:
        method: Encodes the texts.
        class_names: Such as "automobile".
        templates: Each with one `{}`, such as "a photo of {}"; the article is added.

    Raises:
        ValueError: There is no class or no template, or a template lacks its `{}`.

    References:
        Radford et al. 2021 (CLIP), section 3.1.4: the ensemble is made in embedding space.
    """
    named = [[class_caption(name, template) for template in templates] for name in class_names]
    return zero_shot_prompts_from_captions(method, named)


def _in_batches(
    method: Method,
    encode: Callable[..., Tensor],
    items: Tensor | Sequence[str],
    batch_size: int,
) -> Float[Tensor, "n dim"]:
    """Encode pictures or captions, a batch at a time; collect on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one item is encoded at a time.")
    if len(items) == 0:
        raise ValueError("there is nothing to embed: expected at least one picture or caption.")
    weight = next(method.parameters())
    parts = []
    with evaluating(method):
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            if isinstance(batch, Tensor):  # features come in float32, whatever the weights are
                batch = batch.to(weight if batch.is_floating_point() else weight.device)
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

"""Embed pictures, captions and prompts once, in evaluation mode and without gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import AnyPicture, ImageTextData, StoredPictures, as_images
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.methods.base import evaluating

#: Of a tensor of floats, the values lie in [0, 1].
Pictures = UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"] | StoredPictures
#: Pictures in other forms are made a tensor of the encoder's size by `cmssf_lib.data.as_images`.
Given = ImageTextData | Pictures | AnyPicture | Sequence[AnyPicture]
#: Number of pictures or captions encoded at a time: limits memory without changing the results.
BATCH = 256


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of a data set, on the CPU."""

    features: Float[Tensor, "n width"]  # the encoder's output for each picture, before the head
    image: Float[Tensor, "n dim"]  # each picture in the shared space, as a unit vector
    text: Float[Tensor, "u dim"]  # each *distinct* caption, in the order of `data.unique_captions`
    labels: Int[Tensor, " n"]  # each picture's class
    caption_index: Int[Tensor, " n"]  # for each picture, the row of its (first) caption in `text`
    caption_pairs: Int[Tensor, "2 p"]  # each picture with each of its captions: rows of both

    @property
    def text_per_image(self) -> Float[Tensor, "n dim"]:
        """Each picture's own (first) caption in the shared space; shared captions repeat."""
        return self.text[self.caption_index]


def embed(method: CMSSF, data: ImageTextData) -> Embeddings:
    """Embed all pictures and all distinct captions of a data set.

    Pictures are not augmented; the method runs in evaluation mode and without gradients.
    Afterwards every part of the method returns to its previous mode.

    Args:
        method: A method with an image and a text encoder, such as `CMSSF`.
        data: Pictures with captions.

    Returns:
        The embeddings, on the CPU.

    Raises:
        ValueError: If there is nothing to embed, or an embedding contains NaN or infinity.
    """
    features = embed_features(method, data)
    return Embeddings(
        features=features,
        image=_in_batches(method, method.project, features),
        text=embed_texts(method, data.unique_captions),
        labels=data.labels.cpu(),
        caption_index=data.caption_index.cpu(),
        caption_pairs=data.caption_pairs.cpu(),
    )


def embed_features(method: Method, data: Given) -> Float[Tensor, "n width"]:
    """Return a method's `features` of each picture, before any projection head.

    The pictures are a data set or a tensor, or whatever `cmssf_lib.data.as_images` takes.

    If the data set holds features cached from a frozen encoder, and the method's encoder is frozen,
    the cached features of each picture's first view are returned.
    """
    if isinstance(data, ImageTextData):
        if data.features is not None:
            encoder = method.get_submodule("image_encoder")
            if not any(weight.requires_grad for weight in encoder.parameters()):
                return data.features[:, 0].cpu()
        data = data.images
    if not isinstance(data, Tensor | StoredPictures):
        data = as_images(data, method.image_encoder.config.image_size)
    return _in_batches(method, method.features, data)


def pixel_features(data: ImageTextData) -> Float[Tensor, "n values"]:
    """Return the raw pixels in [0, 1] as features: a baseline that a method must beat.

    Every pixel value is one feature: 768 for 16×16 scenes, 3,072 for CIFAR-10.
    """
    return data.images[:].flatten(1).float().cpu() / 255


def embed_images(method: CMSSF, data: Given) -> Float[Tensor, "n dim"]:
    """Return the shared-space embedding of each picture, as `embed_features` takes them."""
    return _in_batches(method, method.project, embed_features(method, data))


def embed_mirrored(
    method: CMSSF, images: Pictures, seen: Float[Tensor, "n dim"]
) -> Float[Tensor, "n dim"]:
    """Return the normalised mean embedding of each picture and its mirror image.

    This doubles the cost. It suits pictures whose meaning does not change when mirrored (unlike
    digits) and models trained on mirrored pictures.

    Args:
        method: The method that encodes the pictures.
        images: The pictures, uint8.
        seen: The output of `embed_images` for the same pictures.
    """
    features = _in_batches(method, lambda batch: method.features(batch.flip(-1)), images)
    return F.normalize(seen + _in_batches(method, method.project, features), dim=1)


def embed_texts(method: CMSSF, captions: Sequence[str]) -> Float[Tensor, "u dim"]:
    """Return the shared-space embedding of each caption."""
    return _in_batches(method, method.encode_text, captions)


def class_captions(data: ImageTextData) -> list[list[str]]:
    """Collect the distinct captions of each class, in order of appearance.

    Args:
        data: The training set: prompts must not come from the data that they are tested on.
    """
    found: list[dict[str, None]] = [{} for _ in data.class_names]
    for label, captions in zip(data.labels.tolist(), data.caption_sets, strict=True):
        found[label] |= dict.fromkeys(captions)
    return [list(texts) for texts in found]


def embed_prompts(
    method: CMSSF, captions: Sequence[Sequence[str]]
) -> tuple[Float[Tensor, "prompts dim"], Int[Tensor, " prompts"]]:
    """Embed every caption of every class as a prompt for `zero_shot`.

    Args:
        method: The method that encodes the captions.
        captions: The captions of each class, as `class_captions` returns them.

    Returns:
        One row per caption, and the class of each row.

    Raises:
        ValueError: If there is no class, or a class has no caption, or one text for a list.
    """
    if lone := [texts for texts in captions if isinstance(texts, str)]:
        raise ValueError(f"each class needs a list of captions; got the text {lone[0]!r}.")
    empty = [label for label, texts in enumerate(captions) if not texts]
    if empty:
        raise ValueError(f"no caption for the classes {empty}; every class needs at least one.")
    text = embed_texts(method, [caption for texts in captions for caption in texts])
    sizes = torch.tensor([len(texts) for texts in captions])
    return text, torch.arange(len(captions)).repeat_interleave(sizes)


def zero_shot_prompts_from_captions(
    method: CMSSF, captions: Sequence[Sequence[str]]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the normalised mean of its captions.

    For colour scenes these are all captions of a digit, over colours, backgrounds and sizes
    (`captions.scene_prompts`): they have only the digit in common. Arguments and errors are those
    of `embed_prompts`.

    References:
        Radford et al. 2021 (CLIP), section 3.1.4: the ensemble is built in the embedding space.
    """
    text, owner = embed_prompts(method, captions)
    parts = F.normalize(text, dim=1).split(owner.bincount().tolist())
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def _in_batches(
    method: Method, encode: Callable[..., Tensor], items: Tensor | StoredPictures | Sequence[str]
) -> Float[Tensor, "n dim"]:
    """Encode pictures or captions in batches and collect the results on the CPU."""
    if len(items) == 0:
        raise ValueError("there is nothing to embed: pass at least one picture or caption.")
    parts = []
    with evaluating(method) as device:
        dtype = next(method.parameters()).dtype
        given = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
        for batch in items.split(BATCH) if isinstance(items, StoredPictures) else given:
            if isinstance(batch, Tensor):  # features are float32; the weights may not be
                batch = batch.to(device, dtype if batch.is_floating_point() else batch.dtype)
            # Clone: [CLS] is a view, and a view keeps all tokens of the batch in memory.
            parts.append(encode(batch).float().cpu().clone())
    result = torch.cat(parts)
    broken = int((~result.isfinite().all(dim=1)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(result)} embeddings hold NaN or infinity: the weights are broken. "
            "Load the last good checkpoint and continue training with a smaller learning rate."
        )
    return result

"""Which class is it? Nearest neighbours, zero-shot prompts, and raw pixels to compare with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from cmssf_lib.captions import class_caption
from cmssf_lib.evaluate.embeddings import embed_texts

if TYPE_CHECKING:
    from cmssf_lib.cmssf import CMSSF
    from cmssf_lib.data import ImageTextData

#: Entries of one block of a similarity matrix: 16 MiB in float32. A block and its temporaries
#: stay far under 1 GB however many rows and columns the whole matrix has.
BLOCK = 2**22


def knn(
    bank: Float[Tensor, "m width"],
    bank_labels: Int[Tensor, "m"],
    queries: Float[Tensor, "n width"],
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Int[Tensor, "n"]:
    """Classify by the k most similar examples, each voting with weight exp(cosine / temperature).

    No weight is trained, so the result speaks for the features alone. It needs the labels of the
    bank. Chance is the share of the largest class.

    Args:
        bank: Features of the training set, made without random views.
        bank_labels: Their classes.
        queries: Features to classify.
        classes: Number of classes.
        k: Neighbours that vote.
        temperature: Small values let the nearest decide.

    Returns:
        The predicted class of each query.

    Raises:
        ValueError: A set is empty, widths or lengths differ, a label lies outside the classes,
            `k` is not within 1 … m, or `temperature` <= 0.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", section 3.4; with these values of k and temperature in the evaluations
        of lightly and others.
    """
    check_widths("bank", bank, "queries", queries)
    _check_labels("bank_labels", bank_labels, len(bank), classes)
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank holds {len(bank)}: choose k from 1 to that.")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it divides the similarities: give > 0.")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    # Made before the loop: a small result kept from every block would lie between the large blocks
    # in memory, and their space could not be used again.
    predictions = bank_labels.new_empty(len(queries))
    rows = max(1, BLOCK // len(bank))
    for block, prediction in zip(queries.split(rows), predictions.split(rows), strict=True):
        similarity, neighbours = (block @ bank.T).topk(k, dim=1)  # (b, k) both
        # The nearest neighbour's weight is 1: the same votes, and exp cannot overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(block), classes)
        votes.scatter_add_(1, bank_labels[neighbours], weights)
        prediction.copy_(votes.argmax(dim=1))
    return predictions


def nearest_pixels(train: "ImageTextData", test: "ImageTextData") -> float:
    """Accuracy of the nearest training picture in raw pixels: what costs no learning at all.

    Euclidean distance, one neighbour. A method that does not beat this has learned nothing about
    the classes that the pixels did not show.

    Args:
        train: Where neighbours are looked for.
        test: Pictures to classify.

    Returns:
        The share of test pictures whose nearest neighbour has their class.

    Raises:
        ValueError: The pictures of the two sets differ in size.
    """
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"pictures have shapes {tuple(train.images.shape[1:])} and "
            f"{tuple(test.images.shape[1:])}; pixels can only be compared at the same size."
        )
    rows = max(1, BLOCK // train.images[0].numel())  # pictures of either set in a block
    correct = 0
    for queries, labels in zip(test.images.split(rows), test.labels.split(rows), strict=True):
        q = queries.flatten(1).float() / 255  # (b, pixels)
        best = q.new_full((len(q),), torch.inf)
        guess = torch.zeros_like(labels)
        for bank, bank_labels in zip(
            train.images.split(rows), train.labels.split(rows), strict=True
        ):
            x = bank.flatten(1).float() / 255  # (c, pixels)
            # |x - q|² without |q|², which is the same for every x.
            distance, nearest = (x.square().sum(dim=1) - 2 * q @ x.T).min(dim=1)
            closer = distance < best
            best = torch.where(closer, distance, best)
            guess = torch.where(closer, bank_labels[nearest], guess)
        correct += int((guess == labels).sum())
    return correct / len(test)


def zero_shot(
    image: Float[Tensor, "n dim"],
    prompts: Float[Tensor, "prompts dim"],
    classes: Int[Tensor, "prompts"] | None = None,
) -> Int[Tensor, "n"]:
    """Classify each picture by the most similar prompt: retrieve a text, take its class.

    Chance is one in the number of classes. "Zero-shot" says that no classifier is fitted here; a
    method that was trained on captions which name these classes has seen them.

    Args:
        image: Pictures in the shared space.
        prompts: Texts in the shared space.
        classes: The class of each prompt. None: one prompt a class, in the order of the classes.

    Returns:
        The predicted class of each picture.

    Raises:
        ValueError: A set is empty, there is only one prompt, the dimensions differ, or there is
            not one class for each prompt.

    References:
        Radford et al. 2021 (CLIP), section 3.1.
    """
    check_widths("image", image, "prompts", prompts)
    if len(prompts) < 2:
        raise ValueError("there is one prompt: with one class every answer is right. Give two.")
    if classes is None:
        classes = torch.arange(len(prompts), device=prompts.device)
    if len(classes) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(classes)} classes; each needs one.")
    image, prompts = F.normalize(image, dim=1), F.normalize(prompts, dim=1)
    rows = max(1, BLOCK // len(prompts))
    return classes[torch.cat([(block @ prompts.T).argmax(dim=1) for block in image.split(rows)])]


def zero_shot_prompts(
    method: "CMSSF", class_names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the mean of its name in several templates.

    Args:
        method: Encodes the texts.
        class_names: Such as "automobile".
        templates: Each with one `{}`, such as "a photo of {}"; the article is added.

    Returns:
        One row of length one a class.

    Raises:
        ValueError: There is no class or no template, or a template lacks its `{}`.

    References:
        Radford et al. 2021 (CLIP), section 3.1.4: the ensemble is made in embedding space.
    """
    return zero_shot_prompts_from_captions(
        method, [[class_caption(name, template) for template in templates] for name in class_names]
    )


def embed_prompts(
    method: "CMSSF", captions: Sequence[Sequence[str]]
) -> tuple[Float[Tensor, "prompts dim"], Int[Tensor, "prompts"]]:
    """Embed every caption of every class, for `zero_shot`.

    Args:
        method: Encodes the texts.
        captions: For each class its captions, as `class_captions` returns them.

    Returns:
        One row a caption, and the class of each.

    Raises:
        ValueError: There is no class, or a class has no caption.
    """
    _check_every_class(captions)
    text = embed_texts(method, [caption for texts in captions for caption in texts])
    sizes = torch.tensor([len(texts) for texts in captions])
    return text, torch.arange(len(captions)).repeat_interleave(sizes)


def zero_shot_prompts_from_captions(
    method: "CMSSF", captions: Sequence[Sequence[str]]
) -> Float[Tensor, "classes dim"]:
    """Embed each class as the normalised mean of the captions that speak of it.

    For colour scenes these are all captions of a digit, over colours, grounds and sizes
    (`captions.scene_prompts`): what they have in common is the digit.

    Args:
        method: Encodes the texts.
        captions: For each class its captions.

    Returns:
        One row of length one a class.

    Raises:
        ValueError: There is no class, or a class has no caption.
    """
    _check_every_class(captions)
    text = embed_texts(method, [caption for texts in captions for caption in texts])
    parts = F.normalize(text, dim=1).split([len(texts) for texts in captions])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)


def class_captions(data: "ImageTextData") -> list[list[str]]:
    """Collect the different captions that pictures of each class have.

    Args:
        data: Take the training set: prompts must not come from what they are tested on.

    Returns:
        For each class its captions, in the order of their first appearance.
    """
    found: list[dict[str, None]] = [{} for _ in data.class_names]
    for label, caption in zip(data.labels.tolist(), data.captions, strict=True):
        found[label][caption] = None
    return [list(captions) for captions in found]


def confusion(
    predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Count how often each class (row) was taken for each class (column).

    Args:
        predictions: Predicted classes.
        labels: True classes.
        classes: Number of classes.

    Returns:
        The counts; the diagonal holds the right answers.

    Raises:
        ValueError: The lengths differ, or a class lies outside 0 … classes - 1.
    """
    _check_labels("labels", labels, len(predictions), classes)
    _check_labels("predictions", predictions, len(labels), classes)
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(
        classes, classes
    )


def accuracy(predictions: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Return the share of predictions that are right; chance is that of the largest class."""
    if predictions.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} must be "
            "equally many, at least one."
        )
    return int((predictions == labels).sum()) / len(labels)


def check_widths(
    name: str, x: Shaped[Tensor, "..."], other_name: str, y: Shaped[Tensor, "..."]
) -> None:
    """Two non-empty sets of vectors of one width."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and {other_name} {tuple(y.shape)}; expected two "
            "sets of rows of the same width, from the same encoder."
        )
    if len(x) == 0 or len(y) == 0:
        raise ValueError(f"{name} holds {len(x)} rows and {other_name} {len(y)}; both need one.")


def _check_labels(name: str, labels: Tensor, n: int, classes: int) -> None:
    """One label for each row, all of them classes."""
    if labels.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(labels.shape)}; expected ({n},), one a row.")
    if n and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"{name} runs from {int(labels.min())} to {int(labels.max())}, but there are {classes} "
            f"classes: expected 0 to {classes - 1}."
        )


def _check_every_class(captions: Sequence[Sequence[str]]) -> None:
    """At least one caption for each of at least one class."""
    empty = [label for label, texts in enumerate(captions) if len(texts) == 0]
    if len(captions) == 0 or empty:
        raise ValueError(
            f"no caption for the classes {empty}; every class needs at least one text."
            if empty
            else "no classes: expected at least one caption for each class."
        )

"""Nearest neighbours of vectors, prompts and pixels, and the accuracy of predictions.

Ties need care: captions repeat, and for a collapsed model all pairs are equally similar. Tied
neighbours share their votes, so the order in which the bank is stored does not matter.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from sklearn.metrics import confusion_matrix
from torch import Tensor

from cmssf_lib.data import ImageTextData

#: Entries of one block of a similarity matrix: 16 MiB in float32. A block and its temporaries
#: stay far below 1 GB, however large the whole matrix is.
BLOCK = 2**22
#: Cosine similarities within 1e-6 count as tied. Those of equal rows can differ by about 3e-7,
#: because a matrix product may sum each column in a different order. (Rounding them instead would
#: separate two close values on either side of a rounding boundary.)
TIE = 2.0**-20


def similar_blocks(
    queries: Float[Tensor, "n width"], others: Float[Tensor, "m width"]
) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """Yield all cosine similarities in float32, in blocks: query rows, and their similarities."""
    # Squares overflow in half precision, and not every device supports float64.
    x, y = (
        F.normalize(v.to(torch.promote_types(v.dtype, torch.float32)), dim=1).float()
        for v in (queries, others)
    )
    size = max(1, BLOCK // len(y))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        yield rows, x[rows] @ y.T


def knn(
    bank: Float[Tensor, "m width"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n width"],
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Int[Tensor, " n"]:
    """Classify by the k most similar examples, each voting with weight exp(cosine / temperature).

    No classifier is trained, so the result depends only on the features and the labels of the
    bank. Chance is the share of the largest class. Examples tied (`TIE`) for the last of the k
    places share the remaining places equally; among classes with equal votes, the first wins.

    Args:
        bank: Features of the training set, without augmentation.
        bank_labels: The classes of the bank.
        queries: Features to classify.
        classes: Number of classes.
        k: Number of neighbours that vote.
        temperature: The smaller it is, the more the nearest neighbours dominate.

    Returns:
        The predicted class of each query.

    Raises:
        ValueError: If a set is empty or contains NaN, widths or lengths differ, a label is not a
            class index, `k` is not within 1 … m, or `temperature` <= 0.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", section 3.4; lightly and others evaluate with this k and temperature.
    """
    require_rows("bank", bank, "queries", queries)
    require_labels("bank_labels", bank_labels, len(bank), classes)
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank holds {len(bank)}: choose 1 to {len(bank)}.")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be greater than 0.")
    # Allocated before the loop: keeping a small result per block would fragment the memory, so
    # that the space of the large blocks could not be reused.
    predictions = bank_labels.new_empty(len(queries))
    for rows, similarity in similar_blocks(queries, bank):
        value, place = _nearest(similarity, k)  # (b, c) both, where c >= k
        last = value[:, k - 1 : k]
        above, tied = value > last, value == last
        share = (k - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
        # Subtracting the maximum does not change the winner and keeps exp from overflowing.
        weights = ((value - value[:, :1]) / temperature).exp()
        weights *= above.to(weights.dtype) + tied * share.to(weights.dtype)
        votes = weights.new_zeros(len(weights), classes)
        votes.scatter_add_(1, bank_labels[place].long(), weights)
        predictions[rows] = votes.argmax(dim=1)
    return predictions


def usual_k(bank: int) -> int:
    """Return the default k of k-NN: 200, or a tenth of the bank if it is smaller than 2,000."""
    return min(200, max(1, bank // 10))


def _nearest(
    similarity: Float[Tensor, "b m"], k: int
) -> tuple[Float[Tensor, "b c"], Int[Tensor, "b c"]]:
    """Find the k largest of each row and all that tie with the k-th: values and column indices.

    Values are in descending order. Tied values are replaced by the largest of them.
    """
    m, count = similarity.shape[1], k + 16  # a few more, to find where the last tie ends
    while True:
        value, place = similarity.topk(min(count, m), dim=1)
        begins = F.pad(value[:, :-1] - value[:, 1:] > TIE, (1, 0), value=True)
        here = torch.arange(value.shape[1], device=value.device)
        value = value.gather(1, here.where(begins, 0).cummax(dim=1).values)
        if count >= m or bool((value[:, -1] < value[:, k - 1]).all()):
            return value, place
        count *= 2


def zero_shot(
    image: Float[Tensor, "n dim"],
    prompts: Float[Tensor, "prompts dim"],
    classes: Int[Tensor, " prompts"] | None = None,
) -> Int[Tensor, " n"]:
    """Classify each picture by its most similar prompt: the picture gets the prompt's class.

    This is `knn` with k = 1. Chance is 1 / number of classes. "Zero-shot" means that no classifier
    is fitted here; the method may still have seen these classes in its training captions.

    Args:
        image: Embeddings of the pictures in the shared space.
        prompts: Embeddings of the prompts in the shared space.
        classes: The class of each prompt. None: one prompt per class, in the order of the classes.

    Returns:
        The predicted class of each picture. If prompts are tied, the class with the most tied
        prompts wins; if classes are still tied, the first one wins.

    Raises:
        ValueError: If a set is empty, there is only one prompt, the dimensions differ, or there
            is not exactly one class for each prompt.

    References:
        Radford et al. 2021 (CLIP), section 3.1.
    """
    require_rows("image", image, "prompts", prompts)
    if len(prompts) < 2:
        raise ValueError("got one prompt, but with one class every answer is right: give two.")
    if classes is None:
        classes = torch.arange(len(prompts), device=prompts.device)
    require_one_a_row("classes", classes, len(prompts))
    return knn(prompts, classes, image, int(classes.max()) + 1, k=1)


def nearest_pixels(train: ImageTextData, test: ImageTextData) -> float:
    """Measure the accuracy of 1-NN on raw pixels: a baseline without any learning.

    The distance is Euclidean; neighbours at the same distance share the vote equally. A method
    that does not beat this baseline reveals no more about the classes than raw pixels do.

    Args:
        train: The labelled pictures to search.
        test: Pictures to classify.

    Returns:
        The share of test pictures whose nearest neighbour has the same class.

    Raises:
        ValueError: If the pictures of the two sets differ in size.
    """
    shapes = [tuple(data.images.shape[1:]) for data in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"got pictures of {shapes}: pixels can only be compared at the same size.")
    size = max(1, BLOCK // max(len(train), train.images[0].numel()))  # pictures in a block
    correct = 0.0
    for queries, labels in zip(test.images.split(size), test.labels.cpu().split(size), strict=True):
        q = queries.flatten(1).cpu().double()  # (b, pixels)
        banks = (bank.flatten(1).cpu().double() for bank in train.images.split(size))
        # Pixels are integers, so the sums are exact in float64, and equal distances compare equal.
        distance = torch.cat([torch.cdist(q, bank) for bank in banks], dim=1)  # (b, m)
        nearest = distance == distance.amin(dim=1, keepdim=True)
        right = nearest & (labels[:, None] == train.labels.cpu())
        correct += float((right.cpu().double().sum(dim=1) / nearest.sum(dim=1)).sum())
    return correct / len(test)


def confusion(
    predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Return the confusion matrix: true classes in rows, predicted classes in columns.

    Raises:
        ValueError: If the lengths differ, or a class lies outside 0 … classes - 1.
    """
    require_labels("labels", labels, len(predictions), classes)
    require_labels("predictions", predictions, len(labels), classes)
    both = (labels.cpu().numpy(), predictions.cpu().numpy())
    return torch.from_numpy(confusion_matrix(*both, labels=range(classes)))


def accuracy(predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of correct predictions; chance is the share of the largest class."""
    if predictions.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"predictions have shape {tuple(predictions.shape)} and labels {tuple(labels.shape)}; "
            "the shapes must be equal, with at least one entry."
        )
    return int((predictions == labels).sum()) / len(labels)


def require_rows(
    name: str, x: Shaped[Tensor, "..."], other_name: str, y: Shaped[Tensor, "..."]
) -> None:
    """Raise a ValueError unless both are non-empty sets of finite vectors of the same width."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and {other_name} {tuple(y.shape)}; expected two "
            "matrices of the same width, from the same encoder."
        )
    if len(x) == 0 or len(y) == 0:
        raise ValueError(f"{name} holds {len(x)} rows and {other_name} {len(y)}; both need one.")
    for which, rows in ((name, x), (other_name, y)):
        if not rows.isfinite().all():
            raise ValueError(f"{which} holds NaN or infinity: the encoder's weights are broken.")


def require_one_a_row(name: str, values: Shaped[Tensor, "..."], n: int) -> None:
    """Raise a ValueError unless there is exactly one value for each of n rows."""
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}; expected ({n},), one per row.")


def require_labels(name: str, labels: Shaped[Tensor, "..."], n: int, classes: int) -> None:
    """Raise a ValueError unless there is one label in 0 … classes - 1 for each of n rows."""
    require_one_a_row(name, labels, n)
    if n and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"{name} holds values from {int(labels.min())} to {int(labels.max())}; with {classes} "
            f"classes, expected 0 to {classes - 1}."
        )

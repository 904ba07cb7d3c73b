"""Who is most similar? Nearest neighbours of vectors, prompts and pixels.

Ties are part of the matter: captions repeat, and a collapsed model finds everything equally
similar. No measure depends on the order in which a set is stored.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from sklearn.metrics import confusion_matrix
from torch import Tensor

from cmssf_lib.data import ImageTextData

#: Entries of one block of a similarity matrix: 16 MiB in float32. A block and its temporaries
#: stay far under 1 GB however many rows and columns the whole matrix has.
BLOCK = 2**22
#: Cosine similarities within 1e-6 count as tied: those of equal rows differ by up to about 3e-7,
#: since a matrix product adds up each column in an order of its own. (Rounded and compared for
#: equality, two neighbours of a border would be torn apart.)
TIE = 2.0**-20


def similar_blocks(
    queries: Float[Tensor, "n width"], others: Float[Tensor, "m width"]
) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """Go through all cosine similarities, in float32: which queries, and theirs with the others."""
    # Half precision could not hold the squares, and float64 does not exist on every device.
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

    No weight is trained, so the result speaks for the features alone. It needs the labels of the
    bank. Chance is the share of the largest class. Examples that are tied (`TIE`) for the last of
    the k places share what is left of them; of equally good classes the first is answered.

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
        ValueError: A set is empty or holds NaN, widths or lengths differ, a label lies outside
            the classes, `k` is not within 1 … m, or `temperature` <= 0.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", section 3.4; with these values of k and temperature in the evaluations
        of lightly and others.
    """
    require_rows("bank", bank, "queries", queries)
    require_labels("bank_labels", bank_labels, len(bank), classes)
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, but the bank holds {len(bank)}: choose k from 1 to that.")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it divides the similarities: give > 0.")
    # Made before the loop: a small result kept from every block would lie between the large blocks
    # in memory, and their space could not be used again.
    predictions = bank_labels.new_empty(len(queries))
    for rows, similarity in similar_blocks(queries, bank):
        value, place = _nearest(similarity, k)  # (b, c) both, where c >= k
        last = value[:, k - 1 : k]
        above, tied = value > last, value == last
        share = (k - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
        # The nearest neighbour's weight is 1: the same votes, and exp cannot overflow.
        weights = ((value - value[:, :1]) / temperature).exp()
        weights *= above.to(weights.dtype) + tied * share.to(weights.dtype)
        votes = weights.new_zeros(len(weights), classes)
        votes.scatter_add_(1, bank_labels[place].long(), weights)
        predictions[rows] = votes.argmax(dim=1)
    return predictions


def usual_k(bank: int) -> int:
    """Neighbours that vote if nobody says: 200, or a tenth of a bank of fewer than 2,000."""
    return min(200, max(1, bank // 10))


def _nearest(
    similarity: Float[Tensor, "b m"], k: int
) -> tuple[Float[Tensor, "b c"], Int[Tensor, "b c"]]:
    """Find the k largest of each row and all that are tied with the k-th: values, places.

    The values fall, and those of a tie are made equal: to the largest of them.
    """
    m, count = similarity.shape[1], k + 16  # a few more, to see where the last tie ends
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
    """Classify each picture by the most similar prompt: retrieve a text, take its class.

    That is `knn` with one neighbour. Chance is one in the number of classes. "Zero-shot" says that
    no classifier is fitted here; a method that was trained on captions which name these classes
    has seen them.

    Args:
        image: Pictures in the shared space.
        prompts: Texts in the shared space.
        classes: The class of each prompt. None: one prompt a class, in the order of the classes.

    Returns:
        The predicted class of each picture; of equally similar prompts, the class with most of
        them, or the first.

    Raises:
        ValueError: A set is empty, there is only one prompt, the dimensions differ, or there is
            not one class for each prompt.

    References:
        Radford et al. 2021 (CLIP), section 3.1.
    """
    require_rows("image", image, "prompts", prompts)
    if len(prompts) < 2:
        raise ValueError("there is one prompt: with one class every answer is right. Give two.")
    if classes is None:
        classes = torch.arange(len(prompts), device=prompts.device)
    if len(classes) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(classes)} classes; each needs one.")
    return knn(prompts, classes, image, int(classes.max()) + 1, k=1)


def nearest_pixels(train: ImageTextData, test: ImageTextData) -> float:
    """Accuracy of the nearest training picture in raw pixels: what costs no learning at all.

    Euclidean distance, one neighbour; of equally near ones each counts for its part. A method
    that does not beat this has learned nothing about the classes that the pixels did not show.

    Args:
        train: Where neighbours are looked for.
        test: Pictures to classify.

    Returns:
        The share of test pictures whose nearest neighbour has their class.

    Raises:
        ValueError: The pictures of the two sets differ in size.
    """
    shapes = [tuple(data.images.shape[1:]) for data in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"pictures of {shapes}: pixels can only be compared at the same size.")
    size = max(1, BLOCK // max(len(train), train.images[0].numel()))  # pictures in a block
    correct = 0.0
    for queries, labels in zip(test.images.split(size), test.labels.cpu().split(size), strict=True):
        q = queries.flatten(1).cpu().double()  # (b, pixels)
        banks = (bank.flatten(1).cpu().double() for bank in train.images.split(size))
        # Sums of whole numbers, exact in double precision: equal distances are equal.
        distance = torch.cat([torch.cdist(q, bank) for bank in banks], dim=1)  # (b, m)
        nearest = distance == distance.amin(dim=1, keepdim=True)
        right = nearest & (labels[:, None] == train.labels.cpu())
        correct += float((right.cpu().double().sum(dim=1) / nearest.sum(dim=1)).sum())
    return correct / len(test)


def confusion(
    predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Count how often each class (row) was taken for each class (column); right: the diagonal.

    Raises:
        ValueError: The lengths differ, or a class lies outside 0 … classes - 1.
    """
    require_labels("labels", labels, len(predictions), classes)
    require_labels("predictions", predictions, len(labels), classes)
    both = (labels.cpu().numpy(), predictions.cpu().numpy())
    return torch.from_numpy(confusion_matrix(*both, labels=range(classes)))


def accuracy(predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of predictions that are right; chance is that of the largest class."""
    if predictions.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} must be "
            "equally many, at least one."
        )
    return int((predictions == labels).sum()) / len(labels)


def require_rows(
    name: str, x: Shaped[Tensor, "..."], other_name: str, y: Shaped[Tensor, "..."]
) -> None:
    """Refuse all but two non-empty sets of vectors of one width, and NaN in them."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and {other_name} {tuple(y.shape)}; expected two "
            "sets of rows of the same width, from the same encoder."
        )
    if len(x) == 0 or len(y) == 0:
        raise ValueError(f"{name} holds {len(x)} rows and {other_name} {len(y)}; both need one.")
    for which, rows in ((name, x), (other_name, y)):
        if not rows.isfinite().all():
            raise ValueError(f"{which} holds NaN or infinity: the encoder's weights are broken.")


def require_one_a_row(name: str, values: Shaped[Tensor, "..."], n: int) -> None:
    """Refuse all but one number for each of n rows."""
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}; expected ({n},), one a row.")


def require_labels(name: str, labels: Shaped[Tensor, "..."], n: int, classes: int) -> None:
    """Refuse all but one label for each of n rows, all of them classes."""
    require_one_a_row(name, labels, n)
    if n and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"{name} runs from {int(labels.min())} to {int(labels.max())}, but there are {classes} "
            f"classes: expected 0 to {classes - 1}."
        )

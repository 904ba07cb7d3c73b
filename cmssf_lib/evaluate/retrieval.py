"""Finding the right text for a picture and the right picture for a text; similarity of pairs.

Each measure is the expectation when ties (`neighbours.TIE`) are broken at random. For mAP tied
answers are found together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from cmssf_lib.evaluate.neighbours import TIE, require_one_a_row, require_rows, similar_blocks
from cmssf_lib.methods.base import similarities


def retrieval(
    queries: Float[Tensor, "n dim"],
    gallery: Float[Tensor, "m dim"],
    query_groups: Int[Tensor, " n"],
    gallery_groups: Int[Tensor, " m"],
    ks: Sequence[int] = (1, 5, 10),
    mean_ap: bool = True,
) -> dict[str, float]:
    """Label-aware retrieval: an answer is right if it is of the query's group.

    - `R@k`: the share of queries with at least one right answer among the first k. Chance is
      about 1 - (1 - p)^k, where p is the group's share of the gallery: 65 % at k = 10 for ten
      classes.
    - `P@k`: the share of right answers among the first k. Chance is p.
    - `mAP`: the mean of average precision over the whole ranking. Chance is about p.

    All three can reach 1 as long as every group has k members in the gallery. Where a query's
    group has fewer, its P@k cannot exceed members / k.

    Args:
        queries: What is looked for, in the shared space.
        gallery: Where it is looked for.
        query_groups: Class (or any group) of each query.
        gallery_groups: Class of each item of the gallery.
        ks: How many answers are looked at.
        mean_ap: Whether to sort all answers for mAP, which takes most of the time.

    Returns:
        "R@k" and "P@k" for every k, and "mAP".

    Raises:
        ValueError: A set is empty or holds NaN, dimensions or lengths differ, a k is not within
            1 … m, the gallery holds one group only, or a query's group is not in the gallery.
    """
    require_rows("queries", queries, "gallery", gallery)
    require_one_a_row("query_groups", query_groups, len(queries))
    require_one_a_row("gallery_groups", gallery_groups, len(gallery))
    if len(gallery_groups.unique()) < 2:
        raise ValueError("the gallery holds one group only: every answer would be right.")
    missing = query_groups[~torch.isin(query_groups, gallery_groups)].unique().tolist()
    if missing:
        raise ValueError(f"the gallery holds nothing of the groups {missing[:5]} of the queries.")
    if len(ks) == 0 or min(ks) < 1 or max(ks) > len(gallery):
        raise ValueError(
            f"ks is {tuple(ks)}, but the gallery holds {len(gallery)}: choose from 1 to that."
        )
    sums = dict.fromkeys([f"{m}@{k}" for m in "RP" for k in ks] + ["mAP"] * mean_ap, 0.0)
    for rows, similarity in similar_blocks(queries, gallery):
        right = query_groups[rows, None] == gallery_groups[None, :]  # (b, m)
        best = similarity.topk(max(ks), dim=1).values  # (b, max k), from the most similar down
        for k in ks:
            recall, precision = _first_k(similarity, right, best[:, k - 1 : k], k)
            sums[f"R@{k}"] += float(recall.sum())
            sums[f"P@{k}"] += float(precision.sum())
        if mean_ap:
            each = zip(similarity.cpu().numpy(), right.cpu().numpy(), strict=True)
            sums["mAP"] += sum(_average_precision(*query) for query in each)
    return {name: total / len(queries) for name, total in sums.items()}


def exact_caption_retrieval(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "u dim"],
    caption_index: Int[Tensor, " n"],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Each picture looks for its own caption in a gallery of n captions, one a picture.

    Captions repeat: if n_i pictures share a caption, the gallery holds it n_i times, no method
    can tell the copies apart, and the own copy is among the first k with probability k / n_i at
    best. That is the ceiling, given next to each result: with ten captions for 10,000 pictures
    R@1 cannot exceed 0.1 %. Chance is k / n. It is `retrieval` with a group for each picture.

    Args:
        image: Pictures in the shared space.
        text: The different captions.
        caption_index: For each picture, where its caption stands in `text`.
        ks: How many answers are looked at.

    Returns:
        "R@k" and "R@k_ceiling" for every k.

    Raises:
        ValueError: There is one picture only, a set holds NaN, the dimensions differ, or a k is
            not within 1 … n.
        IndexError: An index lies outside `text`.
    """
    own = torch.arange(len(image), device=image.device)
    found = retrieval(image, text[caption_index], own, own, ks, mean_ap=False)
    copies = caption_index.bincount()[caption_index].cpu().double()  # (n,)
    results = {}
    for k in ks:
        results[f"R@{k}"] = found[f"R@{k}"]
        results[f"R@{k}_ceiling"] = float((k / copies).clamp(max=1).mean())
    return results


def pair_similarity(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]
) -> dict[str, float]:
    """Mean cosine similarity of pictures with right, wrong, and randomly drawn texts.

    - `positive`: with the own text. Its ceiling is 1.
    - `different_class`: with the texts of all pictures of other classes. For c classes pulled
      apart evenly it is -1 / (c - 1): -0.11 for ten.
    - `contaminated`: with the texts of all other pictures, those of the same class included. This
      is what "negative pairs" drawn at random measure, and it is too high: with ten classes about
      a tenth of it is positive similarity.

    All three are exact means over all pairs, in double precision.

    Args:
        image: Pictures in the shared space.
        text: Row i is the text of picture i.
        labels: Classes.

    Returns:
        "positive", "different_class", "contaminated".

    Raises:
        ValueError: Shapes or lengths differ, there are fewer than two classes, or a set holds NaN.
    """
    require_rows("image", image, "text", text)
    if len(image) != len(text) or labels.shape != (len(image),):
        raise ValueError(
            f"{len(image)} pictures, {len(text)} texts, labels of shape {tuple(labels.shape)}; "
            "expected one text and one label a picture."
        )
    if len(labels.unique()) < 2:
        raise ValueError("all pictures are of one class: there are no pairs of different classes.")
    # Sums over many pairs: in double precision, on the CPU, which has it on every machine.
    x, t = image.cpu().double(), text.cpu().double()
    by_picture, by_class = similarities(x, t), similarities(x, t, labels.cpu())
    return {
        "positive": by_picture["positive_similarity"].item(),
        "different_class": by_class["negative_similarity"].item(),
        "contaminated": by_picture["negative_similarity"].item(),
    }


def _first_k(
    similarity: Float[Tensor, "b m"], right: Bool[Tensor, "b m"], last: Float[Tensor, "b 1"], k: int
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
    """Expected recall (any right?) and precision of the first k, ties broken at random.

    All answers above the k-th largest similarity, `last`, are in; those tied with it share the
    places left.
    """
    above, least = similarity > last + TIE, similarity >= last - TIE
    # Counted in int32, ten times as fast as in int64; then in double, for exact fractions.
    counted = (above, least, above & right, least & right)
    n_above, n_least, right_above, right_least = (
        true.sum(dim=1, dtype=torch.int32).cpu().double() for true in counted
    )
    places = k - n_above  # (b,) at least 1
    tied, right_tied = n_least - n_above, right_least - right_above
    precision = (right_above + places * right_tied / tied) / k
    # Chance that none of the places goes to a right answer: drawing without replacement.
    miss = (right_above == 0).cpu().double()
    for drawn in range(k):
        step = (tied - right_tied - drawn).clamp(min=0) / (tied - drawn).clamp(min=1)
        miss = torch.where(drawn < places, miss * step, miss)
    return 1 - miss, precision


def _average_precision(similarity: Float[np.ndarray, " m"], right: Bool[np.ndarray, " m"]) -> float:
    """Mean precision at the right answers of one query; tied answers are found together."""
    everything, hits = np.sort(similarity), np.sort(similarity[right])
    # The rank of an answer is how many are at least as similar: the place where its ties end.
    least = hits - np.float32(TIE)
    ranks = len(everything) - np.searchsorted(everything, least)
    found = len(hits) - np.searchsorted(hits, least)
    return float((found / ranks).mean())

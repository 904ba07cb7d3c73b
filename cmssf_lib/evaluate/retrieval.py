"""Finding the right text for a picture and the right picture for a text; similarity of pairs.

Each measure is the expectation when ties (`neighbours.TIE`) are broken at random. For mAP tied
answers are found together.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from cmssf_lib.evaluate.neighbours import TIE, require_rows, similar_blocks


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
    if query_groups.shape != (len(queries),) or gallery_groups.shape != (len(gallery),):
        raise ValueError(
            f"groups have shapes {tuple(query_groups.shape)} and {tuple(gallery_groups.shape)}; "
            f"expected ({len(queries)},) and ({len(gallery)},), one a row."
        )
    if len(gallery_groups.unique()) < 2:
        raise ValueError("the gallery holds one group only: every answer would be right.")
    missing = query_groups[~torch.isin(query_groups, gallery_groups)].unique().tolist()
    if missing:
        raise ValueError(
            f"the gallery holds nothing of the groups {missing[:5]} that queries look for."
        )
    _require_ks(ks, len(gallery))
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
    R@1 cannot exceed 0.1 %. Chance is k / n.

    Args:
        image: Pictures in the shared space.
        text: The different captions.
        caption_index: For each picture, where its caption stands in `text`.
        ks: How many answers are looked at.

    Returns:
        "R@k" and "R@k_ceiling" for every k.

    Raises:
        ValueError: A set is empty or holds NaN, the dimensions differ, an index lies outside
            `text`, or a k is not within 1 … n.
    """
    require_rows("image", image, "text", text)
    if caption_index.shape != (len(image),):
        raise ValueError(
            f"caption_index has shape {tuple(caption_index.shape)}; expected ({len(image)},)."
        )
    if int(caption_index.min()) < 0 or int(caption_index.max()) >= len(text):
        raise ValueError(f"caption_index points outside the {len(text)} captions.")
    _require_ks(ks, len(image))
    copies = torch.bincount(caption_index, minlength=len(text)).float()  # (u,) exact below 2²⁴
    sums = dict.fromkeys([name for k in ks for name in (f"R@{k}", f"R@{k}_ceiling")], 0.0)
    for rows, similarity in similar_blocks(image, text):
        own = caption_index[rows]
        score = similarity.gather(1, own[:, None].long())  # (b, 1): the picture's own caption
        above = (similarity > score + TIE).float() @ copies  # (b,) items that come before it
        least = (similarity >= score - TIE).float() @ copies  # (b,) those and its ties, itself too
        above, least, same = (x.cpu().double() for x in (above, least, copies[own]))
        for k in ks:
            sums[f"R@{k}"] += float(((k - above) / (least - above)).clamp(0, 1).sum())
            sums[f"R@{k}_ceiling"] += float((k / same).clamp(max=1).sum())
    return {name: total / len(image) for name, total in sums.items()}


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

    All three are exact means over all pairs. None needs the n × n matrix, because the sum of all
    dot products is the dot product of the sums.

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
    names, labels = labels.cpu().unique(return_inverse=True)
    if len(names) < 2:
        raise ValueError("all pictures are of one class: there are no pairs of different classes.")
    # Sums over many pairs: in double precision, on the CPU, which has it on every machine.
    x, t = (F.normalize(e.cpu().double(), dim=1) for e in (image, text))  # (n, dim)
    member = F.one_hot(labels).cpu().double()  # (n, classes)
    n, sizes = len(x), member.sum(dim=0)
    own = (x * t).sum()
    everything = x.sum(dim=0) @ t.sum(dim=0)
    same_class = ((member.T @ x) * (member.T @ t)).sum()
    return {
        "positive": (own / n).item(),
        "different_class": ((everything - same_class) / (n**2 - sizes.square().sum())).item(),
        "contaminated": ((everything - own) / (n * (n - 1))).item(),
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


def _require_ks(ks: Sequence[int], gallery: int) -> None:
    if len(ks) == 0 or min(ks) < 1 or max(ks) > gallery:
        raise ValueError(
            f"ks is {tuple(ks)}, but the gallery holds {gallery}: choose from 1 to that."
        )

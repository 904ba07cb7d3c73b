"""Finding the right text for a picture and the right picture for a text; similarity of pairs.

Ties are part of the matter here: captions repeat, and a collapsed model finds everything equally
similar. Every measure is therefore the expectation under random tie breaking (or, for mAP, treats
equal scores as one step), so that no result depends on the order in which a set is stored.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cmssf_lib.evaluate.classify import BLOCK, check_widths


def retrieval(
    queries: Float[Tensor, "n dim"],
    gallery: Float[Tensor, "m dim"],
    query_groups: Int[Tensor, "n"],
    gallery_groups: Int[Tensor, "m"],
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
        ValueError: A set is empty, dimensions or lengths differ, a k is not within 1 … m, the
            gallery holds one group only, or a query's group is not in the gallery.
    """
    check_widths("queries", queries, "gallery", gallery)
    _check_groups(query_groups, len(queries), gallery_groups, len(gallery))
    _check_ks(ks, len(gallery))
    queries, gallery = F.normalize(queries, dim=1), F.normalize(gallery, dim=1)
    sums = dict.fromkeys([f"{m}@{k}" for m in "RP" for k in ks] + ["mAP"] * mean_ap, 0.0)
    rows = max(1, BLOCK // len(gallery))
    for q, groups in zip(queries.split(rows), query_groups.split(rows), strict=True):
        similarity = q @ gallery.T  # (b, m)
        right = groups[:, None] == gallery_groups[None, :]  # (b, m)
        best = similarity.topk(max(ks), dim=1).values  # (b, max k), from the most similar down
        for k in ks:
            recall, precision = _first_k(similarity, right, best[:, k - 1 : k], k)
            sums[f"R@{k}"] += recall.sum().item()
            sums[f"P@{k}"] += precision.sum().item()
        if mean_ap:
            sums["mAP"] += _average_precision(similarity, right).sum().item()
    return {name: total / len(queries) for name, total in sums.items()}


def exact_caption_retrieval(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "u dim"],
    caption_index: Int[Tensor, "n"],
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
        ValueError: A set is empty, the dimensions differ, an index lies outside `text`, or a k is
            not within 1 … n.
    """
    check_widths("image", image, "text", text)
    if caption_index.shape != (len(image),):
        raise ValueError(
            f"caption_index has shape {tuple(caption_index.shape)}; expected ({len(image)},)."
        )
    if int(caption_index.min()) < 0 or int(caption_index.max()) >= len(text):
        raise ValueError(f"caption_index points outside the {len(text)} captions.")
    _check_ks(ks, len(image))
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    copies = torch.bincount(caption_index, minlength=len(text)).to(image.dtype)  # (u,)
    sums = dict.fromkeys([name for k in ks for name in (f"R@{k}", f"R@{k}_ceiling")], 0.0)
    rows = max(1, BLOCK // len(text))
    for x, own in zip(image.split(rows), caption_index.split(rows), strict=True):
        similarity = x @ text.T  # (b, u)
        score = similarity.gather(1, own[:, None])  # (b, 1): the picture's own caption
        above = (similarity > score).to(x.dtype) @ copies  # (b,) items that come before it
        tied = (similarity == score).to(x.dtype) @ copies  # (b,) items beside it, itself included
        for k in ks:
            sums[f"R@{k}"] += ((k - above) / tied).clamp(0, 1).sum().item()
            sums[f"R@{k}_ceiling"] += (k / copies[own]).clamp(max=1).sum().item()
    return {name: total / len(image) for name, total in sums.items()}


def pair_similarity(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], labels: Int[Tensor, "n"]
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
        ValueError: Shapes or lengths differ, or there are fewer than two classes.
    """
    check_widths("image", image, "text", text)
    if len(image) != len(text) or labels.shape != (len(image),):
        raise ValueError(
            f"{len(image)} pictures, {len(text)} texts, labels of shape {tuple(labels.shape)}; "
            "expected one text and one label a picture."
        )
    names, labels = labels.unique(return_inverse=True)
    if len(names) < 2:
        raise ValueError("all pictures are of one class: there are no pairs of different classes.")
    # Sums over many pairs: in double precision, on the CPU, which has it on every machine.
    x, t = (F.normalize(e.double().cpu(), dim=1) for e in (image, text))  # (n, dim)
    member = F.one_hot(labels.cpu()).double()  # (n, classes)
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
    similarity: Float[Tensor, "b m"],
    right: Bool[Tensor, "b m"],
    threshold: Float[Tensor, "b 1"],
    k: int,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Expected recall (any right?) and precision of the first k, ties broken at random.

    All answers above the k-th largest similarity are in; those equal to it share the places left.
    """
    above, tied = similarity > threshold, similarity == threshold
    places = k - _count(above)  # (b,) at least 1
    right_above = _count(above & right)
    right_tied, all_tied = _count(tied & right), _count(tied)
    precision = (right_above + places * right_tied / all_tied) / k
    # Chance that none of the places goes to a right answer: drawing without replacement.
    miss = (right_above == 0).to(similarity.dtype)
    for drawn in range(k):
        wrong_left = (all_tied - right_tied - drawn).clamp(min=0)
        step = wrong_left / (all_tied - drawn).clamp(min=1)
        miss = torch.where(drawn < places, miss * step, miss)
    return 1 - miss, precision.to(similarity.dtype)


def _count(true: Bool[Tensor, "b m"]) -> Int[Tensor, "b"]:
    """How many entries of each row are true; in int32, ten times as fast as the default int64."""
    return true.sum(dim=1, dtype=torch.int32)


def _average_precision(
    similarity: Float[Tensor, "b m"], right: Bool[Tensor, "b m"]
) -> Float[Tensor, "b"]:
    """Mean precision at the right answers; equally similar answers are found together."""
    score, order = similarity.sort(dim=1, descending=True)
    hit = right.gather(1, order)
    # The rank of an answer is how many are at least as similar: the place where its ties end.
    m = score.shape[1]
    place = torch.arange(1, m + 1, device=score.device)
    ends = F.pad(score[:, 1:] < score[:, :-1], (0, 1), value=True)  # (b, m)
    rank = place.where(ends, m).flip(1).cummin(dim=1).values.flip(1)  # (b, m), from 1 to m
    found = hit.cumsum(dim=1).gather(1, rank - 1)
    return (found / rank * hit).sum(dim=1) / hit.sum(dim=1)


def _check_ks(ks: Sequence[int], gallery: int) -> None:
    if len(ks) == 0 or min(ks) < 1 or max(ks) > gallery:
        raise ValueError(
            f"ks is {tuple(ks)}, but the gallery holds {gallery}: choose from 1 to that."
        )


def _check_groups(query_groups: Tensor, n: int, gallery_groups: Tensor, m: int) -> None:
    if query_groups.shape != (n,) or gallery_groups.shape != (m,):
        raise ValueError(
            f"groups have shapes {tuple(query_groups.shape)} and {tuple(gallery_groups.shape)}; "
            f"expected ({n},) and ({m},), one a row."
        )
    if len(gallery_groups.unique()) < 2:
        raise ValueError("the gallery holds one group only: every answer would be right.")
    missing = query_groups[~torch.isin(query_groups, gallery_groups)].unique().tolist()
    if missing:
        raise ValueError(
            f"the gallery holds nothing of the groups {missing[:5]} that queries look for."
        )

"""Retrieval between pictures and texts, and the similarity of pairs.

Each retrieval measure is its expected value when ties (`neighbours.TIE`) are broken at random. In
mAP, all tied answers get the rank of the last of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from cmssf_lib.evaluate.neighbours import TIE, require_one_a_row, require_rows, similar_blocks
from cmssf_lib.losses.precision import similarities


def retrieval(
    queries: Float[Tensor, "n dim"],
    gallery: Float[Tensor, "m dim"],
    query_groups: Int[Tensor, " n"],
    gallery_groups: Int[Tensor, " m"],
    ks: Sequence[int] = (1, 5, 10),
    mean_ap: bool = True,
) -> dict[str, float]:
    """Measure label-aware retrieval: an answer is correct if it belongs to the query's group.

    - `R@k`: the share of queries with at least one correct answer among the first k. Chance is
      about 1 - (1 - p)^k, where p is the group's share of the gallery: 65 % at k = 10 for ten
      classes.
    - `P@k`: the share of correct answers among the first k. Chance is p.
    - `mAP`: average precision over the whole ranking, averaged over the queries. Chance is about p.

    R@k and mAP can always reach 1. P@k can if the query's group has at least k members in the
    gallery; otherwise it cannot exceed members / k.

    Args:
        queries: Embeddings of the queries in the shared space.
        gallery: Embeddings to search.
        query_groups: Class (or any other group) of each query.
        gallery_groups: Class (or other group) of each item of the gallery.
        ks: Numbers of top answers to evaluate.
        mean_ap: Whether to compute mAP, which sorts all answers and takes most of the time.

    Returns:
        "R@k" and "P@k" for every k, and "mAP" if `mean_ap`.

    Raises:
        ValueError: If a set is empty or contains NaN, dimensions or lengths differ, a k is not
            within 1 … m, the gallery has only one group, or lacks the group of a query.
    """
    require_rows("queries", queries, "gallery", gallery)
    require_one_a_row("query_groups", query_groups, len(queries))
    require_one_a_row("gallery_groups", gallery_groups, len(gallery))
    if len(gallery_groups.unique()) < 2:
        raise ValueError("the gallery holds one group only, so every answer would be correct.")
    missing = query_groups[~torch.isin(query_groups, gallery_groups)].unique().tolist()
    if missing:
        raise ValueError(f"the gallery has no item of the query groups {missing[:5]}.")
    if len(ks) == 0 or min(ks) < 1 or max(ks) > len(gallery):
        raise ValueError(
            f"ks is {tuple(ks)}, but the gallery holds {len(gallery)}: choose 1 to {len(gallery)}."
        )
    sums = dict.fromkeys([f"{m}@{k}" for m in "RP" for k in ks] + ["mAP"] * mean_ap, 0.0)
    for rows, similarity in similar_blocks(queries, gallery):
        right = query_groups[rows, None] == gallery_groups[None, :]  # (b, m)
        best = similarity.topk(max(ks), dim=1).values  # (b, max k), in descending order
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
    caption_index: Int[Tensor, " p"],
    ks: Sequence[int] = (1, 5, 10),
    *,
    picture_index: Int[Tensor, " p"] | None = None,
) -> dict[str, float]:
    """Measure how often each picture finds its own caption among the captions of all n pictures.

    If n_i pictures share a caption, the gallery contains it n_i times. No method can tell these
    copies apart, so the picture's own copy is among the first k with probability k / n_i at best.
    This ceiling is returned with each result: with ten captions for 10,000 pictures, R@1 cannot
    exceed 0.1 %. Chance is k / n. This is `retrieval` with each picture as its own group.

    If pictures have several captions, finding any of them counts, and the ceiling is that of the
    rarest.

    Args:
        image: Embeddings of the pictures in the shared space.
        text: Embeddings of the distinct captions in the shared space.
        caption_index: For each picture, the row of its caption in `text`.
        ks: Numbers of top answers to evaluate.
        picture_index: If pictures have several captions, the row of the picture that each entry
            of `caption_index` belongs to: the two rows of `ImageTextData.caption_pairs`.

    Returns:
        "R@k" and "R@k_ceiling" for every k.

    Raises:
        ValueError: If there is only one picture, a set contains NaN, the dimensions differ, or a
            k is not within 1 … the number of captions.
        IndexError: If an index lies outside `text`.
    """
    own = torch.arange(len(image), device=image.device)
    of = own if picture_index is None else picture_index
    found = retrieval(image, text[caption_index], own, of, ks, mean_ap=False)
    copies = caption_index.bincount()[caption_index]  # (p,)
    fewest = torch.full_like(own, len(of)).scatter_reduce(0, of, copies, "amin")
    return _with_ceiling(found, fewest)


def both_retrievals(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "u dim"],
    caption_pairs: Int[Tensor, "2 p"],
    labels: Int[Tensor, " n"],
) -> dict[str, float]:
    """Search texts by picture and pictures by text; `evaluate.report` explains the results.

    Args:
        image: Embeddings of the pictures in the shared space.
        text: Embeddings of the distinct captions.
        caption_pairs: Each picture with each of its captions, as rows of `image` and `text`.
        labels: The class of each picture.
    """
    picture, caption = caption_pairs
    of, own = labels[picture], torch.arange(len(image))
    to_text = retrieval(image, text[caption], labels, of, mean_ap=False)
    results = {f"image_to_text_{name}": v for name, v in to_text.items() if name[0] == "R"}
    # Each distinct (caption, class) pair is one query, however many pictures share it.
    query, label = torch.stack([caption, of]).unique(dim=1)  # (q,) both
    to_image = retrieval(text[query], image, label, labels)
    results |= {f"text_to_image_{name}": v for name, v in to_image.items()}
    exact = exact_caption_retrieval(image, text, caption, picture_index=picture)
    results |= {f"exact_caption_{name}": v for name, v in exact.items()}
    if len(picture) > len(image):  # each caption of each picture searches for that very picture
        exact = retrieval(text[caption], image, picture, own, mean_ap=False)
        exact = _with_ceiling(exact, caption.bincount()[caption])
        results |= {f"exact_picture_{name}": v for name, v in exact.items()}
    return results


def _with_ceiling(found: Mapping[str, float], copies: Shaped[Tensor, " p"]) -> dict[str, float]:
    """Return each R@k, and its best value if each answer has so many equal copies."""
    results, copies = {}, copies.cpu().double()
    for name in [name for name in found if name[0] == "R"]:
        results[name] = found[name]
        results[f"{name}_ceiling"] = float((int(name[2:]) / copies).clamp(max=1).mean())
    return results


def pair_similarity(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    picture_index: Int[Tensor, " n"] | None = None,
) -> dict[str, float]:
    """Compute the mean cosine similarity of pictures with their own and with other texts.

    - `positive`: with the picture's own text. At most 1.
    - `different_class`: with the texts of all pictures of other classes. For c classes spread
      evenly in space it is -1 / (c - 1): -0.11 for ten.
    - `contaminated`: with the texts of all other pictures, including those of the same class. This
      is what randomly drawn "negative pairs" measure, and it is too high: with ten classes, about
      a tenth of these pairs belong to the same class.

    All three are exact means over all pairs, in double precision.

    Args:
        image: Embeddings of the pictures in the shared space.
        text: Embeddings of the texts; row i is the text of picture i.
        labels: The class of each picture.
        picture_index: If pictures stand in several rows, with a caption each: a number for each
            picture. Its other captions then count as its own, not as another picture's.

    Returns:
        "positive", "different_class", "contaminated".

    Raises:
        ValueError: If shapes or lengths differ, there is only one class, or a set contains NaN.
    """
    require_rows("image", image, "text", text)
    if len(image) != len(text) or labels.shape != (len(image),):
        raise ValueError(
            f"{len(image)} pictures, {len(text)} texts, labels of shape {tuple(labels.shape)}; "
            "expected one text and one label per picture."
        )
    if len(labels.unique()) < 2:
        raise ValueError("all pictures are of one class: there are no pairs of different classes.")
    # Sums over many pairs need float64, which some devices lack, so compute on the CPU.
    x, t = image.cpu().double(), text.cpu().double()
    if picture_index is not None and len(picture_index.unique()) == len(x):
        picture_index = None
    by_picture = similarities(x, t, None if picture_index is None else picture_index.cpu())
    by_class = similarities(x, t, labels.cpu())
    return {
        "positive": by_picture["positive_similarity"].item(),
        "different_class": by_class["negative_similarity"].item(),
        "contaminated": by_picture["negative_similarity"].item(),
    }


def _first_k(
    similarity: Float[Tensor, "b m"], right: Bool[Tensor, "b m"], last: Float[Tensor, "b 1"], k: int
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
    """Return each query's expected R@k and P@k when ties are broken at random.

    All answers above the k-th largest similarity, `last`, are among the first k. Answers tied with
    it share the remaining places.
    """
    above, least = similarity > last + TIE, similarity >= last - TIE
    # Count in int32, ten times as fast as in int64; then convert to float64 for the fractions.
    counted = (above, least, above & right, least & right)
    n_above, n_least, right_above, right_least = (
        true.sum(dim=1, dtype=torch.int32).cpu().double() for true in counted
    )
    places = k - n_above  # (b,) at least 1
    tied, right_tied = n_least - n_above, right_least - right_above
    precision = (right_above + places * right_tied / tied) / k
    # Probability that no correct answer gets a place: tied answers are drawn without replacement.
    miss = (right_above == 0).cpu().double()
    for drawn in range(k):
        step = (tied - right_tied - drawn).clamp(min=0) / (tied - drawn).clamp(min=1)
        miss = torch.where(drawn < places, miss * step, miss)
    return 1 - miss, precision


def _average_precision(similarity: Float[np.ndarray, " m"], right: Bool[np.ndarray, " m"]) -> float:
    """Return the mean precision at one query's correct answers; ties share the last rank."""
    everything, hits = np.sort(similarity), np.sort(similarity[right])
    # The rank of an answer is the number of answers that are at least as similar, ties included.
    least = hits - np.float32(TIE)
    ranks = len(everything) - np.searchsorted(everything, least)
    found = len(hits) - np.searchsorted(hits, least)
    return float((found / ranks).mean())

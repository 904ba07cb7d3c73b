"""Few labels: which examples get them, and a linear classifier that is fitted with them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, stdev

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from pydantic import NonNegativeInt, PositiveInt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from cmssf_lib.data import ImageTextData
from cmssf_lib.evaluate.neighbours import accuracy, require_labels, require_one_a_row, require_rows
from cmssf_lib.settings import Fraction, settings

#: Labelled examples: name, such as "10_per_class" → one choice a draw.
Choices = Mapping[str, Sequence[Int64[Tensor, " m"]]]
#: Penalties that a probe chooses from, the strongest first: scikit-learn's C is their inverse. All
#: recorded results are chosen from these five. With ten labels a class it is often the strongest:
#: a still stronger one might answer a little better.
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
#: With more labels than this a single held-out fifth is large enough to choose by.
CROSS_VALIDATED = 1000
#: Steps of the solver (L-BFGS); a fit takes tens to hundreds.
MAX_STEPS = 2000


@settings
class JudgeConfig:
    """How what was learned is measured on the test set, when the training is over."""

    per_class: NonNegativeInt  # labels a class with which classifiers are fitted; 0: none such
    fractions: tuple[Fraction, ...]  # parts of the training set whose labels they get, like 0.01
    draws: PositiveInt  # choices of the labelled pictures, where there is a choice
    fine_tune: bool  # fine-tune the encoder with them as well; an MAE always is
    pixels: bool  # fit classifiers on raw pixels as well


def few_labels(
    labels: Int[Tensor, " n"],
    classes: int,
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int,
) -> Int64[Tensor, " m"]:
    """Choose which examples are labelled, so that every class gets its share.

    The same seed chooses the same examples, whatever method they are for. A larger choice holds
    a smaller one of the same seed, so a curve over the number of labels adds labels and never
    exchanges them.

    Args:
        labels: The class of every example.
        classes: Number of classes.
        per_class: Labels a class; or
        fraction: the part of each class that is labelled, 0 to 1; rounded, at least one.
        seed: Of the draw.

    Returns:
        Where the chosen examples stand, in ascending order.

    Raises:
        ValueError: Neither or both of `per_class` and `fraction` are given or one is out of
            range, a label lies outside the classes, or a class has too few examples.
    """
    if (per_class is None) == (fraction is None):
        raise ValueError(
            f"got per_class={per_class} and fraction={fraction}: give one of them, not "
            + ("none." if per_class is None else "both.")
        )
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class is {per_class}; every class needs at least one label.")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected more than 0 and at most 1.")
    require_labels("labels", labels, len(labels), classes)
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for label in range(classes):
        members = order[labels[order] == label]
        count = per_class if fraction is None else max(1, round(fraction * len(members)))
        assert count is not None
        if len(members) < count:
            raise ValueError(
                f"class {label} has {len(members)} examples, fewer than the {count} asked for: "
                "take fewer labels a class, or leave the class out."
            )
        chosen.append(members[:count])
    return torch.cat(chosen).sort().values


def label_draws(
    data: ImageTextData, per_class: int | None, fractions: Sequence[float], draws: int
) -> Choices:
    """Choose labelled examples for `per_class` and each fraction; the seeds are 0, 1, ….

    Raises:
        ValueError: There is nothing to choose, `draws` < 1, or see `few_labels`.
    """
    if per_class is None and not fractions:
        raise ValueError("nothing to measure: give per_class, or at least one of fractions.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least one choice of labels is needed.")
    choose, chosen = partial(few_labels, data.labels, len(data.class_names)), {}
    if per_class is not None:
        name = f"{per_class}_per_class"
        chosen[name] = [choose(per_class=per_class, seed=seed) for seed in range(draws)]
    for part in fractions:  # all labels can be chosen in one way only
        seeds = range(1 if part == 1 else draws)
        chosen[f"{100 * part:g}pct"] = [choose(fraction=part, seed=seed) for seed in seeds]
    return chosen


def with_each_choice(
    way: str,
    chosen: Choices,
    answer: Callable[[Int64[Tensor, " m"], int], Int[Tensor, " n"]],
    truth: Int[Tensor, " n"],
    predictions: dict[str, Tensor],
) -> dict[str, float]:
    """Classify the test set with each choice of labels: accuracy's mean, deviation, and number.

    Args:
        way: How it is classified, with which the names begin.
        chosen: Of labelled examples.
        answer: From a choice and its number to the predicted classes.
        truth: The right ones.
        predictions: Filled with the predicted ones, (draws, n).
    """
    results = {}
    for part, indices in chosen.items():
        name = f"{way}_{part}"
        predictions[name] = torch.stack([answer(index, i) for i, index in enumerate(indices)])
        scores = [accuracy(predicted, truth) for predicted in predictions[name]]
        results[name] = fmean(scores)
        results[f"{name}_std"] = stdev(scores) if len(scores) > 1 else 0.0
        results[f"{name}_draws"] = float(len(scores))
    return results


def linear_probe(
    features: Float[Tensor, "m width"],
    labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n width"],
) -> Int64[Tensor, " n"]:
    """Fit a softmax classifier on frozen features and classify others with it.

    It minimises the summed cross-entropy plus penalty / 2 · ‖W‖² (the bias is free), which is
    convex: the result depends on the features alone, on no learning rate and no starting point.
    Features are first shifted and scaled to mean 0 and standard deviation 1 over the labelled
    examples, so that a penalty means the same for every method.

    The penalty is the one that answers best on labelled examples held out from the fit (see
    `best_penalty`). Then the classifier is fitted on all of them. The queries and their labels take
    no part in any of this.

    Args:
        features: Of the labelled examples, as `embed_features` returns them.
        labels: Their classes.
        queries: Features to classify.

    Returns:
        The predicted class of each query.

    Raises:
        ValueError: A set is empty, widths or lengths differ, a feature is NaN or infinite, there
            is only one class, or a class has a single label.

    References:
        Zhang et al. 2016, "Colorful Image Colorization", section 3.2, for the practice; Radford
        et al. 2021 (CLIP), section 3.2, for logistic regression with a chosen penalty.
    """
    require_rows("features", features, "queries", queries)
    require_one_a_row("labels", labels, len(features))
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError("all labelled examples are of one class: there is nothing to tell apart.")
    if int(counts.min()) < 2:
        raise ValueError("a class has a single label: label two of each, to hold out one.")
    raw = features.cpu().double()
    mean, std = raw.mean(dim=0), raw.std(dim=0, correction=0)
    # What varies by no more than rounding errors is constant, and stays so.
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    x, q = (((f.cpu().double() - mean) / std).numpy() for f in (features, queries))
    if x.shape[1] > len(x):
        # Weights that no example reaches stay 0, since they only cost. In the directions that the
        # examples span, it is the same problem, and a much smaller one where pixels are features.
        span = np.linalg.svd(x, full_matrices=False)[2]  # (m, width), orthonormal rows
        x, q = x @ span.T, q @ span.T
    y = labels.cpu().numpy()
    best = best_penalty(x, y)
    # Along the same path: started from a stronger penalty's weights, the solver is soon there.
    *_, model = _path(x, y, [penalty for penalty in PENALTIES if penalty >= best])
    return torch.from_numpy(model.predict(q)).long()


def best_penalty(x: Float[np.ndarray, "m width"], y: Int[np.ndarray, " m"]) -> float:
    """Return the penalty that answers best on held-out examples; of equally good the strongest.

    Each fifth of the examples is held out in turn, or one fifth of more than `CROSS_VALIDATED`.
    Every part holds all classes; with fewer than five labels of a class there are fewer parts.
    """
    parts = min(5, int(np.unique(y, return_counts=True)[1].min()))
    folds = list(StratifiedKFold(parts, shuffle=True, random_state=0).split(x, y))
    right = np.zeros(len(PENALTIES))
    for kept, held_out in folds if len(y) <= CROSS_VALIDATED else folds[:1]:
        for i, model in enumerate(_path(x[kept], y[kept], PENALTIES)):
            right[i] += (model.predict(x[held_out]) == y[held_out]).sum()
    return PENALTIES[right.argmax()]


def _path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[LogisticRegression]:
    """Fit once for each penalty, each fit starting where the one before ended.

    scikit-learn warns of a fit that was stopped before its minimum, after `MAX_STEPS`.
    """
    model = LogisticRegression(max_iter=MAX_STEPS, tol=1e-5, warm_start=True)
    for penalty in penalties:
        model.C = 1 / penalty
        yield model.fit(x, y)

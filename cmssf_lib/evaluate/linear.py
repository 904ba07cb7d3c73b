"""Few labels: which examples get them, and a linear classifier that is fitted with them."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from cmssf_lib.data import ImageTextData
from cmssf_lib.evaluate.neighbours import require_labels, require_rows

#: Labelled examples: name, such as "10_per_class" → one choice a draw.
Choices = Mapping[str, Sequence[Int64[Tensor, " m"]]]
#: Penalties that a probe chooses from, the strongest first: scikit-learn's C is their inverse.
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
#: With more labels than this a single held-out fifth is large enough to choose by.
CROSS_VALIDATED = 1000
#: Steps of the solver (L-BFGS); a fit takes tens to hundreds.
MAX_STEPS = 2000


@dataclass(frozen=True)
class JudgeConfig:
    """How what was learned is measured on the test set, when the training is over."""

    per_class: int  # labels a class with which classifiers are fitted; 0: none such
    fractions: tuple[float, ...]  # parts of the training set whose labels they get, like 0.01
    draws: int  # choices of the labelled pictures, where there is a choice
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


@dataclass(frozen=True, eq=False)
class Probe:
    """What a linear probe answered, and what it chose."""

    predictions: Int64[Tensor, " n"]  # the predicted class of each query
    penalty: float  # the chosen strength of the penalty
    # With that penalty, on labelled examples that were held out; NaN: there was no choice to make.
    validation_accuracy: float


def linear_probe(
    features: Float[Tensor, "m width"],
    labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n width"],
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Probe:
    """Fit a softmax classifier on frozen features and classify others with it.

    It minimises the summed cross-entropy plus penalty / 2 · ‖W‖² (the bias is free), which is
    convex: the result depends on the features alone, on no learning rate and no starting point.
    Features are first shifted and scaled to mean 0 and standard deviation 1 over the labelled
    examples, so that a penalty means the same for every method.

    The penalty is the one that answers best on labelled examples held out from the fit: each
    fifth in turn, or one fifth of more than 1,000. Then the classifier is fitted on all of them.
    The queries and their labels take no part in any of this. With ten labels a class the strongest
    of `PENALTIES` is often chosen: a still stronger one might answer a little better. All recorded
    results are chosen from these five.

    Args:
        features: Of the labelled examples, as `embed_features` returns them.
        labels: Their classes.
        queries: Features to classify.
        penalties: To choose from; of equally good ones the strongest. With a single one nothing
            is held out.
        seed: Of the split into fifths.

    Returns:
        The predictions, the penalty, and how well it did on held-out examples.

    Raises:
        ValueError: A set is empty, widths or lengths differ, a feature is NaN or infinite, there
            is only one class, a penalty is not positive, or there is a penalty to choose and a
            class with a single label.

    References:
        Zhang et al. 2016, "Colorful Image Colorization", section 3.2, for the practice; Radford
        et al. 2021 (CLIP), section 3.2, for logistic regression with a chosen penalty.
    """
    require_rows("features", features, "queries", queries)
    if labels.shape != (len(features),):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected ({len(features)},), one a row."
        )
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError("all labelled examples are of one class: there is nothing to tell apart.")
    if not penalties or not all(penalty > 0 for penalty in penalties):
        raise ValueError(f"penalties are {tuple(penalties)}; expected at least one, all positive.")
    if len(penalties) > 1 and int(counts.min()) < 2:
        raise ValueError(
            "a class has a single label, so nothing can be held out to choose the penalty by: "
            "label two of each class, or give one penalty, such as penalties=(10.0,)."
        )
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
    weakest_last = sorted(penalties, reverse=True)
    best, score = weakest_last[0], float("nan")
    if len(weakest_last) > 1:
        right = np.zeros(len(weakest_last))
        held_out = 0
        for kept, tested in _folds(x, y, seed):
            for i, model in enumerate(_path(x[kept], y[kept], weakest_last)):
                right[i] += (model.predict(x[tested]) == y[tested]).sum()
            held_out += len(tested)
        best, score = weakest_last[right.argmax()], right.max() / held_out
    # Along the same path: started from a stronger penalty's weights, the solver is soon there.
    *_, model = _path(x, y, [p for p in weakest_last if p >= best])
    return Probe(torch.from_numpy(model.predict(q)).long(), best, float(score))


def _path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[LogisticRegression]:
    """Fit once for each penalty, each fit starting where the one before ended."""
    model = LogisticRegression(max_iter=MAX_STEPS, tol=1e-5, warm_start=True)
    for penalty in penalties:
        model.C = 1 / penalty
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        if model.n_iter_.max() >= MAX_STEPS:
            warnings.warn(
                f"the probe with penalty {penalty:g} was stopped after {MAX_STEPS} steps, before "
                "its minimum: its accuracy may be a little low. Leave out weak penalties.",
                RuntimeWarning,
                stacklevel=3,
            )
        yield model


def _folds(x: np.ndarray, y: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split into fifths (or fewer parts, if a class has fewer labels) with all classes in each."""
    parts = min(5, int(np.unique(y, return_counts=True)[1].min()))
    folds = list(StratifiedKFold(parts, shuffle=True, random_state=seed).split(x, y))
    return folds if len(y) <= CROSS_VALIDATED else folds[:1]


def pixel_features(data: ImageTextData) -> Float[Tensor, "n values"]:
    """Return the raw pixels in [0, 1] as features: what a method must beat.

    Every value is a feature: 768 on scenes of 16×16, 3,072 on CIFAR-10.
    """
    return data.images.flatten(1).float().cpu() / 255

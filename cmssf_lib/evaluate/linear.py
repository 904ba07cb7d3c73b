"""Choose a few labelled examples, and fit a linear classifier on their features."""

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

#: Labelled examples: name, such as "10_per_class" → one tensor of indices per draw.
Choices = Mapping[str, Sequence[Int64[Tensor, " m"]]]
#: Penalties that a probe chooses from, strongest first; scikit-learn's C is the inverse. All
#: recorded results use these five. With ten labels per class the strongest is often chosen, so a
#: stronger one might be slightly more accurate.
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
#: With more labels than this, one held-out fold is enough to choose the penalty.
CROSS_VALIDATED = 1000
#: Maximum number of solver steps (L-BFGS); a typical fit takes tens to hundreds.
MAX_STEPS = 2000


@settings
class JudgeConfig:
    """Settings of the evaluation on the test set, after the training."""

    per_class: NonNegativeInt  # labels per class for fitting classifiers; 0: use only fractions
    fractions: tuple[Fraction, ...]  # fractions of the labels for fitting classifiers, e.g. 0.01
    draws: PositiveInt  # random choices of the labelled pictures (one if all are labelled)
    fine_tune: bool  # also fine-tune the encoder with these labels; always done for MAE
    pixels: bool  # also fit classifiers on raw pixels


def few_labels(
    labels: Int[Tensor, " n"],
    classes: int,
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int,
) -> Int64[Tensor, " m"]:
    """Choose at random which examples of each class are labelled.

    The same seed chooses the same examples for every method. With the same seed, a larger choice
    contains every smaller one, so a curve over the number of labels only ever adds labels.

    Args:
        labels: The class of every example.
        classes: Number of classes.
        per_class: Number of labels per class. Give either this or `fraction`.
        fraction: Fraction of each class to label, above 0 and at most 1; at least one example.
        seed: Seed of the random choice.

    Returns:
        The indices of the chosen examples, in ascending order.

    Raises:
        ValueError: If neither or both of `per_class` and `fraction` are given or one is out of
            range, a label is not a class index, or a class has too few examples.
    """
    if (per_class is None) == (fraction is None):
        raise ValueError(
            f"give either per_class or fraction; got per_class={per_class}, fraction={fraction}."
        )
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class is {per_class}; choose at least one label per class.")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; choose a number above 0 and at most 1.")
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
                "choose fewer labels per class, or leave this class out."
            )
        chosen.append(members[:count])
    return torch.cat(chosen).sort().values


def label_draws(
    data: ImageTextData, per_class: int | None, fractions: Sequence[float], draws: int
) -> Choices:
    """Choose labelled examples for `per_class` and each fraction, with the seeds 0, 1, ….

    Args:
        data: The training set.
        per_class: Number of labels per class; None to use `fractions` only.
        fractions: Fractions of the training set.
        draws: Number of choices for each; a fraction of 1 gets a single one.

    Raises:
        ValueError: If `per_class` and `fractions` are both missing, `draws` < 1, or for a reason
            given in `few_labels`.
    """
    if per_class is None and not fractions:
        raise ValueError("nothing to measure: give per_class or at least one fraction.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; choose at least 1.")
    choose, chosen = partial(few_labels, data.labels, len(data.class_names)), {}
    if per_class is not None:
        name = f"{per_class}_per_class"
        chosen[name] = [choose(per_class=per_class, seed=seed) for seed in range(draws)]
    for part in fractions:  # a fraction of 1 takes all labels, so every draw would be the same
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
    """Classify the test set once for each choice of labels, and summarise the accuracies.

    Args:
        way: Name of the classifier; every name in the result starts with it.
        chosen: The choices of labelled examples.
        answer: Maps a choice and its index to the predicted classes.
        truth: The true classes.
        predictions: Filled with the predicted classes, (draws, n) for each name.

    Returns:
        For each name, the mean accuracy, its standard deviation (`_std`, 0 for a single choice),
        and the number of choices (`_draws`).
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
    """Fit a softmax classifier on frozen features and classify the queries with it.

    It minimises the summed cross-entropy plus penalty / 2 · ‖W‖² (the bias is not penalised). This
    is convex, so the result depends neither on a learning rate nor on a starting point. Features
    are first standardised to mean 0 and standard deviation 1 over the labelled examples, so that
    a penalty means the same for every method.

    The penalty is chosen by its accuracy on held-out labelled examples (see `best_penalty`). Then
    the classifier is fitted on all labelled examples. The queries are used only for prediction.

    Args:
        features: Features of the labelled examples, as `embed_features` returns them.
        labels: The classes of the labelled examples.
        queries: Features to classify.

    Returns:
        The predicted class of each query, on the queries' device. (It is fitted on the CPU.)

    Raises:
        ValueError: If a set is empty, widths or lengths differ, a feature is NaN or infinite,
            there is only one class, or a class has a single label.

    References:
        Zhang et al. 2016, "Colorful Image Colorization", section 3.2, for linear probes; Radford
        et al. 2021 (CLIP), section 3.2, for logistic regression with a selected penalty.
    """
    require_rows("features", features, "queries", queries)
    require_one_a_row("labels", labels, len(features))
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError("all labelled examples are of one class: label at least two classes.")
    if int(counts.min()) < 2:
        raise ValueError("a class has a single label: label two per class, to hold out one.")
    raw = features.cpu().double()
    mean, std = raw.mean(dim=0), raw.std(dim=0, correction=0)
    # A feature that varies only by rounding errors counts as constant and is not scaled up.
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    x, q = (((f.cpu().double() - mean) / std).numpy() for f in (features, queries))
    if x.shape[1] > len(x):
        # The penalty keeps weights at 0 in directions that no example spans. Projecting to the
        # span therefore gives the same solution, and is much faster for features such as pixels.
        span = np.linalg.svd(x, full_matrices=False)[2]  # (m, width), orthonormal rows
        x, q = x @ span.T, q @ span.T
    y = labels.cpu().numpy()
    best = best_penalty(x, y)
    # Start from the weights of the stronger penalties, as in `best_penalty`: it converges faster.
    *_, model = _path(x, y, [penalty for penalty in PENALTIES if penalty >= best])
    return torch.from_numpy(model.predict(q)).long().to(queries.device)


def best_penalty(x: Float[np.ndarray, "m width"], y: Int[np.ndarray, " m"]) -> float:
    """Return the penalty with the best accuracy on held-out examples; ties go to the strongest.

    This is 5-fold cross-validation. With more than `CROSS_VALIDATED` examples, only the first fold
    is held out. Every fold contains all classes: if a class has fewer than five labels, there are
    fewer folds.
    """
    parts = min(5, int(np.unique(y, return_counts=True)[1].min()))
    folds = list(StratifiedKFold(parts, shuffle=True, random_state=0).split(x, y))
    right = np.zeros(len(PENALTIES))
    for kept, held_out in folds if len(y) <= CROSS_VALIDATED else folds[:1]:
        for i, model in enumerate(_path(x[kept], y[kept], PENALTIES)):
            right[i] += (model.predict(x[held_out]) == y[held_out]).sum()
    return PENALTIES[right.argmax()]


def _path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[LogisticRegression]:
    """Fit once for each penalty, starting from the previous solution.

    scikit-learn warns if a fit has not converged after `MAX_STEPS`.
    """
    model = LogisticRegression(max_iter=MAX_STEPS, tol=1e-5, warm_start=True)
    for penalty in penalties:
        model.C = 1 / penalty
        yield model.fit(x, y)

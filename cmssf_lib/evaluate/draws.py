"""Which examples are labelled, when only a few are."""

import statistics
from collections.abc import Sequence

import torch
from jaxtyping import Int, Int64
from torch import Tensor


def few_labels(
    labels: Int[Tensor, "n"],
    classes: int,
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int,
) -> Int64[Tensor, "m"]:
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
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} "
            f"classes: expected 0 to {classes - 1}."
        )
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
    labels: Int[Tensor, "n"],
    classes: int,
    per_class: int | None,
    fractions: Sequence[float],
    draws: int,
) -> dict[str, list[Int64[Tensor, "m"]]]:
    """Choose labelled examples for `per_class` and each fraction: name → one choice a draw.

    Raises:
        ValueError: There is nothing to choose, `draws` < 1, or see `few_labels`.
    """
    if per_class is None and not fractions:
        raise ValueError("nothing to measure: give per_class, or at least one of fractions.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least one choice of labels is needed.")
    chosen = {}
    if per_class is not None:
        chosen[f"{per_class}_per_class"] = [
            few_labels(labels, classes, per_class=per_class, seed=seed) for seed in range(draws)
        ]
    for fraction in fractions:
        chosen[f"{100 * fraction:g}pct"] = [
            few_labels(labels, classes, fraction=fraction, seed=seed)
            for seed in range(1 if fraction == 1 else draws)
        ]
    return chosen


def summary(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0 for a single value) and number of repeated measures."""
    return {
        name: statistics.fmean(values),
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else 0.0,
        f"{name}_draws": float(len(values)),
    }

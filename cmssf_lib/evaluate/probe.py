"""What frozen features know: a linear classifier fitted on them, with few labels or with many."""

import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.evaluate.classify import accuracy, check_widths, knn
from cmssf_lib.evaluate.draws import label_draws, summary
from cmssf_lib.evaluate.embeddings import embed_features

#: Penalties that a probe chooses from, the strongest first: scikit-learn's C is their inverse.
PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
#: With more labels than this a single held-out fifth is large enough to choose by.
CROSS_VALIDATED = 1000
#: Steps of the solver (L-BFGS); a fit takes tens to hundreds.
MAX_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Probe:
    """What a linear probe answered, and what it chose.

    Attributes:
        predictions: The predicted class of each query.
        penalty: The chosen strength of the penalty.
        validation_accuracy: With that penalty, on labelled examples that were held out; NaN where
            there was no choice to make.
    """

    predictions: Int64[Tensor, "n"]
    penalty: float
    validation_accuracy: float


def linear_probe(
    features: Float[Tensor, "m width"],
    labels: Int[Tensor, "m"],
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
    The queries and their labels take no part in any of this.

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
    check_widths("features", features, "queries", queries)
    _check_probe(features, labels, queries, penalties)
    mean, std = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    # What varies by no more than rounding errors is constant, and stays so.
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    x, q = (((f.double() - mean) / std).cpu().numpy() for f in (features, queries))
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


def probe_report(
    method: nn.Module | Callable[[ImageTextData], Float[Tensor, "n width"]],
    splits: Splits,
    *,
    per_class: int | None = 10,
    fractions: Sequence[float] = (),
    draws: int = 3,
    k: int | None = None,
    batch_size: int = 256,
    predictions: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Measure frozen features on the test set, with few labels and with many.

    For `per_class` and for each of `fractions` there is a name, such as "10_per_class", "1pct",
    "100pct", and under it:

    - `linear_<name>`: accuracy of `linear_probe`, the mean over `draws` choices of the labelled
      examples; `linear_<name>_std`, the standard deviation over these choices (0 for a single
      one); `linear_<name>_draws`, how many there were. All labels can be chosen in one way only.
    - `knn_<name>`: accuracy of the nearest among the same labelled examples, likewise the mean.
    - `labels_<name>`: how many labels that is.

    And `knn`, with the labels of the whole training set, of the `knn_k` nearest.

    The choices are those of the seeds 0, 1, …: every method is measured with the same labels.
    Baselines go the same way: raw pixels as `probe_report(pixel_features, splits)`, an untrained
    network as a method that was built and not trained.

    Args:
        method: A module with `features(images)`, whose weights, buffers and modes are left as
            they are; or a function from data to features.
        splits: Training set and test set. To choose a setting by these numbers, put a validation
            set in the place of the test set.
        per_class: Labels a class; None for none such.
        fractions: Parts of the training set.
        draws: Choices of labelled examples.
        k: Neighbours that vote. None: 200, or a tenth of a set of fewer than 2,000.
        batch_size: Pictures encoded at a time; changes nothing but memory.
        predictions: If given, filled with the predicted classes behind each accuracy, under its
            name: (draws, n) for n test pictures, (n,) for `knn`.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: There is nothing to measure, `draws` < 1, a class has too few examples, or
            features hold NaN.
    """
    train, test = splits
    classes, labels = len(train.class_names), train.labels.cpu()
    chosen = label_draws(labels, classes, per_class, fractions, draws)

    def embedded(data: ImageTextData) -> Tensor:
        if isinstance(method, nn.Module):
            return embed_features(method, data, batch_size)
        return method(data)

    bank, queries, truth = embedded(train), embedded(test), test.labels.cpu()

    def near(index: Tensor) -> int:
        return k or min(200, max(1, len(index) // 10))

    def neighbours(index: Tensor) -> Tensor:
        return knn(bank[index], labels[index], queries, classes, near(index))

    everything = torch.arange(len(train))
    predicted = {"knn": neighbours(everything)}
    results = {"knn": accuracy(predicted["knn"], truth), "knn_k": float(near(everything))}
    for name, indices in chosen.items():
        linear = [linear_probe(bank[i], labels[i], queries).predictions for i in indices]
        voted = [neighbours(i) for i in indices]
        results |= summary(f"linear_{name}", [accuracy(p, truth) for p in linear])
        results[f"knn_{name}"] = statistics.fmean(accuracy(p, truth) for p in voted)
        results[f"labels_{name}"] = float(len(indices[0]))
        predicted |= {f"linear_{name}": torch.stack(linear), f"knn_{name}": torch.stack(voted)}
    if predictions is not None:
        predictions.update(predicted)
    return results


def _check_probe(
    features: Tensor, labels: Tensor, queries: Tensor, penalties: Sequence[float]
) -> None:
    """Refuse what cannot be fitted, before any work."""
    if labels.shape != (len(features),):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected ({len(features)},), one a row."
        )
    for name, x in (("features", features), ("queries", queries)):
        if not x.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity: the weights of the encoder are broken."
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

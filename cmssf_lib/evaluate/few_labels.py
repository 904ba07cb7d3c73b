"""What frozen features are worth with few labels: the measures of every choice of them."""

import statistics
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.evaluate.embeddings import embed_features
from cmssf_lib.evaluate.linear import Choices, label_draws, linear_probe
from cmssf_lib.evaluate.neighbours import accuracy, knn, usual_k
from cmssf_lib.methods import Method


def probe_report(
    method: Method
    | Callable[[ImageTextData], Float[Tensor, "n width"]]
    | tuple[Float[Tensor, "m width"], Float[Tensor, "n width"]],
    splits: Splits,
    *,
    per_class: int | None = 10,
    fractions: Sequence[float] = (),
    draws: int = 3,
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
    - `knn`, without a name: of the `knn_k` nearest, with the labels of the whole training set.

    The choices are those of the seeds 0, 1, …: every method is measured with the same labels.
    Baselines go the same way: raw pixels as `probe_report(pixel_features, splits)`, an untrained
    network as a method that was built and not trained.

    Args:
        method: Its weights, buffers and modes are left as they are; or a function from data to
            features; or the features of both sets.
        splits: Training set and test set. To choose a setting by these numbers, put a validation
            set in the place of the test set.
        per_class: Labels a class; None for none such.
        fractions: Parts of the training set.
        draws: Choices of labelled examples.
        predictions: If given, filled with the predicted classes behind each accuracy, under its
            name: (draws, n) for n test pictures, (n,) for `knn`.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: There is nothing to measure, `draws` < 1, a class has too few examples, or
            features hold NaN.
    """
    train, test = splits
    chosen = label_draws(train, per_class, fractions, draws)
    classes, labels, truth = len(train.class_names), train.labels.cpu(), test.labels.cpu()
    if isinstance(method, tuple):
        bank, queries = method
    elif isinstance(method, Method):
        bank, queries = (embed_features(method, data) for data in splits)
    else:
        bank, queries = map(method, splits)

    def linear(index: Tensor, draw: int) -> Tensor:
        return linear_probe(bank[index], labels[index], queries).predictions

    def nearest(index: Tensor, draw: int) -> Tensor:
        return knn(bank[index], labels[index], queries, classes, usual_k(len(index)))

    answers = {} if predictions is None else predictions
    answers["knn"] = nearest(torch.arange(len(train)), 0)
    results = with_each_choice("linear", chosen, linear, truth, answers)
    voted = with_each_choice("knn", chosen, nearest, truth, answers)
    for name, indices in chosen.items():
        results[f"knn_{name}"] = voted[f"knn_{name}"]
        results[f"labels_{name}"] = float(len(indices[0]))
    return {"knn": accuracy(answers["knn"], truth), "knn_k": float(usual_k(len(train))), **results}


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
        results[name] = statistics.fmean(scores)
        results[f"{name}_std"] = statistics.stdev(scores) if len(scores) > 1 else 0.0
        results[f"{name}_draws"] = float(len(scores))
    return results

"""Several modalities: the best possible accuracy, and how robust a fusion model is.

The ceilings are computed exactly from tables of how often inputs and answers occur together. Errors
that a ceiling already implies are not the fault of a model or its training. The reports measure a
fusion model when its modalities are noisy, delayed, mispaired or missing.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import (
    QUESTION_KINDS,
    ImageTextData,
    delayed,
    mispaired,
    noisy_pixels,
    noisy_sounds,
)
from cmssf_lib.evaluate.neighbours import accuracy
from cmssf_lib.fusion import FusionClassifier

#: Strengths of the damage in the tests, on top of any noise that the data already contain.
PIXEL_NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviation, relative to a pixel's range
SOUND_NOISE = (0.5, 1.0, 1.5, 2.0, 3.0)  # standard deviation; a tone's sines have amplitude 0.5
DELAYS = (0.01, 0.02, 0.03, 0.04, 0.05)  # seconds; the tone lasts 0.05
RATES = (0.2, 0.4, 0.6, 0.8, 1.0)  # fractions of the test set

Damage = Callable[[ImageTextData, float], ImageTextData]
#: Modality, kind of damage, strengths, and function. The seeds are the same for every model.
DAMAGES: tuple[tuple[str, str, tuple[float, ...], Damage], ...] = (
    ("image", "noise", PIXEL_NOISE, partial(noisy_pixels, seed=2)),
    ("sound", "noise", SOUND_NOISE, partial(noisy_sounds, seed=3)),
    ("sound", "delay", DELAYS, delayed),
    ("text", "mispaired", RATES, lambda test, rate: mispaired(test, "text", rate, seed=4)),
    ("sound", "mispaired", RATES, lambda test, rate: mispaired(test, "sound", rate, seed=4)),
)


def single_ceiling(joint: Shaped[Tensor, "a b classes"], axis: int) -> float:
    """Return the best accuracy that a single modality allows: one answer for each of its values.

    Args:
        joint: How often each combination of a value of modality A, a value of modality B and an
            answer occurs, as counts or probabilities.
        axis: 0 for modality A alone, 1 for modality B alone.

    Raises:
        ValueError: If the axis is neither 0 nor 1, or the table does not hold frequencies.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis must be 0 for modality A or 1 for modality B; got {axis}")
    table = _probabilities(joint)
    return float(table.sum(dim=1 - axis).amax(dim=1).sum())


def joint_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy that both modalities together allow.

    Args:
        joint: As for `single_ceiling`.

    Raises:
        ValueError: If the table does not hold frequencies.
    """
    return float(_probabilities(joint).amax(dim=2).sum())


def output_fusion_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy of any fusion of two models' outputs.

    Output-level fusion never sees a picture or a question, only the models' predictions of the
    answer: p(answer | a) and p(answer | b). Whether a mean, learned weights or a stacked
    classifier, its rule is a function of these two posteriors. So it must give the same answer
    in all cases (a, b) that share both posteriors. This function groups the cases accordingly; in
    each group, the most frequent answer is the best choice.

    The ceiling assumes ideal single models, whose outputs are the true posteriors. A weaker model
    provides less information. However, a real network's outputs also vary slightly among inputs
    with the same posterior, and a rule fitted on many examples can exploit this variation: measured
    accuracies may be a few points higher.

    Args:
        joint: As for `single_ceiling`, preferably integers or float64: posteriors that differ by
            less than about 1e-9 (in other floating-point tables about 1e-5) count as equal.

    Returns:
        An accuracy between the larger of the two single ceilings and the joint ceiling.

    Raises:
        ValueError: If the table does not hold frequencies.
    """
    table = _probabilities(joint)
    exact = joint.dtype == torch.float64 or not joint.is_floating_point()
    groups = []  # (a, groups of A) and (b, groups of B), one-hot: the group of each value
    for axis in (0, 1):
        alone = table.sum(dim=1 - axis)  # (a, classes), then (b, classes)
        # A value that never occurs has no posterior (0 / 0). Its weight is 0, so any group will do.
        posterior = (alone / alone.sum(dim=1, keepdim=True)).nan_to_num()
        rounded = posterior.round(decimals=9 if exact else 5)
        group = torch.unique(rounded, dim=0, return_inverse=True)[1]
        groups.append(F.one_hot(group).to(table.dtype))
    together = torch.einsum("ag,bh,abc->ghc", *groups, table)
    return float(together.amax(dim=2).sum())


def caption_ceiling(data: ImageTextData) -> float:
    """Return the best accuracy of any classifier that sees only the captions.

    For each caption, the best answer is its most frequent class. The counts come from this same
    data, so with few pictures per caption the ceiling is slightly too high.

    Args:
        data: Pictures with captions and labels. Of several captions, the first counts.
    """
    counts = contingency_matrix(data.caption_index.cpu(), data.labels.cpu())  # (captions, classes)
    return float(counts.max(axis=1).sum() / len(data))


def _probabilities(joint: Shaped[Tensor, "a b classes"]) -> Float[Tensor, "a b classes"]:
    """Check a table of frequencies and normalise it to sum to one."""
    if joint.ndim != 3:
        raise ValueError(f"a joint table has three axes (A, B, answer); got {joint.ndim}")
    table = joint.cpu().double()
    if not (table.isfinite().all() and (table >= 0).all() and table.sum() > 0):
        raise ValueError(
            "a joint table must hold counts or probabilities: finite, none negative, not all zero"
        )
    return table / table.sum()


def fusion_monitor(method: FusionClassifier, validation: ImageTextData) -> dict[str, float]:
    """Measure a fusion model on held-out examples during training.

    Args:
        method: The model in training; its modes and weights do not change.
        validation: Examples held out from the training set.

    Returns:
        "validation_accuracy". Output-level fusion uses the mean of its models' outputs here,
        because the other rules are fitted after the training.
    """
    rule = "mean" if method.config.kind == "late" else None
    answers = method.predict(validation, rule=rule).argmax(dim=1)
    return {"validation_accuracy": accuracy(answers, validation.labels.cpu())}


def fusion_report(
    method: FusionClassifier, test: ImageTextData, predictions: dict[str, Tensor] | None = None
) -> dict[str, float]:
    """Measure a trained fusion model on the test set and on damaged copies of it.

    - `accuracy`: on the undamaged test set.
    - `only_image`, …: with all other modalities hidden.
    - `image_missing_0.4`, …: with this modality hidden in this fraction of the examples.
      `any_missing_0.4`, …: with each modality of each example hidden with this probability, but
      never all of them.
    - `image_noise_0.2`, `sound_noise_1.0`, …: with added noise of this standard deviation.
    - `sound_delay_0.02`, …: with the sound delayed by this many seconds.
    - `text_mispaired_0.4`, …: with another example's text or sound in this fraction of the
      examples.
    - `kind_colour_of_left`, …: on the questions of one kind, if the data are questions.
    - `parameters`: the number of parameters.

    Output-level fusion is measured with each of its rules: names start with the rule, such as
    `mean.accuracy`. The rule of its configuration is also given without a prefix.

    Args:
        method: A trained model; for output-level fusion, with fitted rules.
        test: The test set.
        predictions: Receives the predicted classes ``(n,)`` behind each accuracy, under its name.

    Returns:
        A flat dictionary: name → number. The damage uses fixed seeds, the same for every model.
    """
    results = {"parameters": float(sum(p.numel() for p in method.parameters()))}
    labels, kinds = test.labels.cpu(), test.attributes.get("kind")
    for name, data, present in damaged(test, method.config.modalities):
        late = method.config.kind == "late"
        by_rule = method.predict_by_rules(data, present) if late else {}
        for rule, said in (by_rule or {"": method.predict(data, present=present)}).items():
            answers = said.argmax(dim=1)
            found = {name: accuracy(answers, labels)}
            if name == "accuracy" and kinds is not None:
                for i, kind in enumerate(QUESTION_KINDS):
                    asked = kinds.cpu() == i
                    right = accuracy(answers[asked], labels[asked])
                    found[f"kind_{kind.replace(' ', '_')}"] = right
            starts = [f"{rule}."] if rule else []
            for start in (*starts, "") if rule in ("", method.config.rule) else starts:
                results |= {start + measured: right for measured, right in found.items()}
                if predictions is not None:
                    predictions[start + name] = answers
    return results


def damaged(
    test: ImageTextData, modalities: tuple[str, ...]
) -> Iterator[tuple[str, ImageTextData, Mapping[str, Bool[Tensor, " n"]] | None]]:
    """Yield the damaged copies of a test set: (name, data, which modalities are present).

    The first, "accuracy", is the undamaged test set. ``None``: all modalities are present.
    """
    yield "accuracy", test, None
    n = len(test)
    if len(modalities) > 1:
        # One draw for all rates: an example that lacks a modality at 20 % also lacks it at 40 %.
        draw = torch.rand(n, generator=torch.Generator().manual_seed(0))
        for modality in modalities:
            alone = {other: torch.full((n,), other == modality) for other in modalities}
            yield f"only_{modality}", test, alone
            for rate in RATES:
                yield f"{modality}_missing_{rate}", test, {modality: draw >= rate}
        draw = torch.rand(n, len(modalities), generator=torch.Generator().manual_seed(1))
        for rate in RATES:
            here = (draw >= rate) | (draw == draw.amax(dim=1, keepdim=True))  # keep at least one
            yield f"any_missing_{rate}", test, dict(zip(modalities, here.unbind(1), strict=True))
    for modality, what, strengths, change in DAMAGES:
        if modality in modalities and (what != "mispaired" or len(modalities) > 1):
            for strength in strengths:
                yield f"{modality}_{what}_{strength}", change(test, strength), None

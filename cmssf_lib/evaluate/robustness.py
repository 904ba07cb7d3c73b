"""Several modalities: how good an answer can be at most, and how much a model keeps of it.

The ceilings are computed by counting, not measured: the tables say how often everything comes
together, and the best possible rule is found by looking at each case. What stays under such a
ceiling is no fault of a model or its training. The reports say what a fusion model can do when its
modalities are noisy, late, mixed up or missing.
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

#: Strengths at which a trained model is measured, on top of what it was trained on.
PIXEL_NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviation, in parts of a pixel's range
SOUND_NOISE = (0.5, 1.0, 1.5, 2.0, 3.0)  # standard deviation; a tone's sines have amplitude 0.5
DELAYS = (0.01, 0.02, 0.03, 0.04, 0.05)  # seconds; the tone lasts 0.05
RATES = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the test set

Damage = Callable[[ImageTextData, float], ImageTextData]
#: What is damaged, how, how strongly, and what does it. The seeds are the same for every model.
DAMAGES: tuple[tuple[str, str, tuple[float, ...], Damage], ...] = (
    ("image", "noise", PIXEL_NOISE, partial(noisy_pixels, seed=2)),
    ("sound", "noise", SOUND_NOISE, partial(noisy_sounds, seed=3)),
    ("sound", "delay", DELAYS, delayed),
    ("text", "mispaired", RATES, lambda test, rate: mispaired(test, "text", rate, seed=4)),
    ("sound", "mispaired", RATES, lambda test, rate: mispaired(test, "sound", rate, seed=4)),
)

Presence = Mapping[str, Bool[Tensor, " n"]]


def single_ceiling(joint: Shaped[Tensor, "a b classes"], axis: int) -> float:
    """Return the best accuracy from one modality alone: under each of its values, one answer.

    Args:
        joint: How often each value of modality A, value of modality B and answer come
            together, as counts or probabilities.
        axis: 0 for what A alone can reach, 1 for B.

    Raises:
        ValueError: If the axis is neither, or the table is not one of frequencies.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis is 0 for modality A or 1 for modality B; got {axis}")
    table = _probabilities(joint)
    return float(table.sum(dim=1 - axis).amax(dim=1).sum())


def joint_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy of anyone who sees both modalities.

    Args:
        joint: As for `single_ceiling`.

    Raises:
        ValueError: If the table is not one of frequencies.
    """
    return float(_probabilities(joint).amax(dim=2).sum())


def output_fusion_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy of any fusion of two models' outputs.

    Output-level fusion never sees a picture or a question, only what the two models say about
    the answer: p(answer | a) and p(answer | b). Its rule, be it a mean, learned weights or a
    stacked classifier, is a function of these two. So it must give one answer to all cases
    (a, b) in which both posteriors are the same. The cases are sorted into such groups; in
    each, the most frequent answer is the best that can be given.

    It is assumed that both single models are ideal: that their outputs are the posteriors. A
    poorer model knows less. But a real network's outputs also differ a little between pictures
    about which the posterior is the same, and a rule that is learned from many examples can
    read something from that: measured accuracies may lie a few points higher.

    Args:
        joint: How often each value of modality A, value of modality B and answer come
            together, as counts or probabilities. Best as whole numbers or float64: posteriors
            count as the same up to 1e-9, those of a table in float32 only up to 1e-5.

    Returns:
        Between the larger of the two single ceilings and the joint one.

    Raises:
        ValueError: If the table is not one of frequencies.
    """
    table = _probabilities(joint)
    exact = joint.dtype == torch.float64 or not joint.is_floating_point()
    groups = []  # (a, groups of A) and (b, groups of B): 1 where a value is of a group, else 0
    for axis in (0, 1):
        alone = table.sum(dim=1 - axis)  # (a, classes), then (b, classes)
        # A value that never occurs has no posterior; it weighs nothing, wherever it is put.
        posterior = (alone / alone.sum(dim=1, keepdim=True)).nan_to_num()
        rounded = posterior.round(decimals=9 if exact else 5)
        group = torch.unique(rounded, dim=0, return_inverse=True)[1]
        groups.append(F.one_hot(group).to(table.dtype))
    together = torch.einsum("ag,bh,abc->ghc", *groups, table)
    return float(together.amax(dim=2).sum())


def caption_ceiling(data: ImageTextData) -> float:
    """Return the best accuracy of any classifier that reads nothing but the captions.

    Under each caption it can give one answer; the best is the class most often found there.
    It counts on this very data, so with few pictures a caption it is a little too high.

    Args:
        data: Pictures with captions and labels.
    """
    counts = contingency_matrix(data.caption_index.cpu(), data.labels.cpu())  # (captions, classes)
    return float(counts.max(axis=1).sum() / len(data))


def _probabilities(joint: Shaped[Tensor, "a b classes"]) -> Float[Tensor, "a b classes"]:
    """Check a table of frequencies and let it sum to one."""
    if joint.ndim != 3:
        raise ValueError(f"a joint table has three axes, A, B and answer; not {joint.ndim}")
    table = joint.cpu().double()
    if not (table.isfinite().all() and (table >= 0).all() and table.sum() > 0):
        raise ValueError(
            "a joint table holds counts or probabilities: finite, none negative, not all zero"
        )
    return table / table.sum()


def fusion_monitor(method: FusionClassifier, validation: ImageTextData) -> dict[str, float]:
    """Measure a fusion model on held-out examples while it trains.

    Args:
        method: In training; its modes and weights are left as they are.
        validation: Held out from the training set.

    Returns:
        "validation_accuracy". An output-level fusion is measured by the mean of its models,
        since the other rules are fitted at the end.
    """
    rule = "mean" if method.config.kind == "late" else None
    answers = method.predict(validation, rule=rule).argmax(dim=1)
    return {"validation_accuracy": accuracy(answers, validation.labels.cpu())}


def fusion_report(method: FusionClassifier, test: ImageTextData) -> dict[str, float]:
    """Measure a trained fusion model, on the test set as it is and on damaged copies of it.

    - `accuracy`: on the test set as it is.
    - `only_image`, …: all other modalities hidden.
    - `image_missing_0.4`, …: this modality hidden from this share of the examples; from all of
      them at 1.0. `any_missing_0.4`: each modality of each example hidden with this probability,
      but never the last one.
    - `image_noise_0.2`, `sound_noise_1.0`, …: standard deviation of noise that is added.
    - `sound_delay_0.02`, …: seconds by which the sound starts later.
    - `text_mispaired_0.4`, …: share of the examples with another example's text or sound.
    - `kind_colour_of_left`, …: on the questions of one kind, where the data are questions.
    - `parameters`: how many are trained.

    An output-level fusion gives the same for each of its rules, as `mean.accuracy` and so on, and
    without a prefix for the rule of its configuration.

    Args:
        method: Trained; the rules of an output-level fusion fitted.
        test: The test set.

    Returns:
        Flat: name → number. Damage is drawn from fixed seeds, the same for every model.
    """
    results = {"parameters": float(sum(p.numel() for p in method.parameters()))}
    rules = ("mean", "weighted", "stacked") if method.config.kind == "late" else (None,)
    labels, kinds = test.labels.cpu(), test.attributes.get("kind")
    for name, data, present in damaged(test, method.config.modalities):
        for rule in rules:
            answers = method.predict(data, present=present, rule=rule).argmax(dim=1)
            found = {name: accuracy(answers, labels)}
            if name == "accuracy" and kinds is not None:
                for i, kind in enumerate(QUESTION_KINDS):
                    asked = kinds.cpu() == i
                    right = accuracy(answers[asked], labels[asked])
                    found[f"kind_{kind.replace(' ', '_')}"] = right
            if rule is not None:
                results |= {f"{rule}.{measured}": right for measured, right in found.items()}
            if rule in (None, method.config.rule):
                results |= found
    return results


def damaged(
    test: ImageTextData, modalities: tuple[str, ...]
) -> Iterator[tuple[str, ImageTextData, Presence | None]]:
    """Go through the damaged copies of a test set: (name, data, what is present).

    The first, "accuracy", is the test set as it is.
    """
    yield "accuracy", test, None
    n = len(test)
    if len(modalities) > 1:
        # One draw for all rates: whoever is without it at 20 % is without it at 40 % too.
        draw = torch.rand(n, generator=torch.Generator().manual_seed(0))
        for modality in modalities:
            alone = {other: torch.full((n,), other == modality) for other in modalities}
            yield f"only_{modality}", test, alone
            for rate in RATES:
                yield f"{modality}_missing_{rate}", test, {modality: draw >= rate}
        draw = torch.rand(n, len(modalities), generator=torch.Generator().manual_seed(1))
        for rate in RATES:
            here = (draw >= rate) | (draw == draw.amax(dim=1, keepdim=True))  # never none
            yield f"any_missing_{rate}", test, dict(zip(modalities, here.unbind(1), strict=True))
    for modality, what, strengths, change in DAMAGES:
        if modality in modalities and (what != "mispaired" or len(modalities) > 1):
            for strength in strengths:
                yield f"{modality}_{what}_{strength}", change(test, strength), None

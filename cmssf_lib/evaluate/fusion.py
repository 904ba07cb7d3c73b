"""What a fusion model can do when its modalities are noisy, late, mixed up or missing."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cmssf_lib.data import QUESTION_KINDS, delayed, mispaired, noisy_pixels, noisy_sounds
from cmssf_lib.evaluate.classify import accuracy

if TYPE_CHECKING:
    from cmssf_lib.data import ImageTextData
    from cmssf_lib.fusion import FusionClassifier

#: Strengths at which a trained model is measured, on top of what it was trained on.
PIXEL_NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviation, in parts of a pixel's range
SOUND_NOISE = (0.5, 1.0, 1.5, 2.0, 3.0)  # standard deviation; a tone's sines have amplitude 0.5
DELAYS = (0.01, 0.02, 0.03, 0.04, 0.05)  # seconds; the tone lasts 0.05
RATES = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the test set

Presence = Mapping[str, Bool[Tensor, "n"]]


def fusion_monitor(method: "FusionClassifier", validation: "ImageTextData") -> dict[str, float]:
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


def fusion_report(method: "FusionClassifier", test: "ImageTextData") -> dict[str, float]:
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
    labels = test.labels.cpu()
    for name, data, present in damaged(test, method.config.modalities):
        for rule in rules:
            answers = method.predict(data, present=present, rule=rule).argmax(dim=1)
            right = accuracy(answers, labels)
            if rule is not None:
                results[f"{rule}.{name}"] = right
            if rule is None or rule == method.config.rule:
                results[name] = right
            if name == "accuracy" and "kind" in test.attributes:
                prefix = "" if rule in (None, method.config.rule) else f"{rule}."
                for i, kind in enumerate(QUESTION_KINDS):
                    asked = (test.attributes["kind"] == i).cpu()
                    results[f"{prefix}kind_{kind.replace(' ', '_')}"] = accuracy(
                        answers[asked], labels[asked]
                    )
    return results


def damaged(
    test: "ImageTextData", modalities: tuple[str, ...]
) -> Iterator[tuple[str, "ImageTextData", Presence | None]]:
    """Go through the damaged copies of a test set: (name, data, what is present).

    The first, "accuracy", is the test set as it is.
    """
    yield "accuracy", test, None
    n = len(test)
    everywhere, nowhere = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for modality in modalities:
        others = [m for m in modalities if m != modality]
        if others:
            yield f"only_{modality}", test, dict.fromkeys(others, nowhere) | {modality: everywhere}
            # One draw for all rates: whoever is without it at 20 % is without it at 40 % too.
            draw = torch.rand(n, generator=torch.Generator().manual_seed(0))
            for rate in RATES:
                yield f"{modality}_missing_{rate}", test, {modality: draw >= rate}
    if len(modalities) > 1:
        draw = torch.rand(n, len(modalities), generator=torch.Generator().manual_seed(1))
        for rate in RATES:
            here = (draw >= rate) | (draw == draw.amax(dim=1, keepdim=True))  # never none
            yield f"any_missing_{rate}", test, dict(zip(modalities, here.unbind(1), strict=True))
    if "image" in modalities:
        for deviation in PIXEL_NOISE:
            yield f"image_noise_{deviation}", noisy_pixels(test, deviation, seed=2), None
    if "sound" in modalities:
        for deviation in SOUND_NOISE:
            yield f"sound_noise_{deviation}", noisy_sounds(test, deviation, seed=3), None
        for seconds in DELAYS:
            yield f"sound_delay_{seconds}", delayed(test, seconds), None
    for modality in ("text", "sound"):
        if modality in modalities and len(modalities) > 1:
            for rate in RATES:
                broken = mispaired(test, modality, rate, seed=4)
                yield f"{modality}_mispaired_{rate}", broken, None


def fusion_outputs(method: "FusionClassifier", test: "ImageTextData") -> dict[str, np.ndarray]:
    """Return the predictions behind `accuracy`, and the labels."""
    answers = method.predict(test).argmax(dim=1)
    return {
        "predictions": answers.numpy().astype(np.int16),
        "labels": test.labels.cpu().numpy().astype(np.int16),
    }

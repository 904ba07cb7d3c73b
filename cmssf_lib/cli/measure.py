"""What is measured of each method: after every epoch, at the end, and in a line of a list."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.evaluate import (
    accuracy,
    class_captions,
    embed,
    embed_features,
    embed_prompts,
    fine_tune_report,
    fusion_monitor,
    fusion_outputs,
    fusion_report,
    knn,
    monitor,
    probe_report,
    report,
    zero_shot,
)
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.presets import Preset
from cmssf_lib.runs import build, run_config


@dataclass(frozen=True)
class Measures:
    """How a method is judged.

    Attributes:
        monitor: Called with method, validation set, training set and preset after every epoch.
        finish: Called with method and validation set when the training is over, for what is
            fitted on held-out pictures.
        report: Called with method, splits and preset, once, at the end: the results.
        outputs: Called with method and splits: the arrays behind the results.
        headline: The result that a list of runs shows.
        watched: The column of the history that the line of an epoch shows.
    """

    monitor: Callable[[nn.Module, ImageTextData, ImageTextData, Preset], Mapping[str, float]]
    finish: Callable[[nn.Module, ImageTextData], None]
    report: Callable[[nn.Module, Splits, Preset], dict[str, float]]
    outputs: Callable[[nn.Module, Splits], dict[str, np.ndarray]]
    headline: str
    watched: str


def measures(method: str) -> Measures:
    """Return how a method is judged, by its name."""
    return {"cmssf": _CMSSF, "fusion": _FUSION, "mae": _MAE}.get(method, _FEATURES)


def _monitor_cmssf(
    method: nn.Module, validation: ImageTextData, training: ImageTextData, preset: Preset
) -> Mapping[str, float]:
    assert isinstance(method, CMSSF)
    prompts = class_captions(training)
    return monitor(method, validation, preset.train.batch_size, prompts=prompts)


def _report_cmssf(method: nn.Module, splits: Splits, preset: Preset) -> dict[str, float]:
    assert isinstance(method, CMSSF)
    return report(method, splits)


def _outputs_cmssf(method: nn.Module, splits: Splits) -> dict[str, np.ndarray]:
    """Return embeddings of the test set and predictions."""
    assert isinstance(method, CMSSF)
    e = embed(method, splits.test)
    prompts, classes = embed_prompts(method, class_captions(splits.train))
    return {
        "image": e.image.half().numpy(),
        "text": e.text.half().numpy(),
        "caption_index": e.caption_index.numpy().astype(np.int32),
        "labels": e.labels.numpy().astype(np.int16),
        "prompts": prompts.half().numpy(),
        "prompt_classes": classes.numpy().astype(np.int16),
        "predictions": zero_shot(e.image, prompts, classes).numpy().astype(np.int16),
    }


_CMSSF = Measures(
    monitor=_monitor_cmssf,
    finish=lambda method, validation: None,
    report=_report_cmssf,
    outputs=_outputs_cmssf,
    headline="zero_shot",
    watched="validation_zero_shot",
)


def _monitor_fusion(
    method: nn.Module, validation: ImageTextData, training: ImageTextData, preset: Preset
) -> Mapping[str, float]:
    assert isinstance(method, FusionClassifier)
    return fusion_monitor(method, validation)


def _finish_fusion(method: nn.Module, validation: ImageTextData) -> None:
    """Fit what an output-level fusion weighs its models by; the others have nothing to fit."""
    assert isinstance(method, FusionClassifier)
    if method.config.kind == "late":
        method.fit_rule(validation)


def _report_fusion(method: nn.Module, splits: Splits, preset: Preset) -> dict[str, float]:
    assert isinstance(method, FusionClassifier)
    return fusion_report(method, splits.test)


def _outputs_fusion(method: nn.Module, splits: Splits) -> dict[str, np.ndarray]:
    assert isinstance(method, FusionClassifier)
    return fusion_outputs(method, splits.test)


_FUSION = Measures(
    monitor=_monitor_fusion,
    finish=_finish_fusion,
    report=_report_fusion,
    outputs=_outputs_fusion,
    headline="accuracy",
    watched="validation_accuracy",
)


def _monitor_features(
    method: nn.Module, validation: ImageTextData, training: ImageTextData, preset: Preset
) -> Mapping[str, float]:
    """Let the training pictures vote on the held-out ones, with the features as they now are."""
    bank, queries = embed_features(method, training), embed_features(method, validation)
    k = min(200, max(1, len(training) // 10))
    voted = knn(bank, training.labels.cpu(), queries, len(training.class_names), k)
    return {"validation_knn": accuracy(voted, validation.labels.cpu())}


def _report_features(method: nn.Module, splits: Splits, preset: Preset) -> dict[str, float]:
    return probe_report(method, splits, per_class=10)


def _outputs_features(method: nn.Module, splits: Splits) -> dict[str, np.ndarray]:
    return {
        "features": embed_features(method, splits.test).half().numpy(),
        "labels": splits.test.labels.cpu().numpy().astype(np.int16),
    }


# All methods that learn features from pictures alone are judged alike.
_FEATURES = Measures(
    monitor=_monitor_features,
    finish=lambda method, validation: None,
    report=_report_features,
    outputs=_outputs_features,
    headline="knn",
    watched="validation_knn",
)


def _report_mae(method: nn.Module, splits: Splits, preset: Preset) -> dict[str, float]:
    """Judge the features as they are and the weights as a start, beside fresh weights."""

    def judged(one: nn.Module) -> dict[str, float]:
        tuned = preset.fine_tune
        return probe_report(one, splits, per_class=10) | fine_tune_report(
            one,
            splits,
            per_class=10,
            steps=tuned.steps,
            batch_size=tuned.batch_size,
            lr=tuned.lr,
            views=tuned.views,
        )

    results = judged(method)
    if preset.fine_tune.baseline:
        fresh = build(run_config(preset, "mae", splits.train), splits.train)
        fresh.to(next(method.parameters()).device)
        results |= {f"untrained_{name}": value for name, value in judged(fresh).items()}
    return results


# A masked autoencoder's features are half-way to its decoder: what counts is where they lead to.
_MAE = replace(_FEATURES, report=_report_mae, headline="fine_tuned_10_per_class")

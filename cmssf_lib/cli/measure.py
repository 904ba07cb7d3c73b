"""What is measured of each method: after every epoch, at the end, and in a line of a list."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.evaluate import (
    accuracy,
    class_captions,
    embed,
    embed_features,
    embed_mirrored,
    embed_prompts,
    fine_tune_report,
    fusion_monitor,
    fusion_outputs,
    fusion_report,
    knn,
    monitor,
    pixel_features,
    probe_report,
    report,
    zero_shot,
)
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.presets import Preset
from cmssf_lib.runs import Run, build, run_config

Results = dict[str, float]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measures:
    """How a method is judged.

    Attributes:
        monitor: Called with method, validation set, training set and preset after every epoch.
        finish: Called with method and validation set when the training is over, for what is
            fitted on held-out pictures.
        judge: Called with method, splits and preset, once, at the end: the results, and the
            arrays behind them.
        headlines: The result that a list of runs shows, or the next where a run lacks it: which
            results there are depends on the labels that the preset asks for.
        watched: The column of the history that the line of an epoch shows.
    """

    monitor: Callable[[nn.Module, ImageTextData, ImageTextData, Preset], Mapping[str, float]]
    finish: Callable[[nn.Module, ImageTextData], None]
    judge: Callable[[nn.Module, Splits, Preset], tuple[Results, Outputs]]
    headlines: tuple[str, ...]
    watched: str


def measures(method: str) -> Measures:
    """Return how a method is judged, by its name."""
    return {"cmssf": _CMSSF, "fusion": _FUSION, "mae": _MAE}.get(method, _FEATURES)


def headline(run: Run) -> tuple[str, float] | None:
    """Return the name and the value of the result that a list of runs shows.

    Args:
        run: Measured, or not yet: ``None``.
    """
    names = measures(run.config.get("method", "")).headlines
    return next(((name, run.results[name]) for name in names if name in run.results), None)


def _monitor_cmssf(
    method: nn.Module, validation: ImageTextData, training: ImageTextData, preset: Preset
) -> Mapping[str, float]:
    assert isinstance(method, CMSSF)
    prompts = class_captions(training)
    return monitor(method, validation, preset.train.batch_size, prompts=prompts)


def _judge_cmssf(method: nn.Module, splits: Splits, preset: Preset) -> tuple[Results, Outputs]:
    """Measure what captions taught, with embeddings of the test set and the answers behind it.

    Where the preset names parts of the training set, the features are judged like any method's.
    Where pictures were mirrored in training, "zero_shot_mirrored" looks at each test picture and
    at its mirror image, beside "zero_shot", which looks once.
    """
    assert isinstance(method, CMSSF)
    results: Results = report(method, splits)
    probed: Outputs = {}
    if preset.judge.fractions:
        more, probed = _judge_features(method, splits, preset)
        results |= more
    e = embed(method, splits.test)
    prompts, classes = embed_prompts(method, class_captions(splits.train))
    if preset.cmssf.views.flip:
        twice = zero_shot(embed_mirrored(method, splits.test.images), prompts, classes)
        results["zero_shot_mirrored"] = accuracy(twice, e.labels)
        probed["zero_shot_mirrored"] = twice.numpy().astype(np.int16)
    return results, probed | {
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
    judge=_judge_cmssf,
    headlines=("zero_shot", "knn"),
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


def _judge_fusion(method: nn.Module, splits: Splits, preset: Preset) -> tuple[Results, Outputs]:
    assert isinstance(method, FusionClassifier)
    return fusion_report(method, splits.test), fusion_outputs(method, splits.test)


_FUSION = Measures(
    monitor=_monitor_fusion,
    finish=_finish_fusion,
    judge=_judge_fusion,
    headlines=("accuracy",),
    watched="validation_accuracy",
)


def _monitor_features(
    method: nn.Module, validation: ImageTextData, training: ImageTextData, preset: Preset
) -> Mapping[str, float]:
    """Let the training pictures vote on the held-out ones, with the features as they now are."""
    bank, queries = embed_features(method, training), embed_features(method, validation)
    k, classes = min(200, max(1, len(training) // 10)), len(training.class_names)
    device = next(method.parameters()).device  # every epoch asks: a graphics card answers sooner
    voted = knn(bank.to(device), training.labels.to(device), queries.to(device), classes, k)
    return {"validation_knn": accuracy(voted.cpu(), validation.labels.cpu())}


def _judge_features(
    method: nn.Module, splits: Splits, preset: Preset, tune: bool = False
) -> tuple[Results, Outputs]:
    """Judge the features as they are and, if asked for, the weights as a start.

    The outputs are the predictions behind each accuracy, under its name.
    """
    judge, tuned, predictions = preset.judge, preset.fine_tune, dict[str, Tensor]()
    few: dict[str, Any] = {
        "per_class": judge.per_class or None,
        "fractions": judge.fractions,
        "draws": judge.draws,
    }
    results = probe_report(method, splits, **few, predictions=predictions)
    if judge.pixels:
        on_pixels = dict[str, Tensor]()
        found = probe_report(pixel_features, splits, **few, predictions=on_pixels)
        results |= {f"pixels_{name}": value for name, value in found.items()}
        predictions |= {f"pixels_{name}": value for name, value in on_pixels.items()}
    if tuned.steps and (tune or judge.fine_tune):
        results |= fine_tune_report(
            method,
            splits,
            **few,
            predictions=predictions,
            steps=tuned.steps,
            batch_size=tuned.batch_size,
            lr=tuned.lr,
            views=tuned.views,
        )
    labels = splits.test.labels.cpu().numpy().astype(np.int16)
    arrays = {name: answers.numpy().astype(np.int16) for name, answers in predictions.items()}
    return results, arrays | {"labels": labels}


# All methods that learn features from pictures alone are judged alike.
_FEATURES = Measures(
    monitor=_monitor_features,
    finish=lambda method, validation: None,
    judge=_judge_features,
    headlines=("knn",),
    watched="validation_knn",
)


def _judge_mae(method: nn.Module, splits: Splits, preset: Preset) -> tuple[Results, Outputs]:
    """Judge the weights as a start, too, beside fresh weights: also where MAE began with others."""
    results, outputs = _judge_features(method, splits, preset, tune=True)
    if preset.fine_tune.baseline:
        begun = replace(preset, vision=replace(preset.vision, weights=""))
        fresh = build(run_config(begun, "mae", splits.train), splits.train)
        fresh.to(next(method.parameters()).device)
        found, answers = _judge_features(fresh, splits, preset, tune=True)
        del answers["labels"]
        results |= {f"untrained_{name}": value for name, value in found.items()}
        outputs |= {f"untrained_{name}": value for name, value in answers.items()}
    return results, outputs


# A masked autoencoder's features are half-way to its decoder: what counts is where they lead to.
_MAE = replace(
    _FEATURES,
    judge=_judge_mae,
    headlines=("fine_tuned_10_per_class", "fine_tuned_1pct", "knn"),
)

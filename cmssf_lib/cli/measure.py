"""What is measured of each method, and what is said of it: after every epoch, and at the end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional

from cmssf_lib import evaluate
from cmssf_lib.build import build
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.files import records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF, MAE, Method
from cmssf_lib.presets import Preset
from cmssf_lib.runs import Run, all_runs
from cmssf_lib.train import OVERHEAD

#: The result by which a method is judged, or the next where a run lacks it: which results there
#: are depends on the labels that the preset asks for. Any other method: "knn".
HEADLINES = {
    "cmssf": ("zero_shot", "knn"),
    "fusion": ("accuracy",),
    # A masked autoencoder's features are half-way to its decoder: what counts is where they lead.
    "mae": ("fine_tuned_10_per_class", "fine_tuned_1pct", "knn"),
}
Found = tuple[dict[str, float], dict[str, Tensor]]  # results, and the answers behind them


def headline(run: Run, numbers: Mapping[str, float], start: str = "") -> tuple[str, float] | None:
    """Return the name and the value of the number by which a run is judged.

    Args:
        run: Of any method.
        numbers: In which to look, such as the run's results.
        start: Of the name in `numbers`.

    Returns:
        Name and value; ``None`` if the number is not there.
    """
    names = HEADLINES.get(run.config.get("method", ""), ("knn",))
    return next(((n, numbers[start + n]) for n in names if start + n in numbers), None)


def runs(folder: Positional[str | None] = None) -> None:
    """List runs: one line each, at its end the test result by which it is judged.

    Args:
        folder: Where they are; else the book's recorded runs.
    """
    place = Path(folder) if folder else records()
    found = all_runs(place)
    if not found:
        raise FileNotFoundError(f"no runs below {place}; cmssf train makes one")
    print(f"{'run':32} {'preset':9} {'epochs':>9} {'minutes':>8}  {'data':16}  test result")
    for run in found:
        minutes = sum(row["seconds"] for row in run.history) / 60
        epochs = f"{len(run.history)}/{run.config['train']['epochs']}"
        shown = headline(run, run.results)
        result = f"{shown[1]:.1%} {shown[0]}" if shown else "–"
        name = run.path.relative_to(place) if run.path else run.name
        print(
            f"{name!s:32} {run.config.get('preset', '–'):9} {epochs:>9} {minutes:8.1f}  "
            f"{run.config['data_fingerprint']:16}  {result}"
        )


def each_epoch(
    method: Method, training: ImageTextData, validation: ImageTextData, batch_size: int
) -> dict[str, float]:
    """Measure a method while it trains, on held-out pictures: columns of the history.

    Args:
        method: In training; left as it is.
        training: What it is trained on: prompts and neighbours come from there.
        validation: Held out from it.
        batch_size: That of the training.
    """
    if isinstance(method, CMSSF):
        prompts = evaluate.class_captions(training)
        return evaluate.monitor(method, validation, batch_size, prompts=prompts)
    if isinstance(method, FusionClassifier):
        return evaluate.fusion_monitor(method, validation)
    device = next(method.parameters()).device  # every epoch asks: a graphics card answers sooner
    bank = evaluate.embed_features(method, training).to(device)
    queries = evaluate.embed_features(method, validation).to(device)
    classes, k = len(training.class_names), evaluate.usual_k(len(training))
    voted = evaluate.knn(bank, training.labels.to(device), queries, classes, k)
    return {"validation_knn": evaluate.accuracy(voted.cpu(), validation.labels.cpu())}


def judge(
    method: Method, splits: Splits, preset: Preset
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure a trained method on the test set, with all that its preset asks for.

    A masked autoencoder's weights are judged as a start, too, beside fresh weights: also where it
    began with others.

    Returns:
        The results, and the answers behind each accuracy, under its name; of captions and fusion
        "predictions" and more.
    """
    if isinstance(method, FusionClassifier):
        results = evaluate.fusion_report(method, splits.test)
        answers = {"predictions": method.predict(splits.test).argmax(dim=1)}
    elif isinstance(method, CMSSF):
        results, answers = _judge_with_captions(method, splits, preset)
    else:
        results, answers = _judge_features(method, splits, preset)
    if isinstance(method, MAE) and preset.fine_tune.baseline:
        begun = replace(preset, vision=replace(preset.vision, weights=""))
        fresh = build(begun, "mae", splits.train)
        untrained, behind = _judge_features(fresh, splits, preset)
        results |= _named("untrained_", untrained)
        answers |= _named("untrained_", behind)
    answers["labels"] = splits.test.labels
    kept = {torch.int64: torch.int16, torch.float32: torch.float16}  # classes, vectors
    return results, {
        name: tensor.cpu().to(kept.get(tensor.dtype, tensor.dtype)).numpy()
        for name, tensor in answers.items()
    }


def _judge_with_captions(method: CMSSF, splits: Splits, preset: Preset) -> Found:
    """Measure what captions taught, with embeddings of the test set.

    Where the preset names parts of the training set, the features are judged like any method's.
    Where pictures were mirrored in training, "zero_shot_mirrored" looks at each test picture and
    at its mirror image, beside "zero_shot", which looks once.
    """
    bank, e = evaluate.embed_features(method, splits.train), evaluate.embed(method, splits.test)
    results, answers = evaluate.report(method, splits, embedded=(bank, e)), dict[str, Tensor]()
    if preset.judge.fractions:
        more, answers = _judge_features(method, splits, preset, embedded=(bank, e.features))
        results |= more
    prompts, classes = evaluate.embed_prompts(method, evaluate.class_captions(splits.train))
    if preset.cmssf.views.flip:
        twice = evaluate.embed_mirrored(method, splits.test.images, seen=e.image)
        answers["zero_shot_mirrored"] = evaluate.zero_shot(twice, prompts, classes)
        results["zero_shot_mirrored"] = evaluate.accuracy(answers["zero_shot_mirrored"], e.labels)
    return results, answers | {
        "image": e.image,
        "text": e.text,
        "caption_index": e.caption_index.int(),  # there are more captions than int16 counts
        "prompts": prompts,
        "prompt_classes": classes,
        "predictions": evaluate.zero_shot(e.image, prompts, classes),
    }


def _judge_features(
    method: Method,
    splits: Splits,
    preset: Preset,
    embedded: tuple[Tensor, Tensor] | None = None,
) -> Found:
    """Judge the features as they are and, if asked for, the weights as a start."""
    asked, answers = preset.judge, dict[str, Tensor]()
    few: dict[str, Any] = {
        "per_class": asked.per_class or None,
        "fractions": asked.fractions,
        "draws": asked.draws,
    }
    results = evaluate.probe_report(embedded or method, splits, **few, predictions=answers)
    if asked.pixels:
        on_pixels = dict[str, Tensor]()
        found = evaluate.probe_report(evaluate.pixel_features, splits, **few, predictions=on_pixels)
        results |= _named("pixels_", found)
        answers |= _named("pixels_", on_pixels)
    if preset.fine_tune.steps and (asked.fine_tune or isinstance(method, MAE)):
        chosen = evaluate.label_draws(splits.train, **few)
        results |= evaluate.fine_tune_report(method, splits, chosen, preset.fine_tune, answers)
    return results, answers


def _named(start: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {start + name: value for name, value in found.items()}


def require_measurable(
    training: ImageTextData, validation: ImageTextData, chosen: Preset, method_name: str
) -> None:
    """Refuse before the training what could not be measured after it.

    Args:
        training: All of it; the labelled pictures of the measuring are drawn from it.
        validation: Held out of it.
        chosen: All the numbers.
        method_name: Whose measures they are.

    Raises:
        ValueError: If too few pictures are held out, or a choice of labelled pictures is too small
            for a linear classifier or for a batch of the fine-tuning.
    """
    asked, train, batch = chosen.judge, chosen.train, chosen.fine_tune.batch_size
    if method_name == "cmssf" and train.epochs and len(validation) < train.batch_size:
        raise ValueError(
            f"data.validation={len(validation)} holds out too few pictures to validate with: "
            f"{method_name} needs a batch of {train.batch_size}"
        )
    if method_name == "fusion" or (method_name == "cmssf" and not asked.fractions):
        return
    drawn = evaluate.label_draws(training, asked.per_class or None, asked.fractions, asked.draws)
    for name, (choice, *_) in drawn.items():
        labels = training.labels.cpu()[choice]
        fewest = int(labels.bincount(minlength=len(training.class_names)).min())
        if fewest < 2:
            raise ValueError(
                f"with {name} of the labels a class has {fewest}, and a linear classifier needs "
                "two: change judge.fractions or judge.per_class"
            )
        if (asked.fine_tune or method_name == "mae") and len(choice) < batch:
            raise ValueError(
                f"with {name} of the labels there are {len(choice)} pictures, fewer than a batch "
                f"of the fine-tuning: change judge.fractions, or fine_tune.batch_size={batch}"
            )


def print_epoch(run: Run) -> None:
    """Print one line about the epoch that has just ended."""
    row, epochs = run.history[-1], run.config["train"]["epochs"]
    shares = {part: row[f"{part}_share"] for part in OVERHEAD}
    # Of some losses, and of one with another beside it, the floor is no floor.
    loss = run.config.get("cmssf", {}).get("loss")
    bounded = loss in ("one_hot", "multi_positive") and "image_text_loss" not in row
    floor = f" (floor {row['floor']:.3f})" if bounded else ""
    shown = headline(run, row, "validation_")
    watched = f"validation {shown[0].replace('_', ' ')} {shown[1]:.1%}; " if shown else ""
    print(
        f"epoch {row['epoch']:.0f}/{epochs}: loss {row['loss']:.3f}{floor}, {watched}"
        f"{row['images_per_second']:.0f} images/s; of a step: "
        + "".join(f"{part} {share:.1%}, " for part, share in shares.items())
        + f"together {sum(shares.values()):.1%}; peak memory "
        f"{run.environment['peak_memory_gb']:.2f} GB",
        flush=True,
    )


def print_results(results: Mapping[str, float], beside: Mapping[str, float] | None = None) -> None:
    """Print a table of metrics, and the recorded ones beside them where there are any."""
    print(f"{'metric':36} {'now':>10}" + (f" {'recorded':>10}" if beside else ""))
    for name, value in results.items():
        recorded = f" {beside[name]:10.4f}" if beside and name in beside else ""
        print(f"{name:36} {value:10.4f}{recorded}")

"""Measure a method after every epoch and after the training, and print the results."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional

from cmssf_lib import evaluate
from cmssf_lib.build import build
from cmssf_lib.cli.terminal import note, say
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.files import home, records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF, MAE, Method
from cmssf_lib.presets import Preset
from cmssf_lib.runs import Run, all_runs
from cmssf_lib.train import OVERHEAD

#: The main result of each method; if a run lacks it, the next name in the tuple is used. (The
#: results of a run depend on the preset's `judge` settings.) All other methods use "knn".
HEADLINES = {
    "cmssf": ("zero_shot", "knn"),
    "fusion": ("accuracy",),
    # A masked autoencoder's features are made for its decoder, so judge them after fine-tuning.
    "mae": ("fine_tuned_10_per_class", "fine_tuned_1pct", "knn"),
}
UNLABELLED = ("same_picture_R@1", "exact_caption_R@1", "retrieval_at_1")  # without classes


def headline(run: Run, numbers: Mapping[str, float], start: str = "") -> tuple[str, float] | None:
    """Return the name and the value of a run's main result.

    Args:
        run: A run of any method.
        numbers: The numbers to search, such as the run's results.
        start: Prefix of the names in `numbers`.

    Returns:
        Name (without the prefix) and value; ``None`` if `numbers` lacks it.
    """
    names = (*HEADLINES.get(run.config.get("method", ""), ("knn",)), *UNLABELLED)
    return next(((n, numbers[start + n]) for n in names if start + n in numbers), None)


def runs(folder: Positional[str | None] = None) -> None:
    """List runs, one per line, each with its main test result.

    Args:
        folder: Folder of the runs; if not given, the book's recorded runs.
    """
    place = records() if folder is None else home(folder)
    found = all_runs(place)
    if not found:
        raise FileNotFoundError(f"no runs below {place}; train one with `cmssf train`")
    say(f"{'run':32} {'preset':9} {'epochs':>9} {'minutes':>8}  {'data':16}  test result")
    for run in found:
        try:
            minutes = sum(row["seconds"] for row in run.history) / 60
            epochs = f"{len(run.history)}/{run.config['train']['epochs']}"
            shown = headline(run, run.results)
            result = f"{shown[1]:.1%} {shown[0]}" if shown else "–"
            name = run.path.relative_to(place) if run.path else run.name
            line = f"{name!s:32} {run.config.get('preset', '–')!s:9} {epochs:>9} {minutes:8.1f}  "
            say(f"{line}{run.config['data_fingerprint']:16}  {result}")
        except (LookupError, TypeError) as error:
            note(f"passed over: {run.path} holds another program's record ({error!r})")


def each_epoch(
    method: Method, training: ImageTextData, validation: ImageTextData, batch_size: int
) -> dict[str, float]:
    """Measure a method on held-out pictures during training: columns of the history.

    Args:
        method: The method in training; it does not change.
        training: Its training set, which supplies the prompts and the k-NN bank.
        validation: Pictures held out from the training set.
        batch_size: Batch size of the training.
    """
    if isinstance(method, CMSSF):
        prompts = evaluate.class_captions(training)
        return evaluate.monitor(method, validation, batch_size, prompts=prompts)
    if isinstance(method, FusionClassifier):
        return evaluate.fusion_monitor(method, validation)
    if len(training.class_names) == 1:
        found = evaluate.view_report(method, validation, method.get_submodule("views"))
        return {f"validation_{name}": value for name, value in found.items()}
    device = next(method.parameters()).device  # k-NN after every epoch is faster on a GPU
    bank = evaluate.embed_features(method, training).to(device)
    queries = evaluate.embed_features(method, validation).to(device)
    classes, k = len(training.class_names), evaluate.usual_k(len(training))
    voted = evaluate.knn(bank, training.labels.to(device), queries, classes, k)
    return {"validation_knn": evaluate.accuracy(voted.cpu(), validation.labels.cpu())}


def judge(
    method: Method, splits: Splits, preset: Preset
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure a trained method on the test set, with all measures that its preset asks for.

    With `fine_tune.baseline`, a masked autoencoder is compared with the same network with random
    weights, even if its own training started from pretrained weights.

    Returns:
        The results, and the predictions behind each accuracy under the same name. CMSSF and fusion
        models add "predictions", and CMSSF also its embeddings.
    """
    answers = dict[str, Tensor]()
    if isinstance(method, FusionClassifier):
        results = evaluate.fusion_report(method, splits.test, predictions=answers)
        answers["predictions"] = answers.pop("accuracy")
    elif isinstance(method, CMSSF):
        results = _judge_with_captions(method, splits, preset, answers)
    elif len(splits.train.class_names) == 1:
        return evaluate.view_report(method, splits.test, method.get_submodule("views")), {}
    else:
        results = _judge_features(method, splits, preset, answers)
    if isinstance(method, MAE) and preset.fine_tune.baseline:
        begun = replace(preset, vision=replace(preset.vision, weights=""))
        behind = dict[str, Tensor]()
        untrained = _judge_features(build(begun, "mae", splits.train), splits, preset, behind)
        results |= _named("untrained_", untrained)
        answers |= _named("untrained_", behind)
    answers["labels"] = splits.test.labels
    kept = {torch.int64: torch.int16, torch.float32: torch.float16}  # classes, vectors
    return results, {
        name: tensor.cpu().to(kept.get(tensor.dtype, tensor.dtype)).numpy()
        for name, tensor in answers.items()
    }


def _judge_with_captions(
    method: CMSSF, splits: Splits, preset: Preset, answers: dict[str, Tensor]
) -> dict[str, float]:
    """Measure a CMSSF, and add the embeddings of the test set to the answers.

    If `judge.fractions` is set, the features are measured like those of any other method. If the
    training mirrored pictures, "zero_shot_mirrored" classifies the mean embedding of each test
    picture and its mirror image; "zero_shot" uses the picture alone.
    """
    bank, e = evaluate.embed_features(method, splits.train), evaluate.embed(method, splits.test)
    answers |= {"image": e.image, "text": e.text}
    answers["caption_index"] = e.caption_index.int()  # there are more captions than int16 counts
    results = evaluate.report(method, splits, embedded=(bank, e), predictions=answers)
    if len(splits.train.class_names) == 1:
        return results
    if preset.judge.fractions:
        results |= _judge_features(method, splits, preset, answers, (bank, e.features))
    if preset.cmssf.views.flip:
        twice = evaluate.embed_mirrored(method, splits.test.images, seen=e.image)
        mirrored = evaluate.zero_shot(twice, answers["prompts"], answers["prompt_classes"])
        answers["zero_shot_mirrored"] = mirrored
        results["zero_shot_mirrored"] = evaluate.accuracy(mirrored, e.labels)
    return results


def _judge_features(
    method: Method,
    splits: Splits,
    preset: Preset,
    answers: dict[str, Tensor],
    embedded: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Measure the frozen features and, if the preset asks for it, the fine-tuned weights."""
    asked = preset.judge
    few: dict[str, Any] = {"fractions": asked.fractions, "draws": asked.draws}
    few["per_class"] = asked.per_class or None
    results = evaluate.probe_report(embedded or method, splits, **few, predictions=answers)
    if asked.pixels:
        on_pixels = dict[str, Tensor]()
        found = evaluate.probe_report(evaluate.pixel_features, splits, **few, predictions=on_pixels)
        results |= _named("pixels_", found)
        answers |= _named("pixels_", on_pixels)
    if preset.fine_tune.steps and (asked.fine_tune or isinstance(method, MAE)):
        chosen = evaluate.label_draws(splits.train, **few)
        results |= evaluate.fine_tune_report(method, splits, chosen, preset.fine_tune, answers)
    return results


def _named(start: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {start + name: value for name, value in found.items()}


def print_epoch(run: Run) -> None:
    """Print one line about the epoch that has just ended."""
    row, epochs = run.history[-1], run.config["train"]["epochs"]
    shares = {part: row[f"{part}_share"] for part in OVERHEAD}
    # The floor is not a lower bound of every loss, nor of a sum of two losses.
    loss = run.config.get("cmssf", {}).get("loss")
    bounded = loss in ("one_hot", "multi_positive") and "image_text_loss" not in row
    floor = f" (floor {row['floor']:.3f})" if bounded else ""
    shown = headline(run, row, "validation_")
    watched = f"validation {shown[0].replace('_', ' ')} {shown[1]:.1%}; " if shown else ""
    say(
        f"epoch {row['epoch']:.0f}/{epochs}: loss {row['loss']:.3f}{floor}, {watched}"
        f"{row['images_per_second']:.0f} images/s; of a step: "
        + "".join(f"{part} {share:.1%}, " for part, share in shares.items())
        + f"together {sum(shares.values()):.1%}; peak memory "
        f"{run.environment['peak_memory_gb']:.2f} GB"
    )


def print_results(results: Mapping[str, float], beside: Mapping[str, float] | None = None) -> None:
    """Print a table of results, next to the recorded ones if given."""
    say(f"{'metric':36} {'now':>10}" + (f" {'recorded':>10}" if beside else ""))
    for name, value in results.items():
        recorded = f" {beside[name]:10.4f}" if beside and name in beside else ""
        say(f"{name:36} {value:10.4f}{recorded}")

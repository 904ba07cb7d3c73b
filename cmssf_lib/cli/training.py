"""From a preset to a record: load, train, measure, and say how it goes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cmssf_lib.cli.measure import measures
from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import ImageTextData, Splits, batches, load
from cmssf_lib.evaluate import label_draws
from cmssf_lib.presets import Preset
from cmssf_lib.processes import count, rank
from cmssf_lib.runs import Run, build, environment, run_config
from cmssf_lib.train import (
    OVERHEAD,
    cache_features,
    fit,
    flops_per_picture,
    peak_memory_gb,
    round_weights,
    state,
)


def train_run(chosen: Preset, method_name: str, folder: str | Path, data: str | None) -> Run:
    """Train as a preset says, evaluate on the test set once, and write it all down.

    Called again it goes on where it was stopped: in the training, or with the measuring.

    With 0 epochs nothing is trained: the record says what the fresh weights are worth. Of
    several processes (``accelerate launch``) all train, and the first one does the rest.

    Raises:
        ValueError: If the folder holds a finished run, or one with another configuration, or if
            what comes after the training could not be done.
    """
    if data is not None:
        chosen = replace(chosen, data=replace(chosen.data, path=data))
    splits = load(chosen.data)
    training, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    check_measures(splits.train, validation, chosen, method_name)
    run = Run(folder)
    run.config = run_config(chosen, method_name, splits.train)
    if (so_far := state(run)) == "measured":
        raise ValueError(f"{folder} holds a finished run: choose another folder, or delete it")
    if so_far == "trained":
        before = Run.load(folder)
        run.history, run.environment = before.history, before.environment
        method = before.method(splits.train)
    else:
        method = build(run.config, splits.train)
    if rank() == 0:
        print(
            f"{method_name} on {training.name}: {len(training)} pictures to train on, "
            f"{len(validation)} to validate, {len(splits.test)} to test; in {folder}"
        )
        if so_far == "trained":
            print("The training is over; what is left is to measure it.")
    if chosen.train.epochs and not (so_far == "trained" and "mflop_per_picture" in run.environment):
        _train(run, method, training, validation, chosen, trained=so_far == "trained")
    if rank() > 0:
        return run
    with run.lock():
        return _measure(run, method, splits, validation, chosen)


def _train(
    run: Run,
    method: nn.Module,
    training: ImageTextData,
    validation: ImageTextData,
    chosen: Preset,
    trained: bool,
) -> None:
    """Train, if that is not over, and count what a step takes."""
    measure = measures(run.config["method"])
    if isinstance(method, CMSSF) and chosen.cmssf.freeze_image:
        method.to("cuda" if torch.cuda.is_available() else "cpu")
        views, seed = chosen.cmssf.cached_views, chosen.train.seed
        training = cache_features(method, training, views=views, seed=seed)
        validation = cache_features(method, validation)
    if not trained:
        fit(
            method,
            training,
            chosen.train,
            run=run,
            each_epoch=lambda _: measure.monitor(method, validation, training, chosen),
            watch=print_epoch,
        )
    # In every process: a step's loss exchanges vectors with the others.
    on_device = training.to(next(method.parameters()).device)
    batch = next(batches(on_device, chosen.train.batch_size))
    flops = flops_per_picture(method, batch if count() == 1 else batch.part(rank(), count()))
    run.environment["mflop_per_picture"] = round(flops / 1e6, 3)
    if rank() == 0:
        run.save()


def _measure(
    run: Run, method: nn.Module, splits: Splits, validation: ImageTextData, chosen: Preset
) -> Run:
    """Write down what the weights are worth, and the weights."""
    name, measure = run.config["method"], measures(run.config["method"])
    method.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if not chosen.train.epochs:
        run.environment = environment(next(method.parameters()).device)
        if chosen.train.half_weights:
            round_weights(method)
    measure.finish(method, validation)
    run.save_weights(method)  # with what was fitted
    run.save()
    if count() > 1 and (chosen.judge.fine_tune or name == "mae"):
        print(f"trained; fine-tuning takes a single process. Measure it: cmssf evaluate {run.path}")
        return run
    run.results, run.outputs = measure.judge(method, splits, chosen)
    run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)  # evaluation included
    run.save()
    print_results(run.results)
    print(f"peak memory, evaluation included: {peak_memory_gb():.2f} GB")
    return run


def check_measures(
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
    judge, train, batch = chosen.judge, chosen.train, chosen.fine_tune.batch_size
    if method_name == "cmssf" and train.epochs and len(validation) < train.batch_size:
        raise ValueError(
            f"data.validation={len(validation)} holds out too few pictures to validate with: "
            f"{method_name} needs a batch of {train.batch_size}"
        )
    if method_name == "fusion" or (method_name == "cmssf" and not judge.fractions):
        return
    labels, classes = training.labels.cpu(), len(training.class_names)
    drawn = label_draws(labels, classes, judge.per_class or None, judge.fractions, judge.draws)
    for name, (choice, *_) in drawn.items():
        fewest = int(labels[choice].bincount(minlength=classes).min())
        if fewest < 2:
            raise ValueError(
                f"with {name} of the labels a class has {fewest}, and a linear classifier needs "
                "two: change judge.fractions or judge.per_class"
            )
        if (judge.fine_tune or method_name == "mae") and len(choice) < batch:
            raise ValueError(
                f"with {name} of the labels there are {len(choice)} pictures, fewer than a batch "
                f"of the fine-tuning: change judge.fractions, or fine_tune.batch_size={batch}"
            )


def print_epoch(run: Run) -> None:
    """Print one line about the epoch that has just ended."""
    row = run.history[-1]
    shares = ", ".join(f"{part} {row[f'{part}_share']:.1%}" for part in OVERHEAD)
    together = sum(row[f"{part}_share"] for part in OVERHEAD)
    watched = measures(run.config["method"]).watched
    # Of some losses, and of one with another beside it, the floor is no floor.
    bounded = "image_text_loss" not in row and run.config.get("cmssf", {}).get("loss") in (
        "one_hot",
        "multi_positive",
    )
    floor = f" (floor {row['floor']:.3f})" if "floor" in row and bounded else ""
    print(
        f"epoch {row['epoch']:.0f}/{run.config['train']['epochs']}: loss {row['loss']:.3f}{floor}, "
        f"{watched.replace('_', ' ')} {row[watched]:.1%}; {row['images_per_second']:.0f} images/s; "
        f"of a step: {shares}, together {together:.1%}; peak memory "
        f"{run.environment['peak_memory_gb']:.2f} GB",
        flush=True,
    )


def print_results(results: Mapping[str, float], beside: Mapping[str, float] | None = None) -> None:
    """Print a table of metrics, and the recorded ones beside them where there are any."""
    print(f"{'metric':36} {'now':>10}" + (f" {'recorded':>10}" if beside else ""))
    for name, value in results.items():
        recorded = f" {beside[name]:10.4f}" if beside and name in beside else ""
        print(f"{name:36} {value:10.4f}{recorded}")

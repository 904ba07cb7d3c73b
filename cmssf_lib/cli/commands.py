"""What each command does, in order."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from cmssf_lib.cli.measure import measures
from cmssf_lib.cli.settings import change
from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import Splits, batches, load
from cmssf_lib.presets import Preset, preset
from cmssf_lib.processes import count, rank
from cmssf_lib.runs import (
    Run,
    all_runs,
    build,
    environment,
    preset_of,
    records,
    run_config,
)
from cmssf_lib.train import (
    OVERHEAD,
    cache_features,
    fit,
    flops_per_picture,
    peak_memory_gb,
)

#: What decides the kind of a method, and stays when a run is made again with another preset.
KEPT = {
    "cmssf": ("loss", "freeze_image", "image_loss", "image_weight"),
    "fusion": ("kind", "rule", "modality_dropout"),
    "supervised": ("loss",),
}


def preset_asked_for(options: argparse.Namespace) -> Preset:
    """Return the preset that the options of ``cmssf train`` name, with the numbers they change."""
    chosen = change(preset(options.preset, options.method), options.set)
    if options.epochs is not None:
        chosen = replace(chosen, train=replace(chosen.train, epochs=options.epochs))
    if options.seed is not None:
        chosen = replace(chosen, train=replace(chosen.train, seed=options.seed))
    return chosen


def train_command(options: argparse.Namespace) -> None:
    """``cmssf train METHOD``."""
    chosen = preset_asked_for(options)
    folder = options.run or f"runs/{options.method}-{chosen.name}-s{chosen.train.seed}"
    run = train_run(chosen, options.method, folder, options.data)
    if options.light and run.path is not None and rank() == 0:
        for name in ("model.safetensors", "outputs.npz"):
            (run.path / name).unlink()


def evaluate_command(options: argparse.Namespace) -> None:
    """``cmssf evaluate RUN``: recompute every number from the weights and the pictures."""
    run = Run.load(options.run)
    splits = load_data(preset_of(run.config), options.data)
    if splits.train.fingerprint != run.config["data_fingerprint"]:
        print(
            f"Note: these pictures are not the ones of the recorded run (fingerprint "
            f"{splits.train.fingerprint}, recorded {run.config['data_fingerprint']}).",
        )
    method = run.method(splits.train)
    method.to("cuda" if torch.cuda.is_available() else "cpu")
    measure = measures(run.config["method"])
    results, outputs = measure.judge(method, splits, preset_of(run.config))
    print_results(results, beside=run.results)
    print(f"peak memory: {peak_memory_gb():.2f} GB")
    if not run.results:  # trained, but stopped before the evaluation
        run.results, run.outputs = results, outputs
        run.save()


def reproduce_command(options: argparse.Namespace) -> None:
    """``cmssf reproduce NAME``: train a recorded run again and compare the results."""
    if bool(options.name) == options.all:
        raise ValueError("name one recorded run, or all of them with --all; see: cmssf runs")
    root = records()
    names = [run.name for run in all_runs(root)] if options.all else [options.name]
    for name in names:
        recorded = Run.load(root / name)
        chosen = preset_of(recorded.config)
        if options.preset:
            chosen = with_preset(options.preset, recorded.config["method"], chosen)
        print(f"{name}: preset {chosen.name}, {chosen.train.epochs} epochs")
        folder = (
            Path(options.to) / chosen.name / name if options.preset else Path(options.to) / name
        )
        run = train_run(chosen, recorded.config["method"], folder, options.data)
        print_results(run.results, beside=recorded.results)


def with_preset(name: str, method: str, recorded: Preset) -> Preset:
    """Return another preset that keeps what makes the recorded run the one it is.

    That is its loss and the like, its seed, and that it was not trained at all.
    """
    other, train = preset(name, method), recorded.train
    epochs = 0 if train.epochs == 0 else other.train.epochs
    other = replace(other, train=replace(other.train, seed=train.seed, epochs=epochs))
    old, new = getattr(recorded, method), getattr(other, method)
    kept = {field: getattr(old, field) for field in KEPT.get(method, ())}
    return replace(other, **{method: replace(new, **kept)})


def runs_command(options: argparse.Namespace) -> None:
    """``cmssf runs``: one line a run."""
    folder = Path(options.folder) if options.folder else records()
    found = all_runs(folder)
    if not found:
        raise FileNotFoundError(f"no runs below {folder}; cmssf train makes one")
    print(f"{'run':32} {'preset':9} {'epochs':>9} {'minutes':>8} {'test':>10}  fingerprint")
    for run in found:
        minutes = sum(row["seconds"] for row in run.history) / 60
        epochs = f"{len(run.history)}/{run.config['train']['epochs']}"
        headline = measures(run.config["method"]).headline
        accuracy = f"{run.results[headline]:.1%}" if run.results else "–"
        name = run.path.relative_to(folder) if run.path else run.name
        print(
            f"{name!s:32} {run.config['preset']:9} {epochs:>9} {minutes:8.1f} {accuracy:>10}  "
            f"{run.config['data_fingerprint']}"
        )


def train_run(chosen: Preset, method_name: str, folder: str | Path, data: str | None) -> Run:
    """Train as a preset says, evaluate on the test set once, and write it all down.

    With 0 epochs nothing is trained: the record says what the fresh weights are worth. Of
    several processes (``accelerate launch``) all train, and the first one does the rest.
    """
    splits = load_data(chosen, data)
    run = Run(folder)
    run.config = run_config(chosen, method_name, splits.train)
    training, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    method = build(run.config, splits.train)
    if rank() == 0:
        print(
            f"{method_name} on {training.name}: {len(training)} pictures to train on, "
            f"{len(validation)} to validate, {len(splits.test)} to test; in {folder}"
        )
    measure = measures(method_name)
    if isinstance(method, CMSSF) and chosen.cmssf.freeze_image and chosen.train.epochs:
        method.to("cuda" if torch.cuda.is_available() else "cpu")
        views, seed = chosen.cmssf.cached_views, chosen.train.seed
        training = cache_features(method, training, views=views, seed=seed)
        validation = cache_features(method, validation)
    if chosen.train.epochs:
        fit(
            method,
            training,
            chosen.train,
            run=run,
            each_epoch=lambda _: measure.monitor(method, validation, training, chosen),
            watch=print_epoch,
        )
    else:
        method.to("cuda" if torch.cuda.is_available() else "cpu")
        run.environment = environment(next(method.parameters()).device)
        run.save()
    if chosen.train.epochs:  # in every process: a step's loss exchanges vectors with the others
        on_device = training.to(next(method.parameters()).device)
        batch = next(batches(on_device, chosen.train.batch_size))
        flops = flops_per_picture(method, batch if count() == 1 else batch.part(rank(), count()))
        run.environment["mflop_per_picture"] = round(flops / 1e6, 3)
    if rank() > 0:
        return run
    measure.finish(method, validation)
    run.save_weights(method)  # with what was fitted
    if count() > 1 and (chosen.judge.fine_tune or method_name == "mae"):
        run.save()
        print(f"trained; fine-tuning takes a single process. Measure it: cmssf evaluate {folder}")
        return run
    run.results, run.outputs = measure.judge(method, splits, chosen)
    run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)  # evaluation included
    run.save()
    print_results(run.results)
    print(f"peak memory, evaluation included: {peak_memory_gb():.2f} GB")
    return run


def load_data(chosen: Preset, path: str | None) -> Splits:
    """Load the preset's pictures, from ``path`` where one is given."""
    config = chosen.data if path is None else replace(chosen.data, path=path)
    return load(config)


def print_epoch(run: Run) -> None:
    """Print one line about the epoch that has just ended."""
    row = run.history[-1]
    shares = ", ".join(f"{part} {row[f'{part}_share']:.1%}" for part in OVERHEAD)
    together = sum(row[f"{part}_share"] for part in OVERHEAD)
    watched = measures(run.config["method"]).watched
    floor = f" (floor {row['floor']:.3f})" if "floor" in row else ""
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

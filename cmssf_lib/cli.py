"""The long runs, outside a notebook: ``cmssf train``, ``evaluate``, ``reproduce``, ``runs``.

The same functions as in the notebooks; what stands here is their order and what is printed.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import Splits, load
from cmssf_lib.evaluate import (
    class_captions,
    embed,
    embed_prompts,
    monitor,
    report,
    zero_shot,
)
from cmssf_lib.presets import PRESETS, Preset, preset
from cmssf_lib.runs import METHODS, Run, all_runs, build, preset_of, run_config
from cmssf_lib.train import OVERHEAD, fit, peak_memory_gb

#: What a shell is told: 2 for a mistake that the message explains, 130 after Ctrl-C.
MISTAKE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the shell's exit code."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt as interruption:
        print(f"\ncmssf: {interruption or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, FileNotFoundError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"cmssf: {error}", file=sys.stderr)
        return MISTAKE
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="cmssf", description="Train, evaluate and compare runs.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a method and evaluate it")
    train.add_argument("method", help=f"one of: {', '.join(METHODS)}")
    train.add_argument("--preset", help=f"one of: {', '.join(PRESETS)} (default: $CMSSF_PRESET)")
    train.add_argument("--epochs", type=int, help="instead of the preset's")
    train.add_argument("--seed", type=int, help="instead of the preset's")
    train.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    train.add_argument("--run", help="folder of the run (default: runs/METHOD-PRESET-sSEED)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change any number of the preset, such as train.lr=0.001 or cmssf.loss=excess",
    )
    train.add_argument(
        "--light", action="store_true", help="keep history and results, not weights and outputs"
    )
    train.set_defaults(command=train_command)

    evaluate = commands.add_parser("evaluate", help="measure a trained run on the test set")
    evaluate.add_argument("run", help="folder of the run")
    evaluate.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    evaluate.set_defaults(command=evaluate_command)

    reproduce = commands.add_parser("reproduce", help="make a recorded run again")
    reproduce.add_argument("name", nargs="?", help="such as quick/cmssf; see: cmssf runs")
    reproduce.add_argument("--all", action="store_true", help="every recorded run")
    reproduce.add_argument("--preset", help="with the numbers of another preset")
    reproduce.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    reproduce.add_argument("--to", default="runs/reproduced", help="where (default: %(default)s)")
    reproduce.set_defaults(command=reproduce_command)

    runs = commands.add_parser("runs", help="list runs and their results")
    runs.add_argument("folder", nargs="?", help="default: the book's recorded runs")
    runs.set_defaults(command=runs_command)
    return top


def train_command(options: argparse.Namespace) -> None:
    """``cmssf train METHOD``."""
    chosen = change(preset(options.preset), options.set)
    if options.epochs is not None:
        chosen = replace(chosen, train=replace(chosen.train, epochs=options.epochs))
    if options.seed is not None:
        chosen = replace(chosen, train=replace(chosen.train, seed=options.seed))
    folder = options.run or f"runs/{options.method}-{chosen.name}-s{chosen.train.seed}"
    run = train_run(chosen, options.method, folder, options.data)
    if options.light and run.path is not None:
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
    results = report(method, splits)
    print_results(results, beside=run.results)
    print(f"peak memory: {peak_memory_gb():.2f} GB")
    if not run.results:  # trained, but stopped before the evaluation
        run.results, run.outputs = results, outputs(method, splits)
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
            other = preset(options.preset)
            chosen = replace(other, cmssf=replace(other.cmssf, loss=chosen.cmssf.loss))
        print(f"{name}: preset {chosen.name}, {chosen.train.epochs} epochs")
        folder = (
            Path(options.to) / chosen.name / name if options.preset else Path(options.to) / name
        )
        run = train_run(chosen, recorded.config["method"], folder, options.data)
        print_results(run.results, beside=recorded.results)


def runs_command(options: argparse.Namespace) -> None:
    """``cmssf runs``: one line a run."""
    folder = Path(options.folder) if options.folder else records()
    found = all_runs(folder)
    if not found:
        raise FileNotFoundError(f"no runs below {folder}; cmssf train makes one")
    print(f"{'run':32} {'preset':9} {'epochs':>9} {'minutes':>8} {'zero-shot':>10}  fingerprint")
    for run in found:
        minutes = sum(row["seconds"] for row in run.history) / 60
        epochs = f"{len(run.history)}/{run.config['train']['epochs']}"
        accuracy = f"{run.results['zero_shot']:.1%}" if run.results else "–"
        name = run.path.relative_to(folder) if run.path else run.name
        print(
            f"{name!s:32} {run.config['preset']:9} {epochs:>9} {minutes:8.1f} {accuracy:>10}  "
            f"{run.config['data_fingerprint']}"
        )


def train_run(chosen: Preset, method_name: str, folder: str | Path, data: str | None) -> Run:
    """Train as a preset says, evaluate on the test set once, and write it all down."""
    splits = load_data(chosen, data)
    run = Run(folder)
    run.config = run_config(chosen, method_name, splits.train)
    training, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    method = build(run.config, splits.train)
    print(
        f"{method_name} on {training.name}: {len(training)} pictures to train on, "
        f"{len(validation)} to validate, {len(splits.test)} to test; in {folder}"
    )
    prompts = class_captions(splits.train)
    fit(
        method,
        training,
        chosen.train,
        run=run,
        each_epoch=lambda _: monitor(method, validation, chosen.train.batch_size, prompts=prompts),
        watch=print_epoch,
    )
    run.results = report(method, splits)
    run.outputs = outputs(method, splits)
    run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)  # evaluation included
    run.save()
    print_results(run.results)
    print(f"peak memory, evaluation included: {peak_memory_gb():.2f} GB")
    return run


def outputs(method: CMSSF, splits: Splits) -> dict[str, np.ndarray]:
    """Return what the results were computed from: embeddings of the test set and predictions."""
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


def load_data(chosen: Preset, path: str | None) -> Splits:
    """Load the preset's pictures, from ``path`` where one is given."""
    config = chosen.data if path is None else replace(chosen.data, path=path)
    return load(config)


def change(chosen: Preset, assignments: Sequence[str]) -> Preset:
    """Return a preset with some numbers changed.

    Args:
        chosen: The preset to start from.
        assignments: Such as "train.lr=0.001" or "cmssf.views.flip=0.5".

    Raises:
        ValueError: If an assignment names no field of the preset, or its value is of another
            kind than the field's.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, such as train.lr=0.001; got {assignment!r}")
        chosen = _changed(chosen, name.split("."), text, assignment)
    return chosen


def _changed(config: Any, path: Sequence[str], text: str, assignment: str) -> Any:
    known = [field.name for field in fields(config)]
    if path[0] not in known:
        raise ValueError(f"--set {assignment}: no field {path[0]!r}; there are {', '.join(known)}")
    old = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _changed(old, path[1:], text, assignment)})
    try:
        new = (
            tuple(float(v) for v in text.split(",")) if isinstance(old, tuple) else type(old)(text)
        )
    except ValueError as error:
        raise ValueError(
            f"--set {assignment}: {path[0]} is a {type(old).__name__}, such as {old!r}"
        ) from error
    return replace(config, **{path[0]: new})


def records() -> Path:
    """Return the folder of the book's recorded runs: $CMSSF_RUNS, or book/runs here or above."""
    if named := os.environ.get("CMSSF_RUNS"):
        return Path(named)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "book" / "runs").is_dir():
            return folder / "book" / "runs"
    raise FileNotFoundError(
        "no folder book/runs here or above: go to the book's repository, or name the folder in "
        "CMSSF_RUNS"
    )


def print_epoch(run: Run) -> None:
    """Print one line about the epoch that has just ended."""
    row = run.history[-1]
    shares = ", ".join(f"{part} {row[f'{part}_share']:.1%}" for part in OVERHEAD)
    together = sum(row[f"{part}_share"] for part in OVERHEAD)
    print(
        f"epoch {row['epoch']:.0f}/{run.config['train']['epochs']}: loss {row['loss']:.3f} "
        f"(floor {row['floor']:.3f}), validation {row['validation_loss']:.3f}, zero-shot "
        f"{row['validation_zero_shot']:.1%}; {row['images_per_second']:.0f} images/s; of a step: "
        f"{shares}, together {together:.1%}; peak memory "
        f"{run.environment['peak_memory_gb']:.2f} GB",
        flush=True,
    )


def print_results(results: Mapping[str, float], beside: Mapping[str, float] | None = None) -> None:
    """Print a table of metrics, and the recorded ones beside them where there are any."""
    print(f"{'metric':36} {'now':>10}" + (f" {'recorded':>10}" if beside else ""))
    for name, value in results.items():
        recorded = f" {beside[name]:10.4f}" if beside and name in beside else ""
        print(f"{name:36} {value:10.4f}{recorded}")


if __name__ == "__main__":
    sys.exit(main())

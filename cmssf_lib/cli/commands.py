"""What each command does, in order."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from cmssf_lib.cli.measure import headline, measures
from cmssf_lib.cli.settings import change
from cmssf_lib.cli.training import print_results, train_run
from cmssf_lib.data import Splits, load
from cmssf_lib.presets import Preset, preset
from cmssf_lib.processes import rank
from cmssf_lib.runs import Run, all_runs, preset_of, records
from cmssf_lib.train import peak_memory_gb

#: What decides the kind of a method, and stays when a run is made again with another preset.
KEPT = {
    "cmssf": ("loss", "freeze_image", "image_loss", "image_weight"),
    "fusion": ("kind", "rule", "modality_dropout"),
    "supervised": ("loss",),
    "byol": ("predictor", "stop_gradient"),
    "moco": ("in_batch",),
    "mae": ("normalise",),
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
    # Not before it is measured: several processes leave that to a single one.
    if options.light and run.results and run.path is not None and rank() == 0:
        for name in ("model.safetensors", "outputs.npz"):
            (run.path / name).unlink(missing_ok=True)


def evaluate_command(options: argparse.Namespace) -> None:
    """``cmssf evaluate RUN``: recompute every number from the weights and the pictures.

    A run that was stopped before it was measured keeps what is found.
    """
    run = Run.load(options.run)
    chosen = preset_of(run.config)
    if options.no_fine_tuning:
        if not run.results:
            raise ValueError(
                f"{options.run} has not been measured yet: measure all of it first, without "
                "--no-fine-tuning"
            )
        chosen = replace(chosen, fine_tune=replace(chosen.fine_tune, steps=0))
    splits = load_data(chosen, options.data)
    same = splits.train.fingerprint == run.config["data_fingerprint"]
    if not same:
        others = (
            f"these pictures are not the ones of the recorded run (fingerprint "
            f"{splits.train.fingerprint}, recorded {run.config['data_fingerprint']})"
        )
        if run.config["method"] == "cmssf" and chosen.text.kind == "scratch":
            raise ValueError(f"{others}, so the words of its tokenizer are not known")
        print(f"Note: {others}; nothing is written down.")
    method = run.method(splits.train)
    method.to("cuda" if torch.cuda.is_available() else "cpu")
    measure, unmeasured = measures(run.config["method"]), same and not run.results
    if unmeasured:
        _, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
        measure.finish(method, validation)
        run.save_weights(method)  # with what was fitted
    results, outputs = measure.judge(method, splits, chosen)
    print_results(results, beside=run.results)
    print(f"peak memory: {peak_memory_gb():.2f} GB")
    if unmeasured:
        run.results, run.outputs = results, outputs
        run.save()


def reproduce_command(options: argparse.Namespace) -> None:
    """``cmssf reproduce NAME``: train a recorded run again and compare the results.

    With ``--all``, what has been reproduced already is compared and not trained again, and a run
    that cannot be made does not keep the others from it.
    """
    if bool(options.name) == options.all:
        raise ValueError("name one recorded run, or all of them with --all; see: cmssf runs")
    root, failed = records(), []
    names = sorted(p.parent.relative_to(root).as_posix() for p in root.rglob("config.json"))
    for name in names if options.all else [options.name]:
        try:
            reproduce(name, root, options)
        except (ValueError, FileNotFoundError) as error:
            if not options.all:
                raise
            failed.append(f"{name}: {error}")
    if failed:
        raise ValueError("not reproduced:\n" + "\n".join(failed))


def reproduce(name: str, root: Path, options: argparse.Namespace) -> None:
    """Make one recorded run again, unless that is done, and compare."""
    recorded = Run.load(root / name)
    chosen, method = preset_of(recorded.config), recorded.config["method"]
    if options.preset:
        chosen = with_preset(options.preset, method, chosen)
    print(f"{name}: preset {chosen.name}, {chosen.train.epochs} epochs")
    folder = Path(options.to) / chosen.name / name if options.preset else Path(options.to) / name
    if options.all and (folder / "results.json").is_file():
        print(f"{folder} is there already")
        run = Run.load(folder)
    else:
        run = train_run(chosen, method, folder, options.data)
    print_results(run.results, beside=recorded.results)


def with_preset(name: str, method: str, recorded: Preset) -> Preset:
    """Return another preset that keeps what makes the recorded run the one it is.

    That is its loss and the like, its seed, and that it was not trained at all.

    Raises:
        ValueError: If the recorded run begins with another one's weights, which fit its own preset
            alone.
    """
    if recorded.vision.weights not in ("", "timm") and name != recorded.name:
        raise ValueError(
            f"it begins with the weights of {recorded.vision.weights}, which fit the preset "
            f"{recorded.name!r} only: leave --preset out"
        )
    other, train = preset(name, method), recorded.train
    epochs = 0 if train.epochs == 0 else other.train.epochs
    other = replace(other, train=replace(other.train, seed=train.seed, epochs=epochs))
    old, new = getattr(recorded, method), getattr(other, method)
    kept = {field: getattr(old, field) for field in KEPT.get(method, ())}
    return replace(other, **{method: replace(new, **kept)})


def runs_command(options: argparse.Namespace) -> None:
    """``cmssf runs``: one line a run; at its end the test result by which it is judged."""
    folder = Path(options.folder) if options.folder else records()
    found = all_runs(folder)
    if not found:
        raise FileNotFoundError(f"no runs below {folder}; cmssf train makes one")
    print(f"{'run':32} {'preset':9} {'epochs':>9} {'minutes':>8}  {'data':16}  test result")
    for run in found:
        minutes = sum(row["seconds"] for row in run.history) / 60
        epochs = f"{len(run.history)}/{run.config['train']['epochs']}"
        shown = headline(run)
        result = f"{shown[1]:.1%} {shown[0]}" if shown else "–"
        name = run.path.relative_to(folder) if run.path else run.name
        print(
            f"{name!s:32} {run.config.get('preset', '–'):9} {epochs:>9} {minutes:8.1f}  "
            f"{run.config['data_fingerprint']:16}  {result}"
        )


def load_data(chosen: Preset, path: str | None) -> Splits:
    """Load the preset's pictures, from ``path`` where one is given."""
    config = chosen.data if path is None else replace(chosen.data, path=path)
    return load(config)

"""Train, evaluate, reproduce: from a preset to a record."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cmssf_lib import machine
from cmssf_lib.build import build, preset_of, run_config, trained
from cmssf_lib.cli import measure
from cmssf_lib.data import ImageTextData, Splits, batches, load
from cmssf_lib.files import records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.presets import Preset, preset
from cmssf_lib.runs import Run
from cmssf_lib.train import cache_features, fit, flops_per_picture, round_weights

Data = Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")]

#: What decides the kind of a method, and stays when a run is made again with another preset.
KEPT = {
    "cmssf": ("loss", "freeze_image", "image_loss", "image_weight"),
    "fusion": ("kind", "rule", "modality_dropout"),
    "supervised": ("loss",),
    "byol": ("predictor", "stop_gradient"),
    "moco": ("in_batch",),
    "mae": ("normalise",),
}


def with_pictures(chosen: Preset, folder: str | None) -> Preset:
    """Return a preset whose pictures are in another folder, if one is given."""
    return replace(chosen, data=replace(chosen.data, path=folder)) if folder else chosen


def train_run(chosen: Preset, name: str, folder: Path, command: str) -> Run:
    """Train as a preset says, evaluate on the test set once, and write it all down.

    Called again it goes on where it was stopped: in the training, or with the measuring.

    With 0 epochs nothing is trained: the record says what the fresh weights are worth. Of
    several processes (``accelerate launch``) all train, and the first one does the rest.

    Args:
        chosen: The preset, with what was changed.
        name: Of the method that is trained.
        folder: Of the run.
        command: What was typed, for the record.

    Raises:
        ValueError: If the folder holds a finished run, or one with another configuration, or if
            what comes after the training could not be done.
    """
    splits, first = load(chosen.data), machine.process_index() == 0
    training, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    measure.require_measurable(splits.train, validation, chosen, name)
    run = Run(folder)
    run.environment["command"] = command
    run.config = run_config(chosen, name, splits.train)
    if (so_far := run.state()) == "measured":
        raise ValueError(f"{folder} holds a finished run: choose another folder, or delete it")
    if so_far == "trained":
        before = Run.load(folder)
        run.history, run.environment = before.history, before.environment
        method = trained(before, splits.train)
    else:
        method = build(chosen, name, splits.train)
    if first:
        print(
            f"{name} on {training.name}: {len(training)} pictures to train on, {len(validation)} "
            f"to validate, {len(splits.test)} to test; in {folder}"
        )
    if so_far == "trained" and first:
        print("The training is over; what is left is to measure it.")
    if chosen.train.epochs and "mflop_per_picture" not in run.environment:
        if isinstance(method, CMSSF) and chosen.cmssf.freeze_image:
            method.to(machine.fastest_device())
            views, seed = chosen.cmssf.cached_views, chosen.train.seed
            training = cache_features(method, training, views=views, seed=seed)
            validation = cache_features(method, validation)
        batch_size = chosen.train.batch_size
        if so_far != "trained":
            fit(
                method,
                training,
                chosen.train,
                run=run,
                each_epoch=lambda now: measure.each_epoch(now, training, validation, batch_size),
                watch=measure.print_epoch,
            )
        # In every process: a step's loss exchanges vectors with the others.
        batch = next(batches(training.to(next(method.parameters()).device), batch_size))
        flops = flops_per_picture(
            method, batch.part(machine.process_index(), machine.process_count())
        )
        run.environment["mflop_per_picture"] = round(flops / 1e6, 3)
        if first:
            run.save()
    if first:
        with run.lock():
            _measure(run, method, splits, validation, chosen)
    return run


def _measure(
    run: Run, method: Method, splits: Splits, validation: ImageTextData, chosen: Preset
) -> None:
    """Write down what the weights are worth, and the weights."""
    name = run.config["method"]
    method.to(machine.fastest_device()).eval()
    if not chosen.train.epochs:
        run.environment |= machine.environment(next(method.parameters()).device)
        if chosen.train.half_weights:
            round_weights(method)
    if isinstance(method, FusionClassifier) and method.config.kind == "late":
        method.fit_rule(validation)  # by which the outputs of its models are weighed
    run.save_weights(method)
    run.save()
    if machine.process_count() > 1 and (chosen.judge.fine_tune or name == "mae"):
        print(f"trained; fine-tuning takes a single process. Measure it: cmssf evaluate {run.path}")
        return
    run.results, run.outputs = measure.judge(method, splits, chosen)
    run.environment["peak_memory_gb"] = round(machine.peak_memory_gb(), 2)  # evaluation included
    run.save()
    measure.print_results(run.results)
    print(f"peak memory, evaluation included: {machine.peak_memory_gb():.2f} GB")


def evaluate(run: Positional[str], pictures: Data = None, fine_tuning: bool = True) -> None:
    """Recompute every number of a run from its weights and the pictures.

    A run that was stopped before it was measured keeps what is found.

    Args:
        run: Folder of the run.
        pictures: Folder of the pictures; else $CMSSF_DATA.
        fine_tuning: Without it, minutes and not an hour: what trains is left out.
    """
    record = Run.load(run)
    chosen = preset_of(record.config)
    if not fine_tuning:
        if not record.results:
            raise ValueError(
                f"{run} has not been measured yet: measure all of it first, without "
                "--no-fine-tuning"
            )
        chosen = replace(chosen, fine_tune=replace(chosen.fine_tune, steps=0))
    splits = load(with_pictures(chosen, pictures).data)
    same = splits.train.fingerprint == record.config["data_fingerprint"]
    if not same:
        others = (
            f"these pictures are not the ones of the recorded run (fingerprint "
            f"{splits.train.fingerprint}, recorded {record.config['data_fingerprint']})"
        )
        if record.config["method"] == "cmssf" and chosen.text.kind == "scratch":
            raise ValueError(f"{others}, so the words of its tokenizer are not known")
        print(f"Note: {others}; nothing is written down.")
    method = trained(record, splits.train).to(machine.fastest_device())
    if same and not record.results:
        _, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
        return _measure(record, method, splits, validation, chosen)
    measure.print_results(measure.judge(method, splits, chosen)[0], beside=record.results)
    print(f"peak memory: {machine.peak_memory_gb():.2f} GB")


def reproduce(
    name: Positional[str | None] = None,
    all: bool = False,
    preset: str | None = None,
    pictures: Data = None,
    to: str = "runs/reproduced",
) -> None:
    """Train a recorded run again and compare the results.

    With ``--all``, what has been reproduced already is compared and not trained again, and a run
    that cannot be made does not keep the others from it.

    Args:
        name: Such as quick/cmssf-s0; see: cmssf runs.
        all: Every recorded run.
        preset: With the numbers of another preset.
        pictures: Folder of the pictures; else $CMSSF_DATA.
        to: Where the new runs are written.
    """
    if bool(name) == all:
        raise ValueError("name one recorded run, or all of them with --all; see: cmssf runs")
    root, failed = records(), []
    names = sorted(p.parent.relative_to(root).as_posix() for p in root.rglob("config.json"))
    for each in names if name is None else [name]:
        try:
            recorded = Run.load(root / each)
            chosen, method = preset_of(recorded.config), recorded.config["method"]
            if preset:
                chosen = with_preset(preset, method, chosen)
            print(f"{each}: preset {chosen.name}, {chosen.train.epochs} epochs")
            folder = Path(to) / chosen.name / each if preset else Path(to) / each
            if all and (folder / "results.json").is_file():
                print(f"{folder} is there already")
                run = Run.load(folder)
            else:
                chosen = with_pictures(chosen, pictures)
                run = train_run(chosen, method, folder, f"cmssf reproduce {each}")
            measure.print_results(run.results, beside=recorded.results)
        except (ValueError, FileNotFoundError) as error:
            if not all:
                raise
            failed.append(f"{each}: {error}")
    if failed:
        raise ValueError("not reproduced:\n" + "\n".join(failed))


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

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
from cmssf_lib.files import lock_folder, records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF, MAE, Method
from cmssf_lib.methods.base import on_fastest_device
from cmssf_lib.presets import Preset
from cmssf_lib.runs import Run
from cmssf_lib.train import cache_features, fit, flops_per_picture

Data = Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")]


def with_pictures(chosen: Preset, folder: str | None) -> Preset:
    """Return a preset whose pictures are in another folder, if one is given."""
    return replace(chosen, data=replace(chosen.data, path=folder)) if folder else chosen


def load_trained(run: Run, pictures: str | None) -> tuple[Method, Splits, bool]:
    """Load the pictures of a run, and its method with its weights.

    Args:
        run: With weights.
        pictures: Where its pictures are now; ``None``: where they were.

    Returns:
        The method, the pictures, and whether they are those that it was trained on.

    Raises:
        FileNotFoundError: If the run has no weights.
        ValueError: If the run is damaged, or its tokenizer took its words from captions that are
            not here.
    """
    chosen = preset_of(run.config)
    splits = load(with_pictures(chosen, pictures).data)
    same = splits.train.fingerprint == run.config.get("data_fingerprint")
    if not same and run.config["method"] == "cmssf" and chosen.text.kind == "scratch":
        raise ValueError(
            f"the run {run.path} was trained on other data than are here, so the words of its "
            "tokenizer are not known: name the folder of its pictures with --data"
        )
    return trained(run, splits.train), splits, same


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
        raise ValueError(f"{folder} holds a finished run: choose another folder or delete it")
    if so_far == "trained":
        before = Run.load(folder)
        run.history, run.environment = before.history, before.environment
    to_train = chosen.train.epochs > 0 and so_far != "trained"
    method = build(chosen, name, splits.train) if to_train else trained(run, splits.train)
    if first:
        print(
            f"{name} on {training.name}: {len(training)} pictures to train on, {len(validation)} "
            f"to validate, {len(splits.test)} to test; in {folder}"
        )
    if so_far == "trained" and first:
        print("The training is over; what is left is to measure it.")
    if chosen.train.epochs and "mflop_per_picture" not in run.environment:
        if isinstance(method, CMSSF) and chosen.cmssf.freeze_image:
            views, seed = chosen.cmssf.cached_views, chosen.train.seed
            training = cache_features(method, training, views=views, seed=seed)
            validation = cache_features(method, validation)
        batch_size = chosen.train.batch_size
        if to_train:

            def look(now: Method) -> dict[str, float]:
                return measure.each_epoch(now, training, validation, batch_size)

            fit(method, training, chosen.train, run=run, each_epoch=look, watch=measure.print_epoch)
        # In every process: a step's loss exchanges vectors with the others.
        with on_fastest_device(method) as device:
            batch = next(batches(training.to(device), batch_size))
            part = batch.part(machine.process_index(), machine.process_count())
            flops = flops_per_picture(method, part)
        run.environment["mflop_per_picture"] = round(flops / 1e6, 3)
    if first:
        with lock_folder(folder):
            _measure(run, method, splits, validation, chosen)
    return run


def _measure(
    run: Run, method: Method, splits: Splits, validation: ImageTextData, chosen: Preset
) -> None:
    """Write down what the weights are worth, and the weights."""
    if not chosen.train.epochs:
        run.environment |= machine.environment(machine.fastest_device())
    if isinstance(method, FusionClassifier) and method.config.kind == "late":
        method.fit_rule(validation)  # by which the outputs of its models are weighed
    run.save_weights(method)
    run.save()
    if machine.process_count() > 1 and (chosen.judge.fine_tune or isinstance(method, MAE)):
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
            raise ValueError(f"{run}: measure all of it first, without --no-fine-tuning")
        chosen = replace(chosen, fine_tune=replace(chosen.fine_tune, steps=0))
    method, splits, same = load_trained(record, pictures)
    if not same:
        print("Note: the run was trained on other pictures than these; nothing is written down.")
    if same and not record.results:
        _, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
        return _measure(record, method, splits, validation, chosen)
    measure.print_results(measure.judge(method, splits, chosen)[0], beside=record.results)
    print(f"peak memory: {machine.peak_memory_gb():.2f} GB")


def reproduce(
    names: Positional[tuple[str, ...]] = (),
    all: bool = False,
    pictures: Data = None,
    to: str = "runs/reproduced",
) -> None:
    """Train recorded runs again and compare the results.

    A run that has been reproduced already is compared and not trained again, and one that cannot
    be made does not keep the others from it.

    Args:
        names: Such as quick/cmssf-s0; see: cmssf runs.
        all: Every recorded run.
        pictures: Folder of the pictures; else $CMSSF_DATA.
        to: Where the new runs are written.
    """
    if bool(names) == all:
        raise ValueError("name recorded runs, or take every one with --all; see: cmssf runs")
    root, failed = records(), []
    every = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("config.json"))
    for name in every if all else names:
        try:
            recorded = Run.load(root / name)
            chosen = with_pictures(preset_of(recorded.config), pictures)
            print(f"{name}: preset {chosen.name}, {chosen.train.epochs} epochs")
            folder, method = Path(to) / name, recorded.config["method"]
            if (folder / "results.json").is_file():
                print(f"{folder} is there already")
                run = Run.load(folder)
            else:
                run = train_run(chosen, method, folder, f"cmssf reproduce {name}")
            measure.print_results(run.results, beside=recorded.results)
        except (ValueError, FileNotFoundError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise ValueError("not reproduced: " + "\n".join(failed))

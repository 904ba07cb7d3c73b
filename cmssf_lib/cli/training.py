"""``cmssf train``, ``evaluate`` and ``reproduce``: from a preset to a recorded run."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cmssf_lib import machine
from cmssf_lib.build import build, preset_of, run_config, trained
from cmssf_lib.cli import measure
from cmssf_lib.cli.require import require_measurable
from cmssf_lib.cli.terminal import say
from cmssf_lib.data import ImageTextData, Splits, batches, load
from cmssf_lib.encoders import readable
from cmssf_lib.environment import environment, peak_memory_gb
from cmssf_lib.files import home, lock_folder, records, require_writable
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF, MAE, Method
from cmssf_lib.methods.base import on_fastest_device
from cmssf_lib.presets import Preset
from cmssf_lib.runs import Run
from cmssf_lib.train import cache_features, fit, flops_per_picture

Data = Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")]


def with_pictures(chosen: Preset, folder: str | None) -> Preset:
    """Return the preset of a run with its data in another folder, if one is given.

    Raises:
        ValueError: If the run draws its own pictures.
        FileNotFoundError: If there is no such folder.
    """
    if folder is None:
        return chosen
    if chosen.data.name == "digit_scenes":
        raise ValueError("--data would change nothing: this run draws its own digit scenes")
    if not home(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give the folder of the pictures")
    return replace(chosen, data=replace(chosen.data, path=folder))


def load_trained(run: Run, pictures: str | None) -> tuple[Method, Splits, bool]:
    """Load the data of a run, and its method with the trained weights.

    Args:
        run: A run with weights.
        pictures: Folder of its data; ``None``: the recorded one.

    Returns:
        The method, the data, and whether the method was trained on these data.

    Raises:
        FileNotFoundError: If the run has no weights.
        ValueError: If the run is damaged, or its tokenizer was built from other captions.
    """
    chosen = preset_of(run.config)
    splits = load(with_pictures(chosen, pictures).data)
    same = splits.train.fingerprint == run.config.get("data_fingerprint")
    if not same and run.config["method"] == "cmssf" and chosen.text.kind == "scratch":
        raise ValueError(
            f"the run {run.path} was trained on other data, so the words of its tokenizer are not "
            "known: give the folder of its training data with --data"
        )
    return trained(run, splits.train), splits, same


def train_run(chosen: Preset, name: str, folder: Path, command: str) -> Run:
    """Train a method as a preset says, evaluate it once on the test set, and record the run.

    If a call was interrupted, the same call again resumes it, in the training or the evaluation.

    With 0 epochs nothing is trained: the run records the results of the initial weights. With
    several processes (``accelerate launch``), all of them train and the first evaluates.

    Args:
        chosen: The preset, with its changes.
        name: Name of the method.
        folder: Folder of the run.
        command: The command line, for the record.

    Returns:
        The run, with its results if this process evaluated it.

    Raises:
        ValueError: If the folder holds a finished run or one with another configuration, or if
            the evaluation would be impossible, by a caption without a known word, say.
    """
    require_writable(folder)
    splits, first = load(chosen.data), machine.process_index() == 0
    _, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    require_measurable(splits, validation, chosen, name)
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
    splits = Splits(*(readable(method, data) for data in splits))
    training, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    if first:
        say(
            f"{name} on {training.name}: {len(training)} pictures for training, {len(validation)} "
            f"for validation, {len(splits.test)} for testing; the run is in {folder}"
        )
    if so_far == "trained" and first:
        say("The training is complete; only the evaluation is left.")
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
        # Run this in every process, because the loss gathers embeddings from all of them.
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
    """Save the weights, evaluate them, and save the results."""
    if not chosen.train.epochs:
        run.environment |= environment(machine.fastest_device())
    if isinstance(method, FusionClassifier) and method.config.kind == "late":
        method.fit_rule(validation)  # fits how the outputs of its models are combined
    run.save()
    run.save_weights(method)
    if machine.process_count() > 1 and (chosen.judge.fine_tune or isinstance(method, MAE)):
        say(f"Training complete. Fine-tuning needs one process: run cmssf evaluate {run.path}")
        return
    run.results, run.outputs = measure.judge(method, splits, chosen)
    run.environment["peak_memory_gb"] = round(peak_memory_gb(), 2)  # evaluation included
    run.save()
    measure.print_results(run.results)
    say(f"peak memory, evaluation included: {peak_memory_gb():.2f} GB")


def evaluate(run: Positional[str], pictures: Data = None, fine_tuning: bool = True) -> None:
    """Recompute the test results of a run from its weights and the data.

    If the run has no results yet and the data are those of its training, the results are saved.

    Args:
        run: Folder of the run.
        pictures: Folder of the pictures; if not given, $CMSSF_DATA.
        fine_tuning: Include fine-tuning; without it, evaluation takes minutes instead of an hour.
    """
    record = Run.load(run)
    chosen = preset_of(record.config)
    if not fine_tuning:
        if not record.results:
            raise ValueError(f"{run} has no results yet: evaluate it without --no-fine-tuning")
        chosen = replace(chosen, fine_tune=replace(chosen.fine_tune, steps=0))
    method, splits, same = load_trained(record, pictures)
    splits = Splits(*(readable(method, data) for data in splits))
    if not same:
        say("Note: the run was trained on other pictures, so nothing is saved.")
    if same and not record.results:
        _, validation = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
        return _measure(record, method, splits, validation, chosen)
    measure.print_results(measure.judge(method, splits, chosen)[0], beside=record.results)
    say(f"peak memory: {peak_memory_gb():.2f} GB")


def reproduce(
    names: Positional[tuple[str, ...]] = (),
    all: bool = False,
    pictures: Data = None,
    to: str = "runs/reproduced",
) -> None:
    """Train recorded runs again and compare the results.

    A run that has already been reproduced is only compared. If a run fails, the others continue.

    Args:
        names: Names of recorded runs, such as quick/cmssf-s0; list them with cmssf runs.
        all: Reproduce every recorded run.
        pictures: Folder of the pictures; if not given, $CMSSF_DATA.
        to: Folder for the new runs.
    """
    if bool(names) == all:
        raise ValueError("name recorded runs (see cmssf runs), or choose all with --all")
    root, failed = records(), []
    every = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("config.json"))
    for name in every if all else names:
        try:
            recorded = Run.load(root / name)
            chosen = with_pictures(preset_of(recorded.config), pictures)
            say(f"{name}: preset {chosen.name}, {chosen.train.epochs} epochs")
            folder, method = home(to) / name, recorded.config["method"]
            if (folder / "results.json").is_file():
                say(f"{folder} exists already and is not trained again")
                run = Run.load(folder)
            else:
                run = train_run(chosen, method, folder, f"cmssf reproduce {name}")
            measure.print_results(run.results, beside=recorded.results)
        except (ValueError, FileNotFoundError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise ValueError("not reproduced: " + "; ".join(failed))

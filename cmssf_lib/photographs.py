"""CIFAR-10 for the chapters' sections *On photographs*: trained live, or as recorded."""

from dataclasses import replace

from cmssf_lib import data
from cmssf_lib.build import build, preset_of, trained
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.files import records
from cmssf_lib.methods import Method
from cmssf_lib.runs import Run
from cmssf_lib.train import fit


def load(config: data.DataConfig, download: bool) -> Splits | None:
    """Load CIFAR-10 if it is on this machine; if not, print one sentence that says what to do.

    Args:
        config: A data set of photographs, such as that of the preset ``standard``.
        download: Whether it may be downloaded (170 MB) if it is not here.

    Returns:
        As `data.load`; ``None`` if the photographs are not here and may not or cannot be fetched.

    Raises:
        ValueError: If they are damaged.
    """
    try:
        if download or data.find_cifar10(config.path):
            return data.load(config)
        why = "Set download=True to fetch it (170 MB), or CMSSF_DATA to the folder that holds it."
    except FileNotFoundError as error:
        why = f"{error}."
    print(f"CIFAR-10 is not on this machine, so this section has nothing to show. {why}")
    return None


def learned(name: str, photos: ImageTextData, live: bool) -> tuple[Method, Run]:
    """Return the method of a recorded run, or train the same here and now.

    A live training has the record's settings and seed, and the precision that is fast on this
    machine; its numbers therefore differ slightly from the recorded ones.

    Args:
        name: A recorded run, such as "standard/simclr".
        photos: The training set of `load`.
        live: Whether to train rather than to load the recorded weights.

    Returns:
        The method in evaluation mode, and the run whose history says how it was trained.

    Raises:
        FileNotFoundError: If there is no such record, or it keeps no weights.
        ValueError: As for `cmssf_lib.build.trained`.
    """
    run = Run.load(records() / name)
    if not live:
        return trained(run, photos), run
    recipe = preset_of(run.config)
    learning, _ = photos.hold_out(recipe.data.validation, recipe.data.seed)
    method = build(recipe, run.config["method"], photos)
    run = fit(method, learning, replace(recipe.train, precision="auto"))
    return method.eval(), run

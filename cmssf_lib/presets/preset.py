"""The parts of a preset: one section for each part of a run."""

from typing import Literal

from cmssf_lib import data, encoders, evaluate, fusion, methods, train
from cmssf_lib.settings import settings


@settings
class Preset:
    """All settings of a run, in one size. `METHODS` says which sections each method reads."""

    name: Literal["quick", "standard", "paper"]
    minutes: str  # how long a training takes, and on what machine
    data: data.DataConfig  # which pictures
    vision: encoders.VisionConfig  # the image encoder
    text: encoders.TextConfig  # the text encoder
    train: train.TrainConfig  # how it is trained
    judge: evaluate.JudgeConfig  # how the learned features are evaluated
    fine_tune: evaluate.FineTuneConfig  # how the learned weights are fine-tuned
    cmssf: methods.CMSSFConfig  # the part of CMSSF between its two towers and the loss
    fusion: fusion.FusionConfig  # the fusion model
    simclr: methods.SimCLRConfig
    moco: methods.MoCoConfig
    byol: methods.BYOLConfig
    dino: methods.DINOConfig
    vicreg: methods.VICRegConfig
    mae: methods.MAEConfig
    supervised: methods.SupervisedConfig


#: The methods, and the sections of a preset that build and evaluate each of them.
METHODS: dict[str, tuple[str, ...]] = {
    "cmssf": ("vision", "text", "cmssf", "judge", "fine_tune"),
    "fusion": ("fusion",),
    **{
        method: ("vision", method, "judge", "fine_tune")
        for method in ("simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised")
    },
}


def sections(preset: Preset, method: str) -> tuple[str, ...]:
    """Return the names of the sections of a preset that a method's run depends on.

    Raises:
        ValueError: If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    beside = (preset.cmssf.image_loss,) if method == "cmssf" and preset.cmssf.image_loss else ()
    return ("data", *METHODS[method], *beside, "train")

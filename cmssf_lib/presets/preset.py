"""What a preset consists of: one section for each part of a run."""

from typing import Literal

from cmssf_lib import data, encoders, evaluate, fusion, methods, train
from cmssf_lib.settings import settings


@settings
class Preset:
    """One size of everything. `METHODS` says which sections a method reads."""

    name: Literal["quick", "standard", "paper"]
    minutes: str  # what a training costs, and where
    data: data.DataConfig  # which pictures
    vision: encoders.VisionConfig  # the image encoder
    text: encoders.TextConfig  # the text encoder
    train: train.TrainConfig  # how it is trained
    judge: evaluate.JudgeConfig  # how what was learned is measured
    fine_tune: evaluate.FineTuneConfig  # how learned weights are judged as a start
    cmssf: methods.CMSSFConfig  # what CMSSF puts between its towers and the loss
    fusion: fusion.FusionConfig  # the fusion model
    simclr: methods.SimCLRConfig
    moco: methods.MoCoConfig
    byol: methods.BYOLConfig
    dino: methods.DINOConfig
    mae: methods.MAEConfig
    supervised: methods.SupervisedConfig


#: The methods, and the sections of a preset that each of them is built from and judged by.
METHODS: dict[str, tuple[str, ...]] = {
    "cmssf": ("vision", "text", "cmssf", "judge", "fine_tune"),
    "fusion": ("fusion",),
    **{
        method: ("vision", method, "judge", "fine_tune")
        for method in ("simclr", "moco", "byol", "dino", "mae", "supervised")
    },
}


def sections(preset: Preset, method: str) -> tuple[str, ...]:
    """Name the sections of a preset that decide a method's run.

    Raises:
        ValueError: If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    beside = (preset.cmssf.image_loss,) if method == "cmssf" and preset.cmssf.image_loss else ()
    return ("data", *METHODS[method], *beside, "train")

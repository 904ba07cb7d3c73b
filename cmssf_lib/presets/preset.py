"""What a preset consists of: one section for each part of a run."""

from dataclasses import dataclass

from cmssf_lib.data import DataConfig
from cmssf_lib.encoders import TextConfig, VisionConfig
from cmssf_lib.evaluate import FineTuneConfig, JudgeConfig
from cmssf_lib.fusion import FusionConfig
from cmssf_lib.methods import (
    BYOLConfig,
    CMSSFConfig,
    DINOConfig,
    MAEConfig,
    MoCoConfig,
    SimCLRConfig,
    SupervisedConfig,
)
from cmssf_lib.train import TrainConfig


@dataclass(frozen=True)
class Preset:
    """One size of everything. `METHODS` says which sections a method reads."""

    name: str  # "quick", "standard" or "paper"
    minutes: str  # what a training costs, and where
    data: DataConfig  # which pictures
    vision: VisionConfig  # the image encoder
    text: TextConfig  # the text encoder
    train: TrainConfig  # how it is trained
    judge: JudgeConfig  # how what was learned is measured
    fine_tune: FineTuneConfig  # how learned weights are judged as a start
    cmssf: CMSSFConfig  # what CMSSF puts between its towers and the loss
    fusion: FusionConfig  # the fusion model
    simclr: SimCLRConfig
    moco: MoCoConfig
    byol: BYOLConfig
    dino: DINOConfig
    mae: MAEConfig
    supervised: SupervisedConfig


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

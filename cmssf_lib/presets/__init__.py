"""Every number that makes a run what it is, in three sizes.

- ``quick``: embedded data, seconds to a minute on two CPU cores. Nothing is downloaded.
- ``standard``: CIFAR-10 and a small vision transformer with a convolutional stem.
- ``paper``: the source chapter's own set-up (sections 3.3 and 3.4). For a GPU.

The presets are frozen: ``dataclasses.replace`` makes a changed copy, nothing changes one
behind the reader's back.
"""

from cmssf_lib.presets.choose import preset, start
from cmssf_lib.presets.configs import (
    CMSSFConfig,
    DataConfig,
    TextConfig,
    TrainConfig,
    ViewsConfig,
    VisionConfig,
)
from cmssf_lib.presets.fusion import FusionConfig
from cmssf_lib.presets.methods import (
    BYOLConfig,
    DINOConfig,
    FineTuneConfig,
    JudgeConfig,
    MAEConfig,
    MoCoConfig,
    SimCLRConfig,
    SupervisedConfig,
)
from cmssf_lib.presets.read import from_json
from cmssf_lib.presets.sizes import METHODS, PAPER, PRESETS, QUICK, STANDARD, Preset

__all__ = [
    "METHODS",
    "PAPER",
    "PRESETS",
    "QUICK",
    "STANDARD",
    "BYOLConfig",
    "CMSSFConfig",
    "DINOConfig",
    "DataConfig",
    "FineTuneConfig",
    "FusionConfig",
    "JudgeConfig",
    "MAEConfig",
    "MoCoConfig",
    "Preset",
    "SimCLRConfig",
    "SupervisedConfig",
    "TextConfig",
    "TrainConfig",
    "ViewsConfig",
    "VisionConfig",
    "from_json",
    "preset",
    "start",
]

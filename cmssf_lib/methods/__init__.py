"""Methods: one file a paper, each a `Method` with `loss`, `after_step` and `features`.

`base` is the type, `ema` the momentum network that several of them share.
"""

from cmssf_lib.methods.base import Method
from cmssf_lib.methods.byol import BYOL, BYOLConfig
from cmssf_lib.methods.cmssf import CMSSF, CMSSFConfig
from cmssf_lib.methods.dino import DINO, DINOConfig
from cmssf_lib.methods.ema import momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.methods.mae import MAE, MAEConfig, kept_patches, patch_mask
from cmssf_lib.methods.moco import MoCo, MoCoConfig
from cmssf_lib.methods.simclr import SimCLR, SimCLRConfig
from cmssf_lib.methods.supervised import Supervised, SupervisedConfig

__all__ = [
    "BYOL",
    "CMSSF",
    "DINO",
    "MAE",
    "BYOLConfig",
    "CMSSFConfig",
    "DINOConfig",
    "MAEConfig",
    "Method",
    "MoCo",
    "MoCoConfig",
    "SimCLR",
    "SimCLRConfig",
    "Supervised",
    "SupervisedConfig",
    "kept_patches",
    "momentum_copy",
    "momentum_schedule",
    "momentum_update",
    "patch_mask",
]

"""Methods: one file per paper, each a `Method` with `loss`, `after_step` and `features`.

`base` defines the type. `moco` also holds the momentum network that BYOL and DINO share.
"""

from cmssf_lib.methods.base import Method as Method
from cmssf_lib.methods.byol import BYOL as BYOL, BYOLConfig as BYOLConfig
from cmssf_lib.methods.cmssf import CMSSF as CMSSF, CMSSFConfig as CMSSFConfig
from cmssf_lib.methods.dino import DINO as DINO, DINOConfig as DINOConfig
from cmssf_lib.methods.mae import (
    MAE as MAE,
    MAEConfig as MAEConfig,
    kept_patches as kept_patches,
    patch_mask as patch_mask,
)
from cmssf_lib.methods.moco import (
    MoCo as MoCo,
    MoCoConfig as MoCoConfig,
    momentum_copy as momentum_copy,
    momentum_schedule as momentum_schedule,
    momentum_update as momentum_update,
)
from cmssf_lib.methods.simclr import SimCLR as SimCLR, SimCLRConfig as SimCLRConfig
from cmssf_lib.methods.supervised import (
    Supervised as Supervised,
    SupervisedConfig as SupervisedConfig,
)
from cmssf_lib.methods.vicreg import VICReg as VICReg, VICRegConfig as VICRegConfig

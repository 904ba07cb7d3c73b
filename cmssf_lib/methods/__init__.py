"""Methods: one file a paper, each a module with `loss`, `after_step` and `features`.

What several of them share stands beside them: `ema` is the momentum network, `collapse` what is
logged against a collapse and read from a history, `checks` what is refused before work starts.
"""

from cmssf_lib.methods.byol import BYOL
from cmssf_lib.methods.collapse import CollapseWarning, diagnose, feature_std, rank
from cmssf_lib.methods.dino import DINO
from cmssf_lib.methods.ema import momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.methods.mae import MAE
from cmssf_lib.methods.moco import MoCo
from cmssf_lib.methods.simclr import SimCLR
from cmssf_lib.methods.supervised import Supervised

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "CollapseWarning",
    "MoCo",
    "SimCLR",
    "Supervised",
    "diagnose",
    "feature_std",
    "momentum_copy",
    "momentum_schedule",
    "momentum_update",
    "rank",
]

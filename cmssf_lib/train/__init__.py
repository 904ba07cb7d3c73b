"""Training: one loop for every method, with checkpoints that go on bit for bit (see `fit`).

`loop` holds the seven steps, `session` what surrounds them, `steps` how large a step is, `watch`
what is looked at meanwhile, `cost` what it takes, and the cache for a tower that does not learn.
"""

from cmssf_lib.train.cost import cache_features, flops_per_picture
from cmssf_lib.train.loop import fit
from cmssf_lib.train.steps import (
    TrainConfig,
    learning_rate,
    make_optimizer,
    round_weights,
)
from cmssf_lib.train.watch import (
    OVERHEAD,
    CollapseWarning,
    Stopwatch,
    diagnose,
    effective_rank,
    feature_std,
)

__all__ = [
    "OVERHEAD",
    "CollapseWarning",
    "Stopwatch",
    "TrainConfig",
    "cache_features",
    "diagnose",
    "effective_rank",
    "feature_std",
    "fit",
    "flops_per_picture",
    "learning_rate",
    "make_optimizer",
    "round_weights",
]

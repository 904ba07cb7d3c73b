"""Training: one loop for every method, which resumes from a checkpoint bit for bit (see `fit`).

`loop` holds the seven steps, `session` everything around them, `steps` the settings and the
optimizer, `watch` what is monitored, and `cost` the count of operations and the feature cache for
a frozen encoder.
"""

from cmssf_lib.train.cost import (
    cache_features as cache_features,
    flops_per_picture as flops_per_picture,
)
from cmssf_lib.train.loop import fit as fit
from cmssf_lib.train.steps import (
    TrainConfig as TrainConfig,
    learning_rate as learning_rate,
    make_optimizer as make_optimizer,
    round_weights as round_weights,
)
from cmssf_lib.train.watch import (
    OVERHEAD as OVERHEAD,
    CollapseWarning as CollapseWarning,
    Stopwatch as Stopwatch,
    diagnose as diagnose,
    effective_rank as effective_rank,
    feature_std as feature_std,
)

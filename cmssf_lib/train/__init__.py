"""Training: one loop for every method, which resumes from a checkpoint bit for bit (see `fit`).

`loop` holds the seven steps, `session` everything around them, `steps` the settings and the
optimizer, `log` what is noted. The loop is complete with these. Beside it are `watch`, which checks
processes, records machines and warns of a collapse; `muon`, `threads` and `graph`, for speed; and
`cost`: the count of operations, and the feature cache for a frozen encoder.
"""

from functools import partial

from cmssf_lib.train.cost import (
    cache_features as cache_features,
    flops_per_picture as flops_per_picture,
)
from cmssf_lib.train.graph import quicken
from cmssf_lib.train.log import OVERHEAD as OVERHEAD, Log, Stopwatch as Stopwatch
from cmssf_lib.train.loop import fit as fit
from cmssf_lib.train.muon import Muon
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import (
    OPTIMIZERS,
    TrainConfig as TrainConfig,
    learning_rate as learning_rate,
    make_optimizer as make_optimizer,
    round_weights as round_weights,
)
from cmssf_lib.train.threads import ChoiceOfThreads
from cmssf_lib.train.watch import (
    CollapseWarning as CollapseWarning,
    CollapseWatch,
    MachineRecord,
    ProcessCheck,
    diagnose as diagnose,
    effective_rank as effective_rank,
    feature_std as feature_std,
    signs_of_collapse,
)

# What is not needed to train plugs itself in here, so whoever reads the loop need not read it.
# With timm's default scale an update of Muon is as large as AdamW's, so both can use the same
# learning rate.
OPTIMIZERS["muon"] = partial(Muon, nesterov=True, betas=(0.9, 0.999))
Log.statistics.append(signs_of_collapse)
Session.beside += [ProcessCheck, MachineRecord, CollapseWatch, ChoiceOfThreads]
Session.quicken.append(quicken)

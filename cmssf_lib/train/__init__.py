"""Training: one loop for every method, with checkpoints that go on bit for bit (see `fit`)."""

from cmssf_lib.train.arithmetic import flops_per_picture
from cmssf_lib.train.checkpoint import state
from cmssf_lib.train.frozen import cache_features
from cmssf_lib.train.loop import OVERHEAD, fit
from cmssf_lib.train.memory import keep_freed_memory, peak_memory_gb
from cmssf_lib.train.steps import learning_rate, make_optimizer, round_weights

__all__ = [
    "OVERHEAD",
    "cache_features",
    "fit",
    "flops_per_picture",
    "keep_freed_memory",
    "learning_rate",
    "make_optimizer",
    "peak_memory_gb",
    "round_weights",
    "state",
]

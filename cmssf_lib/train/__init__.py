"""Training: one loop for every method, with checkpoints that go on bit for bit (see `fit`)."""

from cmssf_lib.train.loop import OVERHEAD, fit, peak_memory_gb
from cmssf_lib.train.steps import learning_rate, make_optimizer

__all__ = ["OVERHEAD", "fit", "learning_rate", "make_optimizer", "peak_memory_gb"]

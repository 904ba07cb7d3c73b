"""Methods: one file a paper, each a module with `loss`, `after_step` and `features`."""

from cmssf_lib.methods.ema import momentum_copy, momentum_schedule, momentum_update

__all__ = ["momentum_copy", "momentum_schedule", "momentum_update"]

"""Trainings of two steps an epoch: for cells that are run to see whether they run."""

from cmssf_lib.train.session import Session

whole = Session.__post_init__


def two_steps(self):
    left_out = len(self.data) - 2 * self.config.batch_size
    if left_out > 0:
        self.data, _ = self.data.hold_out(left_out, 0)
    whole(self)


Session.__post_init__ = two_steps

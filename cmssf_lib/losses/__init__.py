"""Losses, as pure functions of tensors: one file a family.

`contrastive` compares pictures with texts, `two_views` two views of a picture. A loss holds no
state and draws nothing at random; queues, centres and scales belong to the methods.
"""

from cmssf_lib.losses.contrastive import (
    duplicate_floor,
    excess_loss,
    expected_floor,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.losses.two_views import moco_loss, nt_xent, supcon_loss

__all__ = [
    "duplicate_floor",
    "excess_loss",
    "expected_floor",
    "image_text_loss",
    "masked_loss",
    "moco_loss",
    "multi_positive_loss",
    "nt_xent",
    "supcon_loss",
]

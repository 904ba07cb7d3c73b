"""Losses, as pure functions of tensors: one file a family.

`contrastive` compares pictures with texts (`floor` says what equal texts cost there), `two_views`
two views of a picture, `distillation` a student with its teacher, `reconstruction` guessed pixels
with the hidden ones. A loss holds no state and draws nothing at random; queues, centres and scales
belong to the methods.
"""

from cmssf_lib.losses.contrastive import (
    excess_loss,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.losses.distillation import byol_loss, dino_loss, update_centre
from cmssf_lib.losses.floor import duplicate_floor, expected_floor
from cmssf_lib.losses.reconstruction import mae_loss, normalise_patches, patchify, unpatchify
from cmssf_lib.losses.two_views import moco_loss, nt_xent, supcon_loss

__all__ = [
    "byol_loss",
    "dino_loss",
    "duplicate_floor",
    "excess_loss",
    "expected_floor",
    "image_text_loss",
    "mae_loss",
    "masked_loss",
    "moco_loss",
    "multi_positive_loss",
    "normalise_patches",
    "nt_xent",
    "patchify",
    "supcon_loss",
    "unpatchify",
    "update_centre",
]

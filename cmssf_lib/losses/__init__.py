"""Losses, as pure functions of tensors: one file a family.

`clip` compares pictures with texts and says what equal texts cost there, `chunked` does the same
in little memory; `two_views` compares two views of a picture with those of others; what is in
`without_negatives` compares no pictures. Begin with `image_text_loss`: four lines.

A loss holds no state and draws nothing at random; queues, centres and scales belong to the
methods. Every loss computes in float32 at least, whatever precision it is given (`in_float32`).
"""

from cmssf_lib.losses.clip import (
    duplicate_floor,
    excess_loss,
    expected_floor,
    image_text_loss,
    masked_loss,
    multi_positive_loss,
)
from cmssf_lib.losses.precision import require_temperature
from cmssf_lib.losses.two_views import moco_loss, nt_xent, supcon_loss
from cmssf_lib.losses.without_negatives import (
    EPSILON,
    byol_loss,
    dino_loss,
    mae_loss,
    normalise_patches,
    patchify,
    unpatchify,
    update_centre,
)

__all__ = [
    "EPSILON",
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
    "require_temperature",
    "supcon_loss",
    "unpatchify",
    "update_centre",
]

"""Losses as pure functions of tensors, one file per family.

`clip` compares pictures with texts and computes what duplicate captions cost; `chunked` does the
same in little memory; `two_views` contrasts two views of a picture with the views of others; the
losses in `without_negatives` and `vicreg` contrast nothing. Start with `image_text_loss`: its core
is short.

A loss holds no state and draws no random numbers; queues, centres and scales belong to the
methods. Every loss computes in at least float32, whatever it is given (`in_float32`).
"""

from cmssf_lib.losses.clip import (
    duplicate_floor as duplicate_floor,
    excess_loss as excess_loss,
    expected_floor as expected_floor,
    image_text_loss as image_text_loss,
    masked_loss as masked_loss,
    multi_positive_loss as multi_positive_loss,
)
from cmssf_lib.losses.precision import require_temperature as require_temperature
from cmssf_lib.losses.two_views import (
    moco_loss as moco_loss,
    nt_xent as nt_xent,
    supcon_loss as supcon_loss,
)
from cmssf_lib.losses.vicreg import vicreg_loss as vicreg_loss
from cmssf_lib.losses.without_negatives import (
    EPSILON as EPSILON,
    byol_loss as byol_loss,
    dino_loss as dino_loss,
    mae_loss as mae_loss,
    normalise_patches as normalise_patches,
    patchify as patchify,
    unpatchify as unpatchify,
    update_centre as update_centre,
)

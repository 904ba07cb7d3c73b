"""Losses without negatives: they do not contrast a picture with others.

BYOL and DINO learn from a teacher that is a slow copy of the student. Their formulas alone do not
prevent collapse, where all pictures get the same output. What prevents it (a predictor and a
stop-gradient in BYOL, a centre and a sharp teacher in DINO) belongs to the methods. MAE predicts
the pixels of hidden patches, where one output for all pictures would be a poor prediction.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.losses.precision import in_float32, require_shapes, require_temperature

EPSILON = 1e-6  # avoids division by zero: a patch of one colour has variance 0


@in_float32
def byol_loss(
    prediction: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Compute the squared distance of prediction and target on the unit sphere: 2 - 2 cos.

    The loss is 0 if each prediction points in the direction of its target, 2 if they are
    orthogonal, 4 if they are opposite. A zero vector has no direction and costs 2, as if it were
    orthogonal to its target. (The paper's code divides vectors shorter than 1e-6 by 1e-6, not by
    their length, so that two zero vectors cost 0.)

    Args:
        prediction: Output of the online network for one view.
        target: Output of the target network for the other view; row i belongs to row i of
            `prediction`. This function does not stop the gradient into it, so the caller must
            (`torch.no_grad` around the target network): without that it is no longer BYOL, and
            training collapses.

    Returns:
        The mean over the batch, for one direction. BYOL adds the loss with the views swapped.

    Raises:
        ValueError: The shapes differ, or the batch is empty.

    References:
        Grill et al. 2020, "Bootstrap Your Own Latent" (BYOL), equation 2.
    """
    require_shapes(prediction, target)
    return (2 - 2 * F.cosine_similarity(prediction, target, dim=1, eps=1e-12)).mean()


@in_float32
def dino_loss(
    student: Sequence[Float[Tensor, "batch prototypes"]],
    teacher: Sequence[Float[Tensor, "batch prototypes"]],
    centre: Float[Tensor, " prototypes"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of teacher and student on different views of a picture.

    Both output a distribution over K prototypes, the softmax of their logits. The centre is first
    subtracted from the teacher's logits. If all logits of the student are equal, the loss is ln K.

    Args:
        student: Logits for every view: first the views that the teacher also sees, in the same
            order, then all others.
        teacher: Logits for the global views; this function stops their gradient.
        centre: Subtracted from the teacher's logits (see `update_centre`).
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's logits; smaller than the student's, so that
            the target is sharper than the prediction.

    Returns:
        The mean over the batch and over all pairs of one teacher view and one student view,
        except pairs of the same view.

    Raises:
        ValueError: A temperature is not positive and finite, shapes differ, the student saw fewer
            views than the teacher, or there is no pair of different views.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO),
        equations 1 and 3, algorithm 1.
    """
    require_temperature(student_temperature, "the student's temperature")
    require_temperature(teacher_temperature, "the teacher's temperature")
    shapes = {tuple(view.shape) for view in (*student, *teacher)}
    if len(shapes) != 1 or centre.shape != next(iter(shapes))[1:]:
        raise ValueError(
            f"the views' logits have shapes {sorted(shapes)} and the centre has "
            f"{tuple(centre.shape)}; expected (batch, prototypes) for all views and "
            "(prototypes,) for the centre"
        )
    if not 1 <= len(teacher) <= len(student) or len(student) < 2:
        raise ValueError(
            f"the student saw {len(student)} views and the teacher {len(teacher)}; expected at "
            "least two for the student, one or more of them for the teacher as well"
        )
    log_p = [F.log_softmax(view / student_temperature, dim=1) for view in student]
    total = log_p[0].new_zeros(())
    for t, view in enumerate(teacher):
        target = F.softmax((view.detach() - centre) / teacher_temperature, dim=1)  # (batch, K)
        # Compare this target with all student views at once, except the same view.
        others = torch.stack([p for s, p in enumerate(log_p) if s != t]).sum(dim=0)
        total = total - (target * others).sum(dim=1).mean()
    return total / (len(teacher) * (len(student) - 1))


@in_float32
def update_centre(
    centre: Float[Tensor, " prototypes"],
    teacher: Sequence[Float[Tensor, "batch prototypes"]],
    momentum: float,
) -> Float[Tensor, " prototypes"]:
    """Return the centre moved towards the mean of the teacher's logits.

    Subtracting the centre prevents one prototype from winning for every picture: it removes what
    all pictures have in common. Compute the loss with the old centre first, then update it.

    Args:
        centre: The running mean so far.
        teacher: Logits of each global view.
        momentum: Weight of the old centre in the new one, 0 to 1.

    Raises:
        ValueError: The momentum is not between 0 and 1.

    References:
        Caron et al. 2021 (DINO), equation 4.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"the centre's momentum must lie between 0 and 1, got {momentum}")
    return momentum * centre + (1 - momentum) * torch.cat(list(teacher)).detach().mean(dim=0)


def patchify(
    images: Float[Tensor, "batch 3 height width"], patch: int
) -> Float[Tensor, "batch n values"]:
    """Cut pictures into square patches, row by row.

    Args:
        images: Height and width must be multiples of `patch`.
        patch: Side of a patch in pixels.

    Returns:
        The pixels of each patch, row by row, with the three channels of a pixel side by side:
        n patches of patch · patch · 3 values.

    Raises:
        ValueError: The patches do not tile the picture.

    References:
        He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (MAE), section 3.
    """
    if images.ndim != 4 or patch < 1 or images.shape[2] % patch or images.shape[3] % patch:
        raise ValueError(
            f"patches of {patch} pixels do not tile images of shape {tuple(images.shape)}; "
            "expected (batch, 3, height, width), both sides multiples of the patch"
        )
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    # (b, c, row, y, column, x) → (b, row, column, y, x, c)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(
    patches: Float[Tensor, "batch n values"], patch: int, rows: int, columns: int
) -> Float[Tensor, "batch 3 height width"]:
    """Put patches back together: the inverse of `patchify`.

    Args:
        patches: As `patchify` returns them.
        patch: Side of a patch in pixels.
        rows: Rows of patches in a picture.
        columns: Columns of patches in a picture.

    Raises:
        ValueError: The number of patches, or of values per patch, does not fit.
    """
    b = len(patches)
    if patches.shape[1:] != (rows * columns, patch * patch * 3):
        raise ValueError(
            f"patches have shape {tuple(patches.shape)}; expected (batch, {rows * columns}, "
            f"{patch * patch * 3}) for {rows}×{columns} patches of {patch}×{patch} pixels"
        )
    grid = patches.reshape(b, rows, columns, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, rows * patch, columns * patch)


@in_float32
def normalise_patches(patches: Float[Tensor, "batch n values"]) -> Float[Tensor, "batch n values"]:
    """Shift and scale each patch to mean 0 and (unbiased) variance 1.

    As a target, such a patch holds its structure, without its brightness and contrast.

    References:
        He et al. 2022 (MAE), section 3, "Reconstruction target".
    """
    mean = patches.mean(dim=2, keepdim=True)
    variance = patches.var(dim=2, keepdim=True, unbiased=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


@in_float32
def mae_loss(
    prediction: Float[Tensor, "batch n values"],
    patches: Float[Tensor, "batch n values"],
    mask: Bool[Tensor, "batch n"],
    normalise: bool,
) -> Float[Tensor, ""]:
    """Compute the mean squared error over the hidden patches.

    Visible patches do not count: copying the input teaches nothing. But if the prediction for a
    visible patch is NaN, so is the loss, as in the paper's code: the gradient would be NaN as
    well, and a finite loss would hide that.

    Args:
        prediction: Prediction for every patch, hidden or not.
        patches: The true patches, from `patchify`.
        mask: True where a patch was hidden from the encoder.
        normalise: Whether to compare with `normalise_patches(patches)`. Then predicting only
            zeros costs (v - 1) / v for v values per patch: 0.98 for v = 48.

    Returns:
        The mean over the hidden patches and their values.

    Raises:
        ValueError: The shapes do not fit together, or no patch is hidden.

    References:
        He et al. 2022 (MAE), section 3, "Reconstruction target".
    """
    if prediction.shape != patches.shape or mask.shape != prediction.shape[:2]:
        raise ValueError(
            f"prediction, patches and mask have shapes {tuple(prediction.shape)}, "
            f"{tuple(patches.shape)} and {tuple(mask.shape)}; expected (batch, n, values) twice "
            "and (batch, n)"
        )
    hidden = mask.sum()
    if mask.device.type == "cpu" and hidden == 0:  # on a GPU, the loss becomes NaN
        raise ValueError("no patch is hidden, so there is nothing to predict: raise the mask ratio")
    target = normalise_patches(patches) if normalise else patches
    error = (prediction - target).square().mean(dim=2)  # (batch, n)
    return (error * mask).sum() / hidden

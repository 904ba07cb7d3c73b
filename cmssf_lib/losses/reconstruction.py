"""The loss of guessing the pixels of patches that were hidden."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-6  # a flat patch has no variance to divide by


def patchify(
    images: Float[Tensor, "batch 3 height width"], patch: int
) -> Float[Tensor, "batch n values"]:
    """Cut pictures into square patches, row by row.

    Args:
        images: Height and width are multiples of `patch`.
        patch: Side of a patch in pixels.

    Returns:
        For each patch its pixels row by row, the three channels of a pixel side by side:
        patch · patch · 3 values.

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
        rows: Of patches.
        columns: Of patches.

    Raises:
        ValueError: The number of patches or of their values is another.
    """
    b = len(patches)
    if patches.shape[1:] != (rows * columns, patch * patch * 3):
        raise ValueError(
            f"patches have shape {tuple(patches.shape)}; expected (batch, {rows * columns}, "
            f"{patch * patch * 3}) for {rows}×{columns} patches of {patch}×{patch} pixels"
        )
    grid = patches.reshape(b, rows, columns, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, rows * patch, columns * patch)


def normalise_patches(patches: Float[Tensor, "batch n values"]) -> Float[Tensor, "batch n values"]:
    """Shift and scale each patch to mean 0 and (unbiased) variance 1.

    What is left to guess is what is *in* a patch, not how bright it is.

    References:
        He et al. 2022 (MAE), section 3, "Reconstruction target".
    """
    mean = patches.mean(dim=2, keepdim=True)
    variance = patches.var(dim=2, keepdim=True, unbiased=True)
    return (patches - mean) / (variance + EPSILON).sqrt()


def mae_loss(
    prediction: Float[Tensor, "batch n values"],
    patches: Float[Tensor, "batch n values"],
    mask: Bool[Tensor, "batch n"],
    normalise: bool,
) -> Float[Tensor, ""]:
    """Mean squared error over the hidden patches.

    The visible ones do not count: copying what one sees teaches nothing.

    Args:
        prediction: Of every patch, hidden or not.
        patches: The picture's own, from `patchify`.
        mask: True where a patch was hidden from the encoder.
        normalise: Compare with `normalise_patches` of the patches. With it, predicting nothing
            but zeros costs (v - 1) / v for v values a patch, 0.98 for v = 48.

    Returns:
        The mean over hidden patches and their values.

    Raises:
        ValueError: The shapes do not belong together, or no patch is hidden.

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
    if hidden == 0:
        raise ValueError("no patch is hidden: there is nothing to guess. Raise the mask ratio")
    target = normalise_patches(patches) if normalise else patches
    error = (prediction - target).square().mean(dim=2)  # (batch, n)
    return torch.where(mask, error, 0).sum() / hidden

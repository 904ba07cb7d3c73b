"""Faster convolutions for pictures of a few pixels, computed as one matrix product.

The result is the same as PyTorch's. `MAE` sets `ConvStem.through` to `through_small`.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders.backbone import Shortcut, pixels_last

Before = Float[Tensor, "n c side side"]
After = Float[Tensor, "n width smaller smaller"]


def through_small(layers: nn.Sequential, pictures: Before) -> After:
    """Apply a stem's layers to pictures of a few pixels, its convolutions by `convolve_small`."""
    for layer in layers:
        if isinstance(layer, Shortcut):
            pictures = pictures + through_small(layer, pictures)
        elif isinstance(layer, nn.Conv2d):
            pictures = convolve_small(layer, pictures)
        else:
            pictures = layer(pictures)
    return pictures


def convolve_small(layer: nn.Conv2d, pictures: Before) -> After:
    """Apply the layer as one matrix product over the whole picture.

    On a picture of a few pixels, the matrix of a convolution contains few zeros, and multiplying
    by it takes half the time of PyTorch's convolution.

    Args:
        layer: With a square kernel and padding of half its size, as in the stem.
        pictures: Of a few pixels each, such as the 4×4 of a patch.
    """
    side = pictures.shape[3]
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    places = _places(side, kernel, stride, layer.weight.device)  # (k·k, from, to)
    places = places.to(layer.weight.dtype)
    matrix = torch.einsum("ock,kft->fcto", layer.weight.flatten(2), places).flatten(2).flatten(0, 1)
    found = pixels_last(pictures).permute(0, 2, 3, 1).flatten(1) @ matrix  # (n, to·width)
    found = found.unflatten(1, (side // stride, side // stride, -1)).permute(0, 3, 1, 2)
    return found if layer.bias is None else found + layer.bias[:, None, None]


@cache
@torch.inference_mode(False)  # cached; inference tensors could not be used in training
def _places(
    side: int, kernel: int, stride: int, device: torch.device
) -> Float[Tensor, "weights from to"]:
    """Mark with ones which input and output pixels each weight of a kernel connects."""
    pictures = torch.eye(side**2).view(-1, 1, side, side)  # one for each pixel: a 1 there, else 0
    found = F.unfold(pictures, kernel, padding=kernel // 2, stride=stride)  # (from, weights, to)
    return found.transpose(0, 1).contiguous().to(device)

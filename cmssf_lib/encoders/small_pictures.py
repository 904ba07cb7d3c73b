"""Convolutions of pictures of a few pixels, faster than PyTorch's: as one matrix product.

Nothing here changes what a stem returns; `MAE` gives it to `ConvStem.through`.
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
    """Return what a stem's layers make of pictures of a few pixels, by `convolve_small`."""
    for layer in layers:
        if isinstance(layer, Shortcut):
            pictures = pictures + through_small(layer, pictures)
        elif isinstance(layer, nn.Conv2d):
            pictures = convolve_small(layer, pictures)
        else:
            pictures = layer(pictures)
    return pictures


def convolve_small(layer: nn.Conv2d, pictures: Before) -> After:
    """Return what the layer returns, by one matrix for the whole picture.

    A convolution of a few pixels is a matrix with few zeros in it. As a matrix product it takes
    half of the time.

    Args:
        layer: Of a square kernel, padded with half of it, as the stem's are.
        pictures: A few pixels each, such as the 4×4 of a patch.
    """
    side = pictures.shape[3]
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    places = _places(side, kernel, stride).to(layer.weight)  # (k·k, from, to)
    matrix = torch.einsum("ock,kft->fcto", layer.weight.flatten(2), places).flatten(2).flatten(0, 1)
    found = pixels_last(pictures).permute(0, 2, 3, 1).flatten(1) @ matrix  # (n, to·width)
    found = found.unflatten(1, (side // stride, side // stride, -1)).permute(0, 3, 1, 2)
    return found if layer.bias is None else found + layer.bias[:, None, None]


@cache
@torch.inference_mode(False)  # it is kept, and may be needed in training later
def _places(side: int, kernel: int, stride: int) -> Float[Tensor, "weights from to"]:
    """Say with ones which of a kernel's weights joins which pixels, before and after."""
    pictures = torch.eye(side**2).view(-1, 1, side, side)  # one for each pixel, with that one lit
    found = F.unfold(pictures, kernel, padding=kernel // 2, stride=stride)  # (from, weights, to)
    return found.transpose(0, 1).contiguous()

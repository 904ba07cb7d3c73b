"""The convolutional stem: from pixels to patch tokens by small convolutions."""

import math
from functools import cache
from itertools import product

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class ConvStem(nn.Module):
    """Small convolutions in place of one large patch (Xiao et al. 2021, section 3).

    A patch of 4×4 pixels cut out and multiplied by one matrix is a hard start for a small
    transformer on few pictures. 3×3 convolutions that halve the picture as they go reach the
    same number of tokens and learn in a fraction of the steps.

    Halving by a stride is cheapest: four convolutions. On photographs six convolutions learn far
    more a step: the first is narrow and at full size, max-pooling halves, and what keeps its shape
    has a shortcut round it.

    Batch norm learns fastest. But while training it lets the pictures of a batch see each
    other, which a loss that compares pictures with pictures can exploit; group norm keeps each
    picture to itself.

    timm's `VisionTransformer` takes it as its ``embed_layer``, hence the arguments.

    Attributes:
        apart: Take each patch for a picture of its own, with nothing but zeros around it. Then
            no token knows anything of its neighbours' pixels, and patches that are left out cost
            nothing. A masked autoencoder needs both.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: str = "batch",
        halve: str = "stride",
        apart: bool = False,
        **_: object,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(f"unknown norm {norm!r}; choose 'batch' or 'group'")
        if patch_size != 4:
            raise ValueError(f"the convolutional stem reduces by 4; got patch_size={patch_size}")
        self.apart = apart
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // 4, img_size // 4)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        half, few = embed_dim // 2, max(1, embed_dim // 4)
        if halve == "stride":
            layers = [
                *convolution(in_chans, half, norm),
                *convolution(half, half, norm, stride=2),
                *convolution(half, embed_dim, norm),
                *convolution(embed_dim, embed_dim, norm, stride=2),
            ]
        elif halve == "pool":
            whole = (embed_dim, embed_dim, norm)
            layers = [
                *convolution(in_chans, few, norm),
                *convolution(few, half, norm, pool=True),
                Shortcut(*convolution(half, half, norm)),
                *convolution(half, embed_dim, norm, pool=True),
                Shortcut(*convolution(*whole), *convolution(*whole)),
            ]
        else:
            raise ValueError(f"unknown way to halve {halve!r}; choose one of stride, pool")
        self.layers = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))

    def forward(
        self, images: Float[Tensor, "b 3 h w"], keep: Int64[Tensor, "b kept"] | None = None
    ) -> Float[Tensor, "b tokens width"]:
        """Return one token for every 4×4 pixels, row by row; with ``keep`` for these only."""
        if not self.apart:
            return self.layers(pixels_last(images)).flatten(2).transpose(1, 2)
        b, side = len(images), self.patch_size[0]
        patches = F.unfold(images, side, stride=side).transpose(1, 2)  # (b, n, 3·side·side)
        patches = patches if keep is None else choose(patches, keep)
        pictures = pixels_last(patches.reshape(-1, 3, side, side))
        return through_small(self.layers, pictures).reshape(b, patches.shape[1], -1)


class Shortcut(nn.Sequential):
    """Layers that add to what comes in, rather than replace it (He et al. 2016, section 3.2)."""

    def forward(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the pictures and what the layers make of them, added."""
        return pictures + super().forward(pictures)


def convolution(
    before: int, after: int, norm: str, *, stride: int = 1, pool: bool = False
) -> list[nn.Module]:
    """Return a 3×3 convolution with its norm and GELU.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        norm: "batch" or "group".
        stride: Of the convolution.
        pool: Whether the larger of two neighbours, down and along, is kept before the norm.
    """
    groups = math.gcd(after, max(1, after // 16))  # must divide the channels
    return [
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(groups, after),
        nn.GELU(),
    ]


def through_small(
    layers: nn.Sequential, pictures: Float[Tensor, "n c side side"]
) -> Float[Tensor, "n width smaller smaller"]:
    """Return what a stem's layers make of pictures of a few pixels, by `convolve_small`."""
    for layer in layers:
        if isinstance(layer, Shortcut):
            pictures = pictures + through_small(layer, pictures)
        elif isinstance(layer, nn.Conv2d):
            pictures = convolve_small(layer, pictures)
        else:
            pictures = layer(pictures)
    return pictures


def convolve_small(
    layer: nn.Conv2d, pictures: Float[Tensor, "n c side side"]
) -> Float[Tensor, "n width smaller smaller"]:
    """Return what the layer returns, by one matrix for the whole picture.

    A convolution of a few pixels is a matrix with few zeros in it. As a matrix product it takes
    half of the time.

    Args:
        layer: Of a square kernel, padded with half of it, as the stem's are.
        pictures: A few pixels each, such as the 4×4 of a patch.
    """
    n, c, side, _ = pictures.shape
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    places = _places(side, kernel, stride).to(layer.weight)  # (k·k, from, to)
    matrix = torch.einsum("ock,kft->fcto", layer.weight.flatten(2), places).flatten(2).flatten(0, 1)
    found = pixels_last(pictures).permute(0, 2, 3, 1).reshape(n, side * side * c) @ matrix
    found = found.view(n, side // stride, side // stride, layer.out_channels).permute(0, 3, 1, 2)
    return found if layer.bias is None else found + layer.bias[:, None, None]


@cache
def _places(side: int, kernel: int, stride: int) -> Float[Tensor, "weights from to"]:
    """Say with ones which of a kernel's weights joins which pixels, before and after."""
    smaller = side // stride
    with torch.inference_mode(False):  # it is kept, and may be needed in training later
        found = torch.zeros(kernel, kernel, side, side, smaller, smaller)
    for dy, dx in product(range(kernel), repeat=2):
        for row, column in product(range(smaller), repeat=2):
            y, x = stride * row + dy - kernel // 2, stride * column + dx - kernel // 2
            if 0 <= y < side and 0 <= x < side:  # beyond it there are only zeros
                found[dy, dx, y, x, row, column] = 1
    return found.view(kernel**2, side**2, smaller**2)


def pixels_last(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Lay the channels of a pixel side by side in memory; shape and values stay.

    Convolutions and norms then need no copies into a layout of their own, and the tokens at the
    end lie as the transformer reads them.
    """
    return images.contiguous(memory_format=torch.channels_last)


def choose(
    tokens: Float[Tensor, "b n width"], index: Int64[Tensor, "b m"]
) -> Float[Tensor, "b m width"]:
    """Pick tokens, other ones for each picture."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))

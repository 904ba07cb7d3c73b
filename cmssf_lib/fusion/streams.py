"""How each modality becomes tokens, and tokens one vector."""

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from cmssf_lib.encoders import AudioTokens, ConvStem
from cmssf_lib.fusion.blocks import Block
from cmssf_lib.fusion.inputs import Inputs
from cmssf_lib.presets import FusionConfig
from cmssf_lib.views import as_float

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
Tokens = tuple[Float[Tensor, "b n width"], Bool[Tensor, "b n"]]
Parts = tuple[Shaped[Tensor, "b ..."], ...]


class ImageTokens(nn.Module):
    """One token for every 4×4 pixels of a picture.

    Args:
        config: ``image_size``, ``patch_size`` and ``width``.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.size = config.image_size
        self.stem = ConvStem(self.size[0], config.patch_size, 3, config.width)
        count = (self.size[0] // 4) * (self.size[1] // 4)
        self.position = nn.Parameter(torch.randn(1, count, config.width) * config.width**-0.5)

    def forward(self, images: Images) -> Tokens:
        """Return tokens row by row, all of them real."""
        tokens = self.stem(2 * pixels(images, self.size) - 1) + self.position
        return tokens, all_real(tokens)


class TextTokens(nn.Module):
    """One token for every word.

    Args:
        config: ``max_length`` and ``width``.
        vocabulary: Number of different token ids; 0 is padding.
    """

    def __init__(self, config: FusionConfig, vocabulary: int) -> None:
        super().__init__()
        width = config.width
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(1, config.max_length, width) * width**-0.5)
        nn.init.normal_(self.word.weight, std=width**-0.5)

    def forward(self, ids: Int64[Tensor, "b n"]) -> Tokens:
        """Return tokens in their order; padding is not real."""
        length = self.position.shape[1]
        real = words(ids, self.word.num_embeddings, length)
        return self.word(ids) + self.position[:, : ids.shape[1]], real


class SoundTokens(nn.Module):
    """One token for every frame of the spectrogram.

    Args:
        config: ``width``, ``mels`` and ``samples``.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.frames = AudioTokens(config.width, config.mels, config.samples)

    def forward(self, waveforms: Float[Tensor, "b samples"]) -> Tokens:
        """Return tokens in their order, all of them real."""
        tokens = self.frames(waveforms)
        return tokens, all_real(tokens)


class StreamEncoder(nn.Module):
    """One modality on its own: its tokens and a [CLS] through transformer blocks.

    Args:
        config: Sizes.
        name: "image", "text" or "sound".
        vocabulary: Number of different token ids.
    """

    def __init__(self, config: FusionConfig, name: str, vocabulary: int) -> None:
        super().__init__()
        self.stream = make_stream(config, name, vocabulary)
        self.cls = nn.Parameter(torch.randn(1, 1, config.width) * config.width**-0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, value: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each example."""
        tokens, real = with_cls(self.cls, *self.stream(value))
        for block in self.blocks:
            tokens = block(tokens, real)
        return self.norm(tokens[:, 0])


def make_stream(config: FusionConfig, name: str, vocabulary: int) -> nn.Module:
    """Make what turns one modality into tokens."""
    if name == "text":
        return TextTokens(config, vocabulary)
    return ImageTokens(config) if name == "image" else SoundTokens(config)


def each_present(
    modules: nn.ModuleDict, inputs: Inputs, presence: Bool[Tensor, "b m"]
) -> dict[str, Parts]:
    """Run each modality's module on the examples that have it, and on no other.

    So what stands in the place of a missing modality can neither reach the answer nor the
    statistics of a batch norm.

    Returns:
        For each modality that any example has, what its module returned, with zeros (and
        "not real") in the rows of the others.
    """
    out: dict[str, Parts] = {}
    for i, (name, module) in enumerate(modules.items()):
        here = presence[:, i]
        if here.any():
            result = module(inputs[name] if here.all() else inputs[name][here])
            result = result if isinstance(result, tuple) else (result,)
            out[name] = tuple(spread(part, here) for part in result)
    return out


def spread(rows: Shaped[Tensor, "k ..."], here: Bool[Tensor, " b"]) -> Shaped[Tensor, "b ..."]:
    """Put the rows where ``here`` is true, and zeros elsewhere."""
    if len(rows) == len(here):
        return rows
    whole = rows.new_zeros(len(here), *rows.shape[1:])
    whole[here] = rows
    return whole


def with_cls(
    cls: Float[Tensor, "1 1 width"],
    tokens: Float[Tensor, "b n width"],
    real: Bool[Tensor, "b n"],
) -> tuple[Float[Tensor, "b n+1 width"], Bool[Tensor, "b n+1"]]:
    """Put the learned [CLS] token in front; it is always real."""
    tokens = torch.cat([cls.expand(len(tokens), -1, -1), tokens], dim=1)
    return tokens, torch.cat([torch.ones_like(real[:, :1]), real], dim=1)


def pixels(images: Images, size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Turn pictures into floats in [0, 1], and refuse those of another size."""
    if images.ndim == 4 and tuple(images.shape[2:]) != size:
        raise ValueError(
            f"this model was built for pictures of {size[0]}×{size[1]} pixels; got "
            f"{images.shape[2]}×{images.shape[3]}"
        )
    return as_float(images)


def words(ids: Int64[Tensor, "b n"], vocabulary: int, length: int) -> Bool[Tensor, "b n"]:
    """Check token ids and say which are words and not padding."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(
            f"text is token ids, int64 of shape (b, length); got {ids.dtype} of shape "
            f"{tuple(ids.shape)}"
        )
    if ids.shape[1] > length:
        raise ValueError(f"a text of {ids.shape[1]} tokens; this model takes at most {length}")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}; this model knows 0 to "
            f"{vocabulary - 1}"
        )
    return ids != 0


def all_real(tokens: Float[Tensor, "b n width"]) -> Bool[Tensor, "b n"]:
    """Return a mask that leaves nothing out."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

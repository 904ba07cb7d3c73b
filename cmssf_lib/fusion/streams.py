"""Turn modalities into tokens, and tokens into one vector with attention and blocks."""

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders import AudioTokens, ConvStem
from cmssf_lib.fusion.inputs import FusionConfig
from cmssf_lib.methods.base import Images
from cmssf_lib.views import as_float

Tokens = Float[Tensor, "b n width"]
Real = Bool[Tensor, "b n"]  # which tokens are real: neither padding nor of a missing modality
Context = Float[Tensor, "b k width"]  # the tokens that are attended to
Seen = Bool[Tensor, "b k"] | None  # which of these are real; None for all
Weights = Float[Tensor, "b heads n k"]  # how much each token attends to each; rows sum to 1


def attention(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k d"],
    real: Seen = None,
) -> tuple[Float[Tensor, "b heads n d"], Weights]:
    """Let each query collect the values of the keys that it matches.

    Args:
        query: What each token looks for.
        key: What each token is matched by.
        value: What each token passes on.
        real: Which keys may be attended to; padding and missing modalities may not.

    Returns:
        For each query the weighted mean of the values, and the weights, which sum to 1. If no
        key is real, both are 0.

    References:
        Vaswani et al. 2017, "Attention is all you need", equation 1.
    """
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (b, heads, n, k)
    ignored = scores.new_zeros((), dtype=torch.bool) if real is None else ~real[:, None, None]
    # Not -inf: a row of nothing but -inf would give 0/0, and its gradient would be NaN.
    scores = scores.masked_fill(ignored, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1).masked_fill(ignored, 0.0)
    return weights @ value, weights


class Attention(nn.Module):
    """Multi-head attention with learned maps to queries, keys, values and the output.

    Args:
        width: Length of a token.
        heads: Number of heads; each works on its own part of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tokens, context: Context, real: Seen = None) -> tuple[Tokens, Weights]:
        """Let the tokens ``x`` attend to ``context``; return the result and the weights."""
        whole = (self.query(x), self.key(context), self.value(context))
        # (b, n, width) -> (b, n, heads, d) -> (b, heads, n, d)
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in whole)
        found, weights = attention(query, key, value, real)
        return self.out(found.transpose(1, 2).flatten(2)), weights


class Block(nn.Module):
    """A transformer block: self-attention, then an MLP on each token.

    The norms come before the two parts ("pre-norm"), so no norm interrupts the residual
    connections from the first block to the last. Such blocks train without a long warm-up.

    Args:
        width: Length of a token.
        heads: Number of attention heads.

    References:
        Xiong et al. 2020, "On layer normalization in the transformer architecture", figure 1b.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = mlp(width, 4 * width, width)

    def forward(self, x: Tokens, real: Real) -> Tokens:
        """Return the tokens after the block; no token attends to those that are not real."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, real)[0]
        return x + self.mlp(self.norm2(x))


def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """Make an MLP with one hidden layer."""
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after))


def learned(*shape: int) -> nn.Parameter:
    """Create learned vectors with random initial values, each of length about 1."""
    return nn.Parameter(torch.randn(shape) * shape[-1] ** -0.5)


class Stream(nn.Module):
    """Turns one modality into tokens: 4×4 patches, words, or frames of a spectrogram.

    Args:
        config: Sizes.
        name: "image", "text" or "sound".
        vocabulary: Number of different token ids.
    """

    def __init__(self, config: FusionConfig, name: str, vocabulary: int) -> None:
        super().__init__()
        self.config, self.name = config, name
        if name == "image":
            height, across = config.image_size
            self.stem = ConvStem(height, config.patch_size, 3, config.width)
            self.position = learned(1, (height // 4) * (across // 4), config.width)
        elif name == "text":
            self.word = nn.Embedding(vocabulary, config.width)
            self.position = learned(1, config.max_length, config.width)
            nn.init.normal_(self.word.weight, std=config.width**-0.5)
        else:
            self.frames = AudioTokens(config.width, config.mels, config.samples)

    def forward(self, value: Shaped[Tensor, "b ..."]) -> tuple[Tokens, Real]:
        """Return the tokens in order (of a picture row by row) and which of them are real."""
        if self.name == "text":
            real = words(value, self.word.num_embeddings, self.config.max_length)
            return self.word(value) + self.position[:, : value.shape[1]], real
        if self.name == "image":
            patches = pixels(value, self.config.image_size).to(self.position.dtype)
            tokens = self.stem(patches) + self.position
        else:
            tokens = self.frames(value)
        return tokens, all_real(tokens)


def pixels(images: Images, size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Turn pictures into floats in [-1, 1], and refuse pictures of another size."""
    if images.ndim == 4 and tuple(images.shape[2:]) != size:
        raise ValueError(
            f"this model was built for pictures of {size[0]}×{size[1]} pixels; got "
            f"{images.shape[2]}×{images.shape[3]}: resize them, or set FusionConfig.image_size"
        )
    return 2 * as_float(images) - 1


def words(ids: Int64[Tensor, "b n"], vocabulary: int, length: int) -> Real:
    """Check token ids, and return which of them are words: 0 is padding."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(f"text must be int64 token ids (b, n); got {ids.dtype} {tuple(ids.shape)}")
    if ids.shape[1] > length:
        raise ValueError(f"got a text of {ids.shape[1]} tokens, but max_length is {length}")
    on_cpu = ids.device.type == "cpu"  # on a GPU, looking at the ids would wait for it
    if on_cpu and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}; this model knows 0 to "
            f"{vocabulary - 1}: use the tokenizer it was built with"
        )
    return ids != 0


def all_real(tokens: Tokens) -> Real:
    """Return a mask that marks every token as real."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class TokenReader(nn.Module):
    """Reads one vector from tokens, with a learned [CLS], transformer blocks and a norm."""

    def add_blocks(self, config: FusionConfig) -> None:
        """Create [CLS], blocks and norm, after the modules that make the tokens."""
        self.cls = learned(1, 1, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def read(self, tokens: Tokens, real: Real) -> Float[Tensor, "b width"]:
        """Put [CLS] in front of the tokens and return its vector after the blocks."""
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        real = F.pad(real, (1, 0), value=True)  # [CLS] is always real
        for block in self.blocks:
            tokens = block(tokens, real)
        return self.norm(tokens[:, 0])


class StreamEncoder(TokenReader):
    """Encodes one modality by itself: passes its tokens and a [CLS] through transformer blocks.

    Args:
        config: Sizes.
        name: "image", "text" or "sound".
        vocabulary: Number of different token ids.
    """

    def __init__(self, config: FusionConfig, name: str, vocabulary: int) -> None:
        super().__init__()
        self.stream = Stream(config, name, vocabulary)
        self.add_blocks(config)

    def forward(self, value: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b width"]:
        """Return the [CLS] vector of each example."""
        return self.read(*self.stream(value))

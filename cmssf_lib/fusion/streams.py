"""From a modality to tokens, and from tokens to one vector: attention and transformer blocks."""

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders import AudioTokens, ConvStem
from cmssf_lib.fusion.inputs import FusionConfig
from cmssf_lib.methods.base import Images
from cmssf_lib.views import as_float

Tokens = Float[Tensor, "b n width"]
Real = Bool[Tensor, "b n"]  # which tokens are real: no padding, and of no missing modality
Context = Float[Tensor, "b k width"]  # the tokens that are looked at
Seen = Bool[Tensor, "b k"] | None  # which of these are real; None for all
Weights = Float[Tensor, "b heads n k"]  # how much each token looks at each; rows sum to 1


def attention(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k d"],
    real: Seen = None,
) -> tuple[Float[Tensor, "b heads n d"], Weights]:
    """Let each query collect the values of the keys that it matches.

    Args:
        query: What is asked.
        key: What each token offers.
        value: What it gives away.
        real: Which keys may be looked at; padding and missing modalities may not.

    Returns:
        For each query the weighted mean of the values, and the weights, which sum to 1. Where
        no key is real, both are 0.

    References:
        Vaswani et al. 2017, "Attention is all you need", equation 1.
    """
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (b, heads, n, k)
    ignored = scores.new_zeros((), dtype=torch.bool) if real is None else ~real[:, None, None]
    # Not -inf: a row of nothing else would be 0/0, and its gradient not a number.
    scores = scores.masked_fill(ignored, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1).masked_fill(ignored, 0.0)
    return weights @ value, weights


class Attention(nn.Module):
    """Attention with what is learned: queries, keys, values and an output, as matrices.

    Args:
        width: Length of a token.
        heads: How many attentions stand side by side, each on its part of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tokens, context: Context, real: Seen = None) -> tuple[Tokens, Weights]:
        """Let the tokens ``x`` look at ``context``; return what they find and the weights."""
        whole = (self.query(x), self.key(context), self.value(context))
        # (b, n, width) -> (b, n, heads, d) -> (b, heads, n, d)
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in whole)
        found, weights = attention(query, key, value, real)
        return self.out(found.transpose(1, 2).flatten(2)), weights


class Block(nn.Module):
    """A transformer block: tokens look at each other, then each thinks for itself.

    The norms stand before the two parts ("pre-norm"), so that a sum runs from the first token
    to the last block undisturbed; such a block trains without a long warm-up.

    Args:
        width: Length of a token.
        heads: Attention heads.

    References:
        Xiong et al. 2020, "On layer normalization in the transformer architecture", figure 1b.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = mlp(width, 4 * width, width)

    def forward(self, x: Tokens, real: Real) -> Tokens:
        """Return the tokens after one round; tokens that are not real are looked at by none."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, real)[0]
        return x + self.mlp(self.norm2(x))


def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """Make an MLP with one hidden layer."""
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after))


def learned(*shape: int) -> nn.Parameter:
    """Draw a learned vector, or several, each of length about 1."""
    return nn.Parameter(torch.randn(shape) * shape[-1] ** -0.5)


class Stream(nn.Module):
    """One modality as tokens: 4×4 pixels of a picture each, a word, or a frame of a spectrogram.

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
        """Return the tokens in their order, a picture's row by row, and which are real."""
        if self.name == "text":
            real = words(value, self.word.num_embeddings, self.config.max_length)
            return self.word(value) + self.position[:, : value.shape[1]], real
        if self.name == "image":
            tokens = self.stem(pixels(value, self.config.image_size)) + self.position
        else:
            tokens = self.frames(value)
        return tokens, all_real(tokens)


def pixels(images: Images, size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Turn pictures into floats in [-1, 1], and refuse those of another size."""
    if images.ndim == 4 and tuple(images.shape[2:]) != size:
        raise ValueError(
            f"this model was built for pictures of {size[0]}×{size[1]} pixels; got "
            f"{images.shape[2]}×{images.shape[3]}: resize them, or set FusionConfig.image_size"
        )
    return 2 * as_float(images) - 1


def words(ids: Int64[Tensor, "b n"], vocabulary: int, length: int) -> Real:
    """Check token ids, and say which are words: 0 is padding."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(f"text is token ids, int64 (b, n); got {ids.dtype} {tuple(ids.shape)}")
    if ids.shape[1] > length:
        raise ValueError(
            f"a text of {ids.shape[1]} tokens; this model takes at most {length} (max_length)"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}; this model knows 0 to "
            f"{vocabulary - 1}: use the tokenizer that it was built with"
        )
    return ids != 0


def all_real(tokens: Tokens) -> Real:
    """Return a mask that leaves nothing out."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class TokenReader(nn.Module):
    """Reads one vector from a sequence of tokens: a learned [CLS], transformer blocks, a norm."""

    def add_blocks(self, config: FusionConfig) -> None:
        """Make what reads, after what is read."""
        self.cls = learned(1, 1, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def read(self, tokens: Tokens, real: Real) -> Float[Tensor, "b width"]:
        """Put [CLS] in front of the tokens, and return what the blocks make of it."""
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        real = F.pad(real, (1, 0), value=True)  # [CLS] is always real
        for block in self.blocks:
            tokens = block(tokens, real)
        return self.norm(tokens[:, 0])


class StreamEncoder(TokenReader):
    """One modality on its own: its tokens and a [CLS] through transformer blocks.

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

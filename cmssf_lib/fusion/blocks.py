"""Attention by hand, and the transformer block that is made of it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def attention(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k d"],
    real: Bool[Tensor, "b k"] | None = None,
) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b heads n k"]]:
    """Let each query gather the values of the keys that it matches.

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
    if real is None:
        weights = scores.softmax(dim=-1)
    else:
        ignored = ~real[:, None, None, :]
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

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b k width"],
        real: Bool[Tensor, "b k"] | None = None,
    ) -> tuple[Float[Tensor, "b n width"], Float[Tensor, "b heads n k"]]:
        """Let the tokens ``x`` look at ``context``; return what they gather and the weights."""
        split = (self.heads, -1)  # (b, n, width) -> (b, n, heads, d) -> (b, heads, n, d)
        query = self.query(x).unflatten(2, split).transpose(1, 2)
        key = self.key(context).unflatten(2, split).transpose(1, 2)
        value = self.value(context).unflatten(2, split).transpose(1, 2)
        gathered, weights = attention(query, key, value, real)
        return self.out(gathered.transpose(1, 2).flatten(2)), weights


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
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Float[Tensor, "b n width"], real: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n width"]:
        """Return the tokens after one round; tokens that are not real are looked at by none."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, real)[0]
        return x + self.mlp(self.norm2(x))


def initialise(module: nn.Module) -> None:
    """Scale a linear layer to its width (Xavier); for ``model.apply``.

    The usual fixed 0.02 suits a width of 768; at 48 it starves a model of signal.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """Make an answer's last layers, one of them hidden."""
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after))

"""Co-attention: two streams, and the tokens of each look at those of the other."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cmssf_lib.fusion.blocks import Attention, initialise, mlp
from cmssf_lib.fusion.inputs import Inputs, check_config, gather, hide
from cmssf_lib.fusion.streams import each_present, make_stream
from cmssf_lib.presets import FusionConfig


class CrossAttention(nn.Module):
    """One stream looks at another: attention, plus what was there before, normalised.

    Given the same stream twice, this is self-attention.

    Args:
        width: Length of a token.
        heads: Attention heads.
        norm_first: Normalise what goes into the attention, and not the sum that comes out.

    References:
        Tan and Bansal 2019, "LXMERT", section 2.2; the norm comes last, as in BERT.
    """

    def __init__(self, width: int, heads: int, *, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-12)  # BERT's

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b k width"],
        real: Bool[Tensor, "b k"] | None = None,
    ) -> tuple[Float[Tensor, "b n width"], Float[Tensor, "b heads n k"]]:
        """Return the tokens ``x`` after a look at ``context``, and the attention weights."""
        if self.norm_first:
            gathered, weights = self.attention(self.norm(x), self.norm(context), real)
            return x + gathered, weights
        gathered, weights = self.attention(x, context, real)
        return self.norm(x + gathered), weights


class FeedForward(nn.Module):
    """Each token thinks for itself: an MLP, plus what was there before, normalised.

    Args:
        width: Length of a token.
        norm_first: Normalise what goes into the MLP, and not the sum that comes out.
    """

    def __init__(self, width: int, *, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.mlp = mlp(width, 4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        """Return the tokens after it."""
        return x + self.mlp(self.norm(x)) if self.norm_first else self.norm(x + self.mlp(x))


class CoAttentionLayer(nn.Module):
    """Both streams look at each other, then each at itself, then each token thinks.

    Both looks across start from the streams as they were before the layer: neither is first.
    The order is LXMERT's whether or not the weights are shared. ViLBERT's block has no look at
    itself between the look across and the MLP; it puts whole transformer blocks between its
    co-attentional ones instead.

    Args:
        width: Length of a token.
        heads: Attention heads.
        shared: One set of weights for both looks across (LXMERT), or one each (ViLBERT).
        norm_first: Put the norms before each part; both papers have them after.

    References:
        Lu et al. 2019, "ViLBERT", section 3.1 and figure 2b; Tan and Bansal 2019, "LXMERT",
        section 2.2.
    """

    def __init__(self, width: int, heads: int, shared: bool, *, norm_first: bool = False) -> None:
        super().__init__()
        one, other, *itself = (
            CrossAttention(width, heads, norm_first=norm_first) for _ in range(4)
        )
        # Shared: one module, used twice. Held twice, its weights would be saved twice.
        self.cross = nn.ModuleList([one] if shared else [one, other])
        self.itself = nn.ModuleList(itself)
        self.feed_forward = nn.ModuleList(
            FeedForward(width, norm_first=norm_first) for _ in range(2)
        )

    def forward(
        self,
        a: Float[Tensor, "b n width"],
        b: Float[Tensor, "b k width"],
        real_a: Bool[Tensor, "b n"] | None = None,
        real_b: Bool[Tensor, "b k"] | None = None,
    ) -> tuple[
        Float[Tensor, "b n width"],
        Float[Tensor, "b k width"],
        tuple[Float[Tensor, "b heads n k"], Float[Tensor, "b heads k n"]],
    ]:
        """Return both streams after the layer, and where a looked in b, and b in a."""
        new_a, a_to_b = self.cross[0](a, b, real_b)
        new_b, b_to_a = self.cross[-1](b, a, real_a)
        new_a, _ = self.itself[0](new_a, new_a, real_a)
        new_b, _ = self.itself[1](new_b, new_b, real_b)
        return self.feed_forward[0](new_a), self.feed_forward[1](new_b), (a_to_b, b_to_a)


class CoAttention(nn.Module):
    """Joins two modalities token by token.

    The answer is read, through an MLP with one hidden layer, from the mean of each stream's
    tokens after the last layer; zeros stand for a stream that is missing.

    Args:
        config: Sizes; the rule "shared" or "separate" weights; exactly two modalities.
        vocabulary: Number of different token ids.
        classes: Number of answers.

    Raises:
        ValueError: If the configuration is inconsistent.
    """

    def __init__(self, config: FusionConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        check_config(config, "coattention")
        self.config, width, shared = config, config.width, config.rule == "shared"
        self.streams = nn.ModuleDict(
            {name: make_stream(config, name, vocabulary) for name in config.modalities}
        )
        self.layers = nn.ModuleList(
            CoAttentionLayer(width, config.heads, shared, norm_first=config.norm_first)
            for _ in range(config.depth)
        )
        # With the norms first, the sum that comes out of the last layer still needs one.
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if config.norm_first else nn.Identity() for _ in range(2)
        )
        self.answer = mlp(2 * width, config.hidden, classes)
        self.apply(initialise)

    def forward(self, inputs: Inputs, present: Inputs | None = None) -> Float[Tensor, "b classes"]:
        """Return logits; what `gather` says about ``inputs`` and ``present`` holds here."""
        return self._run(inputs, present)[0]

    def attention_maps(
        self, inputs: Inputs, present: Inputs | None = None
    ) -> list[dict[str, Float[Tensor, "b heads queries keys"]]]:
        """Return where each token looks in the other stream.

        Returns:
            For each layer both directions; ``"text_to_image"`` is ``(b, heads, words, patches)``.
            A row sums to 1, or is 0 where the other stream is missing.
        """
        one, other = self.config.modalities
        names = (f"{one}_to_{other}", f"{other}_to_{one}")
        return [dict(zip(names, maps, strict=True)) for maps in self._run(inputs, present)[1]]

    def _run(
        self, inputs: Inputs, present: Inputs | None
    ) -> tuple[Float[Tensor, "b classes"], list[tuple[Tensor, Tensor]]]:
        inputs, presence = gather(inputs, present, self.config.modalities)
        if self.training:
            presence = hide(presence, self.config.modality_dropout)
        found = each_present(self.streams, inputs, presence)
        # A stream that nobody has is one token that nobody looks at.
        width = self.config.width
        empty = (
            torch.zeros(len(presence), 1, width, device=presence.device),
            torch.zeros(len(presence), 1, dtype=torch.bool, device=presence.device),
        )
        (a, real_a), (b, real_b) = (found.get(name, empty) for name in self.streams)
        maps = []
        for layer in self.layers:
            a, b, weights = layer(a, b, real_a, real_b)
            maps.append(weights)
        a, b = self.norms[0](a), self.norms[1](b)
        joined = torch.cat([mean_token(a, real_a), mean_token(b, real_b)], dim=1)
        return self.answer(joined), maps


def mean_token(
    tokens: Float[Tensor, "b n width"], real: Bool[Tensor, "b n"]
) -> Float[Tensor, "b width"]:
    """Return the mean of the real tokens, zeros where there is none."""
    real = real[:, :, None]
    return tokens.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)

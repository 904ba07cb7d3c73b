"""Models that encode all modalities together: early fusion and co-attention."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from cmssf_lib.encoders import ConvStem, log_mel
from cmssf_lib.fusion import streams
from cmssf_lib.fusion.inputs import FusionConfig, FusionModel, Inputs, Logits, Masks
from cmssf_lib.fusion.streams import Context, Real, Seen, Tokens, Weights
from cmssf_lib.views import resize

Maps = tuple[Weights, Float[Tensor, "b heads k n"]]  # attention weights in both directions
PLANES = {"image": 3, "text": 8, "sound": 1}  # planes of each modality (rule "channels")


class EarlyFusion(FusionModel, streams.TokenReader):
    """Combines modalities at the data level.

    Rule "tokens": patches, words and frames form one sequence, and each can attend to each.
    Rule "channels": picture, spectrogram and text are stacked as the planes of one picture, so
    related information has to lie in the same place.
    """

    kind = "early"
    rules = ("tokens", "channels")

    def add_parts(self, config: FusionConfig, classes: int) -> None:
        """Create the modules of this kind of model."""
        width = config.width
        self.streams = self.for_each(streams.Stream if config.rule == "tokens" else Planes)
        if config.rule == "tokens":
            self.modality = streams.learned(len(config.modalities), width)
        else:
            height, across = config.image_size
            planes = sum(PLANES[name] for name in config.modalities)
            self.stem = ConvStem(height, config.patch_size, planes, width)
            self.position = streams.learned(1, (height // 4) * (across // 4), width)
        self.add_blocks(config)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Inputs, present: Masks = None) -> Logits:
        """Return logits; `collect_masks` describes ``inputs`` and ``present``, and the errors."""
        found, _ = self.each_present(self.streams, inputs, present)
        join = self._sequence if self.config.rule == "tokens" else self._stack
        return self.head(self.read(*join(found)))

    def _sequence(self, found: dict[str, tuple[Tensor, ...]]) -> tuple[Tokens, Real]:
        """Join all tokens in one sequence, each with the learned vector of its modality added."""
        which = dict(zip(self.config.modalities, self.modality, strict=True))
        tokens = torch.cat([part + which[name] for name, (part, _) in found.items()], dim=1)
        return tokens, torch.cat([real for _, real in found.values()], dim=1)

    def _stack(self, found: dict[str, tuple[Tensor, ...]]) -> tuple[Tokens, Real]:
        """Make tokens of all planes in one stack; those of a missing modality are zero."""
        b, _, h, w = (some := next(iter(found.values()))[0]).shape
        planes = [
            found[name][0] if name in found else some.new_zeros(b, PLANES[name], h, w)
            for name in self.config.modalities
        ]
        # The stem's own `forward` is annotated for three planes; its layers take any number.
        whole = torch.cat(planes, dim=1).to(self.position.dtype)
        tokens = self.stem.layers(whole).flatten(2).transpose(1, 2)
        return tokens + self.position, streams.all_real(tokens)


class Planes(nn.Module):
    """Turns one modality into planes of the size of the picture, instead of tokens."""

    def __init__(self, config: FusionConfig, name: str, vocabulary: int) -> None:
        super().__init__()
        self.config, self.name = config, name
        if name == "text":
            self.word = nn.Embedding(vocabulary, PLANES["text"])

    def forward(self, value: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b planes h w"]:
        """Return the colours, the resized spectrogram, or the mean word vector at every pixel."""
        size = self.config.image_size
        if self.name == "image":
            return streams.pixels(value, size)
        if self.name == "sound":
            spectrogram = log_mel(value, mels=self.config.mels)[:, None]  # (b, 1, mels, frames)
            return resize(spectrogram, size, "bilinear")
        real = streams.words(value, self.word.num_embeddings, self.config.max_length)
        return mean_token(self.word(value), real)[:, :, None, None].expand(-1, -1, *size)


class CrossAttention(nn.Module):
    """Attention of one stream to another, with a residual connection and a norm.

    Given the same stream twice, this is self-attention.

    Args:
        width: Length of a token.
        heads: Number of attention heads.
        norm_first: Normalise the input of the attention instead of the sum after it.

    References:
        Tan and Bansal 2019, "LXMERT", section 2.2; there the norm comes last, as in BERT.
    """

    def __init__(self, width: int, heads: int, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = streams.Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-12)  # as in BERT

    def forward(self, x: Tokens, context: Context, real: Seen = None) -> tuple[Tokens, Weights]:
        """Return the tokens ``x`` after attending to ``context``, and the attention weights."""
        if self.norm_first:
            found, weights = self.attention(self.norm(x), self.norm(context), real)
            return x + found, weights
        found, weights = self.attention(x, context, real)
        return self.norm(x + found), weights


class FeedForward(nn.Module):
    """An MLP on each token, with a residual connection and a norm.

    Args:
        width: Length of a token.
        norm_first: Normalise the input of the MLP instead of the sum after it.
    """

    def __init__(self, width: int, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.mlp = streams.mlp(width, 4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tokens) -> Tokens:
        """Return the tokens after the MLP."""
        return x + self.mlp(self.norm(x)) if self.norm_first else self.norm(x + self.mlp(x))


class CoAttentionLayer(nn.Module):
    """Cross-attention in both directions, then self-attention, then an MLP on each token.

    Both cross-attentions read the streams as they were before the layer, so neither comes first.
    The order is LXMERT's, whether or not the weights are shared. ViLBERT's block has no
    self-attention between cross-attention and MLP; instead, whole transformer blocks alternate
    with its co-attention blocks.

    Args:
        width: Length of a token.
        heads: Number of attention heads.
        shared: One set of weights for both directions (LXMERT) instead of one each (ViLBERT).
        norm_first: Put the norms before each part; both papers have them after it.

    References:
        Lu et al. 2019, "ViLBERT", section 3.1 and figure 2b; Tan and Bansal 2019, "LXMERT",
        section 2.2.
    """

    def __init__(self, width: int, heads: int, shared: bool, norm_first: bool = False) -> None:
        super().__init__()
        one, other, *itself = (CrossAttention(width, heads, norm_first) for _ in range(4))
        # Shared: one module, used twice. Listed twice, its weights would be saved twice.
        self.cross = nn.ModuleList([one] if shared else [one, other])
        self.itself = nn.ModuleList(itself)
        self.feed_forward = nn.ModuleList(FeedForward(width, norm_first) for _ in range(2))

    def forward(
        self, a: Tokens, b: Context, real_a: Real | None = None, real_b: Seen = None
    ) -> tuple[Tokens, Context, Maps]:
        """Return both streams after the layer, and the attention weights of a to b and b to a."""
        new_a, a_to_b = self.cross[0](a, b, real_b)
        new_b, b_to_a = self.cross[-1](b, a, real_a)
        new_a, _ = self.itself[0](new_a, new_a, real_a)
        new_b, _ = self.itself[1](new_b, new_b, real_b)
        return self.feed_forward[0](new_a), self.feed_forward[1](new_b), (a_to_b, b_to_a)


class CoAttention(FusionModel):
    """Combines two modalities token by token.

    An MLP with one hidden layer predicts the class from the mean token of each stream after the
    last layer; a missing stream counts as zeros. The rule says whether the two directions have
    "separate" weights or "shared" ones.
    """

    kind = "coattention"
    rules = ("separate", "shared")  # weights of the two directions, as in ViLBERT and LXMERT

    def add_parts(self, config: FusionConfig, classes: int) -> None:
        """Create the modules of this kind of model."""
        width, norm_first = config.width, config.norm_first
        self.streams = self.for_each(streams.Stream)
        self.layers = nn.ModuleList(
            CoAttentionLayer(width, config.heads, config.rule == "shared", norm_first)
            for _ in range(config.depth)
        )
        # With the norms first, the sum after the last layer still needs one.
        norm = nn.LayerNorm if norm_first else nn.Identity
        self.norms = nn.ModuleList(norm(width) for _ in range(2))
        self.answer = streams.mlp(2 * width, config.hidden, classes)

    def forward(self, inputs: Inputs, present: Masks = None) -> Logits:
        """Return logits; `collect_masks` describes ``inputs`` and ``present``, and the errors."""
        return self._run(inputs, present)[0]

    def attention_maps(self, inputs: Inputs, present: Masks = None) -> list[dict[str, Weights]]:
        """Return how much each token attends to each token of the other stream.

        Returns:
            For each layer both directions; ``"text_to_image"`` is ``(b, heads, words, patches)``.
            Rows sum to 1, or are 0 if the other stream is missing.
        """
        one, other = self.config.modalities
        names = (f"{one}_to_{other}", f"{other}_to_{one}")
        return [dict(zip(names, maps, strict=True)) for maps in self._run(inputs, present)[1]]

    def _run(self, inputs: Inputs, present: Masks) -> tuple[Tensor, list[Maps]]:
        found, presence = self.each_present(self.streams, inputs, present)
        # A stream that no example has becomes one token that is not real.
        absent = torch.zeros_like(presence[:, :1])
        empty = next(self.parameters()).new_zeros(len(absent), 1, self.config.width), absent
        (a, real_a), (b, real_b) = (found.get(name, empty) for name in self.streams)
        maps = []
        for layer in self.layers:
            a, b, weights = layer(a, b, real_a, real_b)
            maps.append(weights)
        a, b = self.norms[0](a), self.norms[1](b)
        joined = torch.cat([mean_token(a, real_a), mean_token(b, real_b)], dim=1)
        return self.answer(joined), maps


def mean_token(tokens: Tokens, real: Real) -> Float[Tensor, "b width"]:
    """Return the mean of the real tokens; zeros if there are none."""
    real = real[:, :, None]
    return tokens.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)

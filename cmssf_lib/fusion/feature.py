"""Feature-level fusion: one encoder a modality, and their vectors are joined."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cmssf_lib.fusion.blocks import initialise, mlp
from cmssf_lib.fusion.inputs import Inputs, check_config, gather, hide
from cmssf_lib.fusion.streams import StreamEncoder, each_present
from cmssf_lib.presets import FusionConfig


class FeatureFusion(nn.Module):
    """Joins modalities at the level of features.

    Rule "concat": the vectors stand side by side; a missing one is zeros. Rule "gated": a
    weighted mean whose weights the features themselves decide. Rule "bilinear": the vectors are
    multiplied, number by number, after each has been projected to ``rank`` numbers; 1 stands
    for a missing one.

    Args:
        config: Sizes and rule.
        vocabulary: Number of different token ids.
        classes: Number of answers.

    Raises:
        ValueError: If the configuration is inconsistent.

    References:
        Arevalo et al. 2017, "Gated multimodal units for information fusion", section 3.1 (here
        with a softmax over the modalities, as is usual for more than two); Kim et al. 2017,
        "Hadamard product for low-rank bilinear pooling", equation 4; Liu et al. 2018,
        "Efficient low-rank multimodal fusion with modality-specific factors", section 3.2,
        where a constant 1 beside the features keeps what one modality says alone.
    """

    def __init__(self, config: FusionConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        check_config(config, "feature")
        self.config, width, count = config, config.width, len(config.modalities)
        self.encoders = nn.ModuleDict(
            {name: StreamEncoder(config, name, vocabulary) for name in config.modalities}
        )
        joined = {"concat": count * width, "gated": width, "bilinear": config.rank}[config.rule]
        if config.rule == "gated":
            self.gate = nn.Linear(count * width, count)
        if config.rule != "concat":
            self.project = nn.ModuleList(nn.Linear(width, joined) for _ in range(count))
        self.answer = mlp(joined, config.hidden, classes)
        self.apply(initialise)

    def forward(self, inputs: Inputs, present: Inputs | None = None) -> Float[Tensor, "b classes"]:
        """Return logits; what `gather` says about ``inputs`` and ``present`` holds here."""
        vectors, presence = self._vectors(inputs, present)
        if self.config.rule == "concat":
            return self.answer(vectors.flatten(1))
        parts = [layer(vectors[:, i]) for i, layer in enumerate(self.project)]
        projected = torch.stack(parts, dim=1)  # (b, m, width or rank)
        if self.config.rule == "gated":
            gates = self._gates(vectors, presence)[:, :, None]
            return self.answer((gates * projected.tanh()).sum(dim=1))
        factors = (1 + projected).masked_fill(~presence[:, :, None], 1.0)
        return self.answer(factors.prod(dim=1))

    def gates(self, inputs: Inputs, present: Inputs | None = None) -> Float[Tensor, "b m"]:
        """Return how much each modality counts for each example; rows sum to 1.

        Raises:
            ValueError: If the rule is not "gated".
        """
        if self.config.rule != "gated":
            raise ValueError(f"the rule {self.config.rule!r} has no gates; only 'gated' has")
        return self._gates(*self._vectors(inputs, present))

    def _vectors(
        self, inputs: Inputs, present: Inputs | None
    ) -> tuple[Float[Tensor, "b m width"], Bool[Tensor, "b m"]]:
        """One vector a modality, zeros where it is missing or hidden."""
        inputs, presence = gather(inputs, present, self.config.modalities)
        if self.training:
            presence = hide(presence, self.config.modality_dropout)
        found = each_present(self.encoders, inputs, presence)
        (some, *_), *_ = found.values()
        none = torch.zeros_like(some)
        vectors = [found[name][0] if name in found else none for name in self.encoders]
        return torch.stack(vectors, dim=1), presence

    def _gates(
        self, vectors: Float[Tensor, "b m width"], presence: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b m"]:
        """A softmax over the modalities that are there."""
        scores = self.gate(vectors.flatten(1))
        return scores.masked_fill(~presence, float("-inf")).softmax(dim=1)

"""Early fusion: the raw modalities are joined first, and one encoder sees them all."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.encoders import ConvStem, log_mel
from cmssf_lib.fusion.blocks import Block, initialise
from cmssf_lib.fusion.inputs import Inputs, check_config, gather, hide
from cmssf_lib.fusion.streams import all_real, each_present, make_stream, pixels, with_cls, words
from cmssf_lib.presets import FusionConfig

TEXT_PLANES = 8  # how many numbers the mean of a text's words gets in the stack of planes


class EarlyFusion(nn.Module):
    """Joins modalities at the data level.

    Rule "tokens": patches, words and frames stand in one sequence, and each can look at each.
    Rule "channels": picture, spectrogram and text are laid on top of each other as planes of
    one picture, so that what belongs together has to lie in the same place.

    Args:
        config: Sizes and rule.
        vocabulary: Number of different token ids.
        classes: Number of answers.

    Raises:
        ValueError: If the configuration is inconsistent.
    """

    def __init__(self, config: FusionConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        check_config(config, "early")
        self.config, width = config, config.width
        if config.rule == "tokens":
            self.streams = nn.ModuleDict(
                {name: make_stream(config, name, vocabulary) for name in config.modalities}
            )
            self.modality = nn.Parameter(torch.randn(len(config.modalities), width) * width**-0.5)
        else:
            self.streams = nn.ModuleDict(
                {name: Planes(config, name, vocabulary) for name in config.modalities}
            )
            planes = sum(PLANES[name] for name in config.modalities)
            height, across = config.image_size
            self.stem = ConvStem(height, config.patch_size, planes, width)
            count = (height // 4) * (across // 4)
            self.position = nn.Parameter(torch.randn(1, count, width) * width**-0.5)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.apply(initialise)

    def forward(self, inputs: Inputs, present: Inputs | None = None) -> Float[Tensor, "b classes"]:
        """Return logits; what `gather` says about ``inputs`` and ``present`` holds here."""
        inputs, presence = gather(inputs, present, self.config.modalities)
        if self.training:
            presence = hide(presence, self.config.modality_dropout)
        join = self._sequence if self.config.rule == "tokens" else self._stack
        tokens, real = with_cls(self.cls, *join(inputs, presence))
        for block in self.blocks:
            tokens = block(tokens, real)
        return self.head(self.norm(tokens[:, 0]))

    def _sequence(
        self, inputs: Inputs, presence: Bool[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b n width"], Bool[Tensor, "b n"]]:
        """All tokens in one sequence, each with a vector that says what it is."""
        streams = each_present(self.streams, inputs, presence)
        which = {name: self.modality[i] for i, name in enumerate(self.config.modalities)}
        tokens = torch.cat([t + which[name] for name, (t, _) in streams.items()], dim=1)
        return tokens, torch.cat([real for _, real in streams.values()], dim=1)

    def _stack(
        self, inputs: Inputs, presence: Bool[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b n width"], Bool[Tensor, "b n"]]:
        """All planes in one stack; those of a missing modality are zero."""
        streams = each_present(self.streams, inputs, presence)
        size = (len(presence), *self.config.image_size)
        planes = [
            streams[name][0]
            if name in streams
            else torch.zeros(size[0], PLANES[name], *size[1:], device=presence.device)
            for name in self.config.modalities
        ]
        # The stem's own `forward` promises three planes; its layers take as many as they have.
        tokens = self.stem.layers(torch.cat(planes, dim=1)).flatten(2).transpose(1, 2)
        return tokens + self.position, all_real(tokens)


PLANES = {"image": 3, "text": TEXT_PLANES, "sound": 1}


class Planes(nn.Module):
    """One modality as planes of the size of the picture.

    Args:
        config: ``image_size``, ``mels`` and ``max_length``.
        name: "image", "text" or "sound".
        vocabulary: Number of different token ids.
    """

    def __init__(self, config: FusionConfig, name: str, vocabulary: int) -> None:
        super().__init__()
        self.config, self.name = config, name
        if name == "text":
            self.word = nn.Embedding(vocabulary, TEXT_PLANES)

    def forward(self, value: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b planes h w"]:
        """Return the colours, the spectrogram stretched, or the mean word in every pixel."""
        size = self.config.image_size
        if self.name == "image":
            return 2 * pixels(value, size) - 1
        if self.name == "sound":
            spectrogram = log_mel(value, mels=self.config.mels)[:, None]  # (b, 1, mels, frames)
            return F.interpolate(spectrogram, size, mode="bilinear", antialias=True)
        real = words(value, self.word.num_embeddings, self.config.max_length)[:, :, None]
        mean = (self.word(value) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return mean[:, :, None, None].expand(-1, -1, *size)  # (b, planes, h, w)

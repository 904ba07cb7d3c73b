"""What all fusion models share: settings, inputs, and masks of missing modalities."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import PositiveInt
from torch import Generator, Tensor, nn

from cmssf_lib.settings import BelowOne, settings

Inputs = Mapping[str, Tensor]  # modality → one row for each example
Masks = Mapping[str, Tensor] | None  # modality → (b,) bool: which examples have it; None: all do
Presence = Bool[Tensor, "b m"]  # which example has which modality
Logits = Float[Tensor, "b classes"]


@settings
class FusionConfig:
    """Settings of a model that classifies from several modalities at once."""

    kind: Literal["early", "feature", "late", "coattention"]  # where the modalities meet
    rule: str  # how they are combined; one of the rules of this kind
    modalities: tuple[Literal["image", "text", "sound"], ...]  # which of them the model takes
    image_size: tuple[PositiveInt, PositiveInt]  # height and width of the pictures, in pixels
    patch_size: PositiveInt  # side of a patch in pixels; the convolutional stem needs 4
    width: PositiveInt  # length of a token
    depth: PositiveInt  # number of transformer blocks that a token passes through
    heads: PositiveInt  # attention heads in each block
    rank: PositiveInt  # rank of the bilinear form (rule "bilinear")
    norm_first: bool  # co-attention: norms before each part, not after it as in the papers
    hidden: PositiveInt  # width of the hidden layer of the head (feature fusion, co-attention)
    max_length: PositiveInt  # longest text in tokens, with [CLS] and [SEP]
    samples: PositiveInt  # length of every sound; 800 are 0.1 seconds at 8 kHz
    mels: PositiveInt  # number of bands in the spectrogram of a sound
    modality_dropout: BelowOne = 0.0  # probability of hiding each modality in a training step


def collect_masks(inputs: Inputs, present: Masks, modalities: tuple[str, ...]) -> Presence:
    """Check the inputs of a model and combine all masks into one.

    Args:
        inputs: "image" ``(b, 3, h, w)``, "text" ``(b, length)`` token ids, "sound"
            ``(b, samples)``. A modality that is left out is missing for the whole batch.
        present: For a modality, ``(b,)`` bool: which examples have it. Without a mask all do.
        modalities: The modalities that the model takes, in its order.

    Returns:
        Which example has which modality, in the order of ``modalities``.

    Raises:
        ValueError: If a modality is unknown, lengths differ, an example has no modality, or a
            mask has the wrong shape or belongs to no input.
        TypeError: If a mask is not bool.
    """
    takes = ", ".join(modalities)
    if not inputs:
        raise ValueError(f"every modality is missing: give at least one of {takes}")
    (first, example), *_ = inputs.items()
    n = len(example)
    presence = torch.zeros(n, len(modalities), dtype=torch.bool, device=example.device)
    everyone = torch.ones_like(presence[:, 0])
    for name, mask in {**dict.fromkeys(inputs, everyone), **(present or {})}.items():
        if name not in modalities:
            raise ValueError(f"unknown modality {name!r}: this model takes {takes}")
        if name not in inputs:
            raise ValueError(f"a mask for {name!r}, which is not among the inputs: remove it")
        if len(inputs[name]) != n:
            raise ValueError(
                f"{first!r} has {n} examples, but {name!r} has {len(inputs[name])}: give every "
                "modality the same number, and mask missing ones"
            )
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask of {name!r} must be bool; got {mask.dtype}")
        if mask.shape != (n,):
            raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}; expected ({n},)")
        presence[:, modalities.index(name)] = mask.to(example.device)
    if present and len(nothing := (~presence.any(dim=1)).nonzero()):
        raise ValueError(f"example {int(nothing[0])} has no modality: remove the example")
    return presence


def hide(presence: Presence, probability: float, generator: Generator | None = None) -> Presence:
    """Hide modalities at random, but never the last one of an example (modality dropout).

    Args:
        presence: Which example has which modality.
        probability: Probability of hiding each modality.
        generator: Random generator; ``None`` for PyTorch's global one.

    References:
        Neverova et al. 2016, "ModDrop: adaptive multi-modal gesture recognition", section 4.
    """
    if probability == 0:
        return presence
    draw = torch.rand(presence.shape, generator=generator).to(presence.device)
    draw = draw.masked_fill(~presence, -1.0)
    kept = draw >= probability
    # If every draw is too low, keep the modality with the highest; else it is kept already.
    return kept.scatter(1, draw.argmax(dim=1, keepdim=True), True)


class FusionModel(nn.Module):
    """Base class of the four kinds of models: ``model(inputs, present)`` returns logits.

    Args:
        config: Sizes and rule.
        vocabulary: Number of different token ids.
        classes: Number of classes.

    Raises:
        ValueError: If the configuration is inconsistent.
    """

    kind: str  # where the modalities meet
    rules: tuple[str, ...]  # how they can be combined there
    hides_inputs = True  # whether modality dropout hides inputs, or (late fusion) predictions

    def __init__(self, config: FusionConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        self._require(config, classes)
        self.config, self.vocabulary, self.classes = config, vocabulary, classes
        self.add_parts(config, classes)
        self.apply(initialise)

    def add_parts(self, config: FusionConfig, classes: int) -> None:
        """Create the modules of this kind of model."""
        raise NotImplementedError

    def _require(self, config: FusionConfig, classes: int) -> None:
        """Refuse settings with which no model of this kind can be built."""
        names, rules = config.modalities, ", ".join(self.rules)
        wrong = ""
        if config.rule not in self.rules:
            wrong = f"unknown rule {config.rule!r} for {self.kind} fusion; choose one of {rules}"
        elif not names or len(set(names)) < len(names):
            wrong = f"expected one or more modalities, each only once; got {names}"
        elif self.kind == "coattention" and len(names) != 2:
            wrong = f"co-attention joins exactly two modalities; got {names}: name two"
        elif config.width % config.heads:
            wrong = f"width {config.width} is not divisible by {config.heads} heads"
        elif "image" in names and any(side % 4 for side in config.image_size):
            wrong = f"height and width of pictures must be multiples of 4; got {config.image_size}"
        elif classes < 2:
            wrong = f"expected two classes or more; got {classes}"
        if wrong:
            raise ValueError(wrong)

    def for_each(self, make: Callable[[FusionConfig, str, int], nn.Module]) -> nn.ModuleDict:
        """Make one module for each modality."""
        names = self.config.modalities
        return nn.ModuleDict({name: make(self.config, name, self.vocabulary) for name in names})

    def each_present(
        self, modules: nn.ModuleDict, inputs: Inputs, present: Masks
    ) -> tuple[dict[str, tuple[Shaped[Tensor, "b ..."], ...]], Presence]:
        """Run each modality's module only on the examples that have the modality.

        The placeholder of a missing modality can thus affect neither the prediction nor the
        statistics of a batch norm. During training, modality dropout hides some modalities.

        Returns:
            For each modality that any example has, the output of its module, with zeros (and
            "not real") in the rows of examples without it; and which example has which modality.
        """
        presence = collect_masks(inputs, present, self.config.modalities)
        dropout = self.config.modality_dropout if self.training and self.hides_inputs else 0.0
        presence = hide(presence, dropout)
        everyone = not present and not dropout  # known without waiting for a GPU
        found = {}
        for (name, module), here in zip(modules.items(), presence.T, strict=True):
            if name in inputs and (everyone or here.any()):
                result = module(inputs[name] if everyone or here.all() else inputs[name][here])
                parts = result if isinstance(result, tuple) else (result,)
                found[name] = parts if everyone else tuple(in_place(x, here) for x in parts)
        return found, presence

    def vectors(
        self, modules: nn.ModuleDict, inputs: Inputs, present: Masks
    ) -> tuple[Float[Tensor, "b m length"], Presence]:
        """Stack the vectors that `each_present` returns, with zeros for missing modalities."""
        found, presence = self.each_present(modules, inputs, present)
        nothing = torch.zeros_like(next(iter(found.values()))[0])
        return torch.stack([found.get(n, (nothing,))[0] for n in modules], dim=1), presence


def in_place(rows: Shaped[Tensor, "k ..."], here: Bool[Tensor, " b"]) -> Shaped[Tensor, "b ..."]:
    """Put the rows where ``here`` is true, and zeros elsewhere."""
    if len(rows) == len(here):
        return rows
    return rows.new_zeros(len(here), *rows.shape[1:]).index_put((here,), rows)


def initialise(module: nn.Module) -> None:
    """Scale the initial weights of a linear layer to its width (Xavier); for ``model.apply``.

    The usual fixed 0.02 suits a width of 768; at 48 it leaves the model too little signal.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

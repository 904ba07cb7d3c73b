"""What every fusion model is given: some modalities, and which examples have which."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from cmssf_lib.presets import FusionConfig

MODALITIES = ("image", "text", "sound")
RULES = {
    "early": ("tokens", "channels"),
    "feature": ("concat", "gated", "bilinear"),
    "late": ("mean", "weighted", "stacked"),
    "coattention": ("separate", "shared"),
}
Inputs = Mapping[str, Tensor]


def gather(
    inputs: Inputs, present: Mapping[str, Tensor] | None, modalities: tuple[str, ...]
) -> tuple[dict[str, Tensor], Bool[Tensor, "b m"]]:
    """Check what a model is given, and put all masks into one.

    Args:
        inputs: "image" ``(b, 3, h, w)``, "text" ``(b, length)`` token ids, "sound"
            ``(b, samples)``. What is left out is missing for the whole batch.
        present: For a modality, ``(b,)`` bool: which examples have it. Without a mask all do.
        modalities: What the model takes, in its order.

    Returns:
        The inputs, and which example has which modality.

    Raises:
        ValueError: If a modality is unknown, lengths differ, an example has nothing at all, or
            a mask has another shape or belongs to no input.
        TypeError: If a mask is not bool.
    """
    present = present or {}
    for name in (*inputs, *present):
        if name not in modalities:
            raise ValueError(f"unknown modality {name!r}; this model takes {', '.join(modalities)}")
    if not inputs:
        raise ValueError(f"every modality is missing; give at least one of {', '.join(modalities)}")
    (first, example), *others = inputs.items()
    for name, value in others:
        if len(value) != len(example):
            raise ValueError(
                f"batches of different lengths: {first!r} holds {len(example)} examples and "
                f"{name!r} {len(value)}"
            )
    presence = torch.zeros(len(example), len(modalities), dtype=torch.bool, device=example.device)
    for name in inputs:
        presence[:, modalities.index(name)] = True
    for name, mask in present.items():
        if name not in inputs:
            raise ValueError(f"a mask for {name!r}, but {name!r} is not among the inputs")
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask of {name!r} must be bool; got {mask.dtype}")
        if mask.shape != (len(example),):
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}; expected "
                f"({len(example)},), one value an example"
            )
        presence[:, modalities.index(name)] = mask.to(example.device)
    if len(nothing := (~presence.any(dim=1)).nonzero()):
        raise ValueError(f"every modality of example {int(nothing[0])} is missing")
    return dict(inputs), presence


def hide(
    presence: Bool[Tensor, "b m"], probability: float, generator: torch.Generator | None = None
) -> Bool[Tensor, "b m"]:
    """Hide modalities at random, but never the last one an example has: modality dropout.

    Args:
        presence: Which example has which modality.
        probability: Of hiding each.
        generator: Draws; without it PyTorch's global one.

    References:
        Neverova et al. 2016, "ModDrop: adaptive multi-modal gesture recognition", section 4.
    """
    if probability == 0:
        return presence
    draw = torch.rand(presence.shape, generator=generator).to(presence.device)
    draw = draw.masked_fill(~presence, -1.0)
    kept = draw >= probability
    # Where nothing is left, the one that came closest stays; elsewhere it is kept already.
    return kept.scatter(1, draw.argmax(dim=1, keepdim=True), True)


def check_config(config: FusionConfig, kind: str) -> None:
    """Refuse settings that no model of this kind can have.

    Raises:
        ValueError: Naming the field and what it may be.
    """
    if kind not in RULES:
        raise ValueError(f"unknown kind of fusion {kind!r}; choose one of {', '.join(RULES)}")
    if config.rule not in RULES[kind]:
        raise ValueError(
            f"unknown rule {config.rule!r} for {kind} fusion; choose one of "
            f"{', '.join(RULES[kind])}"
        )
    names = config.modalities
    if not names or len(set(names)) < len(names) or not set(names) <= set(MODALITIES):
        raise ValueError(
            f"modalities are one or more of {', '.join(MODALITIES)}, each once; got {names}"
        )
    if kind == "coattention" and len(names) != 2:
        raise ValueError(f"co-attention joins exactly two modalities; got {names}")
    if config.width % config.heads:
        raise ValueError(f"width {config.width} does not divide among {config.heads} heads")
    if not 0 <= config.modality_dropout < 1:
        raise ValueError(f"modality_dropout is 0 to under 1; got {config.modality_dropout}")
    if "image" in names and any(side % 4 or side < 4 for side in config.image_size):
        raise ValueError(
            f"the convolutional stem reduces by 4: height and width must be multiples of 4; got "
            f"{config.image_size}"
        )

"""Weights on disk for an image encoder: read, refused, and used as they were learned."""

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from cmssf_lib.encoders.stem import ConvStem
from cmssf_lib.presets import VisionConfig

APART = "conv_stem_apart"


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model from a state dict on disk; a classifier head in it is left out.

    Args:
        model: Its parameters say what is expected.
        path: Of a ``.safetensors`` file, or of a run's folder, whose image encoder is taken: of
            DINO the teacher, which is the one that `DINO.features` shows. A convolutional stem
            takes patches apart from then on, if the one that learned these weights did.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a safetensors file, or a name or a shape differs.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a .safetensors state dict")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    for encoder in ("teacher_encoder.backbone.", "image_encoder.backbone."):
        if any(name.startswith(encoder) for name in state):
            state = {k.removeprefix(encoder): v for k, v in state.items() if k.startswith(encoder)}
            break
    own = model.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc."))}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k}: {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"the weights in {path} are not for this model. Missing: {missing[:5] or 'none'}; "
            f"unexpected: {unexpected[:5] or 'none'}; shapes that differ: {shapes[:5] or 'none'}"
        )
    model.load_state_dict(state)
    stem = getattr(model, "patch_embed", None)
    if isinstance(stem, ConvStem):
        stem.apart = stem.apart or _learned_apart(path)


def as_learned(config: VisionConfig) -> VisionConfig:
    """Return the configuration of the encoder that the weights to begin with were learned in.

    The same weights mean something else to a stem that takes its patches apart, as MAE's does,
    and they fit both kinds. So ``kind="conv_stem"`` becomes "conv_stem_apart" with such weights,
    and whatever is written down says so.

    Args:
        config: ``weights`` is a path; if nothing can be read there, nothing changes.
    """
    if config.kind == "conv_stem" and config.weights and _learned_apart(Path(config.weights)):
        return replace(config, kind=APART)
    return config


def _learned_apart(path: Path) -> bool:
    """Whether a stem learned these weights that takes each patch apart.

    MAE's own are known by the mask token. What began with them is known by the configuration
    beside its weights.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            if "mask_token" in file.keys():  # noqa: SIM118
                return True
        beside = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError):  # a lone file, or none
        return False
    vision = beside.get("vision") if isinstance(beside, dict) else None
    return isinstance(vision, dict) and vision.get("kind") == APART

"""Weights on disk for an image encoder: read, refused, and used as they were learned."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from cmssf_lib.encoders.backbone import APART, ConvStem


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
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a .safetensors state dict")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    for encoder in ("teacher_encoder.backbone.", "image_encoder.backbone."):
        part = {k.removeprefix(encoder): v for k, v in state.items() if k.startswith(encoder)}
        state = part or state
    own = model.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc."))}
    found, asked = ({k: tuple(v.shape) for k, v in part.items()} for part in (state, own))
    differ = [
        f"{name}: {found.get(name)} in the file, {asked.get(name)} in the model"
        for name in sorted(asked | found)
        if asked.get(name) != found.get(name)
    ]
    if differ:
        raise ValueError(
            f"the weights in {path} are not for this model; shapes that differ, None if nothing "
            f"is there: {'; '.join(differ[:5])}"
        )
    model.load_state_dict(state)
    if isinstance(stem := getattr(model, "patch_embed", None), ConvStem):
        stem.apart = stem.apart or learned_apart(path)


def learned_apart(path: str | Path) -> bool:
    """Whether a stem learned these weights that takes each patch apart, as MAE's does.

    The same weights mean something else to a stem that looks over the borders of its patches, and
    they fit both.

    MAE's own are known by the mask token. What began with them is known by the configuration
    beside its weights.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            if "mask_token" in file.keys():  # noqa: SIM118
                return True
        beside = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        return bool(beside["vision"]["kind"] == APART)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):  # a lone file, or none
        return False

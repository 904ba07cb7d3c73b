"""From a preset to a method, and from a recorded run back to both."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cmssf_lib.data import ImageTextData
from cmssf_lib.encoders import ImageEncoder, TextEncoder, VisionConfig
from cmssf_lib.encoders.backbone import APART
from cmssf_lib.files import home, read_tensors, records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import BYOL, CMSSF, DINO, MAE, Method, MoCo, SimCLR, Supervised, VICReg
from cmssf_lib.presets import Preset, preset, sections
from cmssf_lib.runs import Run
from cmssf_lib.settings import from_json
from cmssf_lib.train import round_weights

#: Methods that are built from an image encoder and the section that bears their name.
FROM_PICTURES: dict[str, Callable[[ImageEncoder, Any], Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "dino": DINO,
    "vicreg": VICReg,
    "mae": MAE,
}


def build(preset: Preset, method: str, data: ImageTextData) -> Method:
    """Build a method with fresh weights.

    Args:
        preset: All settings.
        method: The method's name.
        data: The training data; the tokenizer's words and the classes come from it.

    Raises:
        ValueError: If there is no such method, or its settings are inconsistent.
    """
    sections(preset, method)  # refuses unknown names
    torch.manual_seed(preset.train.seed)  # the seed also determines the initial weights
    if method == "fusion":
        return FusionClassifier(preset.fusion, data.unique_captions, len(data.class_names))
    encoder = image_encoder(preset.vision)
    if method in FROM_PICTURES:
        return FROM_PICTURES[method](encoder, getattr(preset, method))
    if method == "supervised":
        return Supervised(encoder, preset.supervised, len(data.class_names))
    beside, task = preset.cmssf.image_loss, None
    if beside in FROM_PICTURES:
        task = FROM_PICTURES[beside](encoder, getattr(preset, beside))
    text = TextEncoder(preset.text, data.unique_captions)
    return CMSSF(encoder, text, preset.cmssf, task)


def run_config(preset: Preset, method: str, data: ImageTextData) -> dict[str, Any]:
    """Collect everything that determines a run's outcome, as JSON values.

    Args:
        preset: All settings.
        method: The method's name.
        data: The training data; its fingerprint is recorded.

    Raises:
        ValueError: If there is no such method.
    """
    settings = {name: asdict(getattr(preset, name)) for name in sections(preset, method)}
    if "vision" in settings:  # the initial weights may be gone when the run is read again
        settings["vision"]["kind"] = _as_learned(preset.vision)[0].kind
    # The folder of the pictures differs between machines and does not matter: the fingerprint says
    # which pictures they were.
    if preset.data.name == "cifar10":
        settings["data"]["path"] = None
    return {
        "method": method,
        "preset": preset.name,
        **json.loads(json.dumps(settings)),
        "data_fingerprint": data.fingerprint,
    }


def preset_of(config: Mapping[str, Any]) -> Preset:
    """Turn a recorded configuration back into a preset.

    Sections that the method does not read come from the named preset as it is today.

    Raises:
        ValueError: If a section or a field is unknown, missing or of the wrong type, or the method
            is not one of the library's.
    """
    damaged = "the run's config.json is damaged"
    if not isinstance(config, Mapping):
        raise ValueError(f"{damaged}: it holds no configuration")
    if "preset" not in config:
        raise ValueError(
            "this run was trained by `fit` without a configuration from `run_config`, so what it "
            "trained is not known here: build the method yourself and load model.safetensors"
        )
    name, method = config["preset"], config.get("method")
    if not (name and isinstance(name, str) and isinstance(method, str)):
        raise ValueError(f"{damaged}: preset is {name!r} and method {method!r}")
    usual, kinds = preset(name, method), get_type_hints(Preset)
    found: dict[str, Any] = {k: v for k, v in config.items() if isinstance(v, Mapping)}
    if unknown := found.keys() - kinds.keys():
        raise ValueError(f"{damaged}: it has sections of no method, {', '.join(sorted(unknown))}")
    found = {key: from_json(kinds[key], values) for key, values in found.items()}
    chosen = replace(usual, minutes="as recorded", **found)
    if missing := set(sections(chosen, method)) - found.keys():
        raise ValueError(f"{damaged}: it lacks {', '.join(sorted(missing))}")
    return chosen


def trained(run: Run, data: ImageTextData) -> Method:
    """Build a run's method, load its weights and set it to evaluation mode.

    The book's records keep only the weights that are useful after training (`Method.lasting`).
    Parts that only the loss needs, such as a projection head, then have fresh weights.

    Args:
        run: A run with weights.
        data: The training data, whose captions the tokenizer was built from.

    Raises:
        FileNotFoundError: If the run was trained but has no weights, or is not finished.
        ValueError: If the weights are damaged or belong to another model.
    """
    chosen, name = preset_of(run.config), run.config["method"]
    if chosen.train.epochs == 0 and not run.has_weights:  # untrained: the seed determines them
        method = build(chosen, name, data)
        if chosen.train.half_weights:
            round_weights(method)
        return method.eval()
    tensors = run.weights()
    # The run brings its own weights, so the initial ones need not be loaded.
    method = build(replace(chosen, vision=replace(chosen.vision, weights="")), name, data)
    _require_fitting(tensors, method, f"the weights of {run.name}", method.lasting)
    method.load_state_dict(tensors, strict=False)
    return method.eval()


def image_encoder(config: VisionConfig) -> ImageEncoder:
    """Build an image encoder with the initial weights that its configuration names.

    Args:
        config: Its ``weights`` may name a recorded run, a run's folder or a ``.safetensors`` file.
            From a run the image encoder is taken (DINO's teacher, whose features `DINO.features`
            returns). In a file the weights of a classifier's head are ignored.

    Raises:
        ValueError: If the configuration is inconsistent, or the file is not a safetensors file or
            does not fit the encoder.
        FileNotFoundError: If there are no such weights.
    """
    config, weights = _as_learned(config)
    encoder = ImageEncoder(config)
    if weights:
        load_weights(encoder.backbone, weights)
    return encoder


def _as_learned(vision: VisionConfig) -> tuple[VisionConfig, Path | None]:
    """Return the configuration of the encoder to build, and the file of its initial weights.

    MAE trains a stem that encodes each patch separately ("conv_stem_apart"). Its weights have the
    same shapes as those of "conv_stem", which also sees across patch borders, but would give wrong
    features there; so the kind follows the weights.
    """
    if vision.weights in ("", "timm"):
        return vision, None
    path = home(vision.weights)
    if not path.exists():
        with suppress(FileNotFoundError):  # no records here: `load_weights` names what is missing
            recorded = records() / path
            path = recorded if recorded.is_dir() else path
    path = path / "model.safetensors" if path.is_dir() else path
    apart = vision.kind == "conv_stem" and _learned_apart(path)
    return replace(vision, weights="", kind=APART if apart else vision.kind), path


def _learned_apart(path: Path) -> bool:
    """Return whether these weights belong to a stem that encodes each patch separately.

    Weights of MAE contain a mask token. For a run that started from them, its configuration tells.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if "mask_token" in file.keys():  # noqa: SIM118
                return True
        beside = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        return bool(beside["vision"]["kind"] == APART)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):  # a lone file, or none
        return False


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a timm model if every name and shape fits; see `image_encoder`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file, or a name or a shape differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a .safetensors state dict")
    state, _ = read_tensors(path, None)
    for encoder in ("teacher_encoder.backbone.", "image_encoder.backbone."):
        part = {k.removeprefix(encoder): v for k, v in state.items() if k.startswith(encoder)}
        state = part or state
    own = model.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc."))}
    _require_fitting(state, model, f"the weights in {path}")
    model.load_state_dict(state)


def _require_fitting(
    state: Mapping[str, Tensor], model: nn.Module, what: str, needed: tuple[str, ...] = ("",)
) -> None:
    """Refuse weights of other names or shapes than the model's.

    Args:
        state: The weights.
        model: The model.
        what: What they are, for the message.
        needed: Beginnings of the names that must not be missing.
    """
    found, asked = (
        {name: tuple(tensor.shape) for name, tensor in part.items()}
        for part in (state, model.state_dict())
    )
    differ = [
        f"{name}: {found.get(name)} in the file, {asked.get(name)} in the model"
        for name in sorted(asked | found)
        if asked.get(name) != found.get(name) and (name in found or name.startswith(needed))
    ]
    if differ:
        raise ValueError(
            f"{what} are not for this model; shapes that differ, None if nothing is there: "
            f"{'; '.join(differ[:5])}"
        )

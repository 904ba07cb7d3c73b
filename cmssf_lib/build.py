"""From a preset to a method, and from a record back to both: what knows all methods."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from cmssf_lib.data import ImageTextData
from cmssf_lib.encoders import ImageEncoder, TextEncoder, VisionConfig
from cmssf_lib.encoders.backbone import APART
from cmssf_lib.files import records
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import BYOL, CMSSF, DINO, MAE, Method, MoCo, SimCLR, Supervised
from cmssf_lib.presets import Preset, preset, sections
from cmssf_lib.runs import Run
from cmssf_lib.settings import from_json
from cmssf_lib.train import round_weights

#: Methods that are built from an image encoder and the section of their name.
FROM_PICTURES: dict[str, Callable[[ImageEncoder, Any], Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "dino": DINO,
    "mae": MAE,
}


def build(preset: Preset, method: str, data: ImageTextData) -> Method:
    """Build a method with fresh weights.

    Args:
        preset: All the numbers.
        method: Its name.
        data: The training data, for what depends on it (the tokenizer's words, the classes).

    Raises:
        ValueError: If there is no such method, or its settings are inconsistent.
    """
    sections(preset, method)  # refuses unknown names
    torch.manual_seed(preset.train.seed)  # initial weights are part of what a seed decides
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
    """Write down everything that decides a run's outcome.

    Args:
        preset: All the numbers.
        method: Its name.
        data: The training data; its fingerprint is recorded.

    Raises:
        ValueError: If there is no such method.
    """
    settings = {name: asdict(getattr(preset, name)) for name in sections(preset, method)}
    if "vision" in settings:  # the weights may be gone when the run is read
        settings["vision"]["kind"] = _as_learned(preset.vision)[0].kind
    # The folder of the pictures differs from machine to machine and decides nothing: the
    # fingerprint says which pictures they were.
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

    Sections that the method does not read are those of the preset that the run was made with.

    Raises:
        ValueError: If a section or a field is unknown, missing or of another type, or the run is
            of a method that is not the library's.
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
    """Build a run's method, fill it with its weights and set it to evaluation mode.

    A record of the book holds no more than serves after a training (`Method.lasting`); the rest of
    the method, which its loss alone needs, then has fresh weights.

    Args:
        run: With weights.
        data: The training data, whose captions the tokenizer was built from.

    Raises:
        FileNotFoundError: If the run was trained and has no weights, or is not finished.
        ValueError: If the weights are damaged or belong to another model.
    """
    chosen, name = preset_of(run.config), run.config["method"]
    if chosen.train.epochs == 0 and not run.has_weights:  # fresh ones follow from the seed
        method = build(chosen, name, data)
        if chosen.train.half_weights:
            round_weights(method)
        return method.eval()
    tensors = run.weights()
    # The weights are here, whatever they began as.
    method = build(replace(chosen, vision=replace(chosen.vision, weights="")), name, data)
    own = method.state_dict()
    needed = {name for name in own if name.startswith(method.lasting)}
    differ = sorted(
        name
        for name in own.keys() | tensors.keys()
        if (name in needed and name not in tensors)
        or (name in tensors and (name not in own or own[name].shape != tensors[name].shape))
    )
    if differ:
        raise ValueError(
            f"the weights of {run.name} do not fit the model its config.json describes; "
            f"missing, unexpected or of another shape: {', '.join(differ[:5])}"
        )
    method.load_state_dict(tensors, strict=False)
    return method.eval()


def image_encoder(config: VisionConfig) -> ImageEncoder:
    """Build an image encoder that begins where its configuration says.

    Args:
        config: Its ``weights`` may name a recorded run, a run's folder or a ``.safetensors`` file.
            Of a run the image encoder is taken: of DINO the teacher, which is the one that
            `DINO.features` shows. In a file the head of a classifier is left out.

    Raises:
        ValueError: If the configuration is inconsistent, or the weights do not fit or are no
            safetensors file.
        FileNotFoundError: If there are no such weights.
    """
    config, weights = _as_learned(config)
    encoder = ImageEncoder(config)
    if weights:
        load_weights(encoder.backbone, weights)
    return encoder


def _as_learned(vision: VisionConfig) -> tuple[VisionConfig, Path | None]:
    """Return the encoder to make, and the file of weights to fill it with.

    The weights of an MAE, and of what began with them, make a "conv_stem" a "conv_stem_apart":
    they fit both, and mean something else to a stem that looks over the borders of its patches.
    """
    if vision.weights in ("", "timm"):
        return vision, None
    path = Path(vision.weights)
    if not path.exists():
        with suppress(FileNotFoundError):  # no records here: `load_weights` says what is missing
            recorded = records() / path
            path = recorded if recorded.is_dir() else path
    path = path / "model.safetensors" if path.is_dir() else path
    apart = vision.kind == "conv_stem" and _learned_apart(path)
    return replace(vision, weights="", kind=APART if apart else vision.kind), path


def _learned_apart(path: Path) -> bool:
    """Whether these weights are of a stem that takes each patch apart.

    MAE's own are known by the mask token, what began with them by the configuration beside them.
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
    """Fill a model of timm from a file, if every name and shape fits; see `image_encoder`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file, or a name or a shape differs.
    """
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

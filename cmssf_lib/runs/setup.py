"""What decides a run, written down and read back: configuration and environment."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import ImageTextData
from cmssf_lib.encoders.weights import as_learned
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import BYOL, DINO, MAE, MoCo, SimCLR, Supervised
from cmssf_lib.presets import (
    METHODS,
    BYOLConfig,
    CMSSFConfig,
    DataConfig,
    DINOConfig,
    FineTuneConfig,
    FusionConfig,
    JudgeConfig,
    MAEConfig,
    MoCoConfig,
    Preset,
    SimCLRConfig,
    SupervisedConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
    from_json,
)
from cmssf_lib.runs.files import read_json

#: Settings that not every method reads.
OWN_SETTINGS = {
    "fusion": FusionConfig,
    "simclr": SimCLRConfig,
    "moco": MoCoConfig,
    "byol": BYOLConfig,
    "dino": DINOConfig,
    "mae": MAEConfig,
    "supervised": SupervisedConfig,
    "judge": JudgeConfig,
    "fine_tune": FineTuneConfig,
}
PACKAGES = ("cmssf", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy")


def run_config(preset: Preset, method: str, data: ImageTextData) -> dict[str, Any]:
    """Write down everything that decides a run's outcome.

    Args:
        preset: All the numbers.
        method: Its name.
        data: The training data; its fingerprint is recorded.

    Raises:
        ValueError: If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    beside = [preset.cmssf.image_loss] if method == "cmssf" and preset.cmssf.image_loss else []
    sections = ("data", *METHODS[method], *beside, "train")
    settings = {key: asdict(getattr(preset, key)) for key in sections if hasattr(preset, key)}
    if "vision" in settings:  # the weights may be gone when the run is read
        settings["vision"]["kind"] = as_learned(with_recorded_weights(preset.vision)).kind
    # The folder of the pictures differs from machine to machine and decides nothing: the
    # fingerprint says which pictures they were.
    if settings["data"]["name"] == "cifar10":
        settings["data"]["path"] = None
    return {
        "method": method,
        "preset": preset.name,
        **json.loads(json.dumps(settings)),
        "data_fingerprint": data.fingerprint,
    }


def preset_of(config: Mapping[str, Any]) -> Preset:
    """Turn a recorded configuration back into a preset.

    A section that the method does not use, and a field that the recording version did not
    have, are filled with their defaults.

    Raises:
        ValueError: If a field is unknown, as in a configuration of a later version, or the run is
            of a method that is not the library's.
    """
    if "preset" not in config:
        raise ValueError(
            "this run was trained by `fit` without a configuration from `run_config`, so what it "
            "trained is not known here: build the method yourself and load model.safetensors"
        )
    return Preset(
        name=config["preset"],
        minutes="as recorded",
        data=from_json(DataConfig, config["data"]),
        vision=from_json(VisionConfig, config.get("vision", {})),
        text=from_json(TextConfig, config.get("text", {})),
        cmssf=from_json(CMSSFConfig, config.get("cmssf", {})),
        train=from_json(TrainConfig, config["train"]),
        **{
            method: from_json(kind, config.get(method, {})) for method, kind in OWN_SETTINGS.items()
        },
    )


def build(config: Mapping[str, Any], data: ImageTextData) -> nn.Module:
    """Build a method with fresh weights.

    Args:
        config: From `run_config`.
        data: The training data, for what depends on it (the tokenizer's words, the classes).

    Raises:
        ValueError: If there is no such method, or its settings are inconsistent.
    """
    preset = preset_of(config)
    torch.manual_seed(preset.train.seed)  # initial weights are part of what a seed decides
    vision, classes = with_recorded_weights(preset.vision), len(data.class_names)
    match config["method"]:
        case "cmssf":
            tasks = {"simclr": (SimCLR, preset.simclr), "dino": (DINO, preset.dino)}
            kind, settings = tasks.get(preset.cmssf.image_loss, (None, None))
            task = None if kind is None else kind(vision, settings)
            texts = data.unique_captions
            return CMSSF(vision, preset.text, preset.cmssf, texts, image_task=task)
        case "fusion":
            return FusionClassifier(preset.fusion, data.unique_captions, classes)
        case "simclr":
            return SimCLR(vision, preset.simclr)
        case "moco":
            return MoCo(vision, preset.moco)
        case "byol":
            return BYOL(vision, preset.byol)
        case "dino":
            return DINO(vision, preset.dino)
        case "mae":
            return MAE(vision, preset.mae)
        case "supervised":
            return Supervised(vision, preset.supervised, classes)
    raise ValueError(f"unknown method {config['method']!r}; choose one of {', '.join(METHODS)}")


def with_recorded_weights(vision: VisionConfig) -> VisionConfig:
    """Return the configuration with the path of a recorded run in place of its name."""
    if vision.weights in ("", "timm") or Path(vision.weights).exists():
        return vision
    try:
        folder = records() / vision.weights
    except FileNotFoundError:
        return vision  # the encoder says what is missing
    return replace(vision, weights=str(folder)) if folder.is_dir() else vision


def records() -> Path:
    """Return the folder of the book's recorded runs: $CMSSF_RUNS, or book/runs here or above.

    Raises:
        FileNotFoundError: If there is none.
    """
    if named := os.environ.get("CMSSF_RUNS"):
        return Path(named)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "book" / "runs").is_dir():
            return folder / "book" / "runs"
    raise FileNotFoundError(
        "no folder book/runs here or above: go to the book's repository, or name the folder in "
        "CMSSF_RUNS"
    )


def environment(device: torch.device | str = "cpu", folder: Path | None = None) -> dict[str, Any]:
    """Describe this machine, today: versions, processor, the library's commit where there is one.

    Args:
        device: That the run is on.
        folder: Of a run. If it goes on from a checkpoint of another machine, that one is named
            under "earlier".
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    here: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": _named(torch.device(device)),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "commit": _commit() or "not in a repository",
    }
    begun = ("environment.json", "checkpoint.safetensors")
    if folder is not None and all((folder / name).is_file() for name in begun):
        before = read_json(folder / "environment.json")
        moved = [machine(before)] if machine(before) != machine(here) else []
        if earlier := [*before.get("earlier", []), *moved]:
            here["earlier"] = earlier
    return here


def machine(environment: Mapping[str, Any]) -> str:
    """Name the graphics card of a recorded environment, or the processor and its threads."""
    if environment.get("device", "cpu") != "cpu":
        return str(environment["device"])
    threads = environment.get("threads", 1)
    return f"{environment.get('processor', 'CPU')}, {threads} thread{'s' * (threads != 1)}"


def machines(environment: Mapping[str, Any]) -> str:
    """Name the machines that a recorded run began on, if any, and the one it ended on."""
    return ", then ".join([*environment.get("earlier", []), machine(environment)])


def _named(device: torch.device) -> str:
    """Name the device: a graphics card by its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _commit() -> str:
    """Name the library's commit; nothing if it is no clone, or there is no git to ask."""
    root = Path(__file__).resolve().parents[2]
    # git would look further up: a library installed below another repository is no part of it.
    if not (root / ".git").exists():
        return ""
    asked = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _processor() -> str:
    """Name the processor; Linux keeps the readable name in /proc."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

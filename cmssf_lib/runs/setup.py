"""What decides a run, written down and read back: configuration and environment."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import ImageTextData
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

#: Settings that not every method reads.
OWN_SETTINGS = {
    "fusion": FusionConfig,
    "simclr": SimCLRConfig,
    "moco": MoCoConfig,
    "byol": BYOLConfig,
    "dino": DINOConfig,
    "mae": MAEConfig,
    "supervised": SupervisedConfig,
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
    settings = {key: asdict(getattr(preset, key)) for key in ("data", *METHODS[method], "train")}
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
        ValueError: If a field is unknown, as in a configuration of a later version.
    """
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
    vision, classes = preset.vision, len(data.class_names)
    match config["method"]:
        case "cmssf":
            return CMSSF(vision, preset.text, preset.cmssf, data.unique_captions)
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


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Describe this machine: versions, processor, and the library's commit where there is one."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
    )
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "commit": commit.stdout.strip() or "not in a repository",
    }


def _processor() -> str:
    """Name the processor; Linux keeps the readable name in /proc."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""How a preset is chosen: by name, by the environment, or by the machine."""

import os

from cmssf_lib.presets.by_method import FOR_METHOD
from cmssf_lib.presets.sizes import METHODS, PRESETS, Preset


def preset(name: str | None = None, method: str = "cmssf") -> Preset:
    """Look up a preset.

    Args:
        name: "quick", "standard" or "paper". Without it $CMSSF_PRESET decides, and without
            that "standard" on a machine with a GPU and "quick" on any other.
        method: What will be trained; data and training differ from method to method.

    Raises:
        ValueError: If there is no such preset or no such method.
    """
    chosen = name or os.environ.get("CMSSF_PRESET") or _default_name()
    if chosen not in PRESETS:
        origin = "" if name else " (from $CMSSF_PRESET)"
        raise ValueError(f"unknown preset {chosen!r}{origin}; choose one of {', '.join(PRESETS)}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    return FOR_METHOD.get((chosen, method), PRESETS[chosen])


def _default_name() -> str:
    import torch  # here, so that reading a preset does not load PyTorch

    return "standard" if torch.cuda.is_available() else "quick"


def start(notebook: str) -> Preset:
    """Print what a notebook is about to run on, and return its preset.

    Every notebook calls this in its first cell.

    Args:
        notebook: Its name without the ending, such as "00_quickstart".
    """
    import torch

    chosen = preset()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name(0)
        advice = "CMSSF_PRESET=paper runs the source chapter's own set-up."
    else:
        device = "CPU"
        advice = "In Colab: Runtime > Change runtime type > GPU, then run this cell again."
    print(
        f"{notebook}: preset {chosen.name}; a training takes {chosen.minutes}; running on {device}."
    )
    print(f"Another preset: set CMSSF_PRESET to {', '.join(PRESETS)} before this cell. {advice}")
    return chosen

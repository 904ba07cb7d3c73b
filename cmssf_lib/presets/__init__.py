"""Every number that a run depends on, in three sizes.

- ``quick``: built-in data, seconds to a minute on two CPU cores. Nothing is downloaded.
- ``standard``: CIFAR-10 and a small vision transformer with a convolutional stem.
- ``paper``: the source chapter's own set-up (sections 3.3 and 3.4), for a GPU.

Each is a flat file. What a field means is explained where its class declares it. Presets are
frozen; ``dataclasses.replace`` makes a changed copy.
"""

import os

from cmssf_lib.machine import fastest_device
from cmssf_lib.presets import chapters, paper, quick, standard
from cmssf_lib.presets.idle import check_given as check_given, idle as idle
from cmssf_lib.presets.own import for_folder as for_folder
from cmssf_lib.presets.paper import PAPER as PAPER
from cmssf_lib.presets.preset import METHODS as METHODS, Preset as Preset, sections as sections
from cmssf_lib.presets.quick import QUICK as QUICK
from cmssf_lib.presets.standard import STANDARD as STANDARD

#: For CMSSF. The changes for other methods are at the end of each of the three files.
PRESETS: dict[str, Preset] = {"quick": QUICK, "standard": STANDARD, "paper": PAPER}
_BY_METHOD = {"quick": quick.METHODS, "standard": standard.METHODS, "paper": paper.METHODS}


def preset(name: str | None = None, method: str = "cmssf") -> Preset:
    """Look up a preset.

    Args:
        name: "quick", "standard" or "paper". By default the value of $CMSSF_PRESET, or, if that
            is not set, "standard" on a machine with a GPU and "quick" on any other.
        method: The method to be trained. Data and training settings differ between methods.

    Raises:
        ValueError: If there is no such preset or no such method.
    """
    usual = "standard" if fastest_device().type == "cuda" else "quick"
    chosen = name or os.environ.get("CMSSF_PRESET") or usual
    if chosen not in PRESETS:
        origin = "" if name else " (from $CMSSF_PRESET)"
        raise ValueError(f"unknown preset {chosen!r}{origin}; choose one of {', '.join(PRESETS)}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    return _BY_METHOD[chosen].get(method, PRESETS[chosen])


def start(notebook: str) -> Preset:
    """Print what a notebook will do on this machine and how long, and return the chosen preset.

    Every notebook calls this in its first cell.

    Args:
        notebook: Its file name without the suffix, such as "00_quickstart".

    Raises:
        ValueError: If $CMSSF_PRESET names no preset.
    """
    chosen = preset()
    print(chapters.announcement(notebook, chosen))
    return chosen

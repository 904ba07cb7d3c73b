"""What each notebook does on this machine, and for how long: printed by its first cell."""

from typing import NamedTuple

import torch

from cmssf_lib.data import find_cifar10
from cmssf_lib.machine import fastest_device
from cmssf_lib.presets.preset import Preset


class Chapter(NamedTuple):
    """What a notebook takes, all cells together."""

    minutes: float  # in the preset quick, on two CPU cores
    trains: str = ""  # on photographs, in the other presets


#: A test compares the minutes with those that the notebooks took.
CHAPTERS = {
    "00_quickstart": Chapter(1.5, "CMSSF"),
    "01_data": Chapter(0.5),
    "02_fusion": Chapter(2, "two fusion models"),
    "03_coattention": Chapter(1, "co-attention"),
    "04_mae": Chapter(2, "MAE"),
    "05_contrastive": Chapter(2, "SimCLR"),
    "06_distillation": Chapter(2, "DINO"),
    "07_clip": Chapter(1.5, "CMSSF"),
    "08_cmssf": Chapter(1.5, "CMSSF"),
    "09_training": Chapter(1, "CMSSF"),
    "10_results": Chapter(0.5),
}
#: Expected for a training with the settings of the preset standard, which is what chapters 2 to 9
#: take in every other preset too.
LIVE = "a minute or two on an H100, up to ten on a T4, one to three hours on two CPU cores"


def announcement(notebook: str, chosen: Preset) -> str:
    """Return a few lines: the machine and the preset, what will be done, how to change it.

    Args:
        notebook: A notebook's name, a key of `CHAPTERS`.
        chosen: The preset that $CMSSF_PRESET or the machine has chosen.
    """
    minutes, trains = CHAPTERS[notebook]
    on_gpu = fastest_device().type == "cuda"
    device = torch.cuda.get_device_name(0) if on_gpu else str(fastest_device()).upper()
    long = "half a minute" if minutes == 0.5 else f"{minutes:g} minute{'s' * (minutes > 1)}"
    takes = f"about {long} on two CPU cores"
    live = chosen.minutes if notebook == "00_quickstart" else LIVE
    if notebook == "10_results":
        plan = [f"Recorded runs are drawn ({takes}); nothing is trained."]
    elif notebook == "00_quickstart" and chosen.name != "quick":
        plan = [f"{trains} is trained on photographs ({live})."]
    else:
        plan = [f"Digit scenes ({takes})" + (", then photographs." if notebook > "01" else ".")]
        if trains and notebook > "01" and chosen.name == "quick":
            plan += ["What is shown of photographs was trained before, in a recorded run."]
        elif trains and notebook > "01":
            plan += [f"On the photographs it trains {trains} ({live})."]
    if "01" < notebook < "10" and not find_cifar10(chosen.data.path):
        plan += ["CIFAR-10, which holds them, is not on this machine yet."]
    lines = [f"{notebook} on {device}, preset {chosen.name}.", " ".join(plan)]
    if trains and chosen.name == "quick":
        lines += [f"CMSSF_PRESET=standard, set before this cell, trains on photographs ({LIVE})."]
        lines += [] if on_gpu else ["In Colab, Runtime > Change runtime type offers a GPU."]
    elif trains:
        lines += ["CMSSF_PRESET=quick, set before this cell, trains on digit scenes only."]
    return "\n".join(lines)

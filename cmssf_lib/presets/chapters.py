"""What each notebook does on this machine, and for how long: printed by its first cell."""

from typing import Literal, NamedTuple

import torch

from cmssf_lib.data import find_cifar10
from cmssf_lib.machine import fastest_device
from cmssf_lib.presets.preset import Preset


class Chapter(NamedTuple):
    """What a notebook shows, and how long all its cells take."""

    minutes: float  # in the preset quick, on two CPU cores
    # "preset": digit scenes in quick, photographs in the others; "both": scenes, then photographs;
    # "records": recorded runs only; "own": pictures that a package ships.
    shows: Literal["preset", "both", "records", "own"]
    trains: str = ""  # on photographs, in every preset but quick


#: A test compares the minutes with those that the notebooks took.
CHAPTERS = {
    "00_quickstart": Chapter(1.5, "preset", "CMSSF"),
    "01_data": Chapter(0.5, "both"),
    "02_fusion": Chapter(2, "both", "two fusion models"),
    "03_coattention": Chapter(1, "both", "co-attention"),
    "04_mae": Chapter(2, "both", "MAE"),
    "05_contrastive": Chapter(2, "both", "SimCLR"),
    "06_distillation": Chapter(2, "both", "DINO"),
    "07_clip": Chapter(1.5, "both", "CMSSF"),
    "08_cmssf": Chapter(1.5, "both", "CMSSF"),
    "09_training": Chapter(1, "both", "CMSSF"),
    "10_results": Chapter(0.5, "records"),
    "11_own_data": Chapter(2, "own"),
}
#: Expected of a training with the settings of the preset standard, which chapters 2 to 9 take in
#: the preset paper too. Not measured on an H100 or a T4 yet.
LIVE = "expect a minute or two on an H100, ten on a T4, one to three hours on two CPU cores"


def announcement(notebook: str, chosen: Preset) -> str:
    """Return a few lines: the machine and the preset, what will be done, how to change it.

    Args:
        notebook: A notebook's name, a key of `CHAPTERS`.
        chosen: The preset that $CMSSF_PRESET or the machine has chosen.
    """
    minutes, shows, trains = CHAPTERS[notebook]
    quick, on_gpu = chosen.name == "quick", fastest_device().type == "cuda"
    device = torch.cuda.get_device_name(0) if on_gpu else str(fastest_device()).upper()
    long = "half a minute" if minutes == 0.5 else f"{minutes:g} minute{'s' * (minutes > 1)}"
    takes = f"about {long} on two CPU cores"
    if shows == "records":
        plan = [f"Recorded runs are drawn ({takes}); nothing is trained."]
    elif shows == "own":
        plan = [f"Trains on two photographs that scikit-learn ships ({takes} in quick)."]
    elif shows == "preset":
        trained = f"{trains} is trained on photographs ({chosen.minutes})."
        plan = [f"Digit scenes ({takes})." if quick else trained]
    else:
        plan = [f"Digit scenes ({takes}), then photographs."]
        if trains and quick:
            plan += ["What is shown of photographs was trained before, in a recorded run."]
        elif trains:
            plan += [f"On the photographs it trains {trains} ({LIVE})."]
    photographs = shows == "both" or (shows == "preset" and not quick)
    if photographs and not find_cifar10(chosen.data.path):
        plan += ["CIFAR-10, which holds them, is not on this machine yet."]
    lines = [f"{notebook} on {device}, preset {chosen.name}.", " ".join(plan)]
    if trains and quick:
        lines += [f"CMSSF_PRESET=standard, set before this cell, trains on photographs ({LIVE})."]
        lines += [] if on_gpu else ["In Colab, Runtime > Change runtime type offers a GPU."]
    elif trains:
        lines += ["CMSSF_PRESET=quick, set before this cell, trains on digit scenes only."]
    return "\n".join(lines)

"""Decide on held-out pictures from which similarity on a picture fits a sentence."""

from typing import NamedTuple

import torch

from cmssf_lib.data import ImageTextData
from cmssf_lib.evaluate import embed
from cmssf_lib.methods import CMSSF

#: Share of the sentences that are true of no picture for which one is said to fit all the same.
FALSE_POSITIVES = 0.05
#: If more of the sentences that are true of a picture lie below the threshold, it tells nothing.
MISSED = 0.25


class Calibration(NamedTuple):
    """What `calibrate` found on held-out pictures."""

    threshold: float  # if the best similarity in an index is lower, nothing there fits a sentence
    missed: float  # share of the sentences that are true of a picture and lie below
    pictures: int  # number of held-out pictures

    @property
    def tells(self) -> bool:
        """Whether the threshold tells sentences that fit from those that do not."""
        return self.missed <= MISSED


def calibrate(model: CMSSF, data: ImageTextData) -> Calibration:
    """Choose the similarity below which search says that nothing fits.

    Each distinct caption searches twice: among all pictures, where it is true of one at least, and
    among those that do not have it, where it is true of none. The threshold is the similarity that
    the best picture reaches in 5 % (`FALSE_POSITIVES`) of the second searches.

    More pictures reach higher similarities by chance, so the 5 % hold for an index of about as
    many pictures as ``data`` has, and for pictures and sentences like those.

    Args:
        model: The model that makes the index.
        data: Pictures that were not trained on, each with all the captions that are true of it.

    Raises:
        ValueError: If every caption is true of every picture.
    """
    e = embed(model, data)
    picture, caption = e.caption_pairs
    similarity = e.text @ e.image.T  # (captions, pictures)
    fitting = similarity.amax(dim=1)
    similarity[caption, picture] = -torch.inf
    others = similarity.amax(dim=1)
    others = others[others.isfinite()]
    if len(others) == 0:
        raise ValueError(f"{data.name}: every caption is true of every picture; expected others")
    threshold = others.sort().values[int(len(others) * (1 - FALSE_POSITIVES))]
    return Calibration(float(threshold), float((fitting < threshold).float().mean()), len(data))

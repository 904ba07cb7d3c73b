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
    missed: float  # share of the sentences that are true of a held-out picture and lie below
    pictures: int  # number of held-out pictures

    @property
    def tells(self) -> bool:
        """Whether the threshold tells sentences that fit from those that do not."""
        return self.missed <= MISSED


def calibrate(model: CMSSF, data: ImageTextData, size: int | None = None) -> Calibration:
    """Choose the similarity below which search says that nothing fits.

    Each distinct caption searches twice: among all m held-out pictures, where it is true of one at
    least, and among those that do not have it, where it is true of none. The best of n pictures of
    an index stays below a similarity with the probability F^(n/m), if the best of m does with F.
    So the threshold is where the second searches have F = 0.95^(m/n): there, chance reaches it in
    5 % (`FALSE_POSITIVES`) of the searches in the index. If all pictures have all captions,
    it is 2, above all similarities, and tells nothing.

    Args:
        model: The model that makes the index.
        data: Pictures that were not trained on, each with all the captions that are true of it.
        size: Number of pictures in the index, n; by default m.
    """
    e = embed(model, data)
    picture, caption = e.caption_pairs
    similarity = e.text @ e.image.T  # (captions, pictures)
    fitting = similarity.amax(dim=1)
    similarity[caption, picture] = -torch.inf
    others = similarity.amax(dim=1)
    others = others[others.isfinite()].sort().values
    below = (1 - FALSE_POSITIVES) ** (len(data) / (size or len(data)))
    place = min(int(len(others) * below), len(others) - 1)
    threshold = float(others[place]) if len(others) else 2.0
    return Calibration(threshold, float((fitting < threshold).float().mean()), len(data))

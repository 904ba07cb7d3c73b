"""Figures: one function a figure, each from a run or from results, each returning it.

Nothing is shown and no setting of matplotlib is changed: a notebook shows a cell's last value,
a script calls ``savefig``. Colours are those of Okabe and Ito (2008), which people with any kind of
colour vision tell apart; what they encode is always encoded a second time, by a line style,
a symbol or a frame. Every figure has a white ground of its own and reads on a dark page too.
"""

from cmssf_lib.plots.attention import attention_maps, attention_pixels, co_attention_diagram
from cmssf_lib.plots.clip import losses_by_batch, pair_matrices
from cmssf_lib.plots.compare import run_curves
from cmssf_lib.plots.contrastive import pairs_on_circle, setting_sweeps
from cmssf_lib.plots.distillation import cls_attention_grid
from cmssf_lib.plots.fusion import accuracy_points, robustness_curves
from cmssf_lib.plots.pictures import caption_grid, image_grid, retrieval_gallery, views_grid
from cmssf_lib.plots.reconstruction import (
    masked_autoencoder_diagram,
    masked_pictures,
    reconstructions,
)
from cmssf_lib.plots.results import accuracy_over, claimed_and_measured, confusion_matrix
from cmssf_lib.plots.space import tsne
from cmssf_lib.plots.style import COLOURS, Picture, panels
from cmssf_lib.plots.tones import tone_panels
from cmssf_lib.plots.training import LiveLoss, loss_curves, retrieval_curve, similarity_curves

__all__ = [
    "COLOURS",
    "LiveLoss",
    "Picture",
    "accuracy_over",
    "accuracy_points",
    "attention_maps",
    "attention_pixels",
    "caption_grid",
    "claimed_and_measured",
    "cls_attention_grid",
    "co_attention_diagram",
    "confusion_matrix",
    "image_grid",
    "loss_curves",
    "losses_by_batch",
    "masked_autoencoder_diagram",
    "masked_pictures",
    "pair_matrices",
    "pairs_on_circle",
    "panels",
    "reconstructions",
    "retrieval_curve",
    "retrieval_gallery",
    "robustness_curves",
    "run_curves",
    "setting_sweeps",
    "similarity_curves",
    "tone_panels",
    "tsne",
    "views_grid",
]

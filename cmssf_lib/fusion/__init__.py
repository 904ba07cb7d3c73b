"""Fusion: where and how pictures, words and sounds are brought together.

All models take the same dictionary of modalities and say what is missing the same way:
``model(inputs, present)`` → logits. They differ in where the modalities meet: in the data
(`EarlyFusion`), in the features (`FeatureFusion`), in the answers (`LateFusion`), or again and
again on the way (`CoAttention`). The first and the last have one encoder for all (`joint.py`),
the other two one for each modality (`separate.py`). `FusionClassifier` is what `fit` trains.
"""

from cmssf_lib.fusion.classifier import RULES, FusionClassifier
from cmssf_lib.fusion.inputs import FusionConfig, collect_masks, hide
from cmssf_lib.fusion.joint import (
    CoAttention,
    CoAttentionLayer,
    CrossAttention,
    EarlyFusion,
    mean_token,
)
from cmssf_lib.fusion.separate import FeatureFusion, LateFusion, weighted_mean
from cmssf_lib.fusion.streams import Attention, Block, attention

__all__ = [
    "RULES",
    "Attention",
    "Block",
    "CoAttention",
    "CoAttentionLayer",
    "CrossAttention",
    "EarlyFusion",
    "FeatureFusion",
    "FusionClassifier",
    "FusionConfig",
    "LateFusion",
    "attention",
    "collect_masks",
    "hide",
    "mean_token",
    "weighted_mean",
]

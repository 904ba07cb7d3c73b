"""Fusion: where and how pictures, words and sounds are brought together.

All models take the same dictionary of modalities and say what is missing the same way:
``model(inputs, present)`` → logits. They differ in where the modalities meet: in the data
(`EarlyFusion`), in the features (`FeatureFusion`), in the answers (`LateFusion`), or again and
again on the way (`CoAttention`). `FusionClassifier` is what `fit` trains.
"""

from cmssf_lib.fusion.blocks import Attention, Block, attention
from cmssf_lib.fusion.classifier import FusionClassifier
from cmssf_lib.fusion.coattention import CoAttention, CoAttentionLayer, CrossAttention
from cmssf_lib.fusion.early import EarlyFusion
from cmssf_lib.fusion.feature import FeatureFusion
from cmssf_lib.fusion.inputs import MODALITIES, RULES, gather, hide
from cmssf_lib.fusion.late import LateFusion

__all__ = [
    "MODALITIES",
    "RULES",
    "Attention",
    "Block",
    "CoAttention",
    "CoAttentionLayer",
    "CrossAttention",
    "EarlyFusion",
    "FeatureFusion",
    "FusionClassifier",
    "LateFusion",
    "attention",
    "gather",
    "hide",
]

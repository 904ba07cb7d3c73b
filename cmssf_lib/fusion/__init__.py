"""Fusion: where and how pictures, words and sounds are brought together.

All models take the same dictionary of modalities and say what is missing the same way:
``model(inputs, present)`` → logits. They differ in where the modalities meet: in the data
(`EarlyFusion`), in the features (`FeatureFusion`), in the answers (`LateFusion`), or again and
again on the way (`CoAttention`). The first and the last have one encoder for all (`joint.py`),
the other two one for each modality (`separate.py`). `FusionClassifier` is what `fit` trains.
"""

from cmssf_lib.fusion.classifier import RULES as RULES, FusionClassifier as FusionClassifier
from cmssf_lib.fusion.inputs import (
    FusionConfig as FusionConfig,
    collect_masks as collect_masks,
    hide as hide,
)
from cmssf_lib.fusion.joint import (
    CoAttention as CoAttention,
    CoAttentionLayer as CoAttentionLayer,
    CrossAttention as CrossAttention,
    EarlyFusion as EarlyFusion,
    mean_token as mean_token,
)
from cmssf_lib.fusion.separate import (
    FeatureFusion as FeatureFusion,
    LateFusion as LateFusion,
    weighted_mean as weighted_mean,
)
from cmssf_lib.fusion.streams import Attention as Attention, Block as Block, attention as attention

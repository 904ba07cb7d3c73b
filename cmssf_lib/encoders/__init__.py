"""Encoders and projection heads: from a picture, a text or a sound to one vector.

Vision models are timm's, text models are those of transformers. What stands here is what
the book needs around them: sizes and pixel statistics, a convolutional stem, captions as
strings, and errors that say what to do.
"""

from cmssf_lib.encoders.attention import cls_attention
from cmssf_lib.encoders.audio import AudioEncoder, AudioTokens, log_mel
from cmssf_lib.encoders.heads import BatchNormHead, ProjectionHead
from cmssf_lib.encoders.stem import ConvStem
from cmssf_lib.encoders.text import TextEncoder
from cmssf_lib.encoders.vision import ImageEncoder
from cmssf_lib.encoders.weights import load_weights

__all__ = [
    "AudioEncoder",
    "AudioTokens",
    "BatchNormHead",
    "ConvStem",
    "ImageEncoder",
    "ProjectionHead",
    "TextEncoder",
    "cls_attention",
    "load_weights",
    "log_mel",
]

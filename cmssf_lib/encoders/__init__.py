"""Encoders and projection heads: from a picture or a text to one vector.

Vision models are timm's, text models are those of transformers. What stands here is what
the book needs around them: sizes and pixel statistics, a convolutional stem, captions as
strings, and errors that say what to do.
"""

from cmssf_lib.encoders.audio import AudioTokens, log_mel
from cmssf_lib.encoders.backbone import ConvStem, VisionConfig
from cmssf_lib.encoders.text import TextConfig, TextEncoder, tokenize, word_tokenizer
from cmssf_lib.encoders.vision import BatchNormHead, ImageEncoder, ProjectionHead, cls_attention
from cmssf_lib.encoders.weights import load_weights

__all__ = [
    "AudioTokens",
    "BatchNormHead",
    "ConvStem",
    "ImageEncoder",
    "ProjectionHead",
    "TextConfig",
    "TextEncoder",
    "VisionConfig",
    "cls_attention",
    "load_weights",
    "log_mel",
    "tokenize",
    "word_tokenizer",
]

"""Encoders and projection heads: turn a picture, a text or a sound into vectors.

Vision models come from timm, text models from transformers. This package adds what the book
needs around them: resizing and pixel normalisation, a convolutional stem, captions given as
strings, and error messages that say what to do.
"""

from cmssf_lib.encoders.audio import AudioTokens as AudioTokens, log_mel as log_mel
from cmssf_lib.encoders.backbone import ConvStem as ConvStem, VisionConfig as VisionConfig
from cmssf_lib.encoders.text import TextConfig as TextConfig, TextEncoder as TextEncoder
from cmssf_lib.encoders.tokens import (
    readable as readable,
    tokenize as tokenize,
    word_tokenizer as word_tokenizer,
)
from cmssf_lib.encoders.vision import (
    BatchNormHead as BatchNormHead,
    ImageEncoder as ImageEncoder,
    ProjectionHead as ProjectionHead,
    cls_attention as cls_attention,
)

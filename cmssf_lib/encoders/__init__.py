"""Encoders and projection heads: from a picture or a text to one vector.

Vision models are timm's, text models are those of transformers. What stands here is what
the book needs around them: sizes and pixel statistics, a convolutional stem, captions as
strings, and errors that say what to do.
"""

from cmssf_lib.encoders.audio import AudioTokens as AudioTokens, log_mel as log_mel
from cmssf_lib.encoders.backbone import ConvStem as ConvStem, VisionConfig as VisionConfig
from cmssf_lib.encoders.text import (
    TextConfig as TextConfig,
    TextEncoder as TextEncoder,
    tokenize as tokenize,
    word_tokenizer as word_tokenizer,
)
from cmssf_lib.encoders.vision import (
    BatchNormHead as BatchNormHead,
    ImageEncoder as ImageEncoder,
    ProjectionHead as ProjectionHead,
    cls_attention as cls_attention,
)

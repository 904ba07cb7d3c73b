"""Encoders and projection heads: from a picture or a text to one vector.

Vision models are timm's, text models are those of transformers. What stands here is what
the book needs around them: sizes and pixel statistics, a convolutional stem, captions as
strings, and errors that say what to do.
"""

from cmssf_lib.encoders.heads import ProjectionHead
from cmssf_lib.encoders.text import TextEncoder
from cmssf_lib.encoders.vision import ConvStem, ImageEncoder, load_weights

__all__ = ["ConvStem", "ImageEncoder", "ProjectionHead", "TextEncoder", "load_weights"]

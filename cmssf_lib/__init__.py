"""CMSSF, contrastive multimodal self-supervised fusion, in small rooms read from top to bottom.

Import the room you need (``from cmssf_lib import losses``). Importing the package itself loads
nothing heavy and prints nothing.
"""

__version__ = "0.1.0"

"""``cmssf export``: write a model's two towers for use without this library."""

from typing import Literal

from tyro.conf import Positional

from cmssf_lib.cli.search import trained_model
from cmssf_lib.cli.terminal import say
from cmssf_lib.cli.training import Data
from cmssf_lib.share import export_towers


def export(
    model: Positional[str],
    to: Positional[str],
    format: Literal["torch", "onnx"] = "onnx",
    pixels: Literal["uint8", "float32"] = "uint8",
    pictures: Data = None,
) -> None:
    """Write a model's image and text towers as ONNX or PyTorch graphs, with its tokenizer.

    Args:
        model: Folder written by save_pretrained, folder of a run, or name on the Hugging Face Hub.
        to: A new folder for the files.
        format: "onnx", or "torch" for torch.export.load.
        pixels: What the image tower takes: uint8, or float32 in [0, 1].
        pictures: Folder of the data that the model was trained on, if the model is a run.
    """
    export_towers(trained_model(model, pictures)[0], to, format=format, pixels=pixels)
    say(f"both towers, tokenizer.json and export.json are in {to}")

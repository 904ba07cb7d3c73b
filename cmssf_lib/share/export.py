"""Export the two towers of a model as graphs that run without this library.

<folder>/image.onnx       pictures (b, 3, size, size) → unit vectors (b, dim); or image.pt2
<folder>/text.onnx        token ids and mask (b, length) → unit vectors (b, dim); or text.pt2
<folder>/tokenizer.json   the tokenizer, for Hugging Face's tokenizers
<folder>/export.json      sizes, pixels, special tokens, and the logit scale
"""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim

from cmssf_lib.encoders.tokens import Ids
from cmssf_lib.files import home, write_json
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.hub import fingerprint

FORMAT = "cmssf-towers-1"


def export_towers(
    model: CMSSF,
    folder: str | Path,
    *,
    format: Literal["torch", "onnx"] = "torch",
    pixels: Literal["uint8", "float32"] = "uint8",
) -> None:
    """Export both towers in float32, for any number of pictures, and of texts of any length.

    The dot product of their vectors is the similarity that `Index.find` reports; times
    "logit_scale", it is what the loss compared. A graph checks neither the range of its pixels nor
    its token ids: where `tokenize` refuses an unknown word, tokenizer.json gives ``[UNK]``.

    Args:
        model: Any CMSSF; it does not change.
        folder: Created; it must not hold anything yet.
        format: "torch" (``torch.export.load`` reads it) or "onnx" (onnxruntime and others do).
        pixels: Type of the pictures that the image tower takes: uint8, or floats in [0, 1].

    Raises:
        ValueError: If the format or the pixels are unknown, or the tokenizer is not of Hugging
            Face's tokenizers.
        FileExistsError: If the folder holds something.
        RuntimeError: If the packages that write ONNX are not installed.
    """
    folder = home(folder)
    text = model.text_encoder
    tokenizer = getattr(text.tokenizer, "backend_tokenizer", None)
    if format not in ("torch", "onnx") or pixels not in ("uint8", "float32"):
        raise ValueError(
            f"got format {format!r} and pixels {pixels!r}; expected 'torch' or 'onnx', and 'uint8' "
            "or 'float32'"
        )
    if tokenizer is None:
        raise ValueError(f"{type(text.tokenizer).__name__} cannot be written as one tokenizer.json")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: name a new folder")
    if format == "onnx" and not (find_spec("onnx") and find_spec("onnxscript")):
        raise RuntimeError("ONNX needs two more packages: pip install onnx onnxscript")
    whole = copy.deepcopy(model).cpu().float().eval()
    size = model.image_encoder.config.image_size
    images = torch.zeros(2, 3, size, size, dtype=getattr(torch, pixels))
    ids = torch.zeros(2, 3, dtype=torch.int64)
    longest = min(text.tokenizer.model_max_length, 2**31)  # some models know no limit
    batch, length = Dim("batch"), Dim("length", max=longest)
    content = {
        "format": FORMAT,
        "model": fingerprint(model),
        "size": size,
        "pixels": pixels,
        "max_length": longest,
        "pad_id": text.tokenizer.pad_token_id,
        "dim": model.config.dim,
        "logit_scale": float(whole.logit_scale.detach()),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".export-") as unfinished:
        place = Path(unfinished, "towers")  # the folder around it is closed to others
        place.mkdir()
        of_pair = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
        _write(_ImageTower(whole), (images,), {"images": {0: batch}}, place / "image", format)
        _write(_TextTower(whole), (ids, torch.ones_like(ids)), of_pair, place / "text", format)
        tokenizer.save(str(place / "tokenizer.json"))
        write_json(place / "export.json", content)
        if folder.exists():
            folder.rmdir()  # empty; Windows would not replace it
        place.rename(folder)


class _ImageTower(nn.Module):
    def __init__(self, model: CMSSF) -> None:
        super().__init__()
        self.encoder, self.head = model.image_encoder, model.image_head

    def forward(
        self, images: UInt8[Tensor, "b 3 size size"] | Float[Tensor, "b 3 size size"]
    ) -> Float[Tensor, "b dim"]:
        return nn.functional.normalize(self.head(self.encoder(images)), dim=1)


class _TextTower(nn.Module):
    def __init__(self, model: CMSSF) -> None:
        super().__init__()
        self.encoder, self.head = model.text_encoder, model.text_head

    def forward(self, ids: Ids, mask: Ids) -> Float[Tensor, "b dim"]:
        return nn.functional.normalize(self.head(self.encoder.encode(ids, mask)), dim=1)


@torch.no_grad()
def _write(
    tower: nn.Module, example: tuple[Tensor, ...], dims: dict[str, Any], path: Path, format: str
) -> None:
    """Export one tower; ``dims`` says which axes of its inputs may have any length."""
    graph = torch.export.export(tower, example, dynamic_shapes=dims, strict=False)
    if format == "torch":
        torch.export.save(graph, path.with_suffix(".pt2"))
        return
    with warnings.catch_warnings(action="ignore"):  # that ids and mask share names of axes
        made = torch.onnx.export(
            graph, dynamic_shapes=dims, dynamo=True, verbose=False, output_names=["vectors"]
        )
        assert made is not None
    made.save(path.with_suffix(".onnx"))

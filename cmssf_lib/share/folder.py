"""Build an index from a folder of pictures, and update it by encoding only what changed."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from cmssf_lib.data import pictures
from cmssf_lib.data.pictures import quiet_decoders, read_picture
from cmssf_lib.evaluate import embed_images
from cmssf_lib.evaluate.embeddings import BATCH
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.hub import fingerprint
from cmssf_lib.share.index import Changes, Index, Picture

Pixels = UInt8[np.ndarray, "h w 3"]


def index_folder(
    model: CMSSF,
    folder: str | Path,
    *,
    old: Index | None = None,
    skip_unreadable: bool = False,
    model_name: str = "",
) -> Index:
    """Encode the pictures of a folder and all its subfolders.

    Each picture is cropped to its central square and resized to the model's input size. One
    batch of pictures is in memory at a time.

    Args:
        model: Encodes the pictures.
        folder: Hidden files and folders are skipped, and links to folders are not followed.
        old: An earlier index of the same folder by the same model. Files whose size and time are
            unchanged are not read again. Pictures whose bytes were indexed before, under any
            name, are not encoded again. The vectors equal those of a new index up to rounding.
        skip_unreadable: Leave out files that cannot be read, with a warning that names them.
        model_name: Where the model can be loaded from; the index stores it.

    Returns:
        The index; its `changes` list the differences from the old one.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        OSError: If a subfolder cannot be read.
        ValueError: If a picture cannot be read, or all were skipped; if the old index is of
            another folder or model; or if the model's vectors are not finite.
    """
    root = Path(folder).expanduser().resolve()
    before: dict[str, Picture] = {}  # by file
    vectors: dict[str, Float[Tensor, " dim"]] = {}  # by digest
    if old is not None:
        old.require_model(model)
        if old.folder != root:
            raise ValueError(f"the old index is of the folder {old.folder}, not of {root}")
        before = {picture.file: picture for picture in old.pictures}
        vectors = dict(zip(_digests(old.pictures), old.vectors, strict=True))
    size = model.image_encoder.config.image_size
    found, faults = find_pictures(root), list[str]()
    # Take the digests of files whose name, size and time are unchanged from the old index.
    digests = {p.file: b.digest for p in found if (b := before.get(p.file)) and b[:3] == p[:3]}

    def read(file: str) -> Pixels | None:
        """Store a file's digest, or its fault; return the picture if it must be encoded."""
        path = root / file
        try:
            if not path.is_file():  # opening a pipe would wait forever
                raise ValueError(f"cannot read the picture {path}: not a regular file")
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            pixels = None if digest in vectors else read_picture(path, size)
        except (OSError, ValueError) as error:
            if not skip_unreadable:
                raise ValueError(f"{error}. Repair or delete it, or set skip_unreadable") from error
            faults.append(str(error))
            return None
        digests[file] = digest
        return pixels

    todo = [picture.file for picture in found if picture.file not in digests]
    starts = range(0, len(todo), BATCH)
    with quiet_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(starts, f"indexing {root.name}", leave=False, disable=None):
            batch = todo[start : start + BATCH]
            each = zip(batch, pool.map(read, batch), strict=True)
            vectors |= _encode(model, {digests[file]: new for file, new in each if new is not None})
    if faults:
        skipped = f"{root}: {len(faults)} of {len(found)} pictures are left out: "
        warnings.warn(skipped + "; ".join(sorted(faults)[:10]), stacklevel=2)
    if not digests:
        raise ValueError(f"none of the {len(found)} pictures in {root} can be read")
    pictures = tuple(p._replace(digest=digests[p.file]) for p in found if p.file in digests)
    changes = Changes(
        added=tuple(p.file for p in pictures if p.file not in before),
        changed=tuple(p.file for p in pictures if before.get(p.file, p).digest != p.digest),
        gone=tuple(sorted(before.keys() - {p.file for p in found})),
        encoded=len(vectors) - (len(old) if old else 0),
    )
    rows = torch.stack([vectors[digest] for digest in _digests(pictures)])  # (n, dim)
    return Index(rows, pictures, root, fingerprint(model), model_name, changes)


def find_pictures(folder: Path) -> list[Picture]:
    """List the pictures in a folder and all its subfolders, sorted by path, without digests."""
    return sorted(Picture(*found, digest="") for found in pictures.find_pictures(folder))


def _digests(pictures: Iterable[Picture]) -> Iterable[str]:
    """Return the distinct digests of some pictures, in the order of an index's vectors."""
    return dict.fromkeys(picture.digest for picture in pictures)


def _encode(model: CMSSF, pictures: Mapping[str, Pixels]) -> dict[str, Float[Tensor, " dim"]]:
    """Return the vector of each picture, under the same key."""
    if not pictures:
        return {}
    images = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2).contiguous()
    return dict(zip(pictures, embed_images(model, images), strict=True))

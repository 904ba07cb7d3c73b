"""From a folder of pictures to an index; again, and only what is new or changed is encoded."""

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

from cmssf_lib.data.picture_files import ENDINGS, read_picture
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
    """Encode the pictures of a folder and of all folders in it.

    Each is cropped to its central square and resized to the side that the model works at. One
    batch of pictures is in memory at a time.

    Args:
        model: Encodes the pictures.
        folder: Where they are. Hidden files are passed over, and links to folders not followed.
        old: An index of the same folder by the same model. A file with the size and time that it
            had is not read again, and bytes that were indexed before, under whatever name, are
            not encoded again. Vectors are those of a fresh index up to rounding.
        skip_unreadable: Go on without the files that cannot be read; a warning names them.
        model_name: Where the model can be read again; the index remembers it.

    Returns:
        The index, with `changes` since the old one.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If a picture cannot be read, or all were skipped; the old index is of another
            folder or by another model; or the weights are broken.
    """
    root = Path(folder).expanduser().resolve()
    before: dict[str, Picture] = {}  # by file
    vectors: dict[str, Float[Tensor, " dim"]] = {}  # by digest
    if old is not None:
        old.require_model(model)
        if old.folder != root:
            raise ValueError(f"the index is of the folder {old.folder}, not of {root}")
        before = {picture.file: picture for picture in old.pictures}
        vectors = dict(zip(_digests(old.pictures), old.vectors, strict=True))
    size = model.image_encoder.config.image_size
    found, faults = find_pictures(root), list[str]()
    # Known already: size and time are what they were.
    digests = {p.file: b.digest for p in found if (b := before.get(p.file)) and b[:3] == p[:3]}

    def read(file: str) -> Pixels | None:
        """Note a file's digest, or what is wrong with it; return its picture if that is new."""
        path = root / file
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError(f"cannot read the picture {path}: there is no file")
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            pixels = None if digest in vectors else read_picture(path, size)
        except (OSError, ValueError) as error:
            if not skip_unreadable:
                raise ValueError(f"{error}. Mend or delete it, or set skip_unreadable") from error
            faults.append(str(error))
            return None
        digests[file] = digest
        return pixels

    todo = [picture.file for picture in found if picture.file not in digests]
    starts = range(0, len(todo), BATCH)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(starts, f"indexing {root.name}", leave=False, disable=None):
            batch = todo[start : start + BATCH]
            each = zip(batch, pool.map(read, batch), strict=True)
            vectors |= _encode(model, {digests[file]: new for file, new in each if new is not None})
    if faults:
        named = "; ".join(sorted(faults)[:10])
        said = f"{root}: {len(faults)} of {len(found)} pictures are left out: {named}"
        warnings.warn(said, stacklevel=2)
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
    """List the pictures in a folder and all folders in it, sorted by path, without their digests.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        OSError: If a folder in it cannot be read: its pictures would seem to be gone.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with pictures")

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]  # the walk goes into these
        for name in names:
            if name[0] != "." and name.lower().endswith(ENDINGS):
                path = Path(place, name)
                facts = path.stat() if path.exists() else path.lstat()  # of a broken link
                file = path.relative_to(folder).as_posix()
                found.append(Picture(file, facts.st_size, facts.st_mtime_ns, ""))
    if not found:
        wanted = f"expected files ending in {', '.join(ENDINGS)}"
        raise FileNotFoundError(f"no picture in {folder} or below: {wanted}")
    return sorted(found)


def _digests(pictures: Iterable[Picture]) -> Iterable[str]:
    """Return the digests of some pictures, each once, in the order of an index's vectors."""
    return dict.fromkeys(picture.digest for picture in pictures)


def _encode(model: CMSSF, pictures: Mapping[str, Pixels]) -> dict[str, Float[Tensor, " dim"]]:
    """Return the vectors of some pictures, under the same keys."""
    if not pictures:
        return {}
    images = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2).contiguous()
    return dict(zip(pictures, embed_images(model, images), strict=True))

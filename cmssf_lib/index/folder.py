"""From a folder of pictures to an index; again, and only what is new or changed is encoded."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm.auto import tqdm

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data.picture_files import ENDINGS, read_picture
from cmssf_lib.evaluate import embed_images
from cmssf_lib.index.index import Changes, Index, Picture, fingerprint


def index_folder(
    model: CMSSF,
    folder: str | Path,
    *,
    old: Index | None = None,
    batch_size: int = 256,
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
        batch_size: Pictures that are read and encoded at a time.
        skip_unreadable: Go on without the files that cannot be read; a warning names them.
        model_name: Where the model can be read again; the index remembers it.

    Returns:
        The index, with `changes` since the old one.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If a picture cannot be read, or all were skipped; the old index is of another
            folder or by another model; the batch size is below 1; or the weights are broken.
    """
    root = Path(folder).expanduser().resolve()
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one picture is read at a time")
    if old is not None:
        old.check(model)
        if old.folder != root:
            raise ValueError(f"the index is of the folder {old.folder}, not of {root}")
    found = find_pictures(root)
    before = {} if old is None else {picture.file: picture for picture in old.pictures}
    same = [p for p in found if p.file in before and before[p.file][:3] == p[:3]]
    digests = {picture.file: before[picture.file].digest for picture in same}
    encoder = _Encoder(model, root, old)
    todo = [picture.file for picture in found if picture.file not in digests]
    with tqdm(desc=f"indexing {root.name}", total=len(todo), leave=False, disable=None) as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            digests |= encoder.encode(batch, skip_unreadable)
            bar.update(len(batch))
    if encoder.faults:
        warnings.warn(
            f"{root}: {len(encoder.faults)} of {len(found)} pictures are left out: "
            + "; ".join(list(encoder.faults.values())[:10]),
            stacklevel=2,
        )
    if not digests:
        raise ValueError(f"none of the {len(found)} pictures in {root} can be read")
    pictures = tuple(p._replace(digest=digests[p.file]) for p in found if p.file in digests)
    there = {picture.file for picture in found}
    changes = Changes(
        added=tuple(p.file for p in pictures if p.file not in before),
        changed=tuple(
            p.file for p in pictures if p.file in before and before[p.file].digest != p.digest
        ),
        gone=tuple(file for file in before if file not in there),
        unreadable=tuple(encoder.faults),
        encoded=encoder.encoded,
    )
    order = [encoder.rows[digest] for digest in dict.fromkeys(p.digest for p in pictures)]
    vectors = torch.cat(encoder.parts)[order]
    return Index(vectors, pictures, root, fingerprint(model), model_name, changes)


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
        raise FileNotFoundError(
            f"no picture in {folder} or the folders in it: expected files ending in "
            f"{', '.join(ENDINGS)}"
        )
    return sorted(found)


class _Encoder:
    """Encodes bytes that it has not met before.

    Attributes:
        parts: Vectors; those of the old index first.
        rows: Digest → row of its vector in all parts together.
        faults: File → why it cannot be read.
        encoded: How many pictures were encoded.
    """

    def __init__(self, model: CMSSF, root: Path, old: Index | None) -> None:
        self.model, self.root = model, root
        self.size = model.image_encoder.config.image_size
        self.parts = [] if old is None else [old.vectors]
        digests = () if old is None else dict.fromkeys(p.digest for p in old.pictures)
        self.rows = {digest: row for row, digest in enumerate(digests)}
        self.faults: dict[str, str] = {}
        self.encoded = 0

    def encode(self, files: list[str], skip_unreadable: bool) -> dict[str, str]:
        """Read some files and encode what is new; return file → digest of those that were read."""
        digests: dict[str, str] = {}
        new: dict[str, np.ndarray] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for file, result in zip(files, pool.map(self._read, files), strict=True):
                if isinstance(result, ValueError):
                    if not skip_unreadable:
                        raise ValueError(
                            f"{result}. Mend or delete it, or set skip_unreadable"
                        ) from result
                    self.faults[file] = str(result)
                    continue
                digest, picture = result
                digests[file] = digest
                if picture is not None:
                    new[digest] = picture
        if new:
            images = torch.from_numpy(np.stack(list(new.values()))).permute(0, 3, 1, 2).contiguous()
            self.parts.append(embed_images(self.model, images, len(images)))
            self.rows |= {digest: len(self.rows) + i for i, digest in enumerate(new)}
            self.encoded += len(new)
        return digests

    def _read(self, file: str) -> "tuple[str, UInt8[np.ndarray, 'h w 3'] | None] | ValueError":
        """Return a file's digest and, if it is new, its picture; or what is wrong with it."""
        path = self.root / file
        try:
            if not path.is_file():
                raise ValueError(f"cannot read the picture {path}: there is no file")
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return digest, None if digest in self.rows else read_picture(path, self.size)
        except OSError as error:
            return ValueError(f"cannot read the picture {path}: {error.strerror}")
        except ValueError as error:
            return error

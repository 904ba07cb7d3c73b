"""Build an index from a folder of pictures, and update it by encoding only what changed."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.data import ImageTextData
from cmssf_lib.data.picture_cache import Pixels, in_batches, tell_left_out
from cmssf_lib.data.pictures import PictureFile, find_pictures, read_picture
from cmssf_lib.evaluate import embed_images
from cmssf_lib.files import home, require_writable
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.calibration import calibrate
from cmssf_lib.share.hub import fingerprint
from cmssf_lib.share.index import Changes, Index, Picture

#: Beside an index that is being made: what is encoded so far, in pieces of at most 5 % of the work.
UNFINISHED, PIECES = "index.unfinished-{}.parquet", 20


def index_folder(
    model: CMSSF,
    folder: str | Path,
    *,
    old: Index | None = None,
    to: str | Path | None = None,
    skip_unreadable: bool = False,
    model_name: str = "",
    held_out: ImageTextData | None = None,
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
            If its folder is gone, and this one holds a picture of the same name and size, the
            folder was moved here.
        to: Save the index in this folder. Then a call that is interrupted, killed, or stopped by
            an unreadable picture loses at most 5 % of the work (or 256 pictures): the next call
            goes on.
        skip_unreadable: Leave out files that cannot be read, with a warning that names them.
        model_name: Where the model can be loaded from; the index stores it.
        held_out: Pictures with captions that the model was not trained on. From them `calibrate`
            finds when nothing fits; None: as the old index, if any, has it.

    Returns:
        The index; its `changes` list the differences from the old one.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        OSError: If a subfolder cannot be read, or nothing can be written in ``to``.
        ValueError: If a picture cannot be read, or all were skipped; if the old index is of
            another folder or model; or if the model's vectors are not finite.
    """
    root, place = home(folder).resolve(), None if to is None else home(to)
    if place is not None:
        require_writable(place)
    found, mark = find_pictures(root), fingerprint(model)
    before: dict[str, Picture] = {}  # by file
    vectors: dict[str, Float[Tensor, " dim"]] = {}  # by digest
    digests: dict[str, str] = {}  # by file
    earlier, calibration = [], None
    if old is not None:
        old.require_model(model)
        before = {picture.file: picture for picture in old.pictures}
        moved = not old.folder.is_dir() and any(p[:2] == before.get(p.file, ())[:2] for p in found)
        if old.folder != root and not moved:
            raise ValueError(f"the old index is of the folder {old.folder}, not of {root}")
        earlier.append(old)
        calibration = old.calibration
    for piece in [] if place is None else sorted(place.glob(UNFINISHED.format("*"))):
        with suppress(OSError, ValueError):  # then its pictures are encoded again
            if (done := Index.load(piece.parent, piece.name)).model == mark:
                earlier.append(done)
    for index in earlier:
        vectors |= zip(index.rows, index.vectors, strict=True)
        # Take the digests of files whose name, size and time are unchanged.
        known = {p[:3]: p.digest for p in index.pictures if index.folder == root}
        digests |= {p.file: known[p] for p in found if p in known}
    size, encoded = model.image_encoder.config.image_size, 0

    def read(picture: PictureFile) -> Pixels | None:
        """Store a file's digest; return the picture if it must be encoded."""
        path = root / picture.file
        if not path.is_file():  # opening a pipe would wait forever
            raise ValueError(f"cannot read the picture {path}: not a regular file")
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        pixels = None if digest in vectors else read_picture(path, size)
        digests[picture.file] = digest
        return pixels

    def index_of(files: Iterable[PictureFile]) -> Index:
        """Return an index of those files that could be read."""
        read = sorted(Picture(*p, digests[p.file]) for p in files if p.file in digests)
        digests_read = dict.fromkeys(picture.digest for picture in read)
        rows = torch.stack([vectors[digest] for digest in digests_read])  # (n, dim)
        return Index(rows, tuple(read), root, mark, model_name, calibration)

    def keep() -> None:
        """Write what was encoded since the last piece."""
        if place is not None and fresh:
            index_of(fresh).save(place, UNFINISHED.format(time.time_ns()))
        fresh.clear()

    todo, fresh = [p for p in found if p.file not in digests], list[PictureFile]()
    faults: dict[str, str] = {}  # by file
    try:
        for batch in in_batches(todo, read, faults, skip_unreadable):
            new = {digests[p.file]: pixels for p, pixels in batch.items() if pixels is not None}
            if new:
                vectors |= zip(new, embed_images(model, [*new.values()]), strict=True)
            fresh += batch
            encoded += len(new)
            if PIECES * (len(fresh) + len(batch)) > len(todo):
                keep()
            batch.clear()  # before the next one is read
            new.clear()
    finally:
        keep()
    tell_left_out(root, faults, len(found))
    index = index_of(found)
    if held_out is not None:
        index = replace(index, calibration=calibrate(model, held_out, len(index)))
    pictures = index.pictures
    changes = Changes(
        added=tuple(p.file for p in pictures if p.file not in before),
        changed=tuple(p.file for p in pictures if before.get(p.file, p).digest != p.digest),
        gone=tuple(sorted(before.keys() - {p.file for p in found})),
        encoded=encoded,
    )
    if place is not None:
        index.save(place)
        # Also what a process left that was killed while it wrote a piece.
        for piece in place.glob(f"*{UNFINISHED.format('*')}*"):
            piece.unlink(missing_ok=True)
    return replace(index, changes=changes)

"""The one door for pictures from files and from memory: which are read, and what becomes of them.

Whichever part of the library reads a picture,

- it is turned upright as its EXIF data say; if they cannot be read, it stays as it is stored;
- whatever is transparent shows white;
- deeper pixels are scaled to 8 bits: integers of 12 or 16 bits by the range of their type, floats
  from [0, 1]. Others are refused, because nobody knows which value is white;
- of several frames or pages, the first is read, and colour profiles are not applied;
- to get another size, its central square is cropped and resized (bicubic).
"""

import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

with suppress(ImportError):  # optional: pictures of iPhones
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.init()
# Not read, although Pillow knows them: EPS starts another program (Ghostscript), of WMF Pillow
# draws nothing outside Windows, and the others hold no pictures that it can decode.
NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
FORMATS = tuple(kind for kind in Image.OPEN if kind not in NOT_READ)
ENDINGS = tuple(end for end, kind in Image.registered_extensions().items() if kind in FORMATS)
# Endings of pictures that can be missing in ENDINGS and that `mimetypes` may not know.
RAW = ("dng", "cr2", "cr3", "nef", "arw", "orf", "raf", "rw2")
OTHERS = {f".{kind}" for kind in (*RAW, "heic", "heif", "hif", "avif", "eps", "jxl", "svg", "wmf")}
BITS, MEANING_OF_ZERO = 258, 262  # tags of TIFF

#: A picture in memory; if it is an array, (h, w) or (h, w, 3 or 4).
AnyPicture = Image.Image | np.ndarray


class PictureFile(NamedTuple):
    """A file that should hold a picture."""

    file: str  # path relative to the folder that was searched, with "/" as separator
    size: int  # in bytes
    time: int  # of the last modification, in nanoseconds since 1970


def find_pictures(folder: Path, inside: Iterable[str] = ("",)) -> list[PictureFile]:
    """List the pictures in a folder and all its subfolders, in a fixed order.

    A warning counts the pictures whose format cannot be read here.

    Args:
        folder: Hidden files and folders are skipped, and links to folders are not followed.
        inside: The subfolders to search, links included; by default all of the folder.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        OSError: If a subfolder cannot be read. Skipping it would report its pictures as gone.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")

    def refuse(error: OSError) -> None:
        raise error

    found, left_out = list[PictureFile](), Counter[str]()
    walks = (os.walk(folder / start, onerror=refuse) for start in inside)
    for place, folders, names in chain.from_iterable(walks):
        folders[:] = [name for name in folders if name[0] != "."]  # os.walk enters only these
        within = Path(place).relative_to(folder).as_posix()
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if name[0] == ".":  # such as "._cat.jpg", which macOS writes and which is no picture
                continue
            if ending in ENDINGS:
                path = os.path.join(place, name)
                facts = os.stat(path) if os.path.exists(path) else os.lstat(path)  # a broken link
                file = f"{within}/{name}".removeprefix("./")
                found.append(PictureFile(file, facts.st_size, facts.st_mtime_ns))
            elif ending in OTHERS or (mimetypes.guess_type(name)[0] or "").startswith("image/"):
                left_out[ending] += 1
    if left_out:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(left_out.items()))
        warnings.warn(
            f"{folder}: {left_out.total()} pictures are left out, because Pillow cannot read their "
            f"format here ({kinds}). Convert them to .png or .jpg; for .heic, `pip install "
            "pillow-heif` is enough",
            stacklevel=3,
        )
    if not found:
        raise FileNotFoundError(f"no picture in {folder}: expected .jpg, .png, .webp, .tif, ...")
    return sorted(found, key=lambda picture: picture.file.split("/"))


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Hide Pillow's warnings about files: what cannot be read is an error, the rest is read.

    The filters belong to the whole process, so this goes around threads, not into them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_picture(
    file: str | Path, image_size: int | None, held: bytes | np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one picture to RGB, as the head of this module says.

    Args:
        file: Its path, or what to call it if it is held in memory.
        image_size: Side to which its central square is resized; ``None`` for no resizing.
        held: The content of the file, or the pixels, (h, w) or (h, w, 3 or 4).

    Raises:
        ValueError: If it cannot be read; the message names it.
    """
    try:
        if isinstance(held, np.ndarray):
            return _square(as_rgb(Image.fromarray(held)), image_size)
        if held is None and not os.path.isfile(file):  # opening a pipe would wait forever
            raise ValueError("no such file, or not a regular file")
        with Image.open(file if held is None else BytesIO(held), formats=FORMATS) as picture:
            return _square(as_rgb(picture), image_size)
    except Exception as error:  # decoders of damaged files raise errors of nearly every kind
        why = str(error) or type(error).__name__
        raise ValueError(f"cannot read the picture {file}: {why}") from error


def short_side(file: str | Path) -> int | None:
    """Return the shorter side of a picture in pixels, from its header; ``None`` if it has none."""
    with suppress(Exception), quiet_decoders(), Image.open(file, formats=FORMATS) as picture:
        return min(picture.size)
    return None


def as_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of Pillow to 8 bits of red, green and blue, upright and on white.

    Raises:
        ValueError: If its pixels cannot be converted, or nobody knows which value is white.
        Exception: Of other kinds, if Pillow cannot decode it.
    """
    picture.load()  # first: a PNG may hold its EXIF data behind the pixels, and TIFF turns itself
    facts = picture.info
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    picture.info = dict(facts)
    with suppress(Exception):  # faults in EXIF data do not spoil the pixels
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale grey pixels of more than 8 bits to 8 by their range, and keep their transparency."""
    values, tags = np.asarray(picture), getattr(picture, "tag_v2", {})
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # those two have 16 bits
        raise ValueError("its pixels are integers of an unknown range: save it with 8 or 16 bits")
    white = 1 if picture.mode == "F" else 2 ** tags.get(BITS, (16,))[0] - 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # a NaN fails, too
        raise ValueError(
            f"its pixels run from {low:.4g} to {high:.4g} instead of 0 to {white}: scale them"
        )
    clear = values == picture.info.get("transparency", -1)
    if tags.get(MEANING_OF_ZERO) == 0:  # white; Pillow turns only 8 bits round
        values = white - values
    scaled = np.rint(values.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    grey = Image.fromarray(scaled)
    if clear.any():
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


def _square(picture: Image.Image, side: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Crop the central square and resize it to this side; ``None`` leaves the picture as it is."""
    if side is not None and picture.size != (side, side):
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        square = picture.crop((left, top, left + short, top + short))
        picture = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def as_images(
    pictures: AnyPicture | Sequence[AnyPicture], image_size: int | None = None
) -> UInt8[Tensor, "n 3 h w"]:
    """Turn pictures of Pillow or NumPy arrays into the tensor that all models take.

    Args:
        pictures: One or several, or an array ``(n, h, w, 3)``. Arrays have the channels last.
        image_size: Side to which each picture's central square is resized; ``None`` requires that
            all have the same size already.

    Raises:
        ValueError: If there is none, one cannot be converted, or sizes differ.
    """
    one = not isinstance(pictures, list | tuple) and getattr(pictures, "ndim", 0) != 4
    arrays = []
    with quiet_decoders():
        for i, given in enumerate(cast(Sequence[AnyPicture], [pictures] if one else pictures)):
            try:
                picture = given if isinstance(given, Image.Image) else Image.fromarray(given)
                arrays.append(_square(as_rgb(picture), image_size))
            except Exception as error:  # whatever is no picture at all, or broken
                what = f"expected one of Pillow, or a uint8 array (h, w, 3); {type(given).__name__}"
                raise ValueError(f"picture {i}: {what} failed: {error}") from error
    if len(sizes := {array.shape[:2] for array in arrays}) != 1:
        raise ValueError(
            f"expected pictures, all of one size; got the sizes {sorted(sizes)}: set image_size"
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

"""Pictures of other people: depths, transparency, orientation, formats, damage and folders."""

import io
import os
import pwd
import random
import resource
import stat
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image, ImageOps
from settings import CMSSFConfig, DataConfig, TextConfig, VisionConfig, new_cmssf

from cmssf_lib.data import (
    as_images,
    cifar10,
    find_cifar10,
    image_folder,
    load,
    picture_cache,
    pictures,
    plain_folder,
)
from cmssf_lib.data.pictures import find_pictures, quiet_decoders, read_picture
from cmssf_lib.evaluate import embed_features, embed_images
from cmssf_lib.share import index_folder
from cmssf_lib.views import as_float

HEIF = ".heic" in pictures.ENDINGS


def model():
    return new_cmssf(
        VisionConfig(image_size=12, width=16, depth=1, heads=2),
        TextConfig(width=16, depth=1, heads=2, max_length=8),
        CMSSFConfig(dim=12, hidden=16),
        ["a red seven"],
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(mode: str, size: tuple[int, int] = (7, 5), seed: int = 0) -> Image.Image:
    """A picture with other values in every pixel and channel."""
    random_ = np.random.default_rng(seed)
    values = random_.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode in ("RGBA", "LA", "P"):
        picture = Image.fromarray(values)
        return picture.convert(mode) if mode != "P" else picture.convert("RGB").quantize(16)
    return Image.fromarray(values[..., :3]).convert(mode)


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def read(folder: Path, content: bytes, name: str = "picture", size: int | None = None):
    (folder / name).write_bytes(content)
    return read_picture(folder / name, size)


def on_white(picture: Image.Image) -> np.ndarray:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def tiff(values: np.ndarray, bits: int, zero_is: int = 1, sample: int = 1) -> bytes:
    """A TIFF of one channel; Pillow itself does not write all that it reads."""
    h, w = values.shape
    if bits == 12:
        flat = values.astype(int).ravel()
        pixels = b"".join(
            bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in flat.reshape(-1, 2)
        )
    else:
        pixels = values.tobytes()
    tags = {256: w, 257: h, 258: bits, 259: 1, 262: zero_is, 273: 8 + 2 + 10 * 12 + 4}
    tags |= {277: 1, 278: h, 279: len(pixels), 339: sample}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + pixels


# --- depth ------------------------------------------------------------------------------------


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(deep / 257).astype(np.uint8)
    pgm = b"P5 256 256 65535\n" + deep.astype(">u2").tobytes()
    for content in (
        *(saved(Image.fromarray(deep), kind) for kind in ("PNG", "TIFF")),
        tiff(deep, 16),
        pgm,
    ):
        shown = read(tmp_path, content)
        assert (shown == expected[..., None]).all()
    assert (read(tmp_path, tiff(deep, 16, zero_is=0)) == 255 - expected[..., None]).all()


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path):
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    shown = read(tmp_path, tiff(deep, 12))
    assert (shown == np.rint(deep * (255 / 4095)).astype(np.uint8)[..., None]).all()


def test_a_clear_grey_value_of_sixteen_bits_shows_white(tmp_path):
    deep = np.array([[0, 1000, 1001, 65535]], dtype=np.uint16)
    shown = read(tmp_path, saved(Image.fromarray(deep), "PNG", transparency=1000))
    assert shown[0, :, 0].tolist() == [0, 255, 4, 255]


@pytest.mark.parametrize("zero_is", [0, 1])
def test_floats_from_0_to_1_are_scaled(tmp_path, zero_is):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    shown = read(tmp_path, tiff(values, 32, zero_is, sample=3))
    expected = np.arange(256).reshape(16, 16)
    assert (shown[..., 1] == (expected if zero_is else 255 - expected)).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tiff(np.float32([[0, 255]]), 32, sample=3), "run from 0 to 255 instead of 0 to 1"),
        (tiff(np.float32([[-1, 1]]), 32, sample=3), "run from -1 to 1 instead"),
        (tiff(np.float32([[0, np.nan]]), 32, sample=3), "run from nan to nan instead"),
        (tiff(np.float32([[0, np.inf]]), 32, sample=3), "run from 0 to inf instead"),
        (tiff(np.int32([[0, 70000]]), 32, sample=2), "integers of an unknown range: save it with"),
        (tiff(np.uint32([[0, 2**32 - 1]]), 32), "integers of an unknown range"),
        (tiff(np.int16([[-5, 5]]), 16, sample=2), "integers of an unknown range"),
    ],
)
def test_what_no_range_is_known_of_is_refused(tmp_path, content, why):
    with pytest.raises(ValueError, match=f"picture: .*{why}"):
        read(tmp_path, content)


# --- transparency -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "P", {"transparency": bytes(range(0, 256, 16))}),
        ("PNG", "RGB", {"transparency": noise("RGB").getpixel((1, 1))}),
        ("PNG", "L", {"transparency": noise("L").getpixel((1, 1))}),
        ("PNG", "1", {"transparency": 0}),
        ("GIF", "P", {"transparency": 3}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "LA", {}),
        ("BMP", "RGBA", {}),
    ],
)
def test_what_is_transparent_shows_white(tmp_path, kind, mode, options):
    content = saved(noise(mode), kind, **options)
    expected = on_white(Image.open(io.BytesIO(content)))
    assert (read(tmp_path, content) == expected).all()
    assert (
        as_images(Image.open(io.BytesIO(content)))[0].permute(1, 2, 0).numpy() == expected
    ).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr"])
def test_opaque_pictures_are_as_pillow_converts_them(tmp_path, mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    content = saved(noise(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert (read(tmp_path, content) == expected).all()
    opaque = noise("RGB").copy()
    opaque.putalpha(255)
    assert (read(tmp_path, saved(opaque, "PNG")) == np.asarray(noise("RGB"))).all()


# --- orientation ------------------------------------------------------------------------------


def exif_block(orientation: int, **more) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x9003] = "a maker", "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


KINDS = {  # of files with EXIF data
    "PNG": {},
    "JPEG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, kind, orientation):
    content = saved(noise("RGB"), kind, exif=exif_block(orientation), **KINDS[kind])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert (read(tmp_path, content) == expected).all()
    assert expected.shape == ((5, 7, 3) if orientation < 5 else (7, 5, 3))
    opened = Image.open(io.BytesIO(content))
    assert (as_images(opened)[0].permute(1, 2, 0).numpy() == expected).all()
    assert (as_images(opened)[0].permute(1, 2, 0).numpy() == expected).all()  # not turned twice


def test_a_portrait_with_a_resolution_as_text_stands_upright(tmp_path):
    """Pillow turns it, then fails to write its EXIF data anew."""
    good = exif_block(6)
    good[0x011A] = 72.0
    block = bytearray(good.tobytes())
    at = (
        block.index(struct.pack(">HH", 0x011A, 5))
        if b"MM" in block[:9]
        else block.index(struct.pack("<HH", 0x011A, 5))
    )
    block[at + 2 : at + 4] = struct.pack(">H" if b"MM" in block[:9] else "<H", 2)  # text
    content = saved(noise("RGB"), "JPEG", exif=bytes(block))
    stored = Image.open(io.BytesIO(content))
    with pytest.raises(TypeError):
        ImageOps.exif_transpose(stored)
    expected = np.asarray(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    assert (read(tmp_path, content) == expected).all()


# --- damage -----------------------------------------------------------------------------------


def pillows_own(content: bytes) -> np.ndarray | None:
    """What Pillow makes of a file by its own functions; ``None`` if it cannot read it."""
    try:
        picture = Image.open(io.BytesIO(content), formats=pictures.FORMATS)
        picture.load()
    except Exception:
        return None
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:
        try:
            turned = picture.getexif().get(0x0112, 1) == 6
        except Exception:
            turned = False
        picture = picture.transpose(Image.Transpose.ROTATE_270) if turned else picture
    try:
        if picture.mode == "I;16":
            deep = np.asarray(picture)
            grey = Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGBA")
            alpha = np.where(deep == picture.info.get("transparency", -1), 0, 255)
            grey.putalpha(Image.fromarray(alpha.astype(np.uint8)))
            return on_white(grey)
        if picture.has_transparency_data:
            return on_white(picture)
        return np.asarray(picture.convert("RGB"))
    except Exception:
        return None


def wholes() -> dict[str, bytes]:
    """Pictures of every kind that the fuzzer damages, all portraits where they can say so."""
    deep = Image.fromarray(np.arange(0, 65000, 1300, dtype=np.uint16).reshape(5, 10))
    exif, out = exif_block(6), {}
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        out[f"PNG {mode}"] = saved(noise(mode, (17, 23)), "PNG", exif=exif)
    out["PNG 16"] = saved(deep, "PNG", transparency=1300)
    for mode in ("RGB", "L", "CMYK"):
        out[f"JPEG {mode}"] = saved(noise(mode, (17, 23)), "JPEG", exif=exif)
    out["JPEG progressive"] = saved(noise("RGB", (17, 23)), "JPEG", progressive=True)
    out["GIF"] = saved(noise("P", (17, 23)), "GIF", transparency=3)
    frames = [noise("P", (17, 23), seed=1)]
    out["GIF moving"] = saved(noise("P", (17, 23)), "GIF", save_all=True, append_images=frames)
    out["WEBP"] = saved(noise("RGB", (17, 23)), "WEBP", exif=exif)
    out["WEBP RGBA"] = saved(noise("RGBA", (17, 23)), "WEBP", lossless=True, exif=exif)
    for how in ("raw", "tiff_lzw", "packbits"):
        out[f"TIFF {how}"] = saved(noise("RGB", (17, 23)), "TIFF", compression=how, exif=exif)
    out["TIFF RGBA"] = saved(noise("RGBA", (17, 23)), "TIFF")
    out["TIFF 16"] = saved(deep, "TIFF")
    for mode in ("RGB", "L", "P", "RGBA"):
        out[f"BMP {mode}"] = saved(noise(mode, (17, 23)), "BMP")
    return out


def damaged(content: bytes, chance: random.Random) -> bytes:
    out, how = bytearray(content), chance.randrange(4)
    if how == 0:
        return content[: chance.randrange(len(content))]
    if how == 1:
        at = chance.randrange(len(out))
        del out[at : at + chance.randint(1, 20)]
    end = len(out) if how == 2 else min(len(out), 120)  # headers are short and matter most
    for _ in range(chance.randint(1, 8)):
        out[chance.randrange(end)] = chance.randrange(256)
    return mended(bytes(out)) if chance.random() < 0.7 else bytes(out)


def mended(content: bytes) -> bytes:
    """Write right check sums into a PNG, or else all its damages would be noticed as the same."""
    out, at = bytearray(content), 8
    while content[:8] == b"\x89PNG\r\n\x1a\n" and at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
        if at > len(content):
            return bytes(out[: len(content)])
    return bytes(out)


def test_damaged_pictures_are_read_as_pillow_does_or_named(tmp_path, monkeypatch, capfd):
    """2,500 of them: never another error, never a warning."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    chance, sorts, outcomes = random.Random(0), list(wholes().items()), Counter()
    file = tmp_path / "damaged"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(2500):
            name, whole = sorts[i % len(sorts)]
            content = damaged(whole, chance)
            file.write_bytes(content)
            with quiet_decoders():
                shown, why = read_or_reason(file)
                expected = pillows_own(content)
            outcomes[name.split()[0], shown is not None] += 1
            if shown is None:
                assert why.startswith(f"cannot read the picture {file}: "), (i, name)
                # Beyond what Pillow refuses, only what has no known range.
                assert expected is None or "its pixels" in why, (i, name)
            else:
                assert np.array_equal(shown, expected), (i, name)
    assert said == []
    assert len(outcomes) == 12, outcomes  # of each format, some can be read and some cannot
    assert min(outcomes.values()) > 15, outcomes


def read_or_reason(file: Path) -> tuple[np.ndarray | None, str]:
    try:
        return read_picture(file, None), ""
    except ValueError as error:
        return None, str(error)


def test_damaged_exif_data_never_spoil_a_picture(tmp_path):
    """1,200 blocks: the picture stands as Pillow says, or as it is stored where Pillow fails."""
    chance, file, turned = random.Random(1), tmp_path / "damaged", Counter()
    block = exif_block(6)
    block[0x011A], block[0x011B] = 72.0, 72.0
    whole = block.tobytes()
    picture = noise("RGB", (8, 6))
    stored = np.asarray(picture)
    for i in range(1200):
        kind = ("PNG", "WEBP", "JPEG")[i % 3]
        damage = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            damage[chance.randrange(6, len(damage))] = chance.randrange(256)
        if chance.random() < 0.2:
            del damage[chance.randrange(6, len(damage)) :]
        options = {"JPEG": {"quality": 95}}.get(kind, KINDS[kind])
        content = saved(picture, kind, exif=bytes(damage), **options)
        file.write_bytes(content)
        with quiet_decoders():
            shown, expected = read_picture(file, None), pillows_own(content)
        assert np.array_equal(shown, expected), i
        turned[shown.shape == stored.shape] += 1
    assert min(turned.values()) > 200


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0"])
)
def test_any_bytes_are_a_picture_or_named(tmp_path_factory, content, start):
    file = tmp_path_factory.getbasetemp() / "any bytes"
    file.write_bytes(start + content)
    with quiet_decoders(), pytest.raises(ValueError, match=r"picture .*any bytes: "):
        read_picture(file, 4)


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    chunks = b"IHDR" + header, b"IDAT" + zlib.compress(bytes(2_000_000)), b"IEND"
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="decompression bomb"):
        read(tmp_path, png)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png: .*not a regular file"):
        read_picture(tmp_path / "pipe.png", None)


# --- formats ----------------------------------------------------------------------------------


def test_every_format_of_pillow_is_found(tmp_path):
    for ending in (".jfif", ".jpe", ".tif", ".TIFF", ".avif", ".jp2", ".apng", ".tga", ".ppm"):
        kind = Image.registered_extensions()[ending.lower()]
        (tmp_path / f"x{ending}").write_bytes(saved(noise("RGB"), kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_pictures(tmp_path)
    assert len(found) == 9
    for file in found:
        assert read_picture(tmp_path / file.file, None).shape == (5, 7, 3)
    assert not {".eps", ".ps", ".h5", ".mpg", ".wmf"} & {*pictures.ENDINGS}


def test_postscript_is_not_run_under_another_name(tmp_path):
    with pytest.raises(ValueError, match="cannot identify"):
        read(tmp_path, saved(noise("RGB"), "EPS"), "x.png")


@pytest.mark.skipif(HEIF, reason="pillow-heif reads .heic")
def test_pictures_of_other_formats_are_counted_once(tmp_path):
    for name in ("a.jpg", "b.heic", "deep/c.HEIC", "deep/d.cr2", "e.svg", ".f.heic", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved(noise("RGB"), "JPEG"))
    with pytest.warns(UserWarning, match="left out") as said:
        found = find_pictures(tmp_path)
    assert [file.file for file in found] == ["a.jpg"]
    (only,) = said
    assert f"{tmp_path}: 4 pictures are left out, because Pillow cannot" in str(only.message)
    assert "(1 .cr2, 2 .heic, 1 .svg). Convert them" in str(only.message)
    assert "`pip install pillow-heif` is enough" in str(only.message)


@pytest.mark.skipif(not HEIF, reason="needs pillow-heif")
def test_heic_is_read_with_the_extra(tmp_path):
    content = saved(Image.new("RGB", (64, 48), (200, 90, 30)), "HEIF", exif=exif_block(6))
    (tmp_path / "a.heic").write_bytes(content)
    assert [file.file for file in find_pictures(tmp_path)] == ["a.heic"]
    shown = read_picture(tmp_path / "a.heic", None).astype(int)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert (shown == np.asarray(upright)).all()
    assert np.abs(shown - (200, 90, 30)).max() < 8


# --- folders with classes ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for seed, name in enumerate(("train/cat", "train/ox", "test/cat", "test/ox")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(2):
            noise("RGB", (6, 6), seed=2 * seed + i).save(tmp_path / "own" / name / f"{i}.png")
    return tmp_path / "own"


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_pictures_is_named(folder, split):
    for part in ("train", "test"):
        (folder / part / "dog").mkdir()
        if part != split:
            noise("RGB", (6, 6)).save(folder / part / "dog" / "0.png")
    (folder / split / "dog" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=rf"{split}: .* without a picture .*\['dog'\]\. Fill"):
        image_folder(folder)


def test_a_class_of_which_nothing_can_be_read_is_named(folder):
    for file in (folder / "test" / "ox").iterdir():
        file.write_text("junk")
    with (
        pytest.warns(UserWarning, match="2 of 4 pictures are left out"),
        pytest.raises(ValueError, match=r"test: .* without a picture .*\['ox'\]"),
    ):
        image_folder(folder, skip_unreadable=True)


def test_subfolders_of_a_class_belong_to_it(folder):
    noise("RGB", (6, 6), seed=50).save(folder / "train" / "cat" / "z.png")
    (folder / "train" / "cat" / "more").mkdir()
    noise("RGB", (6, 6), seed=51).save(folder / "train" / "cat" / "more" / "0.png")
    train, _ = image_folder(folder)
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    (folder / "elsewhere").mkdir()
    (folder / "train" / "ox").rename(folder / "elsewhere" / "ox")
    (folder / "train" / "ox").symlink_to(folder / "elsewhere" / "ox")
    assert image_folder(folder).train.fingerprint == train.fingerprint


def test_pictures_outside_of_the_classes_are_told(folder):
    noise("RGB", (6, 6)).save(folder / "train" / "lone.png")
    with pytest.warns(UserWarning, match=r"1 pictures are left out, .*no class folder \(lone\.png"):
        assert len(image_folder(folder).train) == 4


DOORS = {
    "image_folder": lambda root, **more: image_folder(root, **more),
    "load": lambda root, **more: load(
        DataConfig(name="image_folder", path=str(root), image_size=6, **more)
    ),
    "plain_folder": lambda root, **more: plain_folder(root, test=2, **more),
    "index": lambda root, **more: index_folder(model(), root, **more),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("fault", ["junk", "cut", "link", "unknown range", "pipe"])
def test_unreadable_pictures_are_named_or_left_out_at_every_door(folder, door, fault):
    bad = folder / "train" / "ox" / "0.tif"
    if fault == "link":
        bad.symlink_to("nowhere")
    elif fault == "pipe":
        os.mkfifo(bad)
    else:
        whole = saved(noise("RGB", (60, 60)), "PNG")
        whats = {"junk": b"junk", "cut": whole[:500], "unknown range": tiff(np.int32([[1]]), 32)}
        bad.write_bytes(whats[fault])
    with pytest.raises(ValueError, match=rf"cannot read the picture {bad}: .*set skip_unreadable"):
        DOORS[door](folder)
    for _ in ("read", "from the cache"):
        with pytest.warns(UserWarning, match=rf"1 of \d pictures are left out: .*{bad}"):
            DOORS[door](folder, skip_unreadable=True)
    with pytest.raises(ValueError, match="cannot read the picture"):  # a cache does not hide it
        DOORS[door](folder)
    bad.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DOORS[door](folder)


def test_skipping_is_refused_where_nothing_could_be_skipped():
    with pytest.raises(ValueError, match="skip_unreadable needs a folder of pictures"):
        load(DataConfig(skip_unreadable=True))


def test_captions_follow_the_pictures_that_are_left(folder):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "ox") for i in range(2)]
    table = "file_name,text\n" + "".join(f"{name},about {name}\n" for name in names)
    (folder / "captions.csv").write_text(table)
    (folder / "train" / "cat" / "1.png").write_text("junk")
    with pytest.warns(UserWarning, match="1 of 4"):
        train, _ = image_folder(folder, captions="captions.csv", skip_unreadable=True)
    assert train.captions == (
        "about train/cat/0.png",
        "about train/ox/0.png",
        "about train/ox/1.png",
    )


@pytest.mark.parametrize(("sides", "proposed"), [((70, 90), 64), ((12, 9), 9), ((400, 300), 224)])
def test_different_sizes_make_a_proposal(tmp_path, sides, proposed):
    for side in sides:
        noise("RGB", (side, side)).save(tmp_path / f"{side}.png")
    with pytest.raises(ValueError, match=rf"set image_size, for instance image_size={proposed}$"):
        plain_folder(tmp_path, test=1)
    assert plain_folder(tmp_path, test=1, image_size=proposed).train.images.shape[2] == proposed


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_without_pixels_is_refused(folder, size):
    with pytest.raises(ValueError, match=f"image_size must be positive; got {size}"):
        image_folder(folder, image_size=size)


# --- folders without classes ------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    for i in range(30):
        place = tmp_path / "photos" / ("", "2023", "2023/may")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        noise("RGB", (9, 8), seed=i).save(place / f"{i:02}.png")
    return tmp_path / "photos"


def kinds(data) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images}


def test_a_plain_folder_is_read_without_labels(photos):
    train, test = plain_folder(photos, image_size=8)
    assert (len(train), len(test)) == (27, 3)
    assert train.images.shape[1:] == (3, 8, 8)
    assert train.class_names == test.class_names == ("picture",)
    assert train.labels.unique().tolist() == test.labels.unique().tolist() == [0]
    assert train.unique_captions == ("a photo of a picture",)
    assert (train.name, test.name) == ("photos train", "photos test")
    assert kinds(train).isdisjoint(kinds(test))
    assert len(kinds(train) | kinds(test)) == 30
    assert [d.fingerprint for d in plain_folder(photos, image_size=8)] == [
        d.fingerprint for d in (train, test)
    ]
    assert len(plain_folder(photos, test=11).test) == 11
    assert len(plain_folder(photos, test=0.5).test) == 15
    assert len(plain_folder(photos, test=0.001).test) == 1


def test_copies_are_never_on_both_sides(photos):
    before = plain_folder(photos, test=10)
    for i in range(30):
        noise("RGB", (9, 8), seed=i).save(photos / f"copy of {i}.bmp")
    train, test = plain_folder(photos, test=10)
    assert len(train) + len(test) == 60
    assert kinds(train).isdisjoint(kinds(test))
    assert kinds(test) <= kinds(before.test)


def test_later_photos_move_few_of_the_old_ones(photos):
    before = kinds(plain_folder(photos).train)
    noise("RGB", (9, 8), seed=99).save(photos / "later.png")
    assert len(before - kinds(plain_folder(photos).train)) <= 1


@pytest.mark.parametrize("test", [0, -1, 30, 1.0, 0.0, float("nan"), 1.5])
def test_a_part_must_be_left_on_both_sides(photos, test, monkeypatch):
    monkeypatch.setattr(picture_cache, "read_picture", None)  # said before any picture is read
    with pytest.raises(ValueError, match=rf"cannot hold out test={test} of 30 pictures"):
        plain_folder(photos, test=test)


def test_pictures_that_are_all_the_same_cannot_be_split(tmp_path):
    for i in range(3):
        noise("RGB").save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="only 1 pictures differ"):
        plain_folder(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=r"no picture in .*: expected \.jpg"):
        plain_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        plain_folder(tmp_path / "nowhere")


# --- the cache --------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch):
    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CMSSF_CACHE")
    monkeypatch.delenv("CMSSF_DATA", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_pictures_are_read_without_a_cache(folder):
    with pytest.warns(UserWarning, match="cannot be kept, .*home.*Set CMSSF_CACHE"):
        assert len(image_folder(folder).train) == 4
    assert find_cifar10() is None
    with pytest.raises(FileNotFoundError, match="set CMSSF_CACHE"):
        cifar10()


@pytest.mark.parametrize("what", ["forbidden", "foreign", "folder"])
def test_a_cache_that_cannot_be_read_is_no_loss(folder, own_cache, what, monkeypatch):
    expected = [data.fingerprint for data in image_folder(folder)]
    files = sorted(own_cache.glob("*.safetensors"))
    for file in files:
        if what == "folder":
            file.unlink()
            file.mkdir()
        elif what == "foreign":
            facts = {"format": picture_cache.CACHE_FORMAT}
            picture_cache.to_cache(file.name, {"x": torch.zeros(1)}, facts)
        else:

            def forbid(path, *_):
                raise PermissionError(13, "Permission denied", str(path))

            monkeypatch.setattr(picture_cache, "read_tensors", forbid)
            monkeypatch.setattr(picture_cache, "write_tensors", forbid)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [data.fingerprint for data in image_folder(folder)] == expected
    assert len(said) == (0 if what == "foreign" else 2)
    assert all("cannot be kept" in str(warning.message) for warning in said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_on_a_read_only_place_is_no_loss(folder, own_cache):
    own_cache.mkdir()
    own_cache.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert len(image_folder(folder).train) == 4


# --- in memory --------------------------------------------------------------------------------


def test_pictures_are_taken_in_every_form(tmp_path):
    picture = noise("RGB", (6, 6))
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    expected = torch.from_numpy(array.copy()).permute(2, 0, 1)[None]
    for given_ in (picture, [picture], array, [array], array[None], Image.open(tmp_path / "a.png")):
        assert torch.equal(as_images(given_), expected)
    wide = Image.new("RGB", (12, 6), (255, 0, 0))
    wide.paste(picture, (3, 0))
    assert torch.equal(as_images([wide, picture], image_size=6), expected.repeat(2, 1, 1, 1))
    grey = as_images(array[..., 0])
    assert torch.equal(grey, expected[:, :1].expand(1, 3, 6, 6))


@pytest.mark.parametrize(
    "given_",
    [[], None, 3, [None], np.zeros((2, 3, 5, 5)), np.zeros((3, 5, 5), np.uint8), ["a.png"]],
)
@pytest.mark.usefixtures("as_shipped")
def test_what_is_no_picture_is_refused_in_one_sentence(given_):
    with pytest.raises(ValueError, match=r"expected (pictures|one of Pillow)"):
        as_images(given_)


def test_models_embed_pictures_in_every_form():
    method, side = model(), 12
    several = [noise("RGBA", (side + i, side), seed=i) for i in range(3)]
    expected = embed_images(method, as_images(several, side))
    torch.testing.assert_close(embed_images(method, several), expected)
    torch.testing.assert_close(embed_images(method, several[0]), expected[:1])
    arrays = np.stack([np.asarray(picture.resize((9, 9)))[..., :3] for picture in several])
    assert embed_features(method, arrays).shape == (3, method.image_encoder.width)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("given_", [noise("RGB"), [noise("RGB")], np.zeros((1, 3, 8, 8))])
def test_tensors_are_asked_for_where_only_tensors_are_taken(given_):
    for door in (as_float, model().encode_image):
        with pytest.raises(TypeError, match=r"expected a tensor; got .*data\.as_images"):
            door(given_)

"""Each kind of data is the same as ever, whatever torch's default dtype is.

The fingerprints were written down with the library that made the recorded runs. Whoever changes
one breaks every recorded run of that data: `cmssf evaluate` and `cmssf reproduce` compare them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from settings import DataConfig

from cmssf_lib.data import (
    ImageTextData,
    batches,
    image_folder,
    load,
    mispaired,
    noisy_pixels,
    noisy_sounds,
    step_seed,
    tones,
)

SMALL = DataConfig(train=12, test=6, seed=3)
FINGERPRINTS = {
    "plain": ({"flavour": "plain"}, "97e9883d6049e126", "afae47f763e3c8a2"),
    "tinted": ({"flavour": "tinted"}, "61e7e11b57a6bb7c", "0a64153140acb9a6"),
    "colour": ({}, "c473b8507f22c804", "76a3e9536f8f34f4"),
    "larger": ({"image_size": 20}, "2ba1ac985a0b70ff", "883a01fbd02fbc53"),
    "two": ({"flavour": "two"}, "d69f7a0ed8e9afe2", "fac44c9e229478e8"),
    "class": ({"text": "class"}, "6b05c98455a8789c", "9d28228c5d9c3396"),
    "clue": ({"text": "clue"}, "b506cab1dce27430", "8a0f49386748ba31"),
    "plain clue": ({"flavour": "plain", "text": "clue"}, "679d9a6e16a779ba", "69e46bf5dabd072b"),
    "noise": ({"pixel_noise": 0.2}, "2dc663f9f0280e45", "6a5ebc21d2b90aaa"),
    "two noise": ({"flavour": "two", "pixel_noise": 0.2}, "ef398990808c3502", "a4bc2e9ec921a1bc"),
}
# Sines differ in their last digit between machines, so sounds are compared by a sum of each.
SUMS = {
    "same": [6.757, 17.33, -15.292, -5.364, -13.12, -2.502, -1.608, 5.958, 1.977, 0.606],
    "any": [0.904, 17.33, -15.292, -4.869, -8.535, -2.502, -1.608, 11.177, 1.977, -3.863],
}


@pytest.fixture(autouse=True, params=[torch.float32, torch.float64], ids=["float32", "float64"])
def default_dtype(request) -> Iterator[None]:
    """Also what a reader sets who calculates in double precision."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def sums(data: ImageTextData) -> list[float]:
    assert data.sounds.dtype == torch.float32
    return (data.sounds[:10].double() @ torch.cos(torch.arange(800).double())).tolist()


@pytest.mark.parametrize("kind", FINGERPRINTS)
def test_pictures_labels_and_captions_are_the_recorded_ones(kind):
    fields, *expected = FINGERPRINTS[kind]
    splits = load(replace(SMALL, **fields))
    assert [data.fingerprint for data in splits] == expected
    for data in splits:
        kinds = {value.dtype for value in data.attributes.values()}
        assert kinds <= ({torch.int64, torch.float32} if kind == "tinted" else {torch.int64})


def test_sounds_are_the_recorded_ones():
    for kind, expected in SUMS.items():
        data = load(replace(SMALL, sound=kind)).train
        assert sums(data) == pytest.approx(expected, abs=2e-3)
        if kind == "same":
            assert replace(data, sounds=None).fingerprint == FINGERPRINTS["colour"][1]
    heard = tones(torch.tensor([0, 7]), seed=5, noise=0.0)[:, ::160]
    assert heard.dtype == torch.float32
    expected = [-0.0818, -0.8165, -0.1089, 0.9713, 0.3385, -0.7271, -0.1623, 0.413, 0.4713, 0.0816]
    assert heard.flatten().tolist() == pytest.approx(expected, abs=2e-3)


def test_changes_are_the_recorded_ones():
    data = load(replace(SMALL, sound="same")).train
    silent = replace(data, sounds=None)
    assert mispaired(silent, "text", 0.5, 4).fingerprint == "ade5f1696e06ba96"
    assert mispaired(silent, "text", 1 / 12, 4).fingerprint == "1b90015cc43e5556"
    assert noisy_pixels(silent, 0.2, 4).fingerprint == "6608de2400ab45fc"
    swapped = mispaired(data, "sound", 0.5, 4)
    source = (swapped.sounds[:, None] == data.sounds[None]).all(dim=2).int().argmax(dim=1)
    assert source.tolist() == [0, 5, 10, 2, 1, 3, 6, 7, 8, 9, 4, 11]
    noisy = noisy_sounds(data, 0.5, 4).sounds
    assert noisy.dtype == torch.float32
    assert noisy[0, :3].tolist() == pytest.approx([-0.6947, 0.321, -0.2351], abs=2e-3)


def test_batches_and_held_out_parts_are_the_recorded_ones():
    data = load(replace(SMALL, sound="same")).train
    shown = list(batches(data, 5, seed=2, epoch=1))
    assert [b.index.tolist() for b in shown] == [[11, 9, 5, 10, 2], [3, 7, 1, 6, 4]]
    assert {b.images.dtype for b in shown} == {torch.uint8}
    assert {b.sounds.dtype for b in shown} == {torch.float32}
    assert step_seed(1, 2, 3) == 4987016031672207636
    rest, held_out = data.hold_out(4, seed=1)
    which = [571, 1244, 255, 513, 1119, 1721, 1133, 1683], [1232, 690, 486, 1787]
    assert [part.attributes["digit_id"].tolist() for part in (rest, held_out)] == [*which]


def test_pictures_in_a_folder_are_cropped_and_resized_as_ever(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    for split, name, i in itertools.product(("train", "test"), ("cat", "ox"), range(2)):
        path = tmp_path / "pics" / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(len(split) * 10 + len(name) * 2 + i)
        shape = (11 + 3 * i, 14 - i, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
    for size, expected in {
        5: ["01dbc34efbe363ee", "608279c0037220bd"],
        8: ["7122b7cd92e16040", "21f32ec01df27549"],
    }.items():
        for _ in ("decoded", "from the cache"):
            splits = image_folder(tmp_path / "pics", image_size=size)
            assert [data.fingerprint for data in splits] == expected

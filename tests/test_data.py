"""Data: what is refused, what is drawn, in which order it is handed out, and how it is cached."""

import colorsys
import itertools
import math
import re
import shutil
import time
import urllib.error
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from settings import DataConfig
from sklearn.datasets import load_digits
from three_pictures import GOOD

from cmssf_lib import files
from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS, SIZES, class_caption, scene_caption
from cmssf_lib.data import (
    CIFAR10_CLUES,
    DIGIT_CLUES,
    ImageTextData,
    batches,
    cifar10,
    digit_questions,
    digit_scenes,
    image_folder,
    load,
    picture_files,
    pictures,
    tones,
    with_tones,
)
from cmssf_lib.data.changes import MATCHES
from cmssf_lib.data.scenes import (
    DTMF_HERTZ,
    SAMPLE_RATE,
    SOUND_SECONDS,
    TONE_SECONDS,
    digit_split,
    place,
)
from cmssf_lib.evaluate import nearest_pixels
from cmssf_lib.machine import step_seed

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def some_data(n: int = 10, classes: int = 3, captions: int = 4) -> ImageTextData:
    """Pictures whose pixels say which one they are."""
    number = torch.arange(n)
    return ImageTextData(
        images=number.to(torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous(),
        labels=number % classes,
        captions=tuple(f"caption {i % captions}" for i in range(n)),
        class_names=tuple(f"class {c}" for c in range(classes)),
        attributes={"number": number},
    )


# --- ImageTextData ----------------------------------------------------------------------------


def test_good_data_is_taken():
    data = ImageTextData(**GOOD)
    assert len(data) == 3
    assert data.unique_captions == ("a", "b")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": torch.zeros(3, 3, 4, 4)}, r"got torch.float32 of shape \(3, 3, 4, 4\)"),
        ({"images": torch.zeros(3, 4, 4, 3, dtype=torch.uint8)}, "put the channels first"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8)}, r"of shape \(3, 4, 4\)"),
        ({"images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, r"of shape \(3, 1, 4, 4\)"),
        ({"labels": torch.tensor([0, 1])}, r"int64 of shape \(3,\), one for each image"),
        ({"labels": torch.tensor([[0], [1], [1]])}, r"of shape \(3, 1\)"),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "got torch.float32"),
        ({"labels": torch.tensor([0, 1, 2])}, r"run from 0 to 2, but 2 classes need 0 to 1"),
        ({"labels": torch.tensor([-1, 1, 1])}, "run from -1 to 1"),
        ({"captions": ("a", "b")}, "3 images but 2 captions"),
        ({"captions": ("a", " ", "b")}, "caption 1 is empty"),
        (
            {"attributes": {"size": torch.tensor([0, 1])}},
            r"attributes\['size'\]: expected .* of shape \(3,\)",
        ),
        (
            {
                "images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8),
                "labels": torch.zeros(0, dtype=torch.int64),
                "captions": (),
            },
            "the data is empty",
        ),
    ],
)
def test_bad_data_is_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=f"^three pictures: .*{message}"):
        ImageTextData(**{**GOOD, **bad})


def test_unique_captions_stand_in_the_order_of_their_first_appearance():
    data = ImageTextData(**{**GOOD, "captions": ("b", "a", "b")})
    assert data.unique_captions == ("b", "a")
    assert data.caption_index.tolist() == [0, 1, 0]


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=20))
def test_the_caption_index_finds_every_caption(captions):
    n = len(captions)
    data = ImageTextData(
        torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.zeros(n).long(), tuple(captions), ("x",)
    )
    assert [data.unique_captions[i] for i in data.caption_index.tolist()] == captions
    assert len(set(data.unique_captions)) == len(data.unique_captions)


def test_the_fingerprint_is_that_of_the_content():
    data = some_data()
    assert re.fullmatch("[0-9a-f]{16}", data.fingerprint)
    assert some_data().fingerprint == data.fingerprint
    assert data.subset(range(len(data))).fingerprint == data.fingerprint
    # Memory laid out another way is the same pictures.
    images = data.images.contiguous(memory_format=torch.channels_last)
    twin = ImageTextData(images, data.labels, data.captions, data.class_names)
    assert twin.fingerprint == data.fingerprint


@pytest.mark.parametrize("changed", ["pixel", "label", "caption", "class", "order"])
def test_the_fingerprint_changes_with_the_smallest_change(changed):
    data = some_data()
    images, labels = data.images.clone(), data.labels.clone()
    captions, class_names = list(data.captions), list(data.class_names)
    if changed == "pixel":
        images[7, 2, 1, 0] += 1
    elif changed == "label":
        labels[4] = (labels[4] + 1) % 3
    elif changed == "caption":
        captions[9] += "."
    elif changed == "class":
        class_names[1] += "."
    else:
        images = images.flip(0)
    other = ImageTextData(images, labels, tuple(captions), tuple(class_names))
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize("between", ["", "\n", ",", "', '", "\0"])
def test_the_fingerprint_does_not_mistake_one_text_for_two(between):
    first = {**GOOD, "captions": (f"a{between}b", "c", "d")}
    second = {**GOOD, "captions": ("a", f"b{between}c", "d")}
    assert ImageTextData(**first).fingerprint != ImageTextData(**second).fingerprint


def test_a_subset_keeps_everything_together():
    data = some_data()
    part = data.subset([7, 0, 7])
    assert part.images[:, 0, 0, 0].tolist() == [7, 0, 7]
    assert part.labels.tolist() == [7 % 3, 0, 7 % 3]
    assert part.captions == ("caption 3", "caption 0", "caption 3")
    assert part.attributes["number"].tolist() == [7, 0, 7]
    assert part.unique_captions == ("caption 3", "caption 0")  # not those of the whole


def test_a_mask_chooses_where_it_is_true():
    data = some_data()
    part = data.subset(data.labels == 2)
    assert part.images[:, 0, 0, 0].tolist() == [2, 5, 8]
    assert part.labels.tolist() == [2, 2, 2]


@pytest.mark.parametrize("nothing", [[], torch.zeros(10, dtype=torch.bool)])
def test_a_subset_of_nothing_is_refused(nothing):
    with pytest.raises(ValueError, match="empty"):
        some_data().subset(nothing)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="does not fit 10 pictures"):
        some_data().subset(torch.ones(9, dtype=torch.bool))


@given(count=st.integers(1, 19), seed=st.integers(0, 99))
def test_the_held_out_part_and_the_rest_make_the_whole(count, seed):
    data = some_data(20)
    rest, held_out = data.hold_out(count, seed)
    assert len(held_out) == count
    numbers = rest.attributes["number"].tolist() + held_out.attributes["number"].tolist()
    assert sorted(numbers) == list(range(20))  # complete, and nothing twice
    again, held_out_again = data.hold_out(count, seed)
    assert again.fingerprint == rest.fingerprint
    assert held_out_again.fingerprint == held_out.fingerprint


def test_another_seed_holds_out_another_part():
    data = some_data(20)
    parts = {data.hold_out(5, seed)[1].fingerprint for seed in range(5)}
    assert len(parts) == 5


@pytest.mark.parametrize("count", [0, -1, 10, 11])
def test_nothing_or_everything_held_out_is_refused(count):
    with pytest.raises(ValueError, match=f"cannot hold out {count} of 10"):
        some_data().hold_out(count, 0)


def test_data_moved_to_a_device_is_the_same_data():
    data = some_data()
    moved = data.to("cpu")
    assert moved.fingerprint == data.fingerprint
    assert torch.equal(moved.attributes["number"], data.attributes["number"])


# --- sounds of the data -----------------------------------------------------------------------


def with_some_sounds(data: ImageTextData) -> ImageTextData:
    """Give each picture a record of three samples that says which one it is."""
    return replace(data, sounds=torch.arange(3 * len(data)).float().view(-1, 3))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("sounds", "message"),
    [
        (torch.zeros(2, 5), r"float32 of shape \(3, samples\), .*float32 of shape \(2, 5\)"),
        (torch.zeros(3), r"got torch.float32 of shape \(3,\)"),
        (torch.zeros(3, 0), r"of shape \(3, 0\)"),
        (torch.zeros(3, 5, dtype=torch.float64), "got torch.float64"),
        (torch.zeros(3, 5, dtype=torch.int16), "got torch.int16"),
        (torch.tensor([[0.0], [float("nan")], [0.0]]), "sound 1 holds NaN or infinity"),
        (torch.tensor([[0.0], [0.0], [float("inf")]]), "sound 2 holds NaN or infinity"),
    ],
)
def test_bad_sounds_are_refused(sounds, message):
    with pytest.raises(ValueError, match=f"^three pictures: .*{message}"):
        ImageTextData(**GOOD, sounds=sounds)


def test_sounds_stay_with_their_pictures():
    data = with_some_sounds(some_data(20))
    assert data.subset([7, 0, 7]).sounds[:, 0].tolist() == [21, 0, 21]
    assert data.subset(data.labels == 2).sounds[:2, 0].tolist() == [6, 15]
    for part in data.hold_out(5, seed=0):
        assert torch.equal(part.sounds[:, 0], 3.0 * part.attributes["number"])
    assert torch.equal(data.to("cpu").sounds, data.sounds)
    for batch in batches(data, 6):
        assert torch.equal(batch.sounds[:, 0], 3.0 * batch.index)


def test_data_without_sounds_has_none_anywhere():
    data = some_data()
    parts = (data, data.subset([1]), data.hold_out(2, 0)[0], data.to("cpu"))
    assert all(part.sounds is None for part in parts)
    assert next(batches(data, 4)).sounds is None


def test_the_fingerprint_hears_the_sounds():
    data = some_data(4)
    heard = with_some_sounds(data)
    louder = heard.sounds.clone()
    louder[3, 2] += 1e-3
    # One long record is not several short ones of the same samples.
    two = ImageTextData(**{**GOOD, "sounds": torch.zeros(3, 4)})
    three = ImageTextData(**{**GOOD, "sounds": torch.zeros(3, 2)})
    different = (data, heard, replace(heard, sounds=louder), two, three)
    assert len({d.fingerprint for d in different}) == 5
    assert with_some_sounds(some_data(4)).fingerprint == heard.fingerprint


def test_data_without_sounds_keeps_the_fingerprint_that_runs_have_recorded():
    """Written down before data had sounds; whoever changes it breaks every recorded run."""
    assert some_data().fingerprint == "c172214531b13cb7"


# --- batches ----------------------------------------------------------------------------------


def order_of(data: ImageTextData, size: int, **options) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches(data, size, **options)]


@given(
    n=st.integers(1, 23), size=st.integers(1, 23), seed=st.integers(0, 9), epoch=st.integers(0, 9)
)
def test_an_epoch_shows_every_picture_at_most_once(n, size, seed, epoch):
    data = some_data(n)
    whole = order_of(data, size, seed=seed, epoch=epoch, drop_last=False)
    assert sorted(itertools.chain(*whole)) == list(range(n))
    if n >= size:
        full = order_of(data, size, seed=seed, epoch=epoch)
        assert full == [batch for batch in whole if len(batch) == size]  # the same, less the rest
        assert len(full) == n // size


def test_seed_and_epoch_alone_decide_the_order():
    data = some_data(50)
    torch.manual_seed(1)
    first = order_of(data, 8, seed=3, epoch=2)
    torch.manual_seed(2)  # the global generator has no say
    assert order_of(data, 8, seed=3, epoch=2) == first
    others = [order_of(data, 8, seed=s, epoch=e) for s, e in ((3, 1), (3, 3), (2, 3), (4, 2))]
    for i, other in enumerate(others):
        assert other != first
        assert other not in others[:i]


@given(start=st.integers(0, 8))
def test_an_interrupted_epoch_goes_on_where_it_stopped(start):
    data = some_data(50)
    whole = order_of(data, 8, seed=1, epoch=4)
    assert order_of(data, 8, seed=1, epoch=4, start=start) == whole[start:]


def test_without_shuffling_the_order_is_the_datas():
    assert order_of(some_data(7), 3, shuffle=False, drop_last=False) == [[0, 1, 2], [3, 4, 5], [6]]


@given(size=st.integers(1, 20), captions=st.integers(1, 20), epoch=st.integers(0, 3))
def test_a_batch_holds_each_caption_once_and_the_right_one(size, captions, epoch):
    data = some_data(20, captions=captions)
    for batch in batches(data, size, epoch=epoch):
        assert len(batch) == size
        assert len(set(batch.captions)) == len(batch.captions)
        index = batch.index.tolist()
        assert batch.images[:, 0, 0, 0].tolist() == index
        assert torch.equal(batch.labels, data.labels[batch.index])
        own = [batch.captions[i] for i in batch.caption_index.tolist()]
        assert own == [data.captions[i] for i in index]
        assert set(own) == set(batch.captions)  # and no caption that nobody needs


@pytest.mark.parametrize(
    ("size", "message"), [(0, "must be positive; got 0"), (11, "10 pictures, too few for a batch")]
)
def test_impossible_batches_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        next(batches(some_data(), size))


def test_step_seeds_keep_their_parts_apart():
    seeds = {step_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 11) != step_seed(11, 1)


# --- digit scenes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colour_scenes():
    return digit_scenes("colour", train=4000, test=500, image_size=24)


@pytest.mark.parametrize("flavour", ["plain", "tinted", "colour"])
def test_scenes_follow_from_their_seed(flavour):
    first, second, other = (
        digit_scenes(flavour, train=40, test=20, image_size=16, seed=seed) for seed in (5, 5, 6)
    )
    for a, b, c in zip(first, second, other, strict=True):
        assert a.fingerprint == b.fingerprint
        assert a.fingerprint != c.fingerprint
        assert a.images.shape[1:] == (3, 16, 16)
        assert a.class_names == DIGIT_WORDS
    assert (len(first.train), len(first.test)) == (40, 20)


def test_no_two_sets_of_scenes_are_drawn_alike():
    """Training and test scenes of this seed and the next: four different rows of choices."""
    sets = [data for seed in (3, 4) for data in digit_scenes(train=40, test=40, seed=seed)]
    grounds = {tuple(data.attributes["ground"].tolist()) for data in sets}
    assert len(grounds) == 4


def test_test_scenes_are_made_from_digits_never_seen_in_training(colour_scenes):
    train, test = (set(data.attributes["digit_id"].tolist()) for data in colour_scenes)
    assert not train & test
    everything = torch.cat(digit_split()).sort().values
    assert torch.equal(everything, torch.arange(len(load_digits().target)))
    # The division is for good: another seed must not move a test digit into training.
    other_train = digit_scenes(train=2000, test=1, seed=9).train.attributes["digit_id"]
    assert not set(other_train.tolist()) & set(digit_split()[1].tolist())


def test_tinted_scenes_are_plain_ones_in_a_colour_each():
    plain, tinted = (digit_scenes(f, train=60, test=1, seed=3).train for f in ("plain", "tinted"))
    assert torch.equal(tinted.images.amax(dim=1), plain.images.amax(dim=1))
    assert torch.equal(tinted.labels, plain.labels)
    assert tinted.captions == plain.captions
    tint = tinted.attributes["tint"]  # (n, 3)
    assert torch.equal(tint.amax(dim=1), torch.ones(60))
    assert len(tint.unique(dim=0)) == 60
    expected = plain.images.float() * tint[:, :, None, None]
    assert (tinted.images.float() - expected).abs().max() <= 1  # rounding to bytes


@pytest.mark.parametrize("flavour", ["plain", "tinted", "colour"])
def test_labels_are_those_of_the_handwritten_digits(flavour):
    data = digit_scenes(flavour, train=300, test=1).train
    written = torch.from_numpy(load_digits().target)[data.attributes["digit_id"]]
    assert torch.equal(data.labels, written)
    assert len(data.labels.unique()) == 10


def test_a_scenes_caption_says_what_its_attributes_say(colour_scenes):
    data = colour_scenes.test
    colour, ground, size = (data.attributes[key].tolist() for key in ("colour", "ground", "size"))
    for i, caption in enumerate(data.captions):
        assert caption == scene_caption(
            int(data.labels[i]),
            tuple(COLOURS)[colour[i]],
            tuple(GROUNDS)[ground[i]],
            SIZES[size[i]],
        )
    for key, words in (("colour", COLOURS), ("ground", GROUNDS), ("size", SIZES)):
        assert len(data.attributes[key].unique()) == len(words)  # every word is used


def test_a_plain_scenes_caption_names_the_digit():
    data = digit_scenes("plain", train=50, test=1).train
    words = [DIGIT_WORDS[label] for label in data.labels.tolist()]
    assert list(data.captions) == [class_caption(word) for word in words]


def test_captions_are_true_to_the_pixels(colour_scenes):
    """What the caption names can be measured: the ground in the corners, the digit's colour."""
    data = colour_scenes.test
    pixels = data.images.float() / 255
    corners = pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(dim=2).values  # (n, 3)
    grounds = torch.tensor(list(GROUNDS.values()))
    nearest = torch.cdist(corners, grounds).argmin(dim=1)
    assert (nearest == data.attributes["ground"]).float().mean() > 0.9
    # The pixel that differs most from the named ground is ink of the named colour.
    ground = grounds[data.attributes["ground"]][:, :, None]
    flat = pixels.flatten(2)
    inked = (flat - ground).norm(dim=1).argmax(dim=1)  # (n,)
    ink = flat[torch.arange(len(data)), :, inked]
    nearest = torch.cdist(ink, torch.tensor(list(COLOURS.values()))).argmin(dim=1)
    assert (nearest == data.attributes["colour"]).float().mean() > 0.9


def test_the_words_name_the_colours_they_stand_for():
    """Red is red: hue, saturation and value of each word, roughly."""
    hues = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "purple": 290}
    for word, rgb in {**COLOURS, **GROUNDS}.items():
        hue, saturation, _ = colorsys.rgb_to_hsv(*rgb)
        if word in hues:
            distance = abs(hue * 360 - hues[word])
            assert min(distance, 360 - distance) < 30, word
            assert saturation > 0.5, word
        elif word in ("white", "grey"):
            assert saturation < 0.1, word


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("side", [0.5, 0.7, 0.85])
def test_the_digit_stays_on_the_canvas(size, side):
    """Turned and shifted, a digit keeps its ink: none is cut off by the edge."""
    ink = torch.from_numpy(load_digits().images).float()[:, None] / 16
    n = len(ink)
    placed = place(ink, torch.full((n,), side), size, torch.Generator().manual_seed(0))
    expected = ink.sum(dim=(1, 2, 3)) * (side * size / 8) ** 2  # one pixel becomes so many
    assert placed.min() >= 0
    assert placed.max() <= 1 + 1e-5
    kept = placed.sum(dim=(1, 2, 3)) / expected
    assert kept.min() > 0.9
    assert kept.mean() == pytest.approx(1, abs=0.01)


def test_a_digit_placed_without_a_choice_fills_the_canvas():
    """Side 1 leaves no room to move: the whole digit, only turned, in the middle."""
    ink = torch.zeros(1, 1, 8, 8)
    ink[:, :, 3:5, 3:5] = 1
    placed = place(ink, torch.ones(1), 16, torch.Generator().manual_seed(0))[0, 0]
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre = torch.stack([(placed * y).sum(), (placed * x).sum()]) / placed.sum()
    torch.testing.assert_close(centre, torch.tensor([7.5, 7.5]), atol=1e-3, rtol=0)


def test_a_large_digit_covers_more_than_a_small_one(colour_scenes):
    data = colour_scenes.train
    ground = torch.tensor(list(GROUNDS.values()))[data.attributes["ground"]][:, :, None, None]
    far = ((data.images / 255 - ground).norm(dim=1) > 0.3).float().mean(dim=(1, 2))
    small, large = (far[data.attributes["size"] == size].mean() for size in (0, 1))
    assert large > 1.5 * small


def test_raw_pixels_do_not_solve_the_colour_scenes(colour_scenes):
    accuracy = nearest_pixels(colour_scenes.train, colour_scenes.test)
    assert 0.1 < accuracy < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"flavour": "colorful"},
            "unknown flavour 'colorful'; choose one of plain, tinted, colour",
        ),
        ({"train": 0}, "train=0"),
        ({"test": 0}, "test=0"),
        ({"image_size": 8}, "image_size=8"),
    ],
)
def test_impossible_scenes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digit_scenes(**{"train": 2, "test": 2, **arguments})


# --- tones ------------------------------------------------------------------------------------


def test_a_digits_tone_peaks_at_its_two_frequencies():
    labels = torch.arange(10).repeat(3)
    sound = tones(labels, seconds=0.5)
    assert sound.shape == (30, SAMPLE_RATE // 2)
    spectrum = torch.fft.rfft(sound).abs()  # 2 Hz a bin
    for label, row in zip(labels.tolist(), spectrum, strict=True):
        low = int(row[: 1100 // 2].argmax()) * 2  # the keypad's rows lie below 1,100 Hz,
        high = int(row[1100 // 2 :].argmax()) * 2 + 1100  # its columns above
        expected = DTMF_HERTZ[label]
        assert abs(low - expected[0]) <= 2
        assert abs(high - expected[1]) <= 2


def test_the_keypad_is_the_telephones():
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    keypad = ["123", "456", "789", "*0#"]
    for digit in range(10):
        row = next(r for r, keys in enumerate(keypad) if str(digit) in keys)
        assert DTMF_HERTZ[digit] == (rows[row], columns[keypad[row].index(str(digit))])


def test_tones_follow_from_their_seed_and_start_anywhere():
    labels = torch.zeros(4, dtype=torch.int64)
    first = tones(labels, seed=1, noise=0)
    assert torch.equal(first, tones(labels, seed=1, noise=0))
    assert not torch.equal(first, tones(labels, seed=2, noise=0))
    assert first[:, 0].std() > 0.1  # the same digit, four phases
    assert first.abs().max() <= 1 + 1e-5
    noisy = tones(labels, seed=1, noise=0.3)
    assert (noisy - first).std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("label", [-1, 10])
def test_only_digits_have_a_tone(label):
    with pytest.raises(ValueError, match="digits 0 to 9"):
        tones(torch.tensor([3, label]))


def test_a_tone_can_end_early():
    labels = torch.arange(10)
    whole = tones(labels, seed=1, noise=0)
    part = tones(labels, seed=1, noise=0, sounding=0.05)
    assert part.shape == whole.shape
    assert torch.equal(part[:, :400], whole[:, :400])
    assert not part[:, 400:].any()
    assert torch.equal(tones(labels, seed=1, sounding=0.1), tones(labels, seed=1))
    # The noise is that of the whole record, heard everywhere.
    noise = tones(labels, seed=1) - whole
    noisy = tones(labels, seed=1, sounding=0.05)
    torch.testing.assert_close(noisy - part, noise, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sounding", [-1, 0.11])
def test_a_tone_longer_than_its_record_is_refused(sounding):
    with pytest.raises(ValueError, match=r"does not fit a recording of 0\.1 s"):
        tones(torch.tensor([3]), sounding=sounding)


@pytest.mark.parametrize("noise", [-1, float("nan")])
def test_noise_is_a_standard_deviation(noise):
    with pytest.raises(ValueError, match=f"at least 0; got {noise}"):
        tones(torch.tensor([3]), noise=noise)


# --- scenes with a tone -----------------------------------------------------------------------


def dialled(sounds: torch.Tensor) -> torch.Tensor:
    """Say which key each sound is: the one whose two frequencies are strongest in it."""
    time = torch.arange(round(TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    waves = torch.exp(-2j * math.pi * torch.tensor(DTMF_HERTZ)[:, :, None] * time)  # (10, 2, 400)
    strength = torch.einsum("kft,nt->nkf", waves, sounds[:, : len(time)] + 0j).abs()
    return strength.sum(dim=2).argmax(dim=1)


@pytest.fixture(scope="module")
def plain_scenes():
    return digit_scenes("plain", train=12_000, test=1).train


def test_the_same_digit_is_seen_and_heard(plain_scenes):
    data = with_tones(plain_scenes, "same", noise=0.3, seed=0)
    assert data.sounds.shape == (12_000, SOUND_SECONDS * SAMPLE_RATE)
    assert torch.equal(data.labels, plain_scenes.labels)
    assert data.captions == plain_scenes.captions
    assert (dialled(data.sounds) == data.labels).float().mean() > 0.99
    silence = data.sounds[:, round(TONE_SECONDS * SAMPLE_RATE) :]
    assert silence.std() == pytest.approx(0.3, rel=0.02)  # the rest is noise


def test_any_digit_is_heard_and_the_label_says_whether_it_is_the_one_seen(plain_scenes):
    data = with_tones(plain_scenes, "any", noise=0.0, seed=0)
    seen, heard = data.attributes["digit"], data.attributes["heard"]
    assert data.class_names == MATCHES == ("different", "same")
    assert torch.equal(seen, plain_scenes.labels)
    assert torch.equal(dialled(data.sounds), heard)
    assert torch.equal(data.labels, (seen == heard).long())
    assert data.labels.float().mean() == pytest.approx(0.5, abs=5 * 0.5 / 12_000**0.5)
    # The other nine are equally frequent, so the tone alone says nothing about the answer.
    apart = (heard - seen)[seen != heard] % 10
    counts = apart.bincount(minlength=10)[1:].float()
    assert ((counts - counts.mean()).abs() < 5 * counts.mean().sqrt()).all()


def test_tones_of_scenes_follow_from_their_seed(plain_scenes):
    first, again, other = (with_tones(plain_scenes, "any", noise=0.3, seed=s) for s in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert not torch.equal(first.labels, other.labels)
    silent = [with_tones(plain_scenes, "same", noise=0.0, seed=seed).sounds for seed in (1, 2)]
    assert not torch.equal(*silent)  # phases are drawn too


def test_only_scenes_with_one_digit_have_a_tone(plain_scenes):
    with pytest.raises(ValueError, match=r"^unnamed: tones need scenes with one digit"):
        with_tones(some_data(), "same", noise=0.3, seed=0)
    with pytest.raises(ValueError, match="unknown sound 'all'; choose 'same' or 'any'"):
        with_tones(plain_scenes, "all", noise=0.3, seed=0)


# --- image folders ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test's cache to itself, and the developer's out of the tests."""
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, shade: int, size: tuple[int, int] = (6, 6), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(path, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, three training and two test pictures each; red tells them apart."""
    root = tmp_path / "pictures"
    for c, name in enumerate(("cat", "ox")):
        for i in range(3):
            write(root / "train" / name / f"{i}.png", 10 * c + i)
        for i in range(2):
            write(root / "test" / name / f"{i}.png", 100 + 10 * c + i)
    return root


def reds(data: ImageTextData) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


def no_decoding(monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(pictures.Image, "open", refuse)


def test_a_folder_is_read_by_split_and_class(folder):
    train, test = image_folder(folder)
    assert reds(train) == [0, 1, 2, 10, 11, 12]
    assert reds(test) == [100, 101, 110, 111]
    assert train.images[:, 2, 0, 0].tolist() == [255, 254, 253, 245, 244, 243]  # RGB, not BGR
    assert train.class_names == test.class_names == ("cat", "ox")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.unique_captions == ("a photo of a cat", "a photo of an ox")
    assert (train.name, test.name) == ("pictures train", "pictures test")


def test_a_folder_is_decoded_once(folder, monkeypatch):
    first = image_folder(folder)
    no_decoding(monkeypatch)
    second = image_folder(folder)
    assert [d.fingerprint for d in first] == [d.fingerprint for d in second]
    with pytest.raises(ValueError, match="was decoded"):
        image_folder(folder, image_size=4)  # another size is another cache


@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
def test_a_changed_folder_is_noticed(folder, change):
    image_folder(folder)
    cats = folder / "train" / "cat"
    if change == "changed":
        write(cats / "1.png", 77)
        expected = [0, 77, 2, 10, 11, 12]
    elif change == "added":
        write(cats / "9.png", 77)
        expected = [0, 1, 2, 77, 10, 11, 12]
    elif change == "removed":
        (cats / "1.png").unlink()
        expected = [0, 2, 10, 11, 12]
    else:
        (cats / "0.png").rename(cats / "8.png")
        expected = [1, 2, 0, 10, 11, 12]
    assert reds(image_folder(folder).train) == expected
    assert reds(image_folder(folder).train) == expected  # and from the new cache


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_damaged_cache_is_made_again(folder, own_cache, monkeypatch, damage):
    expected = [d.fingerprint for d in image_folder(folder)]
    kept = sorted(own_cache.iterdir())
    assert [file.suffix for file in kept] == [".safetensors"] * 2  # a split each, none unfinished
    for file in kept:
        content = file.read_bytes()
        file.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "foreign": b"not tensors"}[damage]
        )
    assert [d.fingerprint for d in image_folder(folder)] == expected
    no_decoding(monkeypatch)
    assert [d.fingerprint for d in image_folder(folder)] == expected


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts mappings in /proc")
def test_pictures_from_the_cache_do_not_keep_its_file_mapped(folder, own_cache):
    """Windows does not replace a mapped file: a changed folder could never be cached again."""
    image_folder(folder)
    splits = image_folder(folder)
    assert len(list(own_cache.iterdir())) == 2
    assert str(own_cache) not in Path("/proc/self/maps").read_text()
    assert reds(splits.train) == [0, 1, 2, 10, 11, 12]


def test_pictures_are_read_where_no_cache_can_be_kept(folder, monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("not a folder")
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "a file"))
    with pytest.warns(UserWarning, match="cannot be kept.*Set CMSSF_CACHE to another"):
        train, _ = image_folder(folder)
    assert reds(train) == [0, 1, 2, 10, 11, 12]


def test_a_full_disk_leaves_no_half_cache(folder, monkeypatch, own_cache):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.warns(UserWarning, match="the disk is full"):
        image_folder(folder)
    assert list(own_cache.iterdir()) == []


def test_every_kind_of_picture_becomes_rgb(folder):
    oxen = folder / "train" / "ox"
    Image.new("L", (6, 6), 50).save(oxen / "3.png")
    Image.new("RGBA", (6, 6), (60, 0, 0, 255)).save(oxen / "4.PNG")
    write(oxen / "5.bmp", 70)
    write(oxen / "6.webp", 80, lossless=True)
    (oxen / "notes.txt").write_text("not a picture")
    train, _ = image_folder(folder)
    assert reds(train)[-4:] == [50, 60, 70, 80]
    assert len(train) == 10


def test_pictures_stand_in_the_order_of_their_classes(folder):
    """Classes first, then names: "cat-like" sorts behind "cat", though "-" comes before "/"."""
    for split in ("train", "test"):
        write(folder / split / "cat-like" / "0.png", 55)
    train, _ = image_folder(folder)
    assert train.class_names == ("cat", "cat-like", "ox")
    assert train.labels.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert reds(train) == [0, 1, 2, 55, 10, 11, 12]


def test_hidden_files_and_folders_are_no_pictures_and_no_classes(folder):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "cat" / "._0.png").write_bytes(b"what macOS leaves behind")
    train, _ = image_folder(folder)
    assert train.class_names == ("cat", "ox")
    assert len(train) == 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 1.0])
def test_every_mode_keeps_its_brightness(tmp_path, mode, part):
    """The shades of a picture are those that were saved, whatever their number of bits."""
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 6), round(part * 65535), dtype=np.uint16))
    else:
        part = round(part) if mode == "1" else part
        picture = Image.new("L", (6, 6), round(part * 255)).convert(mode)
    picture.save(tmp_path / "picture.png")
    read = pictures.read_picture(tmp_path / "picture.png", None)
    assert read.dtype == np.uint8
    assert read.shape == (6, 6, 3)
    assert np.abs(read / 255 - part).max() < 1 / 255


@pytest.mark.parametrize("size", [3, 5, 8, 11])
def test_resized_pictures_stay_in_their_range(tmp_path, size):
    """Bicubic weights overshoot beside an edge: black stays 0 and white 255, never round about."""
    board = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((3, 3)))
    Image.fromarray((255 * board).astype(np.uint8)).save(tmp_path / "board.png")
    shown = pictures.read_picture(tmp_path / "board.png", size).astype(float)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(255 * board)[None, None], size, mode="bicubic", antialias=True
    )[0, 0].clamp(0, 255)
    # Pillow rounds and clips after each of its two passes; a value gone round would be 200 off.
    assert np.abs(shown[..., 0] - exact.numpy()).max() < 50


def test_a_photo_taken_sideways_stands_up(folder):
    picture = Image.new("RGB", (6, 6), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 6, 3))  # white above, in the sensor's rows
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to show"
    picture.save(folder / "train" / "ox" / "9.png", exif=exif)
    shown = image_folder(folder).train.images[-1, 0].float()
    assert shown[:, 3:].mean() == 255  # white is on the right now
    assert shown[:, :3].mean() == 0


def test_pictures_are_cropped_to_the_central_square(folder):
    wide = Image.new("RGB", (12, 6), (255, 0, 0))
    wide.paste((0, 255, 0), (3, 0, 9, 6))
    wide.save(folder / "train" / "cat" / "3.png")
    with pytest.raises(ValueError, match=r"differ in size \(first at .*3\.png\): set image_size"):
        image_folder(folder)
    train, test = image_folder(folder, image_size=4)
    assert train.images.shape[2:] == test.images.shape[2:] == (4, 4)
    assert train.images[3, :, 2, 2].tolist() == [0, 255, 0]
    assert train.images[3, 0].max() == 0  # nothing of the red margins


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a of nothing", b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1IHDR" + bytes(5)]
)
def test_an_unreadable_picture_is_named(folder, content, own_cache):
    bad = folder / "test" / "ox" / "broken.png"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read the picture {re.escape(str(bad))}: "):
        image_folder(folder)
    bad.unlink()
    assert len(image_folder(folder).test) == 4


def test_a_folder_without_splits_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*train: .*train/<class>/\*"):
        image_folder(tmp_path / "nowhere")


def test_splits_with_different_classes_are_refused(folder):
    (folder / "test" / "ox").rename(folder / "test" / "bull")
    with pytest.raises(ValueError, match=r"different classes: \['bull', 'ox'\]"):
        image_folder(folder)


def test_a_single_class_is_refused(folder):
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "ox")
    with pytest.raises(ValueError, match=r"found 1 class folder.*at least two"):
        image_folder(folder)


def test_a_folder_without_classes_is_refused(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(ValueError, match="found 0 class folder"):
        image_folder(tmp_path)


def test_classes_without_pictures_are_refused(folder):
    for file in (folder / "test").rglob("*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no picture in .*test: expected \.jpg, "):
        image_folder(folder)


# --- CIFAR-10 ---------------------------------------------------------------------------------


class FakeCIFAR10:
    """torchvision's class, without its 170 MB: the same attributes, the same layout on disk."""

    base_folder = "cifar-10-batches-py"
    reachable = True

    def __init__(self, root: str, train: bool, download: bool) -> None:
        folder = Path(root) / self.base_folder
        if download and not self.reachable:
            raise urllib.error.URLError("no network")
        if download:
            folder.mkdir(exist_ok=True)
            (folder / "data").touch()
        if not (folder / "data").is_file():
            raise RuntimeError("Dataset not found or corrupted.")
        n = 20 if train else 10
        self.data = np.zeros((n, 32, 32, 3), dtype=np.uint8)
        self.data[..., 1] = np.arange(n)[:, None, None]  # green counts the pictures
        self.data[:, 0, 5, 2] = 99  # one blue pixel in the first row
        self.targets = [i % 10 for i in range(n)]
        self.classes = list(CIFAR10_CLASSES)


@pytest.fixture
def torchvision(monkeypatch):
    monkeypatch.setattr(picture_files, "CIFAR10", FakeCIFAR10)
    monkeypatch.delenv("CMSSF_DATA", raising=False)
    return FakeCIFAR10


@pytest.mark.parametrize("inside", [".", "cifar10"])
def test_torchvisions_files_are_found(torchvision, tmp_path, inside):
    place = tmp_path / inside / torchvision.base_folder
    place.mkdir(parents=True)
    (place / "data").touch()
    train, test = cifar10(tmp_path)
    assert (len(train), len(test)) == (20, 10)
    assert train.images[:, 1, 0, 0].tolist() == list(range(20))
    assert train.images[3, 2, 0, 5] == 99  # rows before columns
    assert train.images[3, 2].sum() == 99
    assert train.class_names == CIFAR10_CLASSES
    assert train.captions[1] == "a photo of an automobile"


def test_cmssf_data_names_the_place(torchvision, tmp_path, monkeypatch):
    place = tmp_path / torchvision.base_folder
    place.mkdir()
    (place / "data").touch()
    monkeypatch.setenv("CMSSF_DATA", str(tmp_path))
    assert len(cifar10().test) == 10
    monkeypatch.setattr(torchvision, "reachable", False)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        cifar10(tmp_path / "elsewhere")  # an argument goes before the variable


def test_missing_files_are_downloaded_to_the_cache(torchvision, own_cache):
    assert len(cifar10().train) == 20
    assert (own_cache / "data" / torchvision.base_folder / "data").is_file()


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("checksum")])
def test_no_data_and_no_network_is_one_clear_sentence(torchvision, monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchvision, "__init__", fail)
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    for part in ("could not be downloaded", "train/<class>/*", "CMSSF_DATA", "'quick'"):
        assert part in message
    assert "\n" not in message


def test_damaged_files_of_torchvision_are_named(torchvision, tmp_path):
    (tmp_path / torchvision.base_folder).mkdir()
    with pytest.raises(ValueError, match=r"-batches-py is incomplete or damaged.*delete it"):
        cifar10(tmp_path)


def test_the_real_torchvision_refuses_files_with_a_wrong_checksum(tmp_path):
    """The same with torchvision's own class, so that the stand-in above proves something."""
    place = tmp_path / picture_files.CIFAR10.base_folder
    place.mkdir()
    (place / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="incomplete or damaged"):
        cifar10(tmp_path)


def test_an_image_folder_stands_in_for_torchvisions_files(torchvision, tmp_path):
    for split, count in (("train", 2), ("test", 1)):
        for c, name in enumerate(CIFAR10_CLASSES):
            for i in range(count):
                write(tmp_path / "cifar10" / split / name / f"{i}.png", 10 * c + i, (32, 32))
    train, test = cifar10(tmp_path)
    assert (len(train), len(test)) == (20, 10)
    assert train.class_names == CIFAR10_CLASSES  # sorted names: torchvision's order
    assert train.name == "CIFAR-10, image folder train"


def test_another_image_folder_is_not_cifar10(torchvision, folder):
    with pytest.raises(ValueError, match=r"CIFAR-10 has 10 classes of 32×32, not 2 of"):
        cifar10(folder)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_cifar10_is_whole_and_read_from_the_cache(real_cifar10, monkeypatch):
    train, test = cifar10(real_cifar10)
    assert train.name == "CIFAR-10, JPEG copy train"  # slightly lossy, and figures must say so
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.class_names == CIFAR10_CLASSES
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert len(train.unique_captions) == 10
    # The pictures' statistics are known: the mean of each channel over the training set.
    mean = train.images[::10].float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01, rtol=0)

    no_decoding(monkeypatch)
    seconds = []
    for _ in range(3):  # the quickest of three: other work on the machine is not what is measured
        start = time.perf_counter()
        again = cifar10(real_cifar10)
        seconds.append(time.perf_counter() - start)
    assert torch.equal(again.test.images, test.images)
    assert again.train.fingerprint == train.fingerprint
    assert min(seconds) < 2


# --- load -------------------------------------------------------------------------------------


def test_load_takes_what_the_configuration_names(folder, torchvision, tmp_path):
    scenes = load(DataConfig(flavour="plain", train=30, test=20, image_size=16, seed=4))
    direct = digit_scenes("plain", train=30, test=20, image_size=16, seed=4)
    assert [d.fingerprint for d in scenes] == [d.fingerprint for d in direct]
    pictures = load(DataConfig(name="image_folder", path=str(folder), image_size=4))
    assert pictures.train.images.shape == (6, 3, 4, 4)
    assert len(load(DataConfig(name="cifar10", path=str(tmp_path))).train) == 20


@pytest.mark.usefixtures("as_shipped")
def test_load_refuses_what_it_does_not_know(monkeypatch):
    monkeypatch.delenv("CMSSF_DATA", raising=False)  # where an image folder would be looked for
    with pytest.raises(
        ValueError, match=r"name: Input should be 'digit_scenes', .* got 'imagenet'"
    ):
        load(DataConfig(name="imagenet"))
    with pytest.raises(ValueError, match=r"image_folder needs a folder: set data.path"):
        load(DataConfig(name="image_folder"))


SMALL = DataConfig(flavour="plain", train=400, test=400)


def test_load_gives_what_every_field_asks_for():
    for flavour in ("plain", "colour"):
        plain = digit_scenes(flavour, train=400, test=400)
        config = replace(SMALL, flavour=flavour, text="clue", sound="any", pixel_noise=0.1)
        for data, scenes in zip(load(config), plain, strict=True):
            assert set(data.captions) == set(DIGIT_CLUES)
            for digit, caption in zip(scenes.labels.tolist(), data.captions, strict=True):
                assert DIGIT_WORDS[digit] in DIGIT_CLUES[caption]  # of the digit, not the answer
            assert torch.equal(data.attributes["digit"], scenes.labels)
            assert data.class_names == MATCHES
            change = (data.images.float() - scenes.images) / 255
            assert 0.03 < change.std() < 0.11
    same = load(replace(SMALL, sound="same", sound_noise=0.0)).train
    assert torch.equal(dialled(same.sounds), same.labels)
    assert not same.sounds[:, 400:].any()


def test_load_asks_questions_about_two_digits():
    loaded = load(DataConfig(flavour="two", train=30, test=20, seed=4))
    direct = digit_questions(train=30, test=20, seed=4)
    assert [d.fingerprint for d in loaded] == [d.fingerprint for d in direct]


def test_load_gives_photographs_clues(torchvision, tmp_path):
    told = load(DataConfig(name="cifar10", path=str(tmp_path), text="clue", pixel_noise=0.1))
    assert set(told.train.captions) <= set(CIFAR10_CLUES)
    assert told.train.class_names == CIFAR10_CLASSES
    assert not torch.equal(told.train.images, cifar10(tmp_path).train.images)


def test_everything_drawn_follows_from_the_seed_and_differs_between_the_splits():
    config = replace(SMALL, text="clue", sound="any", pixel_noise=0.1)
    first, again, other = (load(replace(config, seed=seed)) for seed in (1, 1, 2))
    assert [d.fingerprint for d in first] == [d.fingerprint for d in again]
    for part in ("captions", "labels", "sounds"):
        drawn = {repr(getattr(d, part)) for splits in (first, other) for d in splits}
        assert len(drawn) == 4, part


def test_the_strength_of_the_noise_leaves_everything_else_alone():
    """So that a curve over noise compares the same scenes, texts and tones."""
    config = replace(SMALL, text="clue", sound="any")
    quiet, loud = load(replace(config, sound_noise=0.1)), load(replace(config, pixel_noise=0.3))
    for a, b in zip(quiet, loud, strict=True):
        assert a.captions == b.captions
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.attributes["heard"], b.attributes["heard"])


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flavour": "three"}, "flavour: .* 'plain', 'tinted', 'colour' or 'two', got 'three'"),
        ({"text": "poem"}, "text: .* 'caption', 'parts', 'class' or 'clue', got 'poem'"),
        ({"sound": "loud"}, "sound: .* 'none', 'same' or 'any', got 'loud'"),
        ({"pixel_noise": -0.1}, "pixel_noise: .* or equal to 0, got -0.1"),
        ({"sound_noise": -0.1}, "sound_noise: .* or equal to 0, got -0.1"),
        (
            {"name": "cifar10", "sound": "same"},
            "only one-digit scenes have sounds: set sound='none'",
        ),
        (
            {"name": "image_folder", "path": "x", "sound": "any"},
            "only one-digit scenes have sounds",
        ),
        (
            {"flavour": "two", "sound": "same"},
            "only one-digit scenes have sounds: set sound='none'",
        ),
        ({"flavour": "two", "text": "clue"}, "two digits come with a question: set text='caption'"),
    ],
)
def test_load_refuses_what_does_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        load(DataConfig(**fields))


def test_loading_scenes_says_nothing(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        digit_scenes(train=10, test=10)
    assert "".join(capfd.readouterr()) == ""

"""Corruptions: nothing at strength zero, the right amount at any other, and nothing else."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from cmssf_lib.data import ImageTextData, changes, delayed, mispaired, noisy_pixels, noisy_sounds
from cmssf_lib.data.scenes import SAMPLE_RATE, SOUND_SECONDS, TONE_SECONDS, tones


def heard(n: int = 20, samples: int = 8) -> ImageTextData:
    """Pictures, texts and sounds that all say which one they are."""
    number = torch.arange(n)
    return ImageTextData(
        images=torch.full((n, 3, 8, 8), 128, dtype=torch.uint8),
        labels=number % 2,
        captions=tuple(f"text {i}" for i in range(n)),
        class_names=("x", "y"),
        name="numbered",
        attributes={"number": number},
        sounds=number[:, None].float() + torch.arange(samples) / 100,
    )


CHANGES = {
    "pixels": lambda data, x: noisy_pixels(data, x, 0),
    "sounds": lambda data, x: noisy_sounds(data, x, 0),
    "delay": delayed,
    "text": lambda data, x: mispaired(data, "text", x, 0),
    "sound": lambda data, x: mispaired(data, "sound", x, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_strength_zero_changes_nothing(change):
    data = heard()
    images = torch.arange(20 * 192).view(20, 3, 8, 8) % 256  # every shade there is
    data = replace(data, images=images.to(torch.uint8))
    assert CHANGES[change](data, 0.0).fingerprint == data.fingerprint


@pytest.mark.parametrize("change", CHANGES)
def test_one_part_changes_and_the_original_stays(change):
    data, original = heard(), heard()
    changed = CHANGES[change](data, 0.5 if change != "delay" else 2 / SAMPLE_RATE)
    assert data.fingerprint == original.fingerprint
    assert changed.name == data.name
    assert torch.equal(changed.labels, data.labels)
    assert torch.equal(changed.attributes["number"], data.attributes["number"])
    same = {
        "images": torch.equal(changed.images, data.images),
        "captions": changed.captions == data.captions,
        "sounds": torch.equal(changed.sounds, data.sounds),
    }
    part = {"pixels": "images", "text": "captions"}.get(change, "sounds")
    assert [key for key, unchanged in same.items() if not unchanged] == [part]


@pytest.mark.parametrize("change", ["pixels", "sounds", "text", "sound"])
def test_chance_follows_from_the_seed(change):
    function = {"pixels": noisy_pixels, "sounds": noisy_sounds}.get(change)

    def changed(seed: int) -> str:
        if function:
            return function(heard(), 0.2, seed).fingerprint
        return mispaired(heard(), change, 0.5, seed).fingerprint

    assert changed(1) == changed(1) != changed(2)


@pytest.mark.parametrize("deviation", [0.05, 0.1])
def test_noise_has_the_deviation_asked_for(deviation):
    data = heard(100)
    pixels = noisy_pixels(data, deviation, 0).images / 255 - data.images / 255
    assert pixels.std() == pytest.approx(deviation, rel=0.03)
    assert pixels.mean() == pytest.approx(0, abs=0.1 * deviation)
    data = heard(100, samples=200)
    sounds = noisy_sounds(data, deviation, 0).sounds - data.sounds
    assert sounds.std() == pytest.approx(deviation, rel=0.03)


def test_much_noise_is_clipped_not_wrapped_round():
    """A white pixel with noise stays near white: 255 + 1 must not become 0."""
    white = replace(heard(), images=torch.full((20, 3, 8, 8), 255, dtype=torch.uint8))
    noisy = noisy_pixels(white, 0.1, 0).images
    assert noisy.min() > 255 * 0.4
    assert 0.4 < (noisy == 255).float().mean() < 0.6  # half the noise points out of the range


def test_every_block_of_pictures_has_noise_of_its_own(monkeypatch):
    monkeypatch.setattr(changes, "BLOCK", 7)
    images = noisy_pixels(heard(), 0.1, 0).images
    assert images.shape == (20, 3, 8, 8)
    assert len({bytes(image.numpy()) for image in images}) == 20


# --- delay ------------------------------------------------------------------------------------


@given(st.integers(0, 8))
def test_a_delay_moves_every_sample_by_as_much(samples):
    data = heard()
    later = delayed(data, samples / SAMPLE_RATE).sounds
    for i in range(8):
        assert torch.equal(later[:, (i + samples) % 8], data.sounds[:, i])


def test_a_delayed_tone_starts_later_and_stays_whole():
    sounds = tones(torch.arange(10), seconds=SOUND_SECONDS, noise=0.0, sounding=TONE_SECONDS)
    data = replace(heard(10), sounds=sounds)
    for seconds in (0.01, 0.05):
        later = delayed(data, seconds).sounds
        first, last = round(seconds * SAMPLE_RATE), round((seconds + TONE_SECONDS) * SAMPLE_RATE)
        assert not later[:, :first].any()
        assert not later[:, last:].any()
        assert torch.equal(later[:, first:last], sounds[:, : last - first])


@pytest.mark.parametrize("seconds", [-0.01, 0.01])
def test_a_delay_beyond_the_record_is_refused(seconds):
    with pytest.raises(ValueError, match=r"seconds must be from 0 to 0\.001; got"):
        delayed(heard(), seconds)


# --- pairing ----------------------------------------------------------------------------------


def owners(data: ImageTextData, modality: str) -> list[int]:
    """Whose text or sound each picture has."""
    if modality == "text":
        return [int(caption.split()[1]) for caption in data.captions]
    assert data.sounds is not None
    return data.sounds[:, 0].long().tolist()


@pytest.mark.parametrize("modality", ["text", "sound"])
@given(n=st.integers(2, 30), rate=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_share_asked_for_is_mispaired_and_nobody_else(modality, n, rate, seed):
    whose = owners(mispaired(heard(n), modality, rate, seed), modality)
    wrong = [i for i in range(n) if whose[i] != i]
    assert len(wrong) == round(rate * n)
    if len(wrong) > 1:  # passed on among themselves: nothing lost, nothing twice
        assert sorted(whose[i] for i in wrong) == wrong


def test_whose_text_it_gets_is_left_to_chance():
    assert len({owners(mispaired(heard(), "text", 1.0, seed), "text")[0] for seed in range(30)}) > 9


# --- bad input --------------------------------------------------------------------------------


def test_without_sounds_there_is_nothing_to_corrupt():
    data = replace(heard(), sounds=None)
    for change in ("sounds", "delay", "sound"):
        with pytest.raises(ValueError, match=r"^numbered has no sounds; load .* sound='same'"):
            CHANGES[change](data, 0.0)
    assert noisy_pixels(data, 0.1, 0).sounds is None
    assert mispaired(data, "text", 0.5, 0).sounds is None


@pytest.mark.parametrize("change", ["pixels", "sounds"])
@pytest.mark.parametrize("deviation", [-0.1, float("nan")])
def test_a_deviation_below_zero_is_refused(change, deviation):
    with pytest.raises(ValueError, match=f"deviation must be at least 0; got {deviation}"):
        CHANGES[change](heard(), deviation)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match=f"rate must be from 0 to 1; got {rate}"):
        mispaired(heard(), "text", rate, 0)


def test_pairing_needs_a_modality_and_another_picture():
    with pytest.raises(ValueError, match="unknown modality 'image'; choose 'text' or 'sound'"):
        mispaired(heard(), "image", 0.5, 0)
    with pytest.raises(ValueError, match="numbered has only one picture"):
        mispaired(heard(1), "text", 1.0, 0)

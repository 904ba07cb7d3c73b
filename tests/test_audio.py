"""Sounds: the spectrogram against closed forms, torch.stft and a slow loop; the tokens."""

import math

import pytest
import torch
from torch.nn import functional as F

from cmssf_lib.data import tones
from cmssf_lib.encoders import AudioTokens, log_mel
from cmssf_lib.encoders.audio import FLOOR, mel_filters


def sine(hertz, samples=800, rate=8000):
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / rate)[None]


def corners(mels):
    """Where bands start, peak and end, in hertz: every band by the formula."""
    a, b = (2595 * math.log10(1 + f / 700) for f in (300.0, 2000.0))
    step = (b - a) / (mels + 1)
    return [700 * (10 ** ((a + i * step) / 2595) - 1) for i in range(mels + 2)]


@pytest.mark.parametrize("band", [1, 5, 9, 14])
def test_a_sine_is_loudest_in_the_band_around_it(band):
    centre = corners(16)[band + 1]
    spectrum = log_mel(sine(centre), mels=16)[0]  # (mels, frames)
    assert (spectrum.argmax(dim=0) == band).all()


def test_the_power_of_a_sine_is_what_parseval_says():
    """A windowed sine of amplitude a has a²/2 · Σ fade² of energy, spread over both halves."""
    # One triangle: 1 at its centre. A sine there is counted whole: Σ power = a²/4 · points.
    centre = corners(1)[1]
    found = log_mel(0.5 * sine(centre), mels=1).exp() - FLOOR
    assert found.mean().item() == pytest.approx(0.25 / 4 * 512, rel=0.05)


def test_silence_is_the_floor_and_louder_is_more():
    assert log_mel(torch.zeros(2, 800), mels=4).unique().item() == pytest.approx(math.log(FLOOR))
    quiet, loud = (log_mel(a * sine(900), mels=16).exp() - FLOOR for a in (1.0, 3.0))
    torch.testing.assert_close(loud[0, 7:10], 9 * quiet[0, 7:10], rtol=1e-2, atol=1e-2)


def test_frames_are_those_of_torch_stft():
    waves = torch.randn(3, 800, generator=torch.Generator().manual_seed(0))
    points, window, hop = 512, 200, 100
    fade = torch.hann_window(window)
    # torch.stft centres a short window within its transform: as many zeros on either side.
    padded = F.pad(waves, ((points - window) // 2,) * 2)
    stft = torch.stft(padded, points, hop, window, fade, center=False, return_complex=True)
    power = stft.abs().square() / fade.square().sum()  # (b, frequencies, frames)
    expected = torch.log(mel_filters(16) @ power + FLOOR)
    torch.testing.assert_close(log_mel(waves, mels=16), expected, atol=1e-4, rtol=1e-4)
    assert expected.shape == (3, 16, 7)


def test_the_bands_are_triangles():
    filters, edge = mel_filters(8), corners(8)
    for band in range(8):
        for k in range(257):
            f = k * 8000 / 512
            left, centre, right = edge[band : band + 3]
            slope = (f - left) / (centre - left) if f < centre else (right - f) / (right - centre)
            assert filters[band, k].item() == pytest.approx(max(0.0, slope), abs=1e-5)


def test_the_bands_are_those_of_torchaudio():
    functional = pytest.importorskip("torchaudio.functional", reason="an oracle of this test")
    expected = functional.melscale_fbanks(257, 300.0, 2000.0, 16, 8000)
    found = mel_filters(16)
    torch.testing.assert_close(found, expected.T, atol=1e-4, rtol=1e-4)


def test_digits_can_be_told_apart_by_their_tones():
    """The nearest mean spectrogram names the digit: the bands keep what a tone says."""
    labels = torch.arange(200) % 10
    spectra = log_mel(tones(labels), mels=16).mean(dim=2)
    means = torch.stack([spectra[:100][labels[:100] == d].mean(dim=0) for d in range(10)])
    nearest = torch.cdist(spectra[100:], means).argmin(dim=1)
    assert (nearest == labels[100:]).float().mean() > 0.95


def test_a_token_is_a_frame_times_a_matrix_plus_its_place():
    torch.manual_seed(0)
    tokens, waves = AudioTokens(24, 16, 800), tones(torch.arange(64) % 10)
    frames = log_mel(waves, mels=16)  # (64, 16, 7)
    expected = torch.stack([tokens.project(frames[:, :, i]) for i in range(7)], dim=1)
    torch.testing.assert_close(tokens(waves), expected + tokens.position)
    assert tokens(waves).shape == (64, 7, 24)


@pytest.mark.parametrize("before", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_reach_a_sound_whatever_was_computed_first(before):
    mel_filters.cache_clear()
    with before():
        log_mel(torch.zeros(1, 800), mels=5)
    waves = sine(900).requires_grad_()
    log_mel(waves, mels=5).sum().backward()
    assert waves.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("mels", "message"), [(200, "mels=200 leaves .* bands empty: use fewer"), (0, "at least one")]
)
def test_bands_that_cannot_be_are_refused(mels, message):
    with pytest.raises(ValueError, match=message):
        log_mel(torch.zeros(1, 800), mels)


def test_sounds_that_cannot_be_heard_are_refused():
    spoiled = torch.zeros(2, 800)
    spoiled[1, 3] = float("nan")
    with pytest.raises(ValueError, match="not a finite number"):
        log_mel(spoiled, mels=4)
    with pytest.raises(ValueError, match="at least 200 samples; got 199"):
        log_mel(torch.zeros(2, 199), mels=4)
    with pytest.raises(ValueError, match="expected sounds of 800 samples; got 700"):
        AudioTokens(8, 4, 800)(torch.zeros(1, 700))
    with pytest.raises(ValueError, match="at least 200 samples"):
        AudioTokens(8, 4, 100)


def test_a_sound_without_a_batch_is_refused(as_shipped):
    with pytest.raises(ValueError, match=r"\(b, samples\); got \(800,\)"):
        log_mel(torch.zeros(800), mels=4)

"""Turn a sound into tokens: a log-mel spectrogram with one token for each frame."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

RATE = 8000  # samples per second
WINDOW, HOP = 200, 100  # samples in a frame, and from one frame to the next: 25 and 12.5 ms
POINTS = 512  # length of the Fourier transform; zero-padding gives more closely spaced frequencies
LOW, HIGH = 300.0, 2000.0  # range of the bands in hertz; telephone tones lie at 697–1,477
FLOOR = 1e-3  # added before the logarithm, so that anything much quieter counts as silence


def log_mel(waveforms: Float[Tensor, "b samples"], mels: int) -> Float[Tensor, "b mels frames"]:
    """Compute a log-mel spectrogram: how loud each frequency band is over time.

    A sound is cut into overlapping windows. Each window is faded in and out and Fourier
    transformed, and neighbouring frequencies are summed into bands. The logarithm matches how the
    ear perceives loudness. 800 samples give 7 frames.

    Args:
        waveforms: One sound per row, with 8,000 samples per second.
        mels: Number of bands.

    Returns:
        Natural logarithm of the power in each band. White noise of variance v has power v
        at every frequency.

    Raises:
        ValueError: If the shape is not ``(b, samples)``, a value is not finite, a sound is
            shorter than a window, or a band is empty.

    References:
        Davis and Mermelstein 1980, "Comparison of parametric representations for monosyllabic
        word recognition in continuously spoken sentences", figure 1 (triangular bands).
    """
    if waveforms.ndim != 2:
        raise ValueError(f"expected sounds of shape (b, samples); got {tuple(waveforms.shape)}")
    if waveforms.shape[1] < WINDOW:
        raise ValueError(f"a sound needs at least {WINDOW} samples; got {waveforms.shape[1]}")
    # `ImageTextData` checks its sounds, and on a GPU looking at them would wait for it.
    if waveforms.device.type == "cpu" and not torch.isfinite(waveforms).all():
        raise ValueError("a sound contains a value that is not a finite number")
    fade = torch.hann_window(WINDOW, dtype=waveforms.dtype, device=waveforms.device)
    cut = waveforms.unfold(1, WINDOW, HOP) * fade  # (b, frames, window)
    spectrum = torch.view_as_real(torch.fft.rfft(cut, n=POINTS))  # (b, frames, frequencies, 2)
    power = spectrum.square().sum(dim=-1) / fade.square().sum()
    return (power @ mel_filters(mels).to(power).T + FLOOR).log().transpose(1, 2)


@cache
@torch.inference_mode(False)  # cached; inference tensors could not be used in training
def mel_filters(mels: int) -> Float[Tensor, "mels frequencies"]:
    """Return triangular bands: 1 at the centre of each, 0 at the centres of its neighbours.

    The bands are equally wide on the mel scale, 2595 log₁₀(1 + f / 700), that is, to the ear.

    Args:
        mels: Number of bands.

    Raises:
        ValueError: If there is no band, or a band contains no frequency of the transform.

    References:
        O'Shaughnessy 1987, "Speech Communication: Human and Machine" (the formula).
    """
    bands = mel_filter_bank(POINTS // 2 + 1, max(mels, 0), LOW, HIGH, RATE, mel_scale="htk")
    empty = mels - int(bands.any(axis=0).sum())
    if mels < 1 or empty:
        raise ValueError(f"mels={mels} leaves {empty} bands empty: use fewer, but at least one")
    return torch.tensor(bands.T, dtype=torch.float32)


class AudioTokens(nn.Module):
    """One token for each spectrogram frame: its projected bands plus a position embedding.

    Args:
        width: Length of a token.
        mels: Number of bands of the spectrogram.
        samples: Length of every sound, in samples.
    """

    def __init__(self, width: int, mels: int, samples: int) -> None:
        super().__init__()
        self.mels, self.samples = mels, samples
        frames = 1 + (samples - WINDOW) // HOP
        if frames < 1:
            raise ValueError(f"a sound needs at least {WINDOW} samples; got samples={samples}")
        self.project = nn.Linear(mels, width)
        self.position = nn.Parameter(torch.randn(1, frames, width) * width**-0.5)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, waveforms: Float[Tensor, "b samples"]) -> Float[Tensor, "b frames width"]:
        """Return the tokens.

        Raises:
            ValueError: If the sounds are not ``samples`` long, or as for `log_mel`.
        """
        if waveforms.ndim == 2 and waveforms.shape[1] != self.samples:
            raise ValueError(f"expected sounds of {self.samples} samples; got {waveforms.shape[1]}")
        frames = log_mel(waveforms, self.mels).transpose(1, 2)
        return self.project(frames.to(self.position.dtype)) + self.position

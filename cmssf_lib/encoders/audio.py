"""From a sound to tokens: a log-mel spectrogram, and one token for each of its frames."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

RATE = 8000  # samples a second
WINDOW, HOP = 200, 100  # samples that a frame looks at, and from one to the next: 25 and 12.5 ms
POINTS = 512  # of the Fourier transform; zeros behind each window bring its frequencies closer
LOW, HIGH = 300.0, 2000.0  # where the bands begin and end, in hertz; telephone tones: 697–1,477
FLOOR = 1e-3  # added before the logarithm: what is much fainter than this is silence


def log_mel(waveforms: Float[Tensor, "b samples"], mels: int) -> Float[Tensor, "b mels frames"]:
    """Say how loud each band of pitch is at each moment.

    A sound is cut into overlapping windows; each is faded in and out and taken apart into
    frequencies; neighbouring frequencies are added up to bands; loudness is a logarithm, as the
    ear hears it. 800 samples give 7 frames.

    Args:
        waveforms: One sound a row, 8,000 samples a second.
        mels: Number of bands.

    Returns:
        Natural logarithms of the power in each band. White noise of variance v has power v
        in every frequency.

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
    if not torch.isfinite(waveforms).all():
        raise ValueError("a sound holds a value that is not a finite number")
    fade = torch.hann_window(WINDOW, dtype=waveforms.dtype, device=waveforms.device)
    cut = waveforms.unfold(1, WINDOW, HOP) * fade  # (b, frames, window)
    spectrum = torch.view_as_real(torch.fft.rfft(cut, n=POINTS))  # (b, frames, frequencies, 2)
    power = spectrum.square().sum(dim=-1) / fade.square().sum()
    return (power @ mel_filters(mels).to(power).T + FLOOR).log().transpose(1, 2)


@cache
@torch.inference_mode(False)  # it is kept, and may be needed where gradients are taken
def mel_filters(mels: int) -> Float[Tensor, "mels frequencies"]:
    """Return triangular bands, equally wide to the ear: 1 at the centre, 0 at the neighbours'.

    The mel scale is 2595 log₁₀(1 + f / 700).

    Args:
        mels: Number of bands.

    Raises:
        ValueError: If there is no band, or one without a frequency of the transform in it.

    References:
        O'Shaughnessy 1987, "Speech Communication: Human and Machine" (the formula).
    """
    bands = mel_filter_bank(POINTS // 2 + 1, max(mels, 0), LOW, HIGH, RATE, mel_scale="htk")
    empty = mels - int(bands.any(axis=0).sum())
    if mels < 1 or empty:
        raise ValueError(f"{empty} of {mels} bands hold no frequency: ask for fewer, but for one")
    return torch.tensor(bands.T, dtype=torch.float32)


class AudioTokens(nn.Module):
    """One token for each frame of a spectrogram: its bands, times a matrix, plus its place.

    Args:
        width: Length of a token.
        mels: Bands of the spectrogram.
        samples: Length of every sound.
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
            ValueError: If a sound is not as long as the encoder was built for, or as `log_mel`.
        """
        if waveforms.ndim == 2 and waveforms.shape[1] != self.samples:
            raise ValueError(f"made for sounds of {self.samples} samples; got {waveforms.shape[1]}")
        return self.project(log_mel(waveforms, self.mels).transpose(1, 2)) + self.position

"""From a sound to one vector: a log-mel spectrogram, and a small transformer on its frames."""

import math
from functools import cache

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

WINDOW, HOP = 200, 100  # samples: 25 ms and 12.5 ms at 8 kHz
FLOOR = 1e-3  # added before the logarithm: what is much fainter than this is silence


def log_mel(
    waveforms: Float[Tensor, "b samples"],
    *,
    mels: int,
    window: int = WINDOW,
    hop: int = HOP,
    sample_rate: int = 8000,
    low: float = 300.0,
    high: float = 2000.0,
) -> Float[Tensor, "b mels frames"]:
    """Say how loud each band of pitch is at each moment.

    A sound is cut into overlapping windows; each is faded in and out and taken apart into
    frequencies; neighbouring frequencies are added up to bands; loudness is a logarithm, as the
    ear hears it. 800 samples give 7 frames.

    Args:
        waveforms: One sound a row.
        mels: Number of bands.
        window: Samples that a frame looks at.
        hop: Samples from one frame to the next.
        sample_rate: Samples a second.
        low: Where the lowest band begins, in hertz.
        high: Where the highest band ends. The default suits telephone tones (697–1,477 Hz).

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
    if window < 2 or hop < 1:
        raise ValueError(f"a window has at least 2 samples and a hop 1; got {window} and {hop}")
    if waveforms.shape[1] < window:
        raise ValueError(
            f"a sound of {waveforms.shape[1]} samples is shorter than one window of {window}: "
            "give longer sounds or a smaller window"
        )
    if not torch.isfinite(waveforms).all():
        raise ValueError("a sound holds a value that is not a finite number")
    # Zeros behind each window: more, and closer, frequencies, so that no band falls between two.
    points = 2 ** math.ceil(math.log2(2 * window))
    fade = torch.hann_window(window, dtype=waveforms.dtype, device=waveforms.device)
    cut = waveforms.unfold(1, window, hop) * fade  # (b, frames, window)
    spectrum = torch.view_as_real(torch.fft.rfft(cut, n=points))  # (b, frames, frequencies, 2)
    power = spectrum.square().sum(dim=-1) / fade.square().sum()
    filters = mel_filters(mels, points, sample_rate, low, high).to(power)  # (mels, frequencies)
    return (power @ filters.T + FLOOR).log().transpose(1, 2)


@cache
def mel_filters(
    mels: int, points: int, sample_rate: int, low: float, high: float
) -> Float[Tensor, "mels frequencies"]:
    """Return triangular bands, equally wide to the ear: 1 at the centre, 0 at the neighbours'.

    The mel scale is 2595 log₁₀(1 + f / 700).

    Args:
        mels: Number of bands.
        points: Length of the Fourier transform.
        sample_rate: Samples a second.
        low: Where the lowest band begins, in hertz.
        high: Where the highest band ends.

    Raises:
        ValueError: If the range is empty or goes beyond half the sample rate, or no frequency
            of the transform lies in a band.

    References:
        O'Shaughnessy 1987, "Speech Communication: Human and Machine" (the formula).
    """
    if mels < 1 or not 0 <= low < high <= sample_rate / 2:
        raise ValueError(
            f"expected at least one band between 0 and {sample_rate / 2:g} Hz, half the sample "
            f"rate; got {mels} from {low:g} to {high:g} Hz"
        )
    ends = [2595 * math.log10(1 + hertz / 700) for hertz in (low, high)]
    mel = torch.linspace(ends[0], ends[1], mels + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mel / 2595) - 1)  # in hertz: each band's start, centre and end
    left, centre, right = (corners[i : i + mels, None] for i in range(3))
    hertz = torch.arange(points // 2 + 1) * (sample_rate / points)
    rising, falling = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if (empty := filters.sum(dim=1) == 0).any():
        raise ValueError(
            f"{int(empty.sum())} of {mels} bands hold no frequency of a transform of {points} "
            "points: ask for fewer bands or give a longer window"
        )
    return filters.float()


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
            raise ValueError(
                f"this encoder was built for sounds of {self.samples} samples; got "
                f"{waveforms.shape[1]}"
            )
        return self.project(log_mel(waveforms, mels=self.mels).transpose(1, 2)) + self.position


class AudioEncoder(nn.Module):
    """A small transformer on the frames of a log-mel spectrogram.

    Args:
        width: Length of a token and of the vector that `forward` returns.
        depth: Number of transformer blocks.
        heads: Attention heads in each.
        mels: Bands of the spectrogram.
        samples: Length of every sound; 0.1 seconds at 8 kHz.

    References:
        Gong et al. 2021, "AST: Audio Spectrogram Transformer".
    """

    def __init__(
        self, width: int, depth: int, heads: int, mels: int, *, samples: int = 800
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide among {heads} heads")
        self.width = width
        self.tokens = AudioTokens(width, mels, samples)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, waveforms: Float[Tensor, "b samples"]) -> Float[Tensor, "b width"]:
        """Return one vector a sound, the mean over its frames."""
        return self.norm(self.blocks(self.tokens(waveforms))).mean(dim=1)

"""Pictures of sounds."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from cmssf_lib.data.scenes import DTMF_HERTZ, SAMPLE_RATE
from cmssf_lib.plots.style import COLOURS, PALE, panels, styled

HIGHEST_HERTZ = 1800  # telephone keys sound below this


@styled
def tone_panels(
    sounds: Float[Tensor, "n samples"], titles: Sequence[str], *, milliseconds: float = 25.0
) -> Figure:
    """Show each sound twice: as a wave over time, and as its strength at every frequency.

    Dotted lines mark the seven frequencies that telephone keys are made of.

    Args:
        sounds: Waveforms at `data.scenes.SAMPLE_RATE`.
        titles: One a sound.
        milliseconds: How much of each wave is drawn; the spectrum is of all of it.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no sound, or not one title for each.
    """
    if len(sounds) == 0 or len(titles) != len(sounds):
        raise ValueError(f"{len(sounds)} sounds and {len(titles)} titles; each needs one")
    samples = sounds.shape[1]
    time = 1000 * torch.arange(samples) / SAMPLE_RATE  # ms
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # Scaled so that a sine of amplitude a stands a tall.
    strength = torch.fft.rfft(sounds.cpu()).abs() * 2 / samples  # (n, samples // 2 + 1)
    figure, axes = panels(len(sounds), 2, height=1.6 * len(sounds) + 0.4, sharex="col")
    for (wave, spectrum), sound, heights, title in zip(axes, sounds, strength, titles, strict=True):
        early = time <= milliseconds
        wave.plot(time[early], sound.cpu()[early], color=COLOURS["blue"], linewidth=1.2)
        wave.set_title(title, loc="left")
        wave.set_ylabel("pressure")
        for key in sorted({f for pair in DTMF_HERTZ for f in pair}):
            spectrum.axvline(key, color=PALE, linestyle=":", linewidth=1)
        audible = hertz <= HIGHEST_HERTZ
        spectrum.plot(hertz[audible], heights[audible], color=COLOURS["vermilion"], linewidth=1.4)
        spectrum.set_ylabel("strength")
        spectrum.grid(False)
    axes[-1, 0].set_xlabel("time (ms)")
    axes[-1, 1].set_xlabel("frequency (Hz)")
    return figure

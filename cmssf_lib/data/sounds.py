"""Sounds that come with digit scenes: the digit's own telephone tone, or that of any digit."""

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from cmssf_lib.captions import DIGIT_WORDS
from cmssf_lib.data.batch import step_seed
from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.data.scenes import SOUND_SECONDS, TONE_SECONDS, tones

SOUNDS = ("none", "same", "any")
MATCHES = ("different", "same")


def with_tones(data: ImageTextData, kind: str, *, noise: float, seed: int) -> ImageTextData:
    """Let a telephone tone be heard with each digit scene.

    - **same**: the tone of the digit that is seen. Either modality is enough to name it.
    - **any**: the digit's own tone with probability one half, else that of another digit, each
      of the nine equally often. The label becomes whether they are the same. Neither modality
      alone knows anything about it, both together know it all. What is seen and what is heard
      are kept as the attributes "digit" and "heard".

    A record is `SOUND_SECONDS` long, the tone sounds during the first `TONE_SECONDS` of it.

    Args:
        data: Digit scenes, labelled with their digits.
        kind: "same" or "any".
        noise: Standard deviation of the noise; each of a tone's two sines has amplitude 0.5.
        seed: Draws which tones, their phases and the noise.

    Returns:
        The same pictures and captions with sounds.

    Raises:
        ValueError: If the kind is unknown, or the classes are not the ten digits.
    """
    if kind not in SOUNDS[1:]:
        raise ValueError(f"unknown sound {kind!r}; choose 'same' or 'any'")
    if data.class_names != DIGIT_WORDS:
        raise ValueError(
            f"{data.name} has no sound: only scenes with one digit do, the digit's telephone tone"
        )
    seen = heard = data.labels.cpu()
    if kind == "any":
        random = torch.Generator().manual_seed(step_seed(seed, 0))
        other = (seen + torch.randint(1, 10, seen.shape, generator=random)) % 10
        heard = torch.where(torch.rand(seen.shape, generator=random) < 0.5, seen, other)
    sounds = tones(
        heard,
        seed=step_seed(seed, 1),
        seconds=SOUND_SECONDS,
        noise=noise,
        sounding=TONE_SECONDS,
    ).to(data.images.device)
    if kind == "same":
        return replace(data, sounds=sounds)
    heard = heard.to(data.images.device)
    return replace(
        data,
        labels=(data.labels == heard).long(),
        class_names=MATCHES,
        name=f"{data.name}, with any tone",
        attributes={**data.attributes, "digit": data.labels, "heard": heard},
        sounds=sounds,
    )


def match_table() -> Float64[Tensor, "digits tones answers"]:
    """Return how often each digit, tone and answer of ``with_tones(…, "any")`` come together.

    Returns:
        Probabilities ``(10, 10, 2)`` that sum to one; the answers are `MATCHES`.
    """
    same = torch.eye(10, dtype=torch.float64)
    # Half the time one of ten pairs that match, half the time one of ninety that do not.
    return torch.stack([0.5 * (1 - same) / 90, 0.5 * same / 10], dim=2)

"""What the pictures are called: captions and clues, as sentences.

Class captions ("a photo of an automobile") say what every picture of a class says. Scene
captions ("a photo of a small red seven on a blue background") say something about the
single picture. Chapter 7 shows how much hangs on that difference. A clue ("it is even") is true
of several classes: it helps a model that sees the picture as well, and cannot replace the picture.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product

from jaxtyping import Int64
from torch import Tensor

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: Colours of the digit and of the ground, as RGB in [0, 1]. The two lists share no colour,
#: so that no digit vanishes into its ground.
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "yellow": (0.95, 0.85, 0.15),
    "white": (0.95, 0.95, 0.95),
    "cyan": (0.20, 0.85, 0.90),
}
GROUNDS: Mapping[str, tuple[float, float, float]] = {
    "blue": (0.10, 0.20, 0.65),
    "green": (0.08, 0.42, 0.15),
    "purple": (0.42, 0.12, 0.50),
    "grey": (0.30, 0.30, 0.30),
}
SIZES = ("small", "large")

#: Each sentence with the digits it is true of. They are about the number and its name, never
#: about its shape: a four is written with or without a loop.
DIGIT_CLUES: Mapping[str, tuple[str, ...]] = {
    "it is even": ("zero", "two", "four", "six", "eight"),
    "it is odd": ("one", "three", "five", "seven", "nine"),
    "it is less than five": ("zero", "one", "two", "three", "four"),
    "it is five or more": ("five", "six", "seven", "eight", "nine"),
    "it is prime": ("two", "three", "five", "seven"),
    "its name has three letters": ("one", "two", "six"),
    "its name has four letters": ("zero", "four", "five", "nine"),
    "its name has five letters": ("three", "seven", "eight"),
}

#: Each sentence with the classes of CIFAR-10 it is true of. Wings, not flight: some of the
#: birds are ostriches.
CIFAR10_CLUES: Mapping[str, tuple[str, ...]] = {
    "it is a machine": ("airplane", "automobile", "ship", "truck"),
    "it is an animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
    "it has wings": ("airplane", "bird"),
    "it drives on roads": ("automobile", "truck"),
    "people travel in it or on it": ("airplane", "automobile", "horse", "ship", "truck"),
    "it is at home in the air or on water": ("airplane", "bird", "frog", "ship"),
    "it has four legs": ("cat", "deer", "dog", "frog", "horse"),
    "it has fur": ("cat", "deer", "dog", "horse"),
    "it has claws": ("bird", "cat", "dog"),
    "it has hooves": ("deer", "horse"),
    "it lays eggs": ("bird", "frog"),
}

# It is the sound that counts: "a European", "a one-way street", "a unicorn", "a U-turn" begin with
# a consonant, "an hour", "an 8", "an X-ray" with a vowel.
CONSONANT_SOUND = re.compile(
    r"one\b|once|eu|ewe|ouija|uni(?![dmn])|unanim|u[rst][aeiou]|ubi|ufo|uga|uk|uv|u\b"
)
VOWEL_SOUND = re.compile(r"[aeiou]|hour|honou?r|honest|heir|8|1[18]\b|[fhlmnrsx]\b")


def article(noun: str) -> str:
    """Return "an" before a word that begins with the sound of a vowel, and else "a"."""
    word = noun.lower()
    return "an" if VOWEL_SOUND.match(word) and not CONSONANT_SOUND.match(word) else "a"


def class_caption(class_name: str, template: str = "a photo of {}") -> str:
    """Write the caption that every picture of a class shares.

    Args:
        class_name: Such as "automobile". Underscores are read as spaces.
        template: Text with one ``{}``, which is filled with the name and its article.

    Returns:
        Such as "a photo of an automobile", the example of the source chapter (section 3.4).
        One caption is wrong on purpose: the class "one" gets "an one", as in the recorded runs.

    Raises:
        ValueError: If the template does not hold exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"a caption template holds exactly one {{}}; got {template!r}")
    name = class_name.replace("_", " ")
    # The recorded runs learned from digit scenes that say "an one"; "a one" would be other data.
    before = "an" if name == "one" else article(name)
    return template.format(f"{before} {name}")


def named_by_class(labels: Int64[Tensor, " n"], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a caption for each label that names its class, such as "a photo of a cat"."""
    captions = [class_caption(name) for name in class_names]
    return tuple(captions[label] for label in labels.tolist())


def scene_caption(digit: int, colour: str, ground: str, size: str) -> str:
    """Write what one colour scene shows.

    Returns:
        Such as "a photo of a small red seven on a blue background".
    """
    thing = f"{article(size)} {size} {colour} {DIGIT_WORDS[digit]}"
    return f"a photo of {thing} on {article(ground)} {ground} background"


def scene_prompts(digit: int) -> list[str]:
    """Return every caption a colour scene of this digit can have: one prompt ensemble."""
    return [scene_caption(digit, *facts) for facts in product(COLOURS, GROUNDS, SIZES)]

"""What else may be said about a picture: its class and no more, or only a part of the answer.

A class caption names the class, so text alone settles the question. A clue is true of several
classes: it helps a model that sees the picture as well, and cannot replace the picture.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from cmssf_lib.captions import class_caption
from cmssf_lib.data.image_text import ImageTextData

TEXTS = ("caption", "class", "clue")

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


def with_class_captions(data: ImageTextData) -> ImageTextData:
    """Say about each picture what is true of its whole class, instead of its own caption.

    Returns:
        The same pictures and labels, with captions such as "a photo of a seven".
    """
    texts = [class_caption(name) for name in data.class_names]
    captions = tuple(texts[label] for label in data.labels.tolist())
    return replace(data, captions=captions, name=f"{data.name}, with class captions")


def with_clues(
    data: ImageTextData, clues: Mapping[str, tuple[str, ...]], seed: int
) -> ImageTextData:
    """Say about each picture one thing that is true of its class, instead of its caption.

    Args:
        data: Its class names are the ones the clues speak of.
        clues: Each sentence with the classes it is true of, such as `DIGIT_CLUES`.
        seed: Draws which of the true sentences is said, each equally often.

    Returns:
        The same pictures and labels, with clues for captions.

    Raises:
        ValueError: If no clue is true of some class.
    """
    true = [[c for c, classes in clues.items() if name in classes] for name in data.class_names]
    silent = [name for name, said in zip(data.class_names, true, strict=True) if not said]
    if silent:
        raise ValueError(
            f"{data.name}: no clue is true of the class(es) {', '.join(silent)}; every class "
            "needs at least one"
        )
    # A fraction of the list's length: lists of different length are drawn from in one go.
    draws = torch.rand(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    captions = tuple(
        true[label][int(draw * len(true[label]))]
        for label, draw in zip(data.labels.tolist(), draws, strict=True)
    )
    return replace(data, captions=captions, name=f"{data.name}, with clues")

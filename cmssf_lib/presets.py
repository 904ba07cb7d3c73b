"""Every number that makes a run what it is, in three sizes.

- ``quick``: embedded data, seconds to a minute on two CPU cores. Nothing is downloaded.
- ``standard``: CIFAR-10 and a small vision transformer with a convolutional stem.
- ``paper``: the source chapter's own set-up (sections 3.3 and 3.4). For a GPU.

The presets are frozen: ``dataclasses.replace`` makes a changed copy, nothing changes one
behind the reader's back.
"""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        name: "digit_scenes", "cifar10" or "image_folder".
        flavour: Of digit scenes: "plain" or "colour".
        train: Number of digit scenes to train on; the others take all there are.
        test: Number of digit scenes to test on.
        validation: Training pictures held out for every choice made along the way.
        image_size: Side in pixels.
        seed: Of the digit scenes and of the held-out part.
        path: Folder of the pictures; ``None`` for $CMSSF_DATA, or a download.
    """

    name: str = "digit_scenes"
    flavour: str = "colour"
    train: int = 4000
    test: int = 1000
    validation: int = 500
    image_size: int = 16
    seed: int = 0
    path: str | None = None


@dataclass(frozen=True)
class ViewsConfig:
    """How a random view of a picture is made; zeros and ones leave it as it is.

    Attributes:
        area: Smallest and largest part of the picture's area that a crop keeps.
        ratio: Smallest and largest width-to-height ratio of a crop.
        shift: Largest shift, as a fraction of the side; what moves in from outside is black.
        turn: Largest rotation either way, in radians.
        shear: Largest shear either way.
        flip: Probability of a left-right flip.
        brightness: A factor is drawn from 1 ± this.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest turn of the colour circle either way, as a fraction of it (at most 0.5).
        jitter: Probability that the four colour changes happen at all.
        grey: Probability of losing all colour.
        solarise: Probability of inverting the bright pixels.
    """

    area: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    turn: float = 0.0
    shear: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    grey: float = 0.0
    solarise: float = 0.0


@dataclass(frozen=True)
class VisionConfig:
    """An image encoder.

    Attributes:
        kind: "plain" (a vision transformer on patches), "conv_stem" (convolutions in place of
            the patches) or "timm" (a model of the timm library by name).
        image_size: Side in pixels that the encoder works at; pictures of another size are
            resized on the device.
        patch_size: Side of a patch; a convolutional stem halves as often as that takes.
        width: Length of a token.
        depth: Number of transformer blocks.
        heads: Attention heads in each.
        norm: Of the convolutional stem: "batch" or "group".
        timm_name: For "timm", such as "vit_small_patch16_224.dino".
        weights: For "timm": "" for random weights, "timm" to download the published ones, or
            the path of a state dict (``.safetensors``).
        mean: Pixel mean of each channel, subtracted.
        std: Pixel standard deviation of each channel, divided by.
    """

    kind: str = "conv_stem"
    image_size: int = 32
    patch_size: int = 4
    width: int = 128
    depth: int = 2
    heads: int = 4
    norm: str = "batch"
    timm_name: str = ""
    weights: str = ""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class TextConfig:
    """A text encoder.

    Attributes:
        kind: "scratch" (a BERT with random weights and a tokenizer built from the captions)
            or "pretrained".
        width: Length of a token (scratch).
        depth: Number of layers (scratch).
        heads: Attention heads in each (scratch).
        max_length: Longest caption in tokens, [CLS] and [SEP] counted (scratch).
        dropout: Dropout in the layers (scratch). Zero keeps equal captions equal.
        name: For "pretrained": a name on the hub, or a folder.
    """

    kind: str = "scratch"
    width: int = 64
    depth: int = 2
    heads: int = 4
    max_length: int = 16
    dropout: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class CMSSFConfig:
    """What stands between the two encoders and the loss.

    Attributes:
        dim: Dimensions of the shared space.
        hidden: Width of the projection heads' hidden layer.
        loss: "one_hot", "multi_positive", "masked" or "excess" (see `cmssf_lib.losses`).
        temperature: The starting value; the logit scale is its inverse and is learned.
        views: The random view that each picture is shown in.
    """

    dim: int = 256
    hidden: int = 256
    loss: str = "one_hot"
    temperature: float = 0.07
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class TrainConfig:
    """How `cmssf_lib.train.fit` trains.

    Attributes:
        epochs: Passes through the data.
        batch_size: Pictures a step, over all processes.
        lr: Largest learning rate.
        text_lr: Factor on it for the text tower. While the pictures cannot tell two digits apart,
            the loss pulls the two captions together; a slow text tower keeps them apart until
            the pictures can.
        weight_decay: On matrices only, never on biases, norms or the logit scale.
        optimizer: "adam" or "adamw".
        schedule: "constant" or "cosine".
        warmup: Part of all steps over which the learning rate rises to ``lr``.
        clip: Largest norm of the gradient; 0 for no limit.
        seed: Of everything random.
        precision: "no", "bf16" or "fp16" (accelerate's mixed precision).
        checkpoint_minutes: A checkpoint is written this often, and after every epoch.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    text_lr: float = 0.1
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float = 1.0
    seed: int = 0
    precision: str = "no"
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True)
class Preset:
    """One size of everything; ``minutes`` says what a training run costs, and where."""

    name: str
    minutes: str
    data: DataConfig
    vision: VisionConfig
    text: TextConfig
    cmssf: CMSSFConfig
    train: TrainConfig


QUICK = Preset(
    name="quick",
    minutes="one to two minutes on two CPU cores",
    data=DataConfig(train=6500, validation=500, image_size=16),
    vision=VisionConfig(image_size=16, width=64, depth=2, heads=4),
    text=TextConfig(width=64, depth=2, heads=4),
    cmssf=CMSSFConfig(views=ViewsConfig(shift=0.0625)),
    train=TrainConfig(epochs=22, batch_size=128, lr=3e-3, text_lr=0.01),
)

STANDARD = Preset(
    name="standard",
    minutes="minutes on one GPU, one to three hours on two CPU cores",
    data=DataConfig(name="cifar10", validation=5000, image_size=32),
    vision=VisionConfig(image_size=32, width=128, depth=2, heads=4),
    text=TextConfig(),
    cmssf=CMSSFConfig(views=ViewsConfig(shift=0.0625, flip=0.5)),
    train=TrainConfig(epochs=12, batch_size=128, lr=1e-3),
)

PAPER = Preset(
    name="paper",
    minutes="hours on one GPU, days without one",
    data=DataConfig(name="cifar10", validation=5000, image_size=32),
    vision=VisionConfig(
        kind="timm",
        image_size=224,
        patch_size=16,
        width=384,
        depth=12,
        heads=6,
        timm_name="vit_small_patch16_224.dino",
        weights="timm",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    text=TextConfig(width=256, depth=4, heads=4),
    cmssf=CMSSFConfig(hidden=384, views=ViewsConfig(area=(0.6, 1.0), flip=0.5)),
    train=TrainConfig(
        epochs=100,
        batch_size=128,
        lr=1e-4,
        text_lr=1.0,
        weight_decay=0.0,
        optimizer="adam",
        schedule="constant",
        warmup=0.0,
        clip=0.0,
    ),
)

PRESETS: dict[str, Preset] = {p.name: p for p in (QUICK, STANDARD, PAPER)}


def preset(name: str | None = None) -> Preset:
    """Look up a preset.

    Args:
        name: "quick", "standard" or "paper". Without it $CMSSF_PRESET decides, and without
            that "standard" on a machine with a GPU and "quick" on any other.

    Raises:
        ValueError: If there is no such preset.
    """
    chosen = name or os.environ.get("CMSSF_PRESET") or _default_name()
    if chosen not in PRESETS:
        origin = "" if name else " (from $CMSSF_PRESET)"
        raise ValueError(f"unknown preset {chosen!r}{origin}; choose one of {', '.join(PRESETS)}")
    return PRESETS[chosen]


def _default_name() -> str:
    import torch  # here, so that reading a preset does not load PyTorch

    return "standard" if torch.cuda.is_available() else "quick"


def start(notebook: str) -> Preset:
    """Print what a notebook is about to run on, and return its preset.

    Every notebook calls this in its first cell.

    Args:
        notebook: Its name without the ending, such as "00_quickstart".
    """
    import torch

    chosen = preset()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name(0)
        advice = "CMSSF_PRESET=paper runs the source chapter's own set-up."
    else:
        device = "CPU"
        advice = "In Colab: Runtime > Change runtime type > GPU, then run this cell again."
    print(f"{notebook}: preset {chosen.name}, {chosen.minutes}; running on {device}.")
    print(f"Another preset: set CMSSF_PRESET to {', '.join(PRESETS)} before this cell. {advice}")
    return chosen

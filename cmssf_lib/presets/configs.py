"""The settings of data, views, encoders, CMSSF and training, as frozen dataclasses."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        name: "digit_scenes", "cifar10" or "image_folder".
        flavour: Of digit scenes: "plain", "tinted", "colour" or "two" (two digits and a question).
        text: What is said about a picture: "caption" (all of it, or its class), "class" (its class
            and no more) or "clue" (a true sentence that leaves several classes open).
        sound: What is heard with a digit: "none", "same" (its own telephone tone) or "any" (the
            tone of some digit; the label is then whether it is the picture's).
        pixel_noise: Standard deviation of the noise on the pixels, in parts of their range.
        sound_noise: Standard deviation of the noise in the sound; a tone's two sines have
            amplitude one half.
        train: Number of digit scenes to train on; the others take all there are.
        test: Number of digit scenes to test on.
        validation: Training pictures held out for every choice made along the way.
        image_size: Side in pixels.
        seed: Of the digit scenes and of the held-out part.
        path: Folder of the pictures; ``None`` for $CMSSF_DATA, or a download.
        captions: Of an image folder: a table in it with a caption for each picture; ``None`` for
            class captions.
    """

    name: str = "digit_scenes"
    flavour: str = "colour"
    text: str = "caption"
    sound: str = "none"
    pixel_noise: float = 0.0
    sound_noise: float = 0.3
    train: int = 4000
    test: int = 1000
    validation: int = 500
    image_size: int = 16
    seed: int = 0
    path: str | None = None
    captions: str | None = None


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
        erase: Side of a square that is made grey, as a fraction of the picture's.
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
    erase: float = 0.0


@dataclass(frozen=True)
class VisionConfig:
    """An image encoder.

    Attributes:
        kind: "plain" (a vision transformer on patches), "conv_stem" (convolutions in place of
            the patches), "conv_stem_apart" (the same on each patch by itself, as MAE trains it) or
            "timm" (a model of the timm library by name).
        image_size: Side in pixels that the encoder works at; pictures of another size are
            resized on the device.
        patch_size: Side of a patch; a convolutional stem halves as often as that takes.
        width: Length of a token.
        depth: Number of transformer blocks.
        heads: Attention heads in each.
        norm: Of the convolutional stem: "batch" or "group".
        halve: How the convolutional stem makes the picture smaller: "stride", or "pool" (two
            convolutions more, max-pooling, and shortcuts).
        timm_name: For "timm", such as "vit_small_patch16_224.dino".
        weights: Where the encoder begins: "" for random weights; for "timm" models also "timm",
            to download the published ones; or the path of a state dict (``.safetensors``), or of a
            run of this library whose image encoder it continues. ``build`` also knows the names of
            recorded runs. Weights that MAE learned make a "conv_stem" a "conv_stem_apart".
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
    halve: str = "stride"
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
        hidden: Width of the projection heads' hidden layers.
        depth: Number of these; 0: a linear map.
        head_norm: Whether the image head's hidden layers have a batch norm.
        loss: "one_hot", "multi_positive", "masked" or "excess" (see `cmssf_lib.losses`).
        temperature: The starting value; the logit scale is its inverse and is learned.
        chunk: Rows of the loss's matrix of similarities in memory at a time; 0: all. Changes
            nothing else.
        micro_batch: Pictures, and captions, that go through their tower at a time in training;
            0: all. Changes memory and time, and nothing else. Needs a stem without batch norm.
        freeze_image: Whether the image encoder stays as it begins, and the rest learns. Each
            picture is then encoded once, before the training.
        cached_views: Random views of each picture that a frozen encoder is shown; 0: the picture
            as it is.
        image_loss: "simclr" or "dino": what the image encoder learns beside the image–text loss,
            with that method's own settings, in a single process; "": nothing.
        image_weight: What that loss is multiplied by.
        views: The random view that each picture is shown in.
    """

    dim: int = 256
    hidden: int = 256
    depth: int = 1
    head_norm: bool = False
    loss: str = "one_hot"
    temperature: float = 0.07
    chunk: int = 0
    micro_batch: int = 0
    freeze_image: bool = False
    cached_views: int = 0
    image_loss: str = ""
    image_weight: float = 1.0
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
        optimizer: "adam", "adamw" or "muon" (for the matrices of the image tower; the rest has
            AdamW).
        schedule: "constant" or "cosine".
        warmup: Part of all steps over which the learning rate rises to ``lr``.
        clip: Largest norm of the gradient; 0 for no limit.
        seed: Of everything random.
        precision: "no", or "bf16" (accelerate's mixed precision).
        checkpoint_minutes: A checkpoint is written this often, and after every epoch.
        half_weights: Round matrices to half precision when the training is over. What is measured
            is then what is kept, and a record takes half as much space.
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
    half_weights: bool = False

"""The settings of the self-supervised methods of chapters 4 to 6, and of supervised learning."""

from dataclasses import dataclass, field

from cmssf_lib.presets.configs import ViewsConfig


@dataclass(frozen=True)
class SimCLRConfig:
    """SimCLR (chapter 5).

    Attributes:
        hidden: Width of the projection head's hidden layer.
        dim: Dimensions in which views are compared.
        temperature: Divides the cosine similarities.
        views: How the two views of a picture are made.
    """

    hidden: int = 128
    dim: int = 64
    temperature: float = 0.2
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class MoCoConfig:
    """MoCo (chapter 5).

    Attributes:
        hidden: Width of the projection head's hidden layer.
        dim: Dimensions in which views are compared.
        temperature: Divides the cosine similarities.
        queue: Number of keys that are kept as negatives; a multiple of the batch size.
        in_batch: Whether the keys of the batch's other pictures are negatives as well.
        momentum: Part of itself that the momentum encoder keeps in a step.
        views: How the two views of a picture are made.
    """

    hidden: int = 128
    dim: int = 64
    temperature: float = 0.2
    queue: int = 2048
    in_batch: bool = False
    momentum: float = 0.99
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class BYOLConfig:
    """BYOL (chapter 6).

    Attributes:
        hidden: Width of the hidden layer of projector and predictor.
        dim: Dimensions of the target that is predicted.
        momentum: Part of itself that the target network keeps in the first step; it rises to 1
            along half a cosine.
        predictor: Whether the online network has one. Without it: a lesson in collapse.
        stop_gradient: Whether the target is a slow copy that gets no gradient. If not, it is the
            online network itself, gradient and all: another such lesson.
        views: How the two views of a picture are made.
    """

    hidden: int = 128
    dim: int = 64
    momentum: float = 0.99
    predictor: bool = True
    stop_gradient: bool = True
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class DINOConfig:
    """DINO (chapter 6).

    Attributes:
        hidden: Width of the head's hidden layers.
        head_norm: Whether these have a batch norm.
        bottleneck: Width just before the prototypes.
        prototypes: Number of outputs that student and teacher agree on.
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's; smaller, which sharpens.
        centre_momentum: Part of itself that the centre keeps in a step.
        momentum: Part of itself that the teacher keeps in the first step; it rises to 1.
        freeze_last: Part of the training during which the prototypes are not moved.
        local_crops: Number of small views of a picture, beside two large ones.
        local_size: Side of a small view in pixels.
        views: How a large view is made.
        local_views: How a small view is made.
    """

    hidden: int = 128
    head_norm: bool = False
    bottleneck: int = 64
    prototypes: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    momentum: float = 0.99
    freeze_last: float = 0.05
    local_crops: int = 2
    local_size: int = 8
    views: ViewsConfig = field(default_factory=ViewsConfig)
    local_views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class MAEConfig:
    """Masked autoencoder (chapter 4).

    Attributes:
        mask_ratio: Part of the patches that is hidden from the encoder.
        width: Of the decoder.
        depth: Blocks of the decoder.
        heads: Attention heads in each.
        normalise: Whether each target patch is shifted and scaled to mean 0 and variance 1.
        views: How the picture is varied before it is masked.
    """

    mask_ratio: float = 0.75
    width: int = 48
    depth: int = 1
    heads: int = 4
    normalise: bool = True
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class SupervisedConfig:
    """Learning with labels, for comparison.

    Attributes:
        loss: "cross_entropy" or "supcon".
        hidden: Width of the projection head's hidden layer (supcon).
        dim: Dimensions in which views are compared (supcon).
        temperature: Divides the cosine similarities (supcon).
        views: How a view of a picture is made.
    """

    loss: str = "cross_entropy"
    hidden: int = 128
    dim: int = 64
    temperature: float = 0.1
    views: ViewsConfig = field(default_factory=ViewsConfig)


@dataclass(frozen=True)
class JudgeConfig:
    """How what was learned is measured on the test set, when the training is over.

    Attributes:
        per_class: Labels a class with which classifiers are fitted; 0: none such.
        fractions: Parts of the training set whose labels they are fitted with, such as 0.01.
        draws: Choices of the labelled pictures, where there is a choice.
        fine_tune: Whether the encoder is fine-tuned with those labels as well. A masked
            autoencoder always is.
        pixels: Whether classifiers are fitted on raw pixels as well.
    """

    per_class: int = 10
    fractions: tuple[float, ...] = ()
    draws: int = 3
    fine_tune: bool = False
    pixels: bool = False


@dataclass(frozen=True)
class FineTuneConfig:
    """Training on from a method's weights with few labels, to judge them as a start.

    Attributes:
        steps: Of the optimizer; the same for every start and every number of labels. 0: nothing is
            fine-tuned.
        batch_size: Pictures a step.
        lr: Largest learning rate.
        baseline: Whether the same network with fresh weights goes through it as well.
        views: How a picture is varied.
    """

    steps: int = 600
    batch_size: int = 50
    lr: float = 3e-3
    baseline: bool = True
    views: ViewsConfig = field(default_factory=ViewsConfig)

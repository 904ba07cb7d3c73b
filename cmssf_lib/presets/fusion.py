"""The settings of the fusion models of chapters 2 and 3."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionConfig:
    """A model that answers from several modalities at once.

    Attributes:
        kind: Where the modalities meet: "early", "feature", "late" or "coattention".
        rule: How they meet. Early: "tokens" (one sequence) or "channels" (one stack of planes).
            Feature: "concat", "gated" or "bilinear". Late: "mean", "weighted" or "stacked".
            Co-attention: "separate" weights for the two directions (ViLBERT) or "shared"
            (LXMERT).
        modalities: Which of "image", "text" and "sound" the model takes.
        image_size: Height and width of the pictures in pixels.
        patch_size: Side of a patch; 4 with the convolutional stem.
        width: Length of a token.
        depth: Number of transformer blocks that a token goes through.
        heads: Attention heads in each.
        rank: Of the bilinear form.
        norm_first: In co-attention, norms before each part of a layer, which leaves the plateau
            of the first epochs sooner, or after it, as in ViLBERT and LXMERT.
        hidden: Width of the hidden layer before the answer (feature and co-attention).
        max_length: Longest text in tokens, [CLS] and [SEP] counted.
        samples: Length of every sound; 800 are 0.1 seconds at 8 kHz.
        mels: Bands of the spectrogram of a sound.
        modality_dropout: Probability that a modality is hidden from the model in a training
            step, drawn for each example; the last one is never hidden.
    """

    kind: str = "feature"
    rule: str = "concat"
    modalities: tuple[str, ...] = ("image", "text", "sound")
    image_size: tuple[int, int] = (16, 16)
    patch_size: int = 4
    width: int = 48
    depth: int = 2
    heads: int = 4
    rank: int = 48
    norm_first: bool = True
    hidden: int = 96
    max_length: int = 12
    samples: int = 800
    mels: int = 16
    modality_dropout: float = 0.0

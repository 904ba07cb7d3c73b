"""Fine-tuning: train a copy of a method with labels, to measure its weights as a starting point."""

import copy
import math

import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch, ImageTextData, Splits
from cmssf_lib.evaluate.embeddings import embed_features
from cmssf_lib.evaluate.linear import Choices, with_each_choice
from cmssf_lib.methods import Method
from cmssf_lib.methods.base import Images
from cmssf_lib.settings import settings
from cmssf_lib.train import TrainConfig, fit
from cmssf_lib.views import Views, ViewsConfig


@settings
class FineTuneConfig:
    """Settings of fine-tuning with few labels, which evaluates weights as a starting point."""

    steps: NonNegativeInt  # optimizer steps, the same for every number of labels; 0: no fine-tuning
    batch_size: PositiveInt  # pictures per step
    lr: PositiveFloat  # peak learning rate
    baseline: bool  # also evaluate the same network with untrained weights
    views: ViewsConfig  # how pictures are augmented


class FineTuned(Method):
    """A copy of a method with a linear classifier on its features, trained with cross-entropy.

    It is a `Method`, so `fit` trains it. The classifier starts at zero, so the encoder's gradients
    start at zero too. The gradients through a random classifier would distort the encoder.

    Batch norm stays in training mode: it normalises with the statistics of the batch and updates
    its running averages. In evaluation mode it would use the statistics stored with the weights.
    A trained method collected these on augmented views. An untrained method never collected any,
    so it would train without normalisation, and the comparison would be unfair.

    Args:
        method: The method to copy; the original does not change. Its `features` must be
            differentiable, without `torch.no_grad`. All weights that `features` uses are trained,
            even those that the method itself freezes, such as a momentum teacher or a frozen tower.
        width: Width of its features.
        classes: Number of classes.
        views: How pictures are augmented during training.
    """

    lasting = ("",)

    def __init__(self, method: Method, width: int, classes: int, views: ViewsConfig) -> None:
        super().__init__()
        self.method = copy.deepcopy(method).requires_grad_(True)
        self.views = Views(views)
        # skip_init draws no random numbers, so the caller's random state does not change.
        of = next(self.method.parameters())
        self.head = nn.utils.skip_init(nn.Linear, width, classes, device=of.device, dtype=of.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> "FineTuned":
        """Set the mode of every part, even a tower that the method keeps in evaluation mode."""
        for part in self.modules():
            part.training = mode
        return self

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return the features of the fine-tuned copy."""
        return self.method.features(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy ("loss") and the share of correct predictions ("accuracy")."""
        images = self.views(batch.images) if self.training else batch.images
        logits = self.head(self.features(images))  # (b, classes)
        right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": right}

    @torch.no_grad()
    def predict(self, data: ImageTextData) -> Int64[Tensor, " n"]:
        """Return each picture's predicted class, on the CPU; all modes stay as they were."""
        features = embed_features(self, data.images)
        logits: Tensor = self.head(features.to(self.head.weight))
        return logits.argmax(dim=1).cpu()


def fine_tune(
    method: Method,
    labelled: ImageTextData,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    views: ViewsConfig | None = None,
) -> FineTuned:
    """Fine-tune a copy of a method on labelled pictures: AdamW, cosine schedule, 10 % warm-up.

    The budget is in steps, so it is the same for all methods and all numbers of labels. It is
    rounded up to whole epochs.

    Args:
        method: The method to copy, trained or (as a baseline) untrained. It does not change.
        labelled: The pictures to train on, such as
            `train.subset(few_labels(train.labels, 10, per_class=10, seed=0))`.
        steps: Number of optimizer steps.
        batch_size: Pictures per step, at most the number of labelled pictures.
        lr: Peak learning rate of both the encoder and the classifier.
        seed: Seed of the order of the pictures, the augmentation, and dropout.
        views: How pictures are augmented during training; None: no augmentation.

    Returns:
        The fine-tuned copy, in evaluation mode; classify with its `predict`.

    Raises:
        ValueError: If `features` carries no gradient, there are fewer pictures than one batch, or
            a setting is out of range.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", on why not to start with a random classifier.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be positive; got {steps} and {batch_size}.")
    config = TrainConfig(
        epochs=math.ceil(steps / max(1, len(labelled) // batch_size)),
        batch_size=batch_size,
        lr=lr,
        text_lr=1.0,  # has no effect: texts are not used
        weight_decay=0.05,
        optimizer="adamw",
        schedule="cosine",
        warmup=0.1,
        clip=1.0,
        seed=seed,
    )
    width = embed_features(method, labelled.subset([0])).shape[1]
    tuned = FineTuned(method, width, len(labelled.class_names), views or ViewsConfig())
    device = next(tuned.parameters()).device
    if not tuned.eval().features(labelled.images[:1].to(device)).requires_grad:
        raise ValueError(
            f"the features of {type(method).__name__} carry no gradient, so its weights cannot be "
            "fine-tuned: remove torch.no_grad from `features` (evaluation adds it by itself)."
        )
    fit(tuned, labelled, config, progress=False)
    return tuned


def fine_tune_report(
    method: Method,
    splits: Splits,
    chosen: Choices,
    recipe: FineTuneConfig,
    predictions: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Fine-tune once for each choice of labels, each time from the method's weights, and measure.

    The names are as in `probe_report`: `fine_tuned_<name>`, `_std`, `_draws`. The index of a choice
    is also the seed of its training. `fine_tuned_<name>_steps` is the number of steps: the budget,
    rounded up to whole epochs.

    Args:
        method: The method to start from; it does not change.
        splits: Training set and test set. To choose settings by these numbers, pass a validation
            set instead of the test set.
        chosen: The labelled examples of the training set, from `label_draws`.
        recipe: The settings; `batch_size` must not exceed the smallest choice.
        predictions: If given, filled with the predicted classes behind each accuracy, (draws, n).

    Returns:
        A flat dictionary: name → number.

    Raises:
        ValueError: If a choice is smaller than a batch, or for a reason given in `fine_tune`.
    """
    asked = {name: value for name, value in vars(recipe).items() if name != "baseline"}

    def answers(index: Int64[Tensor, " m"], seed: int) -> Int64[Tensor, " n"]:
        tuned = fine_tune(method, splits.train.subset(index), seed=seed, **asked)
        return tuned.predict(splits.test)

    truth, found = splits.test.labels.cpu(), {} if predictions is None else predictions
    results = with_each_choice("fine_tuned", chosen, answers, truth, found)
    for name, indices in chosen.items():
        a_pass = len(indices[0]) // recipe.batch_size
        results[f"fine_tuned_{name}_steps"] = float(a_pass * math.ceil(recipe.steps / a_pass))
    return results

"""How good a start learned weights are: train on from them, with labels."""

import copy
import math
from typing import Any

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
    """Training on from a method's weights with few labels, to judge them as a start."""

    steps: NonNegativeInt  # of the optimizer, the same for every number of labels; 0: none
    batch_size: PositiveInt  # pictures a step
    lr: PositiveFloat  # largest learning rate
    baseline: bool  # send the same network with fresh weights through it as well
    views: ViewsConfig  # how a picture is varied


class FineTuned(Method):
    """A copy of a method with a linear classifier on its features, trained by cross-entropy.

    It is a method like any other, so `fit` trains it. The classifier starts at zero: the first
    steps move it alone, and no random classifier pulls the encoder about.

    Batch norm trains as it does anywhere else: it normalises with the statistics of the batch and
    keeps a running mean of them. In evaluation mode it would go on with the statistics it
    brought along. Those of a trained method are of random views, and those of an untrained one of
    nothing at all: it would train without its norms, and the comparison would not be fair.

    Args:
        method: Copied; the original does not change. Its `features` must be differentiable, with
            no `torch.no_grad` in it. All weights that it uses are trained, also those that the
            method itself keeps frozen, such as a momentum teacher's or a frozen tower's.
        width: Of its features.
        classes: Number of classes.
        views: How a picture is varied while training.
    """

    lasting = ("",)

    def __init__(self, method: Method, width: int, classes: int, views: ViewsConfig) -> None:
        super().__init__()
        self.method = copy.deepcopy(method).requires_grad_(True)
        self.views = Views(views)
        # Not filled at random first: that would draw from the caller's random numbers.
        device = next(self.method.parameters()).device
        self.head = nn.utils.skip_init(nn.Linear, width, classes, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> "FineTuned":
        """Switch every part, also a tower that the method itself keeps in evaluation mode."""
        super().train(mode)
        for part in self.method.modules():
            part.training = mode
        return self

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return the features of the fine-tuned copy."""
        return self.method.features(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy ("loss") and the share of right answers ("accuracy")."""
        images = self.views(batch.images) if self.training else batch.images
        logits = self.head(self.features(images))  # (b, classes)
        right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": right}

    @torch.no_grad()
    def predict(self, data: ImageTextData) -> Int64[Tensor, " n"]:
        """Return each picture's predicted class, on the CPU, with all modes left as they are."""
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
    """Train a copy of a method on labelled pictures: AdamW, cosine schedule, a tenth of warm-up.

    The budget is in steps, so that all methods, and all numbers of labels, get the same. It is
    rounded up to whole passes through the pictures.

    Args:
        method: Trained, or not: an untrained one is the baseline. It is left as it is.
        labelled: The pictures to train on, such as
            `train.subset(few_labels(train.labels, 10, per_class=10, seed=0))`.
        steps: Of the optimizer.
        batch_size: Pictures a step, at most all of them.
        lr: Largest learning rate, of the encoder and the classifier alike.
        seed: Of the order of pictures, the views, and dropout.
        views: How a picture is varied while training; None: not at all.

    Returns:
        The fine-tuned copy, in evaluation mode; `predict` classifies with it.

    Raises:
        ValueError: If `features` carries no gradient, there are fewer pictures than one batch, or
            a setting is out of range.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", on why a random classifier is a bad start.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be positive; got {steps} and {batch_size}.")
    config = TrainConfig(
        epochs=math.ceil(steps / max(1, len(labelled) // batch_size)),
        batch_size=batch_size,
        lr=lr,
        text_lr=1.0,  # texts are not learned from
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
            "trained on: take torch.no_grad out of `features` (evaluation switches it on itself)."
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
    """Fine-tune with each choice of labels, always from the same start, and measure.

    The names are those of `probe_report`: `fine_tuned_<name>`, `_std`, `_draws`. The number of a
    choice is the seed of its training. The number of steps (`fine_tuned_<name>_steps`) is the
    budget, rounded up to whole passes.

    Args:
        method: Left as it is.
        splits: Training set and test set. To choose a setting by these numbers, put a validation
            set in the place of the test set.
        chosen: The labelled examples of the training set, from `label_draws`.
        recipe: Steps, learning rate, views; a batch is at most as large as the smallest choice.
        predictions: If given, filled with the predicted classes behind each accuracy, (draws, n).

    Returns:
        Flat: name → number.

    Raises:
        ValueError: A choice is smaller than a batch, or see `fine_tune`.
    """
    asked: dict[str, Any] = vars(recipe).copy()
    del asked["baseline"]

    def answers(index: Int64[Tensor, " m"], seed: int) -> Int64[Tensor, " n"]:
        tuned = fine_tune(method, splits.train.subset(index), seed=seed, **asked)
        return tuned.predict(splits.test)

    truth, found = splits.test.labels.cpu(), {} if predictions is None else predictions
    results = with_each_choice("fine_tuned", chosen, answers, truth, found)
    for name, indices in chosen.items():
        a_pass = len(indices[0]) // recipe.batch_size
        results[f"fine_tuned_{name}_steps"] = float(a_pass * math.ceil(recipe.steps / a_pass))
    return results

"""How good a start learned weights are: train on from them, with labels."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import Batch, ImageTextData, Splits
from cmssf_lib.evaluate.classify import accuracy
from cmssf_lib.evaluate.draws import label_draws, summary
from cmssf_lib.evaluate.embeddings import embed_features
from cmssf_lib.presets import TrainConfig, ViewsConfig
from cmssf_lib.runs import Run
from cmssf_lib.timing import stopwatch
from cmssf_lib.train import fit
from cmssf_lib.views import Views, as_float


class FineTuned(nn.Module):
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

    def __init__(self, method: nn.Module, width: int, classes: int, views: ViewsConfig) -> None:
        super().__init__()
        self.method = copy.deepcopy(method).requires_grad_(True)
        if isinstance(self.method, CMSSF):  # else a frozen tower would stay in evaluation mode
            self.method.config = replace(self.method.config, freeze_image=False)
        self.views = Views(views)
        # Not filled at random first: that would draw from the caller's random numbers.
        device = next(self.method.parameters()).device
        self.head = nn.utils.skip_init(nn.Linear, width, classes, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the features of the fine-tuned copy."""
        return self.method.features(images)  # type: ignore[operator]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the cross-entropy ("loss") and the share of right answers ("accuracy")."""
        with stopwatch("views"), torch.no_grad():
            images = self.views(batch.images) if self.training else as_float(batch.images)
        logits = self.head(self.features(images))  # (b, classes)
        right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": right}

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    def after_step(self, progress: float) -> None:
        """Do nothing: no queue or teacher of the copied method has a part in this."""

    @torch.no_grad()
    def predict(self, data: ImageTextData, batch_size: int = 256) -> Int64[Tensor, "n"]:
        """Return the predicted class of each picture, on the CPU, with all modes left as they are.

        Args:
            data: Pictures to classify.
            batch_size: Pictures classified at a time; changes nothing but memory.
        """
        features = embed_features(self, data, batch_size)
        return self.head(features.to(self.head.weight.device)).argmax(dim=1).cpu()


def fine_tune(
    method: nn.Module,
    labelled: ImageTextData,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.05,
    views: ViewsConfig | None = None,
    run: Run | str | Path | None = None,
    progress: bool = False,
) -> FineTuned:
    """Train a copy of a method on labelled pictures: AdamW, cosine schedule, a tenth of warm-up.

    The budget is in steps, so that all methods, and all numbers of labels, get the same. It is
    rounded up to whole passes through the pictures; `run` records how many they were.

    Args:
        method: Trained, or not: an untrained one is the baseline. It is left as it is.
        labelled: The pictures to train on, such as
            `train.subset(few_labels(train.labels, 10, per_class=10, seed=0))`.
        steps: Of the optimizer.
        batch_size: Pictures a step, at most all of them.
        lr: Largest learning rate, of the encoder and the classifier alike.
        seed: Of the order of pictures, the views, and dropout.
        weight_decay: On matrices only.
        views: How a picture is varied while training; None: not at all.
        run: Where the record goes, as in `fit`; with a folder, an interrupted run goes on.
        progress: Show a progress bar.

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
        weight_decay=weight_decay,
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
    fit(tuned, labelled, config, run=run, progress=progress)
    return tuned


def fine_tune_report(
    method: nn.Module,
    splits: Splits,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    per_class: int | None = 10,
    fractions: Sequence[float] = (),
    draws: int = 3,
    weight_decay: float = 0.05,
    views: ViewsConfig | None = None,
    predictions: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Fine-tune with few labels and with many, each time from the same start, and measure.

    The names, and the choices of labelled examples, are those of `probe_report`:
    `fine_tuned_<name>`, `_std`, `_draws`. The number of steps (`fine_tuned_<name>_steps`) is the
    budget, rounded up to whole passes.

    Args:
        method: Left as it is.
        splits: Training set and test set. To choose a setting by these numbers, put a validation
            set in the place of the test set.
        steps: See `fine_tune`, as for batch size, learning rate, weight decay and views.
        batch_size: At most as many as the smallest choice holds.
        lr: Largest learning rate.
        per_class: Labels a class; None for none such.
        fractions: Parts of the training set.
        draws: Choices of labelled examples; each also is the seed of its training.
        weight_decay: On matrices only.
        views: How a picture is varied while training; None: not at all.
        predictions: If given, filled with the predicted classes behind each accuracy, (draws, n).

    Returns:
        Flat: name → number.

    Raises:
        ValueError: See `probe_report` and `fine_tune`.
    """
    train, test = splits
    chosen = label_draws(train.labels, len(train.class_names), per_class, fractions, draws)
    smallest = min(len(indices[0]) for indices in chosen.values())
    if batch_size > smallest:
        raise ValueError(
            f"the smallest choice of labels holds {smallest} pictures, fewer than one batch of "
            f"{batch_size}: choose a smaller batch."
        )
    results: dict[str, float] = {}
    for name, indices in chosen.items():
        predicted = []
        for seed, index in enumerate(indices):
            tuned = fine_tune(
                method,
                train.subset(index.to(train.images.device)),
                steps=steps,
                batch_size=batch_size,
                lr=lr,
                seed=seed,
                weight_decay=weight_decay,
                views=views,
            )
            predicted.append(tuned.predict(test))
        scores = [accuracy(p, test.labels.cpu()) for p in predicted]
        passes = math.ceil(steps / (len(indices[0]) // batch_size))
        results |= summary(f"fine_tuned_{name}", scores)
        results[f"fine_tuned_{name}_steps"] = float(passes * (len(indices[0]) // batch_size))
        if predictions is not None:
            predictions[f"fine_tuned_{name}"] = torch.stack(predicted)
    return results

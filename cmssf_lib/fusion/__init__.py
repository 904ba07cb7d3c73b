"""Fusion: where and how pictures, words and sounds are combined.

All models take the same dictionary of modalities and mark missing ones in the same way:
``model(inputs, present)`` → logits. They differ in where the modalities meet: in the data
(`EarlyFusion`), in the features (`FeatureFusion`), in the predictions (`LateFusion`), or in every
layer (`CoAttention`). The first and the last encode all modalities together (`joint.py`); the
other two have one encoder for each modality (`separate.py`). `FusionClassifier` is what `fit`
trains: any of these models, on pictures, captions and sounds.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import Batch, ImageTextData, batches
from cmssf_lib.encoders import tokenize, word_tokenizer
from cmssf_lib.fusion.inputs import (
    FusionConfig as FusionConfig,
    FusionModel,
    Masks,
    collect_masks as collect_masks,
    hide as hide,
)
from cmssf_lib.fusion.joint import (
    CoAttention as CoAttention,
    CoAttentionLayer as CoAttentionLayer,
    CrossAttention as CrossAttention,
    EarlyFusion as EarlyFusion,
    mean_token as mean_token,
)
from cmssf_lib.fusion.separate import (
    FeatureFusion as FeatureFusion,
    LateFusion as LateFusion,
    weighted_mean as weighted_mean,
)
from cmssf_lib.fusion.streams import Attention as Attention, Block as Block, attention as attention
from cmssf_lib.methods.base import Method, evaluating

MODELS: Mapping[str, type[FusionModel]] = {
    model.kind: model for model in (EarlyFusion, FeatureFusion, LateFusion, CoAttention)
}
RULES = {kind: model.rules for kind, model in MODELS.items()}
AT_ONCE = 512  # examples in a batch of predictions


class FusionClassifier(Method):
    """Classifies examples from several modalities.

    Args:
        config: Which model, and its sizes.
        captions: Texts to build the tokenizer from; used only if "text" is a modality.
        classes: Number of classes.

    Attributes:
        model: The fusion model.

    Raises:
        ValueError: If the configuration is inconsistent, or the tokenizer lacks captions.
    """

    lasting = ("",)
    capturable = False  # each step copies its captions to the GPU

    def __init__(self, config: FusionConfig, captions: Sequence[str], classes: int) -> None:
        super().__init__()
        self.config = config
        reads = "text" in config.modalities
        self.tokenizer = word_tokenizer(captions, config.max_length) if reads else None
        vocabulary = 0 if self.tokenizer is None else len(self.tokenizer)
        self.model = MODELS[config.kind](config, vocabulary, classes)

    def inputs(self, batch: Batch, hide: Sequence[str] = ()) -> dict[str, Tensor]:
        """Collect the model's inputs from a batch.

        Args:
            batch: A batch of the data.
            hide: Modalities to leave out.

        Returns:
            The tensor of each modality that the model takes and ``hide`` does not name.

        Raises:
            ValueError: If the data has no sounds but the model takes them, or ``hide`` names
                a modality that the model does not take.
        """
        takes = self.config.modalities
        if unknown := [name for name in hide if name not in takes]:
            raise ValueError(f"cannot hide {unknown[0]!r}: this model takes {', '.join(takes)}")
        found = {"image": batch.images}
        if self.tokenizer is not None:  # each different caption is tokenized once
            ids, _ = tokenize(self.tokenizer, batch.captions, batch.images.device)
            found["text"] = ids[batch.caption_index]
        if batch.sounds is not None:
            found["sound"] = batch.sounds
        elif "sound" in takes and "sound" not in hide:
            raise ValueError("this model takes sounds, but the data has none: load it with sounds")
        return {name: found[name] for name in takes if name not in hide}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compare the predictions with the labels.

        Returns:
            "loss", the cross-entropy (for late fusion the sum over its models), and "accuracy"
            (for late fusion that of the rule "mean", which needs no fitting).
        """
        inputs = self.inputs(batch)
        if isinstance(self.model, LateFusion):
            answers, presence = self.model.log_probabilities(inputs)
            loss = self.model.loss(answers, presence, batch.labels)
            logits = self.model.combine(answers.detach(), presence, "mean")
        else:
            logits = self.model(inputs)
            loss = F.cross_entropy(logits, batch.labels)
        right = logits.detach().argmax(dim=1) == batch.labels
        return {"loss": loss, "accuracy": right.float().mean()}

    def predict(
        self,
        data: ImageTextData,
        *,
        present: Masks = None,
        hide: Sequence[str] = (),
        rule: str | None = None,
    ) -> Float[Tensor, "n classes"]:
        """Predict the class of every example, in evaluation mode.

        Args:
            data: Data on any device.
            present: For a modality, ``(n,)`` bool: which examples have it.
            hide: Modalities that are missing for all examples.
            rule: Rule of late fusion to use instead of the configured one.

        Returns:
            Log-probabilities, on the data's device.

        Raises:
            ValueError: As for `collect_masks` and `inputs`; or if a rule is unknown or given to
                a model that is not late fusion.
            TypeError: If a mask is not bool.
            RuntimeError: If the rule of late fusion has not been fitted.
        """
        takes, present = self.config.modalities, present or {}
        collect_masks(dict.fromkeys(takes, data.labels), present, takes)  # check the masks
        model = self.model if rule is None else partial(self._late(), rule=rule)
        answers = []
        with evaluating(self) as device:
            for batch in batches(data.to(device), AT_ONCE, shuffle=False, drop_last=False):
                here = {n: mask[batch.index.to(mask.device)] for n, mask in present.items()}
                answers.append(model(self.inputs(batch, hide), here))
        return torch.cat(answers).log_softmax(dim=1).to(data.images.device)

    def fit_rule(self, validation: ImageTextData) -> None:
        """Fit how late fusion weighs its models, on data held out from training.

        Args:
            validation: Held-out data that contains every class.

        Raises:
            ValueError: If the model is not late fusion, or a class is missing.
        """
        model = self._late()
        with evaluating(self) as device:
            answers, presence = self._opinions(validation.to(device), {})
        model.fit_rules(answers, presence, validation.labels)

    def predict_by_rules(
        self, data: ImageTextData, present: Masks = None
    ) -> dict[str, Float[Tensor, "n classes"]]:
        """Predict with every rule of late fusion, as `predict` with each, but encode only once.

        Args:
            data: Data on any device.
            present: As for `predict`.

        Returns:
            Rule → log-probabilities, on the data's device.

        Raises:
            ValueError: As for `predict`.
            RuntimeError: If the rules have not been fitted.
        """
        model, home = self._late(), data.images.device
        with evaluating(self) as device:
            answers, presence = self._opinions(data.to(device), present or {})
            return {rule: model.combine(answers, presence, rule).to(home) for rule in model.rules}

    def _opinions(
        self, data: ImageTextData, present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what each model of late fusion says of every example, and which it has."""
        model, parts = self._late(), []
        for batch in batches(data, AT_ONCE, shuffle=False, drop_last=False):
            here = {n: mask[batch.index.to(mask.device)] for n, mask in present.items()}
            parts.append(model.log_probabilities(self.inputs(batch), here))
        answers, presence = zip(*parts, strict=True)
        return torch.cat(answers), torch.cat(presence)  # (n, m, classes), (n, m)

    def _late(self) -> LateFusion:
        if not isinstance(self.model, LateFusion):
            raise ValueError(f"only late fusion can fit or set rules; kind is {self.model.kind!r}")
        return self.model

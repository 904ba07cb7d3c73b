"""The method that `fit` trains: any fusion model, on pictures, captions and sounds."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.captions import tokenize, word_tokenizer
from cmssf_lib.data import Batch, ImageTextData, batches
from cmssf_lib.fusion.coattention import CoAttention
from cmssf_lib.fusion.early import EarlyFusion
from cmssf_lib.fusion.feature import FeatureFusion
from cmssf_lib.fusion.inputs import check_config
from cmssf_lib.fusion.late import LateFusion
from cmssf_lib.presets import FusionConfig

MODELS: Mapping[str, type[nn.Module]] = {
    "early": EarlyFusion,
    "feature": FeatureFusion,
    "late": LateFusion,
    "coattention": CoAttention,
}


class FusionClassifier(nn.Module):
    """Answers with a class what several modalities show.

    Args:
        config: Which model, and its sizes.
        captions: Texts the tokenizer is built from; read only if "text" is a modality.
        classes: Number of answers.

    Attributes:
        model: The fusion model.

    Raises:
        ValueError: If the configuration is inconsistent, or there are no captions to build from.
    """

    def __init__(self, config: FusionConfig, captions: Sequence[str], classes: int) -> None:
        super().__init__()
        check_config(config, config.kind)
        if classes < 2:
            raise ValueError(f"there must be two classes or more to tell apart; got {classes}")
        self.config = config
        reads = "text" in config.modalities
        self.tokenizer = word_tokenizer(captions, config.max_length) if reads else None
        vocabulary = 0 if self.tokenizer is None else len(self.tokenizer)
        self.model = MODELS[config.kind](config, vocabulary, classes)

    def inputs(self, batch: Batch, hide: Sequence[str] = ()) -> dict[str, Tensor]:
        """Collect what the model takes from a batch.

        Args:
            batch: Of the data.
            hide: Modalities to leave out.

        Raises:
            ValueError: If the data has no sounds but the model takes them, or `hide` names
                what the model does not take.
        """
        if unknown := [name for name in hide if name not in self.config.modalities]:
            raise ValueError(
                f"cannot hide {unknown[0]!r}; this model takes {', '.join(self.config.modalities)}"
            )
        found = {}
        for name in self.config.modalities:
            if name in hide:
                continue
            if name == "image":
                found[name] = batch.images
            elif name == "text":
                assert self.tokenizer is not None
                # Each different caption is tokenized once.
                ids, _ = tokenize(self.tokenizer, batch.captions, batch.images.device)
                found[name] = ids[batch.caption_index]
            elif batch.sounds is None:
                raise ValueError(
                    "this model takes sounds, but the data has none: load data with sounds, or "
                    "leave 'sound' out of FusionConfig.modalities"
                )
            else:
                found[name] = batch.sounds
        return found

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compare the answers with the labels.

        Returns:
            "loss", the cross-entropy (for late fusion the sum of the single models'), and
            "accuracy" (for late fusion that of the rule "mean", which needs no fitting).
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

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)

    def after_step(self, progress: float) -> None:
        """Do nothing: there is no momentum encoder and no queue."""

    @torch.no_grad()
    def predict(
        self,
        data: ImageTextData,
        *,
        present: Mapping[str, Tensor] | None = None,
        hide: Sequence[str] = (),
        rule: str | None = None,
        batch_size: int = 512,
    ) -> Float[Tensor, "n classes"]:
        """Answer for every example, in evaluation mode.

        Args:
            data: On any device.
            present: For a modality, ``(n,)`` bool: which examples have it.
            hide: Modalities that are missing for all.
            rule: Of late fusion, in place of the configuration's.
            batch_size: Does not change the result.

        Returns:
            Log-probabilities, on the data's device.

        Raises:
            ValueError: As the model's `gather`; a mask must be as long as the data; only late
                fusion takes a rule.
            RuntimeError: If the rule of a late fusion has not been fitted.
        """
        model, answers = self.model, []
        if rule is not None and not isinstance(model, LateFusion):
            raise ValueError(
                f"only late fusion can change its rule after training; this is {self.config.kind}"
            )
        for inputs, masks in self._evaluation(data, present or {}, hide, batch_size):
            if rule is not None and isinstance(model, LateFusion):
                answer = model.combine(*model.log_probabilities(inputs, masks), rule)
            else:
                answer = model(inputs, masks)
            answers.append(answer.log_softmax(dim=1))
        return torch.cat(answers).to(data.images.device)

    @torch.no_grad()
    def fit_rule(self, validation: ImageTextData, *, batch_size: int = 512) -> None:
        """Fit how late fusion weighs its models, on data held out from training.

        Args:
            validation: Held out; it must show every class.
            batch_size: Does not change the result.

        Raises:
            ValueError: If the model is no late fusion, or a class is missing.
        """
        if not isinstance(self.model, LateFusion):
            raise ValueError(f"only late fusion has a rule to fit; this is {self.config.kind}")
        parts = [
            self.model.log_probabilities(inputs, masks)
            for inputs, masks in self._evaluation(validation, {}, (), batch_size)
        ]
        answers, presence = (torch.cat(part) for part in zip(*parts, strict=True))
        self.model.fit_to(answers, presence, validation.labels)

    def _evaluation(
        self,
        data: ImageTextData,
        present: Mapping[str, Tensor],
        hidden: Sequence[str],
        batch_size: int,
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Bool[Tensor, " b"]]]]:
        """Go through data in order, in evaluation mode; put the modes back afterwards."""
        for name, mask in present.items():
            if mask.shape != (len(data),):
                raise ValueError(
                    f"the mask of {name!r} has shape {tuple(mask.shape)}; expected "
                    f"({len(data)},), one value an example of {data.name}"
                )
        device = next(self.parameters()).device
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            for batch in batches(data.to(device), batch_size, shuffle=False, drop_last=False):
                masks = {name: mask.to(device)[batch.index] for name, mask in present.items()}
                yield self.inputs(batch, hidden), masks
        finally:
            for module, mode in modes:
                module.training = mode

"""Late fusion: one model a modality, trained alone; only their answers meet."""

import math

import torch
from jaxtyping import Bool, Float, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.fusion.blocks import initialise
from cmssf_lib.fusion.inputs import RULES, Inputs, check_config, gather, hide
from cmssf_lib.fusion.streams import StreamEncoder, each_present
from cmssf_lib.presets import FusionConfig

FAINTEST = -10.0  # the stacking sees no log-probability below this: surer is not righter


class LateFusion(nn.Module):
    """Joins modalities at the level of answers.

    Rule "mean": the mean of the probabilities. "weighted": a weighted mean, one weight a
    modality. "stacked": a logistic regression that reads all the answers. A missing modality is
    left out of the means; the regression is told which are there. The last two rules are fitted
    by `fit_rule` after training, on examples that no model was trained on; from one trained
    model `combine` gives the answers of all three.

    Args:
        config: Sizes and rule.
        vocabulary: Number of different token ids.
        classes: Number of answers.

    Raises:
        ValueError: If the configuration is inconsistent.

    References:
        Wolpert 1992, "Stacked generalization".
    """

    log_weights: Tensor
    stack_weight: Tensor
    stack_bias: Tensor
    fitted: Tensor

    def __init__(self, config: FusionConfig, vocabulary: int, classes: int) -> None:
        super().__init__()
        check_config(config, "late")
        self.config, self.classes, count = config, classes, len(config.modalities)
        self.models = nn.ModuleDict(
            {
                name: nn.Sequential(
                    StreamEncoder(config, name, vocabulary), nn.Linear(config.width, classes)
                )
                for name in config.modalities
            }
        )
        self.apply(initialise)
        # Fitted, not trained by gradient; saved with the model.
        self.register_buffer("log_weights", torch.full((count,), -math.log(count)))
        self.register_buffer("stack_weight", torch.zeros(classes, count * classes + count))
        self.register_buffer("stack_bias", torch.zeros(classes))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def weights(self) -> Float[Tensor, " m"]:
        """How much each modality counts under the rule "weighted"; they sum to 1."""
        return self.log_weights.exp()

    def forward(self, inputs: Inputs, present: Inputs | None = None) -> Float[Tensor, "b classes"]:
        """Return the log-probabilities that the configuration's rule gives."""
        answers, presence = self.log_probabilities(inputs, present)
        if self.training:
            presence = hide(presence, self.config.modality_dropout)
        return self.combine(answers, presence, self.config.rule)

    def log_probabilities(
        self, inputs: Inputs, present: Inputs | None = None
    ) -> tuple[Float[Tensor, "b m classes"], Bool[Tensor, "b m"]]:
        """Return each model's own answer, and which example has which modality."""
        inputs, presence = gather(inputs, present, self.config.modalities)
        found = each_present(self.models, inputs, presence)
        (some, *_), *_ = found.values()
        none = torch.zeros_like(some)
        logits = [found[name][0] if name in found else none for name in self.models]
        return torch.stack(logits, dim=1).log_softmax(dim=2), presence

    def single(self, inputs: Inputs, modality: str) -> Float[Tensor, "b classes"]:
        """Return one model's logits.

        Raises:
            ValueError: If the modality is unknown or not among the inputs.
        """
        if modality not in self.models or modality not in inputs:
            raise ValueError(
                f"no answer from {modality!r}: this model takes {', '.join(self.models)}, and "
                f"the inputs are {', '.join(inputs)}"
            )
        return self.models[modality](inputs[modality])

    def loss(
        self,
        answers: Float[Tensor, "b m classes"],
        presence: Bool[Tensor, "b m"],
        labels: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Add up the models' cross-entropies, each over the examples that have its modality.

        No parameter is shared, so each is trained as if it were alone. Modality dropout plays
        no part: a model that is hidden from an example learns nothing from it.
        """
        wrong = -answers.gather(2, labels[:, None, None].expand(-1, answers.shape[1], 1))[..., 0]
        return (wrong * presence).sum(dim=0).div(presence.sum(dim=0).clamp(min=1)).sum()

    def combine(
        self, answers: Float[Tensor, "b m classes"], presence: Bool[Tensor, "b m"], rule: str
    ) -> Float[Tensor, "b classes"]:
        """Make one answer out of several.

        Args:
            answers: Log-probabilities; those of a missing modality are not read.
            presence: Which example has which modality.
            rule: "mean", "weighted" or "stacked".

        Returns:
            Log-probabilities.

        Raises:
            ValueError: If the rule is unknown.
            RuntimeError: If it has not been fitted.
        """
        if rule not in RULES["late"]:
            raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(RULES['late'])}")
        if rule != "mean" and not self.fitted:
            raise RuntimeError(
                f"the rule {rule!r} has not been fitted: train, then call fit_rule on held-out "
                "examples"
            )
        if rule == "stacked":
            logits = F.linear(stack(answers, presence), self.stack_weight, self.stack_bias)
            return logits.log_softmax(dim=1)
        weights = self.log_weights if rule == "weighted" else torch.zeros_like(self.log_weights)
        return weighted_mean(answers, presence, weights)

    @torch.no_grad()
    def fit_rule(self, inputs: Inputs, present: Inputs | None, labels: Int64[Tensor, " b"]) -> None:
        """Fit the rules "weighted" and "stacked" on examples held out from training.

        Raises:
            ValueError: If a class is missing among the labels.
        """
        self.fit_to(*self.log_probabilities(inputs, present), labels)

    def fit_to(
        self,
        answers: Float[Tensor, "b m classes"],
        presence: Bool[Tensor, "b m"],
        labels: Int64[Tensor, " b"],
    ) -> None:
        """Fit both rules to answers that are already there.

        With modality dropout in the configuration, modalities are hidden here likewise: a rule
        that has never seen one missing does not know what to do then.
        """
        if len(torch.unique(labels)) < self.classes:
            raise ValueError(
                f"the held-out examples show {len(torch.unique(labels))} of {self.classes} "
                "classes: hold out more"
            )
        answers, labels = answers.detach(), labels.to(answers.device)
        presence = hide(presence, self.config.modality_dropout, torch.Generator().manual_seed(0))
        self.log_weights.copy_(fit_weights(answers, presence, labels))
        features = stack(answers, presence).double().cpu().numpy()
        regression = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels.cpu().numpy())
        weight = torch.as_tensor(regression.coef_).to(self.stack_weight)
        bias = torch.as_tensor(regression.intercept_).to(self.stack_bias)
        if self.classes == 2:  # scikit-learn keeps one row, the second class against the first
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.stack_weight.copy_(weight)
        self.stack_bias.copy_(bias)
        self.fitted.fill_(True)


def weighted_mean(
    answers: Float[Tensor, "b m classes"],
    presence: Bool[Tensor, "b m"],
    log_weights: Float[Tensor, " m"],
) -> Float[Tensor, "b classes"]:
    """Return the logarithm of the weighted mean of the probabilities that are there."""
    log_weights = log_weights.masked_fill(~presence, float("-inf")).log_softmax(dim=1)
    return (answers + log_weights[:, :, None]).logsumexp(dim=1)


def fit_weights(
    answers: Float[Tensor, "b m classes"],
    presence: Bool[Tensor, "b m"],
    labels: Int64[Tensor, " b"],
) -> Float[Tensor, " m"]:
    """Find the weights under which the weighted mean is least surprised by the labels.

    Returns:
        Their logarithms.
    """
    free = torch.zeros(answers.shape[1], device=answers.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(weighted_mean(answers, presence, free), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return free.detach().log_softmax(dim=0)


def stack(
    answers: Float[Tensor, "b m classes"], presence: Bool[Tensor, "b m"]
) -> Float[Tensor, "b features"]:
    """Lay out for the regression what the models say, and which of them say anything."""
    said = answers.clamp(min=FAINTEST).masked_fill(~presence[:, :, None], 0.0)
    return torch.cat([said.flatten(1), presence.to(said.dtype)], dim=1)

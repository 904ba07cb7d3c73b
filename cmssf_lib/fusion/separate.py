"""One encoder for each modality: feature fusion combines vectors, late fusion predictions."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.fusion.inputs import FusionConfig, FusionModel, Inputs, Logits, Masks, Presence, hide
from cmssf_lib.fusion.streams import StreamEncoder, mlp

Answers = Float[Tensor, "b m classes"]  # log-probabilities from the model of each modality
Labels = Int64[Tensor, " b"]
Shares = Float[Tensor, "b m"]  # how much each modality counts for each example
FAINTEST = -10.0  # floor of the log-probabilities in stacking, so that extreme ones do not dominate


class FeatureFusion(FusionModel):
    """Combines modalities at the feature level.

    Rule "concat": the vectors are concatenated; a missing one is zeros. Rule "gated": a weighted
    mean whose weights are predicted from the vectors. Rule "bilinear": each vector is projected
    to ``rank`` numbers, 1 is added, and the results are multiplied elementwise; a missing one
    counts as 1.

    References:
        Arevalo et al. 2017, "Gated multimodal units for information fusion", section 3.1 (here
        with a softmax over the modalities, as is usual for more than two); Kim et al. 2017,
        "Hadamard product for low-rank bilinear pooling", equation 4; Liu et al. 2018,
        "Efficient low-rank multimodal fusion with modality-specific factors", section 3.2,
        where a constant 1 appended to the features keeps the terms of single modalities.
    """

    kind = "feature"
    rules = ("concat", "gated", "bilinear")

    def add_parts(self, config: FusionConfig, classes: int) -> None:
        """Create the modules of this kind of model."""
        width, count = config.width, len(config.modalities)
        self.encoders = self.for_each(StreamEncoder)
        joined = {"concat": count * width, "gated": width, "bilinear": config.rank}[config.rule]
        if config.rule == "gated":
            self.gate = nn.Linear(count * width, count)
        if config.rule != "concat":
            self.project = nn.ModuleList(nn.Linear(width, joined) for _ in range(count))
        self.answer = mlp(joined, config.hidden, classes)

    def forward(self, inputs: Inputs, present: Masks = None) -> Logits:
        """Return logits; `collect_masks` describes ``inputs`` and ``present``, and the errors."""
        vectors, presence = self.vectors(self.encoders, inputs, present)  # (b, m, width)
        if self.config.rule == "concat":
            return self.answer(vectors.flatten(1))
        parts = [layer(vectors[:, i]) for i, layer in enumerate(self.project)]
        projected = torch.stack(parts, dim=1)  # (b, m, width or rank)
        if self.config.rule == "gated":
            gates = self._gates(vectors, presence)[:, :, None]
            return self.answer((gates * projected.tanh()).sum(dim=1))
        factors = (1 + projected).masked_fill(~presence[:, :, None], 1.0)
        return self.answer(factors.prod(dim=1))

    def gates(self, inputs: Inputs, present: Masks = None) -> Shares:
        """Return how much each modality counts for each example; rows sum to 1.

        Raises:
            ValueError: If the rule is not "gated".
        """
        if self.config.rule != "gated":
            raise ValueError(f"the rule {self.config.rule!r} has no gates; use 'gated'")
        return self._gates(*self.vectors(self.encoders, inputs, present))

    def _gates(self, vectors: Float[Tensor, "b m width"], presence: Presence) -> Shares:
        """Return a softmax over the modalities that are present."""
        scores = self.gate(vectors.flatten(1))
        return scores.masked_fill(~presence, float("-inf")).softmax(dim=1)


class LateFusion(FusionModel):
    """Combines the predictions of one model per modality; each model is trained on its own.

    Rule "mean": the mean of the probabilities. "product": their product, divided by the classes'
    frequencies once for each modality but one. That is Bayes' rule for modalities that are
    independent given the class. "weighted": a weighted mean, with one weight for each modality.
    "loglinear": a weighted product. "stacked": a logistic regression on all predictions. A missing
    modality is left out; the regression is told which ones are present. `fit_rules` fits all but
    the first rule after training, on examples that no model was trained on. One trained model can
    predict by every rule (`combine`).

    References:
        Kittler et al. 1998, "On combining classifiers", equations 8 and 14 (product and mean);
        Genest & Zidek 1986, "Combining probability distributions" (the weighted product, called
        logarithmic opinion pool); Wolpert 1992, "Stacked generalization".
    """

    kind = "late"
    rules = ("mean", "product", "weighted", "loglinear", "stacked")
    hides_inputs = False  # a model learns nothing from examples that are hidden from it

    def add_parts(self, config: FusionConfig, classes: int) -> None:
        """Create the modules of this kind of model."""
        self.models = self.for_each(
            lambda *of: nn.Sequential(StreamEncoder(*of), nn.Linear(config.width, classes))
        )
        # Fitted, not trained by gradient; saved with the model.
        count = len(config.modalities)
        self.log_weights = nn.Buffer(torch.full((count,), -math.log(count)))
        self.powers = nn.Buffer(torch.ones(count))
        self.log_prior = nn.Buffer(torch.full((classes,), -math.log(classes)))
        self.stack_weight = nn.Buffer(torch.zeros(classes, count * classes + count))
        self.stack_bias = nn.Buffer(torch.zeros(classes))
        self.fitted = nn.Buffer(torch.tensor(False))

    @property
    def weights(self) -> Float[Tensor, " m"]:
        """The weight of each modality under the rule "weighted"; they sum to 1."""
        return self.log_weights.exp()

    def forward(self, inputs: Inputs, present: Masks = None, rule: str | None = None) -> Logits:
        """Return log-probabilities by the configured rule or another one."""
        answers, presence = self.log_probabilities(inputs, present)
        if self.training:
            presence = hide(presence, self.config.modality_dropout)
        return self.combine(answers, presence, rule or self.config.rule)

    def log_probabilities(self, inputs: Inputs, present: Masks = None) -> tuple[Answers, Presence]:
        """Return each model's log-probabilities, and which example has which modality."""
        logits, presence = self.vectors(self.models, inputs, present)
        return logits.log_softmax(dim=2), presence

    def loss(self, answers: Answers, presence: Presence, labels: Labels) -> Float[Tensor, ""]:
        """Add up the models' cross-entropies, each over the examples that have its modality.

        The models share no parameters, so each is trained on its own. Modality dropout does not
        apply: a model would learn nothing from an example that is hidden from it.
        """
        wrong = -answers.take_along_dim(labels[:, None, None], dim=2)[..., 0]
        return (wrong * presence).sum(dim=0).div(presence.sum(dim=0).clamp(min=1)).sum()

    def combine(self, answers: Answers, presence: Presence, rule: str) -> Logits:
        """Combine the predictions of all models into one.

        Args:
            answers: Log-probabilities; those of a missing modality are ignored.
            presence: Which example has which modality.
            rule: One of `rules`.

        Returns:
            Log-probabilities.

        Raises:
            ValueError: If the rule is unknown.
            RuntimeError: If the rule has not been fitted.
        """
        if rule not in self.rules:
            raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(self.rules)}")
        if rule != "mean" and not self.fitted:
            raise RuntimeError(f"the rule {rule!r} has not been fitted: call fit_rule first")
        if rule == "stacked":
            logits = F.linear(stack(answers, presence), self.stack_weight, self.stack_bias)
            return logits.log_softmax(dim=1)
        if rule in ("product", "loglinear"):
            powers = self.powers if rule == "loglinear" else torch.ones_like(self.powers)
            return weighted_product(answers, presence, powers, self.log_prior)
        weights = self.log_weights if rule == "weighted" else torch.zeros_like(self.log_weights)
        return weighted_mean(answers, presence, weights)

    @torch.no_grad()
    def fit_rules(self, answers: Answers, presence: Presence, labels: Labels) -> None:
        """Fit all rules but "mean" to predictions on held-out examples.

        If the configuration has modality dropout, it also applies here: a rule fitted with all
        modalities present would not know what to do without one.

        Raises:
            ValueError: If a class is missing among the labels.
        """
        if (shown := len(torch.unique(labels))) < self.classes:
            raise ValueError(f"hold out more examples: they show {shown} of {self.classes} classes")
        # On the CPU, wherever the model is: the regression needs float64, which Apple's MPS does
        # not support.
        answers, presence, labels = (part.detach().cpu() for part in (answers, presence, labels))
        presence = hide(presence, self.config.modality_dropout, torch.Generator().manual_seed(0))
        prior = labels.bincount(minlength=self.classes).float().log() - math.log(len(labels))
        self.log_prior.copy_(prior)
        count = answers.shape[1]
        mean = partial(weighted_mean, answers, presence)
        self.log_weights.copy_(fit_weights(mean, torch.zeros(count), labels).log_softmax(dim=0))
        product = partial(weighted_product, answers, presence, log_prior=prior)
        self.powers.copy_(fit_weights(product, torch.ones(count), labels))
        features = stack(answers, presence).double().numpy()
        regression = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels.numpy())
        found = ((self.stack_weight, regression.coef_), (self.stack_bias, regression.intercept_))
        for buffer, values in found:
            value = torch.tensor(values, dtype=torch.float32)
            # For two classes scikit-learn has one row: the second class against the first.
            buffer.copy_(torch.cat([-value, value]) / 2 if self.classes == 2 else value)
        self.fitted.fill_(True)


def weighted_mean(answers: Answers, presence: Presence, log_weights: Float[Tensor, " m"]) -> Logits:
    """Return the logarithm of the weighted mean of the probabilities that are present."""
    log_weights = log_weights.masked_fill(~presence, float("-inf")).log_softmax(dim=1)
    return (answers + log_weights[:, :, None]).logsumexp(dim=1)


def weighted_product(
    answers: Answers,
    presence: Presence,
    powers: Float[Tensor, " m"],
    log_prior: Float[Tensor, " classes"],
) -> Logits:
    """Return the normalised logarithm of the product of the posteriors that are present.

    Each posterior is divided by the prior, which leaves a likelihood, and raised to its power;
    the prior then counts once. With all powers 1 this is Bayes' rule for independent modalities.
    """
    likelihood = (answers - log_prior).masked_fill(~presence[:, :, None], 0.0)
    return ((likelihood * powers[:, None]).sum(dim=1) + log_prior).log_softmax(dim=1)


def fit_weights(
    combined: Callable[[Float[Tensor, " m"]], Logits], start: Float[Tensor, " m"], labels: Labels
) -> Float[Tensor, " m"]:
    """Return the weights with which a rule's log-probabilities fit the labels best."""
    free = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(combined(free), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return free.detach()


def stack(answers: Answers, presence: Presence) -> Float[Tensor, "b features"]:
    """Join the log-probabilities and the presence mask as features of the regression."""
    said = answers.clamp(min=FAINTEST).masked_fill(~presence[:, :, None], 0.0)
    return torch.cat([said.flatten(1), presence.to(said.dtype)], dim=1)

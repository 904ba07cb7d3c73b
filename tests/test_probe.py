"""Few labels, linear probes and fine-tuning; above all: what is measured does not change."""

import copy
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from settings import CMSSFConfig, FineTuneConfig, TextConfig, VisionConfig, new_cmssf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.evaluate import (
    accuracy,
    embed_features,
    embeddings,
    few_labels,
    fine_tune,
    fine_tune_report,
    finetune,
    label_draws,
    linear,
    linear_probe,
    pixel_features,
    probe_report,
)
from cmssf_lib.methods import Method
from cmssf_lib.runs import Run
from cmssf_lib.views import ViewsConfig

NAMES = ("red", "green", "blue")


class Encoder(Method):
    """A small method with what can go wrong: batch norm, dropout, frozen and unused parts."""

    def __init__(self, gradient: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.dropout = nn.Dropout(0.2)
        self.frozen = nn.Linear(8, 8).requires_grad_(False).eval()
        self.unused = nn.Linear(8, 8)
        self.gradient = gradient

    def features(self, images: Tensor) -> Tensor:
        scale = 255 if images.dtype == torch.uint8 else 1
        with nullcontext() if self.gradient else torch.no_grad():
            return self.frozen(self.dropout(self.layers(images.float() / scale)))

    def after_step(self, progress: float) -> None:
        raise AssertionError("fine-tuning moves no teacher and no queue of the method")


def encoder(**kwargs) -> Encoder:
    torch.manual_seed(0)
    return Encoder(**kwargs)


def colour_data(n: int, seed: int = 0, noise: int = 200) -> ImageTextData:
    """Noisy pictures that are a little red, green or blue, sorted by class."""
    labels = torch.arange(n) * 3 // n
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, noise, (n, 3, 6, 6), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), labels] += 50
    captions = tuple(f"a photo of a {NAMES[label]}" for label in labels.tolist())
    return ImageTextData(images, labels, captions, NAMES, "colours")


def splits() -> Splits:
    return Splits(colour_data(60, seed=1), colour_data(30, seed=2))


def clusters(n: int, seed: int, classes: int = 3, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 2 * torch.eye(classes, width)
    return centres[labels] + torch.randn(n, width, generator=generator), labels


def tune(method: nn.Module, data: ImageTextData, **changes) -> finetune.FineTuned:
    settings = {"steps": 8, "batch_size": 12, "lr": 1e-2, "seed": 0, **changes}
    return fine_tune(method, data, **settings)


# --- nothing moves ----------------------------------------------------------------------------


@contextmanager
def unmoved(method: nn.Module):
    """Weights, buffers (batch-norm statistics), modes, gradients and random numbers stay."""
    state = copy.deepcopy(method.state_dict())
    flags = [(m.training, m) for m in method.modules()]
    frozen = [p.requires_grad for p in method.parameters()]
    random = torch.get_rng_state()
    yield
    moved = [name for name, value in method.state_dict().items() if not value.equal(state[name])]
    assert not moved, f"moved: {moved}"
    assert all(m.training == training for training, m in flags), "a mode changed"
    assert [p.requires_grad for p in method.parameters()] == frozen, "frozen or thawed"
    assert all(p.grad is None for p in method.parameters()), "a gradient was left behind"
    assert torch.get_rng_state().equal(random), "random numbers were drawn"


EVALUATIONS = {
    "embed_features": lambda method: embed_features(method, colour_data(20)),
    "probe_report": lambda method: probe_report(method, splits(), per_class=5, draws=1),
    "fine_tune": lambda method: tune(method, colour_data(24)),
    "fine_tune with views": lambda method: tune(
        method, colour_data(24), views=ViewsConfig(flip=0.5, brightness=0.2)
    ),
    "fine_tune_report": lambda method: fine_tune_report(
        method,
        splits(),
        label_draws(splits().train, 5, (), draws=1),
        FineTuneConfig(steps=2, batch_size=5, lr=1e-2),
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EVALUATIONS)
def test_no_evaluation_moves_what_it_measures(name, training):
    method = encoder()
    method.train(training)
    method.frozen.eval()
    with unmoved(method):
        EVALUATIONS[name](method)


def test_predict_moves_nothing_either():
    tuned = tune(encoder(), colour_data(24)).train()
    tuned.zero_grad()
    with unmoved(tuned):
        tuned.predict(colour_data(20))


@pytest.mark.parametrize("name", ["embed_features", "probe_report"])
def test_an_evaluation_in_training_mode_would_be_seen(name, monkeypatch):
    """Without evaluation mode the running statistics of batch norm drift: no gradient needed."""
    monkeypatch.setattr(embeddings, "evaluating", lambda method: torch.no_grad())
    method = encoder().train()
    with pytest.raises(AssertionError, match="running_mean"), unmoved(method):
        EVALUATIONS[name](method)


def test_fine_tuning_the_method_itself_would_be_seen(monkeypatch):
    monkeypatch.setattr(finetune.copy, "deepcopy", lambda method: method)
    method = encoder()
    with pytest.raises(AssertionError, match="moved"), unmoved(method):
        EVALUATIONS["fine_tune"](method)


# --- few labels -------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.integers(0, 10**9),
    st.floats(0.01, 1),
)
@hypothesis_settings(max_examples=60)
def test_every_class_gets_its_share(labels, seed, fraction):
    labels = torch.tensor([0, 1, 2, 3, *labels])
    chosen = few_labels(labels, 4, fraction=fraction, seed=seed)
    assert chosen.equal(chosen.unique())  # ascending, none twice
    for label in range(4):
        n = int((labels == label).sum())
        assert int((labels[chosen] == label).sum()) == max(1, round(fraction * n))
    least = int(labels.bincount().min())
    assert labels[few_labels(labels, 4, per_class=least, seed=seed)].bincount().eq(least).all()


def test_few_labels_are_repeatable_and_nested():
    labels = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(0))
    ten = few_labels(labels, 10, per_class=10, seed=1)
    assert ten.equal(few_labels(labels, 10, per_class=10, seed=1))
    assert not ten.equal(few_labels(labels, 10, per_class=10, seed=2))
    assert set(ten.tolist()) < set(few_labels(labels, 10, per_class=30, seed=1).tolist())
    assert few_labels(labels, 10, fraction=1, seed=1).equal(torch.arange(1000))


def test_few_labels_draws_every_example_alike():
    labels = torch.arange(20) % 2
    counts = torch.zeros(20)
    for seed in range(600):
        counts[few_labels(labels, 2, per_class=2, seed=seed)] += 1
    assert counts.sum() == 2400
    assert (counts - 120).abs().max() < 5 * (600 * 0.2 * 0.8) ** 0.5  # five standard deviations


def test_few_labels_refuses(as_shipped):
    labels = torch.tensor([0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="got per_class=None, fraction=None"):
        few_labels(labels, 2, seed=0)
    with pytest.raises(ValueError, match=r"got per_class=1, fraction=0\.5"):
        few_labels(labels, 2, per_class=1, fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="class 1 has 2 examples, fewer than the 3 asked for"):
        few_labels(labels, 2, per_class=3, seed=0)
    with pytest.raises(ValueError, match="class 2 has 0 examples"):
        few_labels(labels, 3, fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="expected 0 to 0"):
        few_labels(labels, 1, per_class=1, seed=0)
    with pytest.raises(ValueError, match="per_class is 0"):
        few_labels(labels, 2, per_class=0, seed=0)
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="at most 1"):
            few_labels(labels, 2, fraction=fraction, seed=0)


# --- linear probe -----------------------------------------------------------------------------


def test_a_probe_does_not_see_how_features_are_scaled_or_shifted():
    x, y = clusters(60, seed=0)
    queries, truth = clusters(200, seed=1)
    result = linear_probe(x, y, queries)
    assert 0.6 < accuracy(result, truth) < 1
    scale, shift = torch.logspace(-3, 3, 8), 10 * torch.arange(8.0) * torch.logspace(-3, 3, 8)
    other = linear_probe(x * scale + shift, y, queries * scale + shift)
    assert (other != result).sum() <= 1


def test_a_constant_feature_changes_nothing():
    x, y = clusters(60, seed=0)
    queries, _ = clusters(200, seed=1)
    constant = 1000 + 1e-5 * torch.arange(60.0)[:, None]  # all but constant: rounding errors
    wider = linear_probe(
        torch.cat([x, constant], dim=1), y, torch.cat([queries, constant[:1].expand(200, 1)], dim=1)
    )
    assert wider.equal(linear_probe(x, y, queries))


def test_the_queries_take_no_part_in_the_fit():
    x, y = clusters(60, seed=0)
    queries, _ = clusters(50, seed=1)
    alone = [linear_probe(x, y, query[None]) for query in queries[:5]]
    together = linear_probe(x, y, torch.cat([queries, 1000 * queries]))
    assert torch.cat(alone).equal(together[:5])


def test_the_penalty_is_chosen_on_examples_that_were_held_out(monkeypatch):
    """Whoever answers for what it was fitted with has learned it by heart, and must not count."""
    x, y = (part.numpy() for part in clusters(100, seed=0))
    fitted = []

    class Model:
        """Right on what it was fitted with; on the others only with a penalty of 10."""

        def __init__(self, kept, penalty):
            self.kept, self.penalty = {row.tobytes() for row in kept}, penalty

        def predict(self, rows):
            truth = [y[(x == row).all(axis=1)][0] for row in rows]
            known = [row.tobytes() in self.kept or self.penalty == 10 for row in rows]
            return np.where(known, truth, -1)

    def path(kept, labels, penalties):
        fitted.append(len(kept))
        return [Model(kept, penalty) for penalty in penalties]

    monkeypatch.setattr(linear, "_path", path)
    assert linear.best_penalty(x, y) == 10
    assert fitted == [80] * 5
    # More examples than are cross-validated: a single fifth is held out, and that is enough.
    monkeypatch.setattr(linear, "CROSS_VALIDATED", 50)
    assert linear.best_penalty(x, y) == 10
    assert fitted == [80] * 6


def test_many_noisy_features_ask_for_a_strong_penalty_and_get_it(monkeypatch):
    x, y = clusters(300, seed=2, width=60)
    queries, truth = clusters(600, seed=3, width=60)
    answers = linear_probe(x, y, queries)
    scaled = (x.double() - x.double().mean(dim=0)) / x.double().std(dim=0, correction=0)
    chosen, scores = linear.best_penalty(scaled.numpy(), y.numpy()), {}
    for penalty in linear.PENALTIES:
        monkeypatch.setattr(linear, "PENALTIES", (penalty,))
        scores[penalty] = accuracy(linear_probe(x, y, queries), truth)
    assert accuracy(answers, truth) == pytest.approx(scores[chosen], abs=0.01)
    assert scores[chosen] >= max(scores.values()) - 0.03
    assert scores[0.1] < max(scores.values()) - 0.05  # a bad choice was possible


def test_more_features_than_examples_are_answered_as_without_the_shortcut(monkeypatch):
    """In the span of the examples the problem is the same, and every answer too."""
    random = torch.Generator().manual_seed(0)
    x, queries = (torch.randn(n, 200, generator=random) for n in (40, 300))
    y = torch.arange(40) % 4
    x[:, 0] += y
    mean, std = x.double().mean(dim=0), x.double().std(dim=0, correction=0)
    wide, asked = ((f.double() - mean) / std for f in (x, queries))
    whole = LogisticRegression(C=1 / 3, tol=1e-8, max_iter=10_000).fit(wide.numpy(), y.numpy())
    monkeypatch.setattr(linear, "PENALTIES", (3.0,))
    found = linear_probe(x, y, queries)
    assert (found.numpy() == whole.predict(asked.numpy())).all()


def test_classes_without_a_labelled_example_are_never_answered():
    x, y = clusters(60, seed=0)
    result = linear_probe(x[y > 0], 2 * y[y > 0], x)
    assert result.unique().tolist() == [2, 4]


def test_a_solver_that_is_stopped_early_says_so(monkeypatch):
    x, y = clusters(60, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # a usual fit converges
        linear_probe(x, y, x)
    monkeypatch.setattr(linear, "MAX_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match="failed to converge"):
        linear_probe(x, y, x)


def test_linear_probe_refuses(as_shipped):
    x, y = clusters(30, seed=0)
    with pytest.raises(ValueError, match="same width"):
        linear_probe(x, y, x[:, :4])
    with pytest.raises(ValueError, match="both need one"):
        linear_probe(x, y, x[:0])
    with pytest.raises(ValueError, match=r"expected \(30,\)"):
        linear_probe(x, y[:29], x)
    with pytest.raises(ValueError, match="one class"):
        linear_probe(x, y * 0, x)
    with pytest.raises(ValueError, match="a single label"):
        linear_probe(x[:4], y[:4], x)
    broken = x.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="features holds NaN"):
        linear_probe(broken, y, x)
    with pytest.raises(ValueError, match="queries holds NaN"):
        linear_probe(x, y, broken)


# --- probe report -----------------------------------------------------------------------------


def test_probe_report_measures_what_its_parts_do():
    method, (train, test) = encoder(), splits()
    answers = {}
    result = probe_report(
        method,
        Splits(train, test),
        per_class=5,
        fractions=(0.1, 1.0),
        draws=2,
        predictions=answers,
    )
    bank, queries = embed_features(method, train), embed_features(method, test)
    for name, fraction, seeds in (("10pct", 0.1, (0, 1)), ("100pct", 1.0, (0,))):
        scores = []
        for seed in seeds:
            i = few_labels(train.labels, 3, fraction=fraction, seed=seed)
            predictions = linear_probe(bank[i], train.labels[i], queries)
            scores.append(accuracy(predictions, test.labels))
        assert result[f"linear_{name}"] == pytest.approx(sum(scores) / len(scores))
        spread = abs(scores[0] - scores[-1]) / 2**0.5  # two values: their standard deviation
        assert result[f"linear_{name}_std"] == pytest.approx(spread)
        assert result[f"linear_{name}_draws"] == len(seeds)
    assert [result[f"labels_{name}"] for name in ("5_per_class", "10pct", "100pct")] == [15, 6, 60]
    assert result["knn_100pct"] == result["knn"]
    assert result["knn_k"] == 6
    assert all(type(value) is float for value in result.values())
    parts = ("5_per_class", "10pct", "100pct")
    ends = ("linear_{}", "linear_{}_std", "linear_{}_draws", "knn_{}", "labels_{}")
    assert set(result) == {"knn", "knn_k", *(end.format(p) for p in parts for end in ends)}
    accuracies = [f"{of}_{part}" for of in ("linear", "knn") for part in parts]
    assert set(answers) == {"knn", *accuracies}
    for name, predicted in answers.items():
        assert (predicted == test.labels).float().mean() == pytest.approx(result[name]), name
    assert answers["linear_10pct"].shape == (2, 30)


def test_baselines_are_measured_by_the_same_function():
    data = splits()
    result = probe_report(pixel_features, data, per_class=10, draws=1)
    bank, queries = data.train.images.flatten(1) / 255, data.test.images.flatten(1) / 255
    i = few_labels(data.train.labels, 3, per_class=10, seed=0)
    expected = linear_probe(bank[i], data.train.labels[i], queries)
    assert result["linear_10_per_class"] == accuracy(expected, data.test.labels)
    assert result["linear_10_per_class"] > 0.5  # the classes are in the pixels


def test_probe_report_refuses():
    with pytest.raises(ValueError, match="nothing to measure"):
        probe_report(encoder(), splits(), per_class=None)
    with pytest.raises(ValueError, match="draws is 0"):
        probe_report(encoder(), splits(), draws=0)
    with pytest.raises(ValueError, match="class 0 has 20 examples"):
        probe_report(encoder(), splits(), per_class=21)


# --- fine-tuning ------------------------------------------------------------------------------


@pytest.fixture
def record(monkeypatch) -> Run:
    """What `fit` notes of a fine-tuning."""
    run = Run()
    monkeypatch.setattr(finetune, "fit", partial(finetune.fit, run=run))
    return run


def test_fine_tuning_learns_what_a_frozen_encoder_does_not_show(record):
    data = splits()
    method = encoder()
    tuned = tune(method, data.train, steps=60)
    assert accuracy(tuned.predict(data.test), data.test.labels) > 0.9
    assert record.series("loss")[-1] < record.series("loss")[0] < 1.2
    assert not tuned.training
    before, after = method.state_dict(), tuned.method.state_dict()
    moved = {name for name in before if not before[name].equal(after[name])}
    # A part that `features` uses is trained though the method kept it frozen; others are left.
    assert {"layers.0.weight", "layers.1.running_mean", "frozen.weight"} <= moved
    assert not {"unused.weight", "unused.bias"} & moved


def test_the_first_step_moves_the_classifier_alone():
    method, data = encoder(), colour_data(24)
    tuned = finetune.FineTuned(method, 8, 3, ViewsConfig())
    out = tuned.loss(make_batch(data, torch.arange(24)))
    assert out["loss"].item() == pytest.approx(torch.tensor(3.0).log().item())
    out["loss"].backward()
    assert tuned.head.weight.grad.abs().max() > 0
    assert tuned.method.layers[0].weight.grad.abs().max() == 0


@pytest.mark.parametrize("steps", [5, 6])
def test_the_budget_is_in_steps_rounded_up_to_passes(steps, record):
    tune(encoder(), colour_data(30), steps=steps)  # two batches of 12 a pass
    assert record.config["train"]["epochs"] == len(record.history) == 3


def test_fine_tuning_is_repeatable():
    data = colour_data(24)
    views = ViewsConfig(flip=0.5, brightness=0.2)
    a, b, c = (
        tune(encoder(), data, views=views, seed=seed).state_dict()["head.weight"]
        for seed in (0, 0, 1)
    )
    assert a.equal(b)
    assert not a.equal(c)


def test_views_are_for_training_only():
    tuned = finetune.FineTuned(encoder(), 8, 3, ViewsConfig(brightness=0.9)).train()
    tuned.method.eval()
    nn.init.ones_(tuned.head.weight[:1])
    batch = make_batch(colour_data(24), torch.arange(24))
    assert tuned.loss(batch)["loss"] != tuned.loss(batch)["loss"]
    tuned.eval()
    assert tuned.loss(batch)["loss"] == tuned.loss(batch)["loss"]


def test_predict_is_the_classifier_on_the_features():
    data = colour_data(24)
    tuned = tune(encoder(), data)
    with torch.no_grad():
        expected = tuned.head(tuned.features(data.images)).argmax(dim=1)
    assert tuned.predict(data).equal(expected)


def test_cmssf_can_be_fine_tuned():
    torch.manual_seed(0)
    data = splits()
    vision = VisionConfig(image_size=12, width=16, depth=1, heads=2)
    text = TextConfig(width=16, depth=1, heads=2)
    method = new_cmssf(vision, text, CMSSFConfig(dim=8, hidden=8), data.train.captions)
    with unmoved(method):
        tuned = tune(method, data.train, steps=10)
    assert len(tuned.predict(data.test)) == 30


def test_fine_tune_report_measures_what_its_parts_do():
    data, budget = splits(), {"steps": 6, "batch_size": 12, "lr": 1e-2}
    answers = {}
    chosen = label_draws(data.train, 5, (1.0,), draws=2)
    result = fine_tune_report(encoder(), data, chosen, FineTuneConfig(**budget), answers)
    scores = []
    for seed in (0, 1):
        labelled = data.train.subset(few_labels(data.train.labels, 3, per_class=5, seed=seed))
        tuned = fine_tune(encoder(), labelled, seed=seed, **budget)
        scores.append(accuracy(tuned.predict(data.test), data.test.labels))
    assert result["fine_tuned_5_per_class"] == pytest.approx(sum(scores) / 2)
    right = answers["fine_tuned_5_per_class"] == data.test.labels  # (2, 30)
    assert right.float().mean(dim=1).tolist() == pytest.approx(scores)
    assert result["fine_tuned_5_per_class_draws"] == 2
    assert result["fine_tuned_5_per_class_steps"] == 6  # one batch a pass
    assert result["fine_tuned_100pct_draws"] == 1
    assert result["fine_tuned_100pct_steps"] == 10  # five batches a pass: rounded up to two passes


def test_fine_tuning_refuses():
    with pytest.raises(ValueError, match="features of Encoder carry no gradient"):
        tune(encoder(gradient=False), colour_data(24))
    with pytest.raises(ValueError, match="steps and batch_size must be positive"):
        tune(encoder(), colour_data(24), steps=0)
    with pytest.raises(ValueError, match="holds 9 pictures, fewer than one batch of 12"):
        tune(encoder(), colour_data(9))
    chosen = label_draws(splits().train, 2, (), draws=1)
    with pytest.raises(ValueError, match="holds 6 pictures, fewer than one batch of 12"):
        fine_tune_report(encoder(), splits(), chosen, FineTuneConfig(steps=5, batch_size=12))


def test_a_frozen_cmssf_trains_with_its_norms_and_stays_frozen_itself():
    """A tower in evaluation mode would keep the statistics that it brought along."""
    torch.manual_seed(0)
    data = splits().train
    vision = VisionConfig(image_size=12, width=16, depth=1, heads=2)  # with batch norm
    config = CMSSFConfig(dim=8, hidden=8, freeze_image=True)
    method = new_cmssf(vision, TextConfig(width=16, depth=1, heads=2), config, data.captions)
    with unmoved(method):
        tuned = finetune.FineTuned(method, 16, 3, ViewsConfig()).train()
        norms = [m for m in tuned.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(norm.training for norm in norms)
        before = norms[0].running_mean.clone()
        tuned.features(data.images)
        assert not norms[0].running_mean.equal(before)
    assert not any(module.training for module in method.train().image_encoder.modules())

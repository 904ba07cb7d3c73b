"""Fusion models: one interface for all, missing modalities, and what each rule promises."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from settings import FusionConfig, TrainConfig
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cmssf_lib.data import ImageTextData, tones
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.fusion import (
    MODELS,
    RULES,
    Block,
    CoAttention,
    CoAttentionLayer,
    CrossAttention,
    EarlyFusion,
    FeatureFusion,
    FusionClassifier,
    LateFusion,
    attention,
    collect_masks,
    hide,
)
from cmssf_lib.fusion.inputs import initialise
from cmssf_lib.train import fit

VOCABULARY, CLASSES = 12, 3
SMALL = FusionConfig(
    image_size=(8, 16), width=16, depth=1, heads=2, rank=12, hidden=16, max_length=6, mels=8
)
EVERY = [(kind, rule) for kind, rules in RULES.items() for rule in rules]
each_kind_and_rule = pytest.mark.parametrize(("kind", "rule"), EVERY)


def config_of(kind, rule, **changes):
    names = ("image", "text") if kind == "coattention" else ("image", "text", "sound")
    return replace(SMALL, kind=kind, rule=rule, **{"modalities": names, **changes})


def model_of(kind, rule, seed=0, classes=CLASSES, **changes):
    """A model in evaluation mode whose every parameter matters; late rules are fitted."""
    config = config_of(kind, rule, **changes)
    torch.manual_seed(seed)
    model = MODELS[kind](config, VOCABULARY, classes)
    with torch.no_grad():  # biases and norms start at 0 and 1, where a mistake would not show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if kind == "late":
        inputs = examples(60, config.modalities, seed=5)
        model.eval().fit_rules(*model.log_probabilities(inputs), torch.arange(60) % classes)
    return model.eval()


def examples(n, names=("image", "text", "sound"), seed=0):
    random = torch.Generator().manual_seed(seed)
    every = {
        "image": torch.randint(256, (n, 3, 8, 16), generator=random).byte(),
        "text": torch.randint(4, VOCABULARY, (n, 6), generator=random),
        "sound": torch.randn(n, 800, generator=random),
    }
    every["text"][::2, 4:] = 0  # every second text is shorter
    return {name: every[name] for name in names}


# ---- what every model promises ----------------------------------------------------------------


@each_kind_and_rule
def test_every_model_answers_for_every_example_whatever_the_order(kind, rule):
    model = model_of(kind, rule)
    inputs = examples(7, model.config.modalities)
    answer = model(inputs)
    assert answer.shape == (7, CLASSES)
    assert answer.std(dim=0).min() > 1e-4  # it looks at its input
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = model({name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(shuffled, answer[order], atol=1e-5, rtol=1e-4)
    one = model({name: value[:1] for name, value in inputs.items()})
    torch.testing.assert_close(one, answer[:1], atol=1e-5, rtol=1e-4)


@each_kind_and_rule
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_the_place_of_a_missing_modality_has_no_influence(kind, rule, training):
    model = model_of(kind, rule).train(training)  # training: batch norm must not see it either
    names = model.config.modalities
    inputs, other = examples(6, names, seed=0), examples(6, names, seed=1)
    other["image"] = torch.rand(6, 3, 8, 16) * 0.1
    for name in names:
        here = torch.tensor([True, False, True, False, True, True])
        value = inputs[name]
        if name == "image":
            value, other[name] = value.float() / 255, other[name]
        spoiled = value.clone()
        spoiled[~here] = other[name][~here]
        assert not torch.equal(spoiled, value)
        expected = model({**inputs, name: value}, {name: here})
        found = model({**inputs, name: spoiled}, {name: here})
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
        changed = model({**inputs, name: spoiled}) - model({**inputs, name: value})
        assert changed[~here].abs().max() > 1e-4  # where nothing is missing it does matter
        assert torch.isfinite(expected).all()


@each_kind_and_rule
def test_a_key_left_out_is_the_same_as_a_mask_without_a_true(kind, rule):
    model = model_of(kind, rule)
    inputs = examples(5, model.config.modalities)
    for name in model.config.modalities:
        masked = model(inputs, {name: torch.zeros(5, dtype=torch.bool)})
        rest = {key: value for key, value in inputs.items() if key != name}
        torch.testing.assert_close(model(rest), masked, atol=1e-6, rtol=1e-6)


@each_kind_and_rule
def test_padding_does_not_change_the_answer(kind, rule):
    model = model_of(kind, rule)
    inputs = examples(4, model.config.modalities)
    short = inputs["text"][:, :4]
    padded = torch.cat([short, torch.zeros(4, 2, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(
        model({**inputs, "text": padded}), model({**inputs, "text": short}), atol=1e-5, rtol=1e-5
    )
    words = model({**inputs, "text": short.roll(1, dims=0)})
    assert (words - model({**inputs, "text": short})).abs().max() > 1e-4


@each_kind_and_rule
def test_gradients_are_finite_when_modalities_are_missing(kind, rule):
    model = model_of(kind, rule).train()
    inputs = examples(6, model.config.modalities)
    here = torch.tensor([True, False] * 3)
    present = {"image": here, "text": ~here}
    if "sound" in inputs:
        present["sound"] = here
    model(inputs, present).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


@each_kind_and_rule
def test_modality_dropout_acts_in_training_only(kind, rule):
    model = model_of(kind, rule, modality_dropout=0.5)
    plain = model_of(kind, rule)
    plain.load_state_dict(model.state_dict())
    inputs = examples(16, model.config.modalities)
    torch.testing.assert_close(model(inputs), plain(inputs), atol=0, rtol=0)
    model.train(), plain.train()
    torch.manual_seed(0)
    assert (model(inputs) - plain(inputs)).abs().max() > 1e-3


@each_kind_and_rule
def test_a_saved_model_gives_the_same_answers(kind, rule):
    model = model_of(kind, rule)
    torch.manual_seed(9)
    other = MODELS[kind](model.config, VOCABULARY, CLASSES).eval()
    other.load_state_dict(model.state_dict())
    inputs = examples(5, model.config.modalities)
    assert torch.equal(other(inputs), model(inputs))


@each_kind_and_rule
def test_every_model_learns_what_can_be_learned(kind, rule):
    config = config_of(kind, rule, image_size=(8, 8))
    data = tiny_data(48)
    torch.manual_seed(0)
    method = FusionClassifier(config, data.unique_captions, CLASSES)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    batch, losses = make_batch(data, torch.arange(48)), []
    for _ in range(15):
        out = method.loss(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.3 * losses[0]
    assert out["accuracy"] > 0.9


@each_kind_and_rule
def test_one_modality_is_enough_for_a_model_but_for_co_attention(kind, rule):
    if kind == "coattention":
        return
    model = model_of(kind, rule, modalities=("sound",))
    assert model(examples(3, ("sound",))).shape == (3, CLASSES)


# ---- what a model is given --------------------------------------------------------------------

THREE = ("image", "text", "sound")


@pytest.mark.parametrize(
    ("inputs", "present", "error", "message"),
    [
        ({"touch": 3}, {}, ValueError, "unknown modality 'touch'.*image, text, sound"),
        ({"text": 3}, {"touch": [1, 1, 1]}, ValueError, "unknown modality 'touch'"),
        ({}, {}, ValueError, "every modality is missing: give at least one"),
        ({"text": 3, "sound": 4}, {}, ValueError, "'text' has 3 examples, but 'sound' has 4"),
        ({"text": 3}, {"sound": [1, 1, 1]}, ValueError, "'sound', which is not among the inputs"),
        ({"text": 3}, {"text": [1, 1]}, ValueError, r"shape \(2,\); expected \(3,\)"),
        ({"text": 3}, {"text": [[1], [1], [1]]}, ValueError, r"shape \(3, 1\)"),
        ({"text": 4}, {"text": [1, 1, 1, 0]}, ValueError, "example 3 has no modality"),
    ],
)
def test_what_cannot_be_is_refused(inputs, present, error, message):
    tensors = {name: torch.zeros(n, 2) for name, n in inputs.items()}
    masks = {name: torch.tensor(mask).bool() for name, mask in present.items()}
    with pytest.raises(error, match=message):
        collect_masks(tensors, masks, THREE)


def test_a_mask_that_is_not_bool_is_refused():
    with pytest.raises(TypeError, match=r"'text' must be bool; got torch.int64"):
        collect_masks(
            {"text": torch.zeros(2, 2)}, {"text": torch.ones(2, dtype=torch.int64)}, THREE
        )


def test_collecting_puts_the_masks_in_the_models_order():
    inputs = {"sound": torch.zeros(2, 4), "image": torch.zeros(2, 3, 8, 8)}
    presence = collect_masks(inputs, {"sound": torch.tensor([True, False])}, THREE)
    assert presence.tolist() == [[True, False, True], [True, False, False]]


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1),
    st.floats(0, 0.99),
    st.integers(0, 1000),
)
def test_dropout_hides_but_never_the_last_modality(rows, probability, seed):
    presence = torch.tensor(rows)
    kept = hide(presence, probability, torch.Generator().manual_seed(seed))
    assert kept.any(dim=1).all()
    assert (presence | ~kept).all()  # nothing that was missing comes back
    if probability == 0:
        assert torch.equal(kept, presence)


def test_dropout_hides_as_often_as_it_is_told():
    presence = torch.ones(20_000, 2, dtype=torch.bool)
    kept = hide(presence, 0.3, torch.Generator().manual_seed(0)).float().mean().item()
    # Each goes with 0.3, but of two that would go together one stays: 0.7 + 0.3² / 2.
    assert kept == pytest.approx(0.7 + 0.045, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("image", torch.zeros(2, 3, 16, 16).byte(), "pictures of 8×16 pixels; got 16×16"),
        ("image", torch.full((2, 3, 8, 16), 3.0), r"must lie in \[0, 1\]"),
        ("text", torch.ones(2, 7, dtype=torch.int64), "text of 7 tokens, but max_length is 6"),
        ("text", torch.ones(2, 4), "must be int64 token ids"),
        ("text", torch.full((2, 4), 12), "run from 12 to 12; this model knows 0 to 11"),
        ("sound", torch.zeros(2, 700), "sounds of 800 samples; got 700"),
    ],
)
def test_a_modality_that_does_not_fit_is_refused(kind, value, message, as_shipped):
    for model in (model_of("feature", "concat"), model_of("early", "tokens")):
        with pytest.raises(ValueError, match=message):
            model({kind: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "middle"}, "kind: .* 'early', 'feature', .* got 'middle'"),
        ({"rule": "sum"}, "unknown rule 'sum' for feature fusion; choose one of concat"),
        ({"modalities": ("image", "touch")}, "'image', 'text' or 'sound', got 'touch'"),
        ({"modalities": ("text", "text")}, "each only once"),
        ({"modalities": ()}, "one or more modalities, each only once"),
        ({"kind": "coattention", "rule": "shared"}, "exactly two modalities"),
        ({"width": 15}, "width 15 is not divisible by 2 heads"),
        ({"modality_dropout": 1.0}, "modality_dropout: .* less than 1, got 1.0"),
        ({"image_size": (8, 10)}, "multiples of 4"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FusionClassifier(replace(SMALL, **changes), ["a word"], CLASSES)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes or more"):
        FusionClassifier(SMALL, ["a word"], 1)


# ---- attention --------------------------------------------------------------------------------


def test_attention_by_a_slow_loop():
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, generator=random) for n in (5, 6, 6))
    real = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    out, weights = attention(query, key, value, real)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                seen = [k for k in range(6) if real[b, k]]
                scores = [math.exp((query[b, h, i] @ key[b, h, k]).item() / 2) for k in seen]
                mean = sum(
                    s / sum(scores) * value[b, h, k] for s, k in zip(scores, seen, strict=True)
                )
                torch.testing.assert_close(out[b, h, i], mean, atol=1e-5, rtol=1e-5)
    assert (weights[1, :, :, 1] == 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5))


@pytest.mark.parametrize("part", ["attention", "block", "cross", "layer"])
def test_a_row_without_a_real_key_gives_finite_numbers_and_gradients(part):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, requires_grad=True)
    real = torch.tensor([[True, True, False], [False, False, False]])
    if part == "attention":
        out, weights = attention(*(x[:, None],) * 3, real)
        assert (out[1] == 0).all()
        assert (weights[1] == 0).all()
    elif part == "block":
        out = Block(8, 2)(x, real)
    elif part == "cross":
        out, _ = CrossAttention(8, 2)(x, x, real)
    else:
        out = torch.stack(CoAttentionLayer(8, 2, True)(x, x, real, real)[:2])
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@each_kind_and_rule
def test_weights_are_saved_and_read_again(kind, rule, tmp_path):
    """One that shares weights holds them once: safetensors refuses to write them twice."""
    model, other = model_of(kind, rule), model_of(kind, rule, seed=1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    inputs = examples(5, model.config.modalities)
    torch.testing.assert_close(other(inputs), model(inputs), rtol=0, atol=0)


def test_shared_weights_are_one_set_and_separate_are_two():
    shared, separate = (CoAttentionLayer(16, 2, s) for s in (True, False))
    assert [len(layer.cross) for layer in (shared, separate)] == [1, 2]
    count = [sum(p.numel() for p in layer.parameters()) for layer in (shared, separate)]
    assert count[1] - count[0] == 4 * (16 * 16 + 16) + 2 * 16  # q, k, v, out, and a norm


@pytest.mark.parametrize("norm_first", [False, True])
def test_norms_stand_where_they_are_told_to(norm_first):
    """After a layer with the norms last, a token's numbers have mean 0 and variance 1."""
    torch.manual_seed(0)
    layer = CoAttentionLayer(16, 2, False, norm_first=norm_first)
    a, _, _ = layer(3 + 5 * torch.randn(2, 5, 16), torch.randn(2, 4, 16))
    assert (a.mean(dim=2).abs().max() < 1e-5) != norm_first
    model = model_of("coattention", "shared", norm_first=norm_first)
    assert any(isinstance(norm, torch.nn.LayerNorm) for norm in model.norms) == norm_first


def test_both_looks_across_start_from_the_streams_before_the_layer():
    """With shared weights and equal streams nothing tells them apart: the maps must be equal."""
    torch.manual_seed(0)
    layer, x = CoAttentionLayer(16, 2, True), torch.randn(2, 5, 16)
    _, _, (one, other) = layer(x, x)
    assert torch.equal(one, other)


def test_attention_maps_have_a_row_a_word_and_a_column_a_patch():
    model = model_of("coattention", "separate", depth=2)
    inputs = examples(4, ("image", "text"))
    maps = model.attention_maps(inputs, {"image": torch.tensor([True, True, True, False])})
    assert len(maps) == 2
    for layer in maps:
        assert layer["text_to_image"].shape == (4, 2, 6, 8)  # 8×16 pixels are 2×4 patches
        assert layer["image_to_text"].shape == (4, 2, 8, 6)
        torch.testing.assert_close(layer["text_to_image"][:3].sum(-1), torch.ones(3, 2, 6))
        assert (layer["text_to_image"][3] == 0).all()
        assert (layer["image_to_text"][0, :, :, 4:] == 0).all()  # padding is not looked at


def test_linear_layers_start_at_xavier_scale():
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 96)
    initialise(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (48 + 96)), rel=0.05)
    assert (layer.bias == 0).all()


# ---- feature fusion ---------------------------------------------------------------------------


def test_gates_are_a_softmax_over_what_is_there():
    model = model_of("feature", "gated")
    here = torch.tensor([True, False, True, False])
    gates = model.gates(examples(4), {"text": here})
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(4))
    assert (gates[~here, 1] == 0).all()
    assert (gates[here] > 0).all()
    with pytest.raises(ValueError, match="'concat' has no gates"):
        model_of("feature", "concat").gates(examples(4))


def test_the_bilinear_form_is_a_product_with_one_for_the_missing():
    model = model_of("feature", "bilinear")
    inputs = examples(2)
    factors = [
        1 + layer(model.encoders[name](inputs[name]))
        for name, layer in zip(THREE, model.project, strict=True)
    ]
    expected = model.answer(factors[0] * factors[1] * factors[2])
    torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)
    del inputs["text"]
    torch.testing.assert_close(
        model(inputs), model.answer(factors[0] * factors[2]), atol=1e-5, rtol=1e-5
    )


# ---- late fusion ------------------------------------------------------------------------------


def test_single_models_are_trained_as_if_alone():
    """The gradient of the picture's model is the same whatever the words are."""
    model = model_of("late", "mean").train()
    labels = torch.arange(6) % CLASSES

    def gradients(inputs, present=None):
        model.zero_grad()
        model.loss(*model.log_probabilities(inputs, present), labels).backward()
        return {
            name: [p.grad.clone() for p in part.parameters()]
            for name, part in model.models.items()
            if next(part.parameters()).grad is not None
        }

    together = gradients(examples(6))
    changed = gradients({**examples(6), "text": examples(6, seed=3)["text"]})
    for before, after in zip(together["image"], changed["image"], strict=True):
        assert torch.equal(before, after)
    assert any(
        not torch.equal(*pair) for pair in zip(together["text"], changed["text"], strict=True)
    )
    # And it is that of the one model's own cross-entropy, over the examples it has.
    here = torch.tensor([True, True, False, True, False, True])
    masked = gradients(examples(6), {"image": here})
    alone = model.models["image"]
    model.zero_grad()
    F.cross_entropy(alone(examples(6)["image"][here]), labels[here]).backward()
    for p, expected in zip(alone.parameters(), masked["image"], strict=True):
        torch.testing.assert_close(p.grad, expected)


def test_the_loss_is_the_sum_of_cross_entropies_over_the_examples_there():
    model, labels = model_of("late", "mean"), torch.arange(6) % CLASSES
    inputs, here = examples(6), torch.tensor([True, True, False, True, False, True])
    expected = sum(
        F.cross_entropy(model.models[name](inputs[name])[mask], labels[mask])
        for name, mask in zip(THREE, (here, here | True, here | True), strict=True)
    )
    found = model.loss(*model.log_probabilities(inputs, {"image": here}), labels)
    torch.testing.assert_close(found, expected)


def test_the_mean_rule_is_the_mean_of_the_probabilities_there():
    model = model_of("late", "mean")
    inputs, here = examples(3), torch.tensor([True, False, True])
    p = torch.stack([model.models[name](inputs[name]).softmax(dim=1) for name in THREE], dim=1)
    expected = p.mean(dim=1)
    expected[1] = (p[1, 0] + p[1, 1]) / 2
    torch.testing.assert_close(model(inputs, {"sound": here}).exp(), expected)


def answers_of(n, skill, seed=0):
    """Three models' answers to n questions of two classes: each knows the answer so often."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=random)
    right = torch.rand(n, len(skill), generator=random) < torch.tensor(skill)
    said = torch.where(right, labels[:, None], 1 - labels[:, None])
    p = torch.where(F.one_hot(said, 2).bool(), 0.9, 0.1)
    return p.log(), torch.ones(n, len(skill), dtype=torch.bool), labels


def late_for(classes=2, **changes):
    torch.manual_seed(0)
    return LateFusion(config_of("late", "mean", **changes), VOCABULARY, classes).eval()


def test_weights_go_to_the_model_that_is_right():
    model = late_for()
    answers, presence, labels = answers_of(2000, (0.9, 0.6, 0.5))
    model.fit_rules(answers, presence, labels)
    assert model.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert (model.weights >= 0).all()
    assert model.weights[0] > 0.9
    presence[::2, 1] = False
    there = model.weights * presence
    there = there / there.sum(dim=1, keepdim=True)
    mean = (answers.exp() * there[:, :, None]).sum(dim=1)
    torch.testing.assert_close(model.combine(answers, presence, "weighted").exp(), mean)

    def loss(weights):
        p = (answers.exp() * torch.tensor(weights)[:, None]).sum(dim=1)
        return -p[torch.arange(2000), labels].log().mean().item()

    best = loss(model.weights.tolist())
    grid = [(a / 20, b / 20, 1 - (a + b) / 20) for a in range(21) for b in range(21 - a)]
    assert best <= min(loss(weights) for weights in grid) + 1e-4


def test_stacking_is_the_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    for classes in (2, 3):
        model = late_for(classes)
        random = torch.Generator().manual_seed(1)
        labels = torch.randint(classes, (300,), generator=random)
        answers = torch.randn(300, 3, classes, generator=random)
        answers[:, 1] += 2 * F.one_hot(labels, classes)
        answers = answers.log_softmax(dim=2)
        presence = torch.rand(300, 3, generator=random) < 0.8
        presence[:, 0] = True
        model.fit_rules(answers, presence, labels)
        filled = answers.clamp(min=-10).masked_fill(~presence[:, :, None], 0).flatten(1)
        features = torch.cat([filled, presence.float()], dim=1).numpy()
        oracle = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels.numpy())
        found = model.combine(answers, presence, "stacked").exp()
        expected = torch.tensor(oracle.predict_proba(features)).float()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)


def test_stacking_can_learn_that_a_model_is_always_wrong():
    model = late_for()
    answers, presence, labels = answers_of(500, (0.02, 0.5, 0.5))
    model.fit_rules(answers, presence, labels)
    right = [
        (model.combine(answers, presence, rule).argmax(dim=1) == labels).float().mean()
        for rule in ("mean", "stacked")
    ]
    assert right[0] < 0.4
    assert right[1] > 0.9


@pytest.mark.parametrize("rule", RULES["late"])
def test_what_a_missing_model_would_have_said_is_not_read(rule):
    model = late_for()
    answers, presence, labels = answers_of(200, (0.9, 0.8, 0.7))
    model.fit_rules(answers, presence, labels)
    presence[::2, 0] = False
    expected = model.combine(answers, presence, rule)
    answers[::2, 0] = answers[::2, 0].flip(1)
    assert torch.equal(model.combine(answers, presence, rule), expected)
    torch.testing.assert_close(expected.exp().sum(dim=1), torch.ones(200))


def test_a_rule_must_be_fitted_and_known():
    model = late_for()
    answers, presence, labels = answers_of(50, (0.9, 0.8, 0.7))
    for rule in ("product", "weighted", "loglinear", "stacked"):
        with pytest.raises(RuntimeError, match=f"'{rule}' has not been fitted.*fit_rule"):
            model.combine(answers, presence, rule)
    with pytest.raises(ValueError, match="unknown rule 'vote'"):
        model.combine(answers, presence, "vote")
    with pytest.raises(ValueError, match="show 1 of 2 classes"):
        model.fit_rules(answers, presence, torch.zeros_like(labels))


def independent(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three signals, independent given an unevenly distributed class; and the exact posteriors.

    Returns:
        The log-posteriors of each signal alone, the exact log-posterior of all, and the classes.
    """
    random = torch.Generator().manual_seed(seed)
    prior = torch.tensor([0.2, 0.3, 0.5])
    classes = prior.multinomial(n, replacement=True, generator=random)  # (n,)
    likely = torch.rand(3, 3, 6, generator=random).softmax(dim=2)  # (signal, class, symbol)
    each = [row[classes].multinomial(1, generator=random)[:, 0] for row in likely]
    seen = torch.stack([row[:, symbol].T for row, symbol in zip(likely, each, strict=True)])
    alone = (seen * prior).transpose(0, 1)  # (n, signal, class)
    exact = seen.prod(dim=0) * prior
    alone, exact = (p / p.sum(dim=-1, keepdim=True) for p in (alone, exact))
    return alone.log(), exact.log(), classes


def test_the_product_is_bayes_rule_for_independent_modalities():
    answers, exact, labels = independent(4_000)
    present = torch.ones(4_000, 3, dtype=torch.bool)
    model = late_for(3)
    model.fit_rules(answers, present, labels)
    model.log_prior.copy_(torch.tensor([0.2, 0.3, 0.5]).log())  # fitted, it has noise
    found = model.combine(answers, present, "product")
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    present[:, 1] = False  # the product of two is exact, too
    both = (answers[:, 0] + answers[:, 2] - model.log_prior).log_softmax(dim=1)
    torch.testing.assert_close(model.combine(answers, present, "product"), both)


def test_the_prior_and_the_powers_are_fitted():
    answers, _, labels = independent(20_000)
    present = torch.ones(len(labels), 3, dtype=torch.bool)
    model = late_for(3)
    model.fit_rules(answers, present, labels)
    torch.testing.assert_close(model.log_prior.exp(), labels.bincount().float() / len(labels))
    torch.testing.assert_close(model.powers, torch.ones(3), atol=0.2, rtol=0)
    copied = answers[:, [0, 0, 1]]  # the same signal twice: the product counts it twice
    model.fit_rules(copied, present, labels)
    assert model.powers[:2].sum() == pytest.approx(1, abs=0.25)
    losses = {
        rule: F.nll_loss(model.combine(copied, present, rule), labels).item()
        for rule in ("product", "loglinear")
    }
    assert losses["loglinear"] < losses["product"]


def test_modality_dropout_teaches_the_stacking_what_to_do_without():
    """The best model missing: a regression that was fitted with gaps answers better."""
    answers, presence, labels = answers_of(4000, (0.95, 0.8, 0.8))
    gone = presence.clone()
    gone[:, 0] = False
    losses = []
    for dropout in (0.0, 0.4):
        model = late_for(modality_dropout=dropout)
        model.fit_rules(answers, presence, labels)
        losses.append(F.nll_loss(model.combine(answers, gone, "stacked"), labels).item())
    assert losses[1] < losses[0]


# ---- the method -------------------------------------------------------------------------------


def tiny_data(n=48, sounds=True):
    """Three classes that every modality gives away: a colour, a word, a tone."""
    labels = torch.arange(n) % CLASSES
    random = torch.Generator().manual_seed(0)
    images = torch.randint(90, (n, 3, 8, 8), generator=random)
    images[torch.arange(n), labels] += 160
    return ImageTextData(
        images=images.byte(),
        labels=labels,
        captions=tuple(f"it is {('red', 'green', 'blue')[c]}" for c in labels.tolist()),
        class_names=("red", "green", "blue"),
        name="tiny",
        sounds=tones(labels) if sounds else None,
    )


def method_of(kind, rule, data, seed=0, **changes):
    torch.manual_seed(seed)
    config = config_of(kind, rule, image_size=(8, 8), **changes)
    return FusionClassifier(config, data.unique_captions, CLASSES)


TRAIN = TrainConfig(epochs=2, batch_size=16, lr=5e-3, text_lr=1.0)


@pytest.mark.parametrize("kind", RULES)
def test_fit_trains_it_and_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, kind):
    data, rule = tiny_data(), RULES[kind][0]
    whole = method_of(kind, rule, data, modality_dropout=0.3)
    run = fit(whole, data, TRAIN, run=tmp_path / "whole", progress=False)
    assert run.series("loss")[1] < run.series("loss")[0]
    assert 0 <= run.series("accuracy")[1] <= 1

    def stop(_run):
        raise ZeroDivisionError

    first = method_of(kind, rule, data, modality_dropout=0.3)
    with pytest.raises(ZeroDivisionError):
        fit(first, data, TRAIN, run=tmp_path / "two", watch=stop, progress=False)
    # Other initial weights: all that counts is in the checkpoint.
    second = method_of(kind, rule, data, seed=1, modality_dropout=0.3)
    fit(second, data, TRAIN, run=tmp_path / "two", progress=False)
    parts = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "two")]
    assert parts[0] == parts[1]


def test_texts_are_tokenized_once_and_go_to_their_pictures():
    data = tiny_data()
    method = method_of("early", "tokens", data)
    batch = make_batch(data, torch.tensor([0, 1, 3, 4, 2]))
    found = method.inputs(batch)["text"]
    words = [method.tokenizer.decode(row, skip_special_tokens=True) for row in found.tolist()]
    assert words == [data.captions[i] for i in (0, 1, 3, 4, 2)]
    assert set(method.inputs(batch, hide=("text",))) == {"image", "sound"}


@pytest.mark.parametrize("kind", RULES)
def test_predictions_do_not_depend_on_the_batch_size_and_leave_the_modes_alone(kind, monkeypatch):
    data = tiny_data()
    method = method_of(kind, RULES[kind][0], data, modality_dropout=0.5)
    method.model.eval()  # an unusual mixture of modes
    expected = method.predict(data)
    assert method.training
    assert not method.model.training
    assert expected.shape == (48, CLASSES)
    assert not expected.requires_grad
    torch.testing.assert_close(expected.exp().sum(dim=1), torch.ones(48))
    monkeypatch.setattr("cmssf_lib.fusion.AT_ONCE", 7)
    torch.testing.assert_close(method.predict(data), expected, atol=1e-5, rtol=1e-4)


def test_predictions_with_a_modality_missing(monkeypatch):
    data = tiny_data()
    method = method_of("feature", "concat", data)
    nothing = torch.zeros(48, dtype=torch.bool)
    hidden = method.predict(data, hide=("text",))
    with monkeypatch.context() as few:
        few.setattr("cmssf_lib.fusion.AT_ONCE", 20)
        masked = method.predict(data, present={"text": nothing})
    torch.testing.assert_close(hidden, masked, atol=1e-5, rtol=1e-4)
    assert (hidden - method.predict(data)).abs().max() > 1e-3
    half = torch.arange(48) % 2 == 0
    mixed = method.predict(data, present={"text": half})
    torch.testing.assert_close(mixed[~half], hidden[~half], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[half], method.predict(data)[half], atol=1e-5, rtol=1e-4)


def test_all_rules_of_late_fusion_are_those_of_one_at_a_time(monkeypatch):
    data = tiny_data()
    method = method_of("late", "mean", data)
    method.fit_rule(data)
    monkeypatch.setattr("cmssf_lib.fusion.AT_ONCE", 20)
    for present in (None, {"text": torch.arange(48) % 3 == 0}):
        said = method.predict_by_rules(data, present)
        assert list(said) == ["mean", "product", "weighted", "loglinear", "stacked"]
        for rule, each in said.items():
            torch.testing.assert_close(each, method.predict(data, present=present, rule=rule))
    with pytest.raises(ValueError, match="only late fusion can fit or set rules"):
        method_of("feature", "concat", data).predict_by_rules(data)


def test_what_predict_refuses():
    data = tiny_data()
    method = method_of("feature", "concat", data)
    with pytest.raises(ValueError, match="cannot hide 'touch'"):
        method.predict(data, hide=("touch",))
    with pytest.raises(ValueError, match="every modality is missing"):
        method.predict(data, hide=("image", "text", "sound"))
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(48,\)"):
        method.predict(data, present={"text": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="the data has none"):
        method.predict(tiny_data(sounds=False))
    assert method.training  # also after an error
    with pytest.raises(ValueError, match="only late fusion can fit or set rules"):
        method.predict(data, rule="mean")
    with pytest.raises(ValueError, match="only late fusion can fit or set rules"):
        method.fit_rule(data)


class WithoutFloat64(TorchFunctionMode):
    """A device like Apple's MPS, which has no float64: what `cpu` has not moved is on it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        result = func(*args, **kwargs)
        if func is torch.Tensor.cpu:
            result = result.clone()  # else it would be the very tensor on the device
        on_cpu = func is torch.Tensor.cpu or all(hasattr(x, "on_cpu") for x in given)
        if func is torch.Tensor.numpy and not on_cpu:
            raise TypeError("a tensor on the device has no NumPy array: use cpu() first")
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and on_cpu:
                tensor.on_cpu = True
            elif isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{func} gave float64 on a device that has none")
        return result


@each_kind_and_rule
def test_nothing_needs_float64_on_the_models_device(kind, rule):
    data = tiny_data()
    method = method_of(kind, rule, data, modality_dropout=0.3)
    with WithoutFloat64():
        method.loss(make_batch(data, torch.arange(48)))["loss"].backward()
        if kind == "late":
            method.fit_rule(data)
        assert method.predict(data, present={"text": data.labels > 0}).dtype == torch.float32
    with pytest.raises(TypeError, match="gave float64"), WithoutFloat64():
        data.sounds.double().cpu()


@each_kind_and_rule
def test_modes_are_put_back_after_any_error(kind, rule):
    """Looked at while the error is still held, as a notebook holds it."""
    data = tiny_data()
    method = method_of(kind, rule, data)
    method.model.eval()
    before = [module.training for module in method.modules()]

    def fail(*_):
        raise ZeroDivisionError

    wait = method.model.register_forward_hook(fail)
    with pytest.raises((ZeroDivisionError, RuntimeError)) as held:
        method.predict(data)
    assert [module.training for module in method.modules()] == before
    wait.remove()
    assert held.traceback


@pytest.mark.parametrize("rule", ["product", "weighted", "loglinear", "stacked"])
def test_late_fusion_trains_before_its_rule_is_fitted(rule, monkeypatch):
    data = tiny_data()
    method = method_of("late", rule, data)
    fit(method, data, TRAIN, progress=False)
    with pytest.raises(RuntimeError, match="has not been fitted"):
        method.predict(data)
    early_answer = method.predict(data, rule="mean")
    monkeypatch.setattr("cmssf_lib.fusion.AT_ONCE", 20)
    method.fit_rule(data)
    monkeypatch.undo()
    torch.testing.assert_close(method.predict(data, rule="mean"), early_answer)
    assert torch.equal(method.predict(data, rule=rule), method.predict(data))
    accuracy = (method.predict(data).argmax(dim=1) == data.labels).float().mean()
    assert accuracy > 0.9
    other = method_of("late", rule, data, seed=1)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.predict(data), method.predict(data))


def test_a_model_without_text_needs_no_captions():
    torch.manual_seed(0)
    config = config_of("feature", "concat", modalities=("image", "sound"), image_size=(8, 8))
    method = FusionClassifier(config, (), CLASSES)
    assert method.predict(tiny_data()).shape == (48, CLASSES)


def test_the_models_can_be_built_without_the_method():
    for model, rule in (
        (EarlyFusion, "channels"),
        (FeatureFusion, "gated"),
        (LateFusion, "mean"),
    ):
        built = model(replace(SMALL, rule=rule), VOCABULARY, CLASSES)
        assert built(examples(4)).shape == (4, CLASSES)
    with pytest.raises(ValueError, match="unknown rule 'mean' for coattention"):
        CoAttention(replace(SMALL, rule="mean"), VOCABULARY, CLASSES)

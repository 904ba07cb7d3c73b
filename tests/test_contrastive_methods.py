"""SimCLR, MoCo and supervised learning: what each step does, and what it must leave alone."""

import copy
import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from settings import MoCoConfig, SimCLRConfig, SupervisedConfig, TrainConfig, VisionConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib import methods
from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import moco_loss, nt_xent, supcon_loss
from cmssf_lib.methods import (
    MoCo,
    SimCLR,
    Supervised,
    momentum_copy,
    momentum_schedule,
    momentum_update,
)
from cmssf_lib.train import diagnose, effective_rank, feature_std, make_optimizer
from cmssf_lib.train.watch import signs_of_collapse
from cmssf_lib.views import ViewsConfig

VISION = VisionConfig(image_size=16, width=32, depth=1, heads=2, norm="group")
BATCH_NORM = dataclasses.replace(VISION, norm="batch")
VIEWS = ViewsConfig(area=(0.6, 1.5), turn=0.3, shift=0.1)
SIMCLR = SimCLRConfig(hidden=24, dim=16, views=VIEWS)
MOCO = MoCoConfig(hidden=24, dim=16, queue=24, momentum=0.9, views=VIEWS)
CROSS_ENTROPY = SupervisedConfig(views=VIEWS)
SUPCON = SupervisedConfig(loss="supcon", hidden=24, dim=16, views=VIEWS)

PAIRS = {"positive_similarity", "negative_similarity"}
SPREAD = {"loss", "chance"}


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes("plain", train=240, test=1).train


@pytest.fixture(scope="module")
def batch(scenes):
    return make_batch(scenes, torch.arange(8))


def new(config, vision: VisionConfig = VISION, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    encoder = ImageEncoder(vision)
    if isinstance(config, methods.SupervisedConfig):
        return Supervised(encoder, config, 10)
    return (SimCLR if isinstance(config, methods.SimCLRConfig) else MoCo)(encoder, config)


def loss(method: nn.Module, batch, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)  # as `fit` does at every step
    return method.loss(batch)


def state(method: nn.Module) -> dict[str, Tensor]:
    """Everything a step could change, also what is not saved."""
    return {k: v.clone() for k, v in [*method.named_parameters(), *method.named_buffers()]}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def step(method: nn.Module, batch, optimizer, seed: int) -> float:
    out = loss(method, batch, seed)
    out["loss"].backward()
    optimizer.step()
    optimizer.zero_grad()
    method.after_step(0.5)
    return float(out["loss"].detach())


ALL = [
    pytest.param(SIMCLR, SPREAD | PAIRS, id="simclr"),
    pytest.param(MOCO, SPREAD | PAIRS, id="moco"),
    pytest.param(CROSS_ENTROPY, SPREAD | {"accuracy"}, id="cross_entropy"),
    pytest.param(SUPCON, SPREAD | PAIRS, id="supcon"),
]
CONFIGS = [pytest.param(p.values[0], id=p.id) for p in ALL]


# --- what all of them share -------------------------------------------------------------------


@pytest.mark.parametrize(("config", "logged"), ALL)
def test_a_loss_to_step_on_and_numbers_to_log(config, logged, batch):
    method = new(config).train()
    out = loss(method, batch)
    embeddings = out.pop("embeddings")
    assert embeddings.shape[0] == len(batch)
    assert not embeddings.requires_grad
    assert out.keys() == logged
    assert all(value.shape == () and value.isfinite() for value in out.values())
    assert [k for k, v in out.items() if v.requires_grad] == ["loss"]
    assert torch.equal(
        loss(method, batch)["loss"], method_call(method, batch)["loss"]
    ) or isinstance(method, MoCo)


def method_call(method: nn.Module, batch) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return method(batch)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("vision", [VISION, BATCH_NORM], ids=["group", "batch"])
def test_evaluation_changes_nothing(config, vision, batch):
    method = new(config, vision).eval()
    before = state(method)
    loss(method, batch)
    method.features(batch.images)
    assert_same(before, state(method))
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize("config", CONFIGS)
def test_evaluation_draws_views_where_two_equal_pictures_would_be_no_question(config, batch):
    method = new(config).eval()
    one, same, other = (loss(method, batch, seed)["loss"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (config is CROSS_ENTROPY)


@pytest.mark.parametrize("config", CONFIGS)
def test_features_are_the_encoders_without_head_and_views(config, batch):
    method = new(config).train()
    features = method.features(batch.images)
    assert features.shape == (8, VISION.width)
    assert torch.equal(features, method.image_encoder(batch.images))
    assert torch.equal(features, method.features(batch.images))  # nothing is drawn
    with torch.no_grad():
        for parameter in method.head.parameters():
            parameter.zero_()
    assert torch.equal(features, method.features(batch.images))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_method_tells_the_pictures_apart_after_some_steps(config, scenes):
    method = new(config, BATCH_NORM).train()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)
    batches = [make_batch(scenes, torch.arange(24 * i, 24 * (i + 1))) for i in range(4)]
    losses = [step(method, batches[i % 4], optimizer, seed=i) for i in range(60)]
    # From where everything looks alike (MoCo begins below: its first queue is random directions).
    chance = float(loss(method, batches[0])["chance"])
    assert sum(losses[-8:]) / 8 < chance - 0.1
    spread = loss(method.eval(), batches[0])
    assert diagnose(floats(spread)) is None


@pytest.mark.parametrize("config", CONFIGS)
def test_a_run_goes_on_from_its_state_dict(config, scenes):
    """Two steps, saved, two more: the same as in a method that began otherwise and was loaded."""
    batches = [make_batch(scenes, torch.arange(8 * i, 8 * (i + 1))) for i in range(5)]
    method, other = new(config).train(), new(config, seed=1).train()
    sgd = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.05)
        for m in (method, other)
    ]
    for i in range(2):
        step(method, batches[i], sgd[0], seed=i)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for i in range(2, 5):
        assert step(method, batches[i], sgd[0], i) == step(other, batches[i], sgd[1], i)
    assert_same(state(method), state(other))


# --- SimCLR -----------------------------------------------------------------------------------


def test_simclr_is_nt_xent_of_two_views(batch):
    method = new(SIMCLR).train()
    ours = loss(method, batch)
    torch.manual_seed(0)
    views = method.views(batch.images.repeat(2, 1, 1, 1))
    assert not torch.equal(views[:8], views[8:])
    a, b = (method.head(method.image_encoder(view)) for view in views.chunk(2))
    torch.testing.assert_close(ours["loss"], nt_xent(a, b, SIMCLR.temperature))
    table = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    other = ~torch.eye(8, dtype=torch.bool)
    torch.testing.assert_close(ours["positive_similarity"], table.diagonal().mean().detach())
    torch.testing.assert_close(ours["negative_similarity"], table[other].mean().detach())
    assert ours["chance"].item() == pytest.approx(math.log(15))
    torch.testing.assert_close(ours["embeddings"], a.detach())


def test_batch_norm_sees_both_views_at_once(batch):
    method = new(SIMCLR, BATCH_NORM).train()
    loss(method, batch)
    counts = [v for k, v in method.named_buffers() if k.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 1 for count in counts)


# --- MoCo -------------------------------------------------------------------------------------


def test_moco_is_asked_on_the_queue_as_it_was(batch):
    method = new(MOCO).train()
    before = method.queue.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(24))
    ours = loss(method, batch)
    torch.manual_seed(0)
    first, second = method.views(batch.images.repeat(2, 1, 1, 1)).chunk(2)
    query = method.head(method.image_encoder(first))
    key = F.normalize(method.momentum_head(method.momentum_encoder(second)), dim=1)
    torch.testing.assert_close(ours["loss"], moco_loss(query, key, before, MOCO.temperature))
    unit = F.normalize(query, dim=1)
    torch.testing.assert_close(ours["positive_similarity"], (unit * key).sum(1).mean().detach())
    torch.testing.assert_close(ours["negative_similarity"], (unit @ before.T).mean().detach())
    assert ours["chance"].item() == pytest.approx(math.log(25))
    # First in, first out: eight old keys are gone, the batch's stand at the end.
    assert torch.equal(method.queue[:16], before[8:])
    torch.testing.assert_close(method.queue[16:], key)


def test_moco_asks_among_the_keys_of_the_batch_when_told_to(batch):
    config = replace(MOCO, in_batch=True)
    method = new(config).train()
    before = method.queue.clone()
    ours = loss(method, batch)
    torch.manual_seed(0)
    first, second = method.views(batch.images.repeat(2, 1, 1, 1)).chunk(2)
    query = method.head(method.image_encoder(first))
    key = method.momentum_head(method.momentum_encoder(second))
    expected = moco_loss(query, key, before, MOCO.temperature, in_batch=True)
    torch.testing.assert_close(ours["loss"], expected)
    assert ours["chance"].item() == pytest.approx(math.log(8 + 24))
    torch.testing.assert_close(method.queue[16:], F.normalize(key, dim=1))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_queue_holds_the_last_keys_in_order(steps, scenes):
    method = new(MOCO).train()
    expected = [method.queue.clone()]
    for i in range(steps):
        picked = make_batch(scenes, torch.arange(8 * i, 8 * (i + 1)))
        loss(method, picked, seed=i)
        torch.manual_seed(i)
        second = method.views(picked.images.repeat(2, 1, 1, 1))[8:]
        with torch.no_grad():
            expected.append(F.normalize(method.momentum_head(method.momentum_encoder(second))))
    torch.testing.assert_close(method.queue, torch.cat(expected)[-24:])
    assert not method.queue.requires_grad


def test_the_momentum_networks_get_no_gradient_and_follow_by_the_average(batch):
    method = new(MOCO).train()
    optimizer = make_optimizer(method, TrainConfig(lr=1e-2))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    pairs = [
        (method.image_encoder, method.momentum_encoder),
        (method.head, method.momentum_head),
    ]
    for online, target in pairs:
        assert_same(state(online), state(target))
        assert trained.isdisjoint(id(p) for p in target.parameters())
    # Parameters alone: a batch norm's statistics move in every forward of a training.
    before = [dict(copy.deepcopy(target).named_parameters()) for _, target in pairs]
    loss(method, batch)["loss"].backward()
    optimizer.step()
    for (online, target), old in zip(pairs, before, strict=True):
        assert all(p.grad is None for p in target.parameters())
        assert all(p.grad is not None for p in online.parameters())
        assert_same(old, dict(target.named_parameters()))  # until `after_step`
    method.after_step(0.5)
    for (online, target), old in zip(pairs, before, strict=True):
        for name, value in target.named_parameters():
            moved = 0.9 * old[name] + 0.1 * online.get_parameter(name)
            torch.testing.assert_close(value, moved.detach())
        assert any(not torch.equal(old[k], v) for k, v in target.named_parameters())


def test_several_losses_make_one_step_of_the_average(batch):
    """Gradient accumulation: the queue takes in every batch, the momentum encoder moves once."""
    method = new(MOCO).train()
    before = state(method.momentum_encoder)
    loss(method, batch, 0)
    loss(method, batch, 1)
    assert_same(before, state(method.momentum_encoder))


def test_the_queue_is_saved():
    method = new(MOCO)
    saved = method.state_dict()
    assert torch.equal(saved["queue"], method.queue)
    assert any(name.startswith("momentum_encoder.") for name in saved)
    assert any(name.startswith("momentum_head.") for name in saved)


# --- with labels ------------------------------------------------------------------------------


def test_cross_entropy_is_a_classifier_on_one_view(batch):
    method = new(CROSS_ENTROPY).train()
    ours = loss(method, batch)
    torch.manual_seed(0)
    logits = method.head(method.image_encoder(method.views(batch.images)))
    torch.testing.assert_close(ours["loss"], F.cross_entropy(logits, batch.labels))
    assert ours["accuracy"] == (logits.argmax(1) == batch.labels).float().mean()
    assert ours["chance"].item() == pytest.approx(math.log(10))
    method.eval()
    logits = method.head(method.image_encoder(batch.images))  # the picture as it is
    torch.testing.assert_close(loss(method, batch)["loss"], F.cross_entropy(logits, batch.labels))


def test_supcon_is_the_loss_with_the_batchs_labels(batch):
    method = new(SUPCON).train()
    ours = loss(method, batch)
    torch.manual_seed(0)
    a, b = method.head(method.image_encoder(method.views(batch.images.repeat(2, 1, 1, 1)))).chunk(2)
    expected = supcon_loss(a, b, batch.labels, SUPCON.temperature)
    torch.testing.assert_close(ours["loss"], expected)
    assert not torch.allclose(expected, nt_xent(a, b, SUPCON.temperature))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SIMCLR, MOCO, SUPCON], ids=["simclr", "moco", "supcon"])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one_is_refused_before_work_starts(config, training, scenes):
    method = new(config).train(training)
    before = state(method)
    method.views.register_forward_pre_hook(lambda *_: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=r"batch of 1 .*at least two.*larger batch"):
        method.loss(make_batch(scenes, torch.arange(1)))
    assert_same(before, state(method))


def test_a_classifier_takes_a_single_picture(scenes):
    out = loss(new(CROSS_ENTROPY).train(), make_batch(scenes, torch.arange(1)))
    assert all(value.isfinite().all() for value in out.values())


@pytest.mark.parametrize("config", [SIMCLR, MOCO, SUPCON], ids=["simclr", "moco", "supcon"])
@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(config, temperature):
    with pytest.raises(ValueError, match=rf"temperature: Input .*, got {temperature}"):
        new(dataclasses.replace(config, temperature=temperature))


@pytest.mark.parametrize("pictures", [5, 16, 32])
def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(pictures, scenes):
    method = new(MOCO).train()
    odd = make_batch(scenes, torch.arange(pictures))
    before = state(method)
    with pytest.raises(ValueError, match=rf"queue of 24 keys .* batches of {pictures}: choose"):
        method.loss(odd)
    assert_same(before, state(method))
    method.eval().loss(odd)  # nothing is put into the queue, so any batch will do


@pytest.mark.parametrize("queue", [0, -8])
def test_a_queue_without_keys_is_refused(queue):
    with pytest.raises(ValueError, match=f"queue: .* greater than 0, got {queue}"):
        new(dataclasses.replace(MOCO, queue=queue))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_a_momentum_outside_zero_to_one_is_refused(momentum):
    with pytest.raises(ValueError, match=f"momentum: Input .*, got {momentum}"):
        new(dataclasses.replace(MOCO, momentum=momentum))
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"momentum must lie between 0 and 1, got {momentum}"):
        momentum_update(layer, momentum_copy(layer), momentum)


def test_unknown_losses_and_labels_are_refused(scenes):
    with pytest.raises(ValueError, match=r"loss: .* 'cross_entropy' or 'supcon', got 'hinge'"):
        Supervised(ImageEncoder(VISION), SupervisedConfig(loss="hinge"), 10)
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        Supervised(ImageEncoder(VISION), CROSS_ENTROPY, 1)
    method = Supervised(ImageEncoder(VISION), CROSS_ENTROPY, 3)
    with pytest.raises(ValueError, match=r"labels run from \d to \d, but there are 3 classes"):
        method.loss(make_batch(scenes, torch.arange(40)))


# --- momentum ---------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@given(st.floats(0, 1), st.integers(0, 1000))
def test_the_average_is_of_parameters_and_buffers(momentum, seed):
    torch.manual_seed(seed)
    online, target = network(), momentum_copy(network())
    online(torch.randn(5, 3) * 3 + 1)
    online(torch.randn(5, 3))
    old, source = state(target), state(online)
    momentum_update(online, target, momentum)
    for name, value in state(target).items():
        if name.endswith("num_batches_tracked"):
            assert value == 2  # a count has no average: it is copied
        else:
            expected = momentum * old[name] + (1 - momentum) * source[name]
            torch.testing.assert_close(value, expected)
    assert_same(source, state(online))


def test_momentum_zero_copies_and_one_stands_still():
    online, target = network(), momentum_copy(network())
    online(torch.randn(5, 3))
    old = {k: v for k, v in state(target).items() if v.is_floating_point()}
    momentum_update(online, target, 1.0)
    assert_same(old, {k: v for k, v in state(target).items() if v.is_floating_point()})
    momentum_update(online, target, 0.0)
    assert_same(state(online), state(target))


def test_a_momentum_copy_shares_nothing_and_learns_nothing():
    online = network()
    target = momentum_copy(online)
    assert_same(state(online), state(target))
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    with torch.no_grad():
        online[0].weight.add_(1)
    assert not torch.equal(online[0].weight, target[0].weight)


def test_networks_that_differ_are_refused_before_any_of_them_moves():
    online, other = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    before = state(other)
    with pytest.raises(ValueError, match=r"networks differ in 2\.bias, 2\.weight: .*momentum_copy"):
        momentum_update(online, other, 0.5)
    assert_same(before, state(other))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_momentum_rises_from_its_start_to_one(start, one, two):
    early, late = sorted((one, two))
    assert momentum_schedule(0, start) == pytest.approx(start)
    assert momentum_schedule(0.5, start) == pytest.approx((1 + start) / 2)
    assert momentum_schedule(1, start) == 1
    assert start - 1e-12 <= momentum_schedule(early, start)
    assert momentum_schedule(early, start) <= momentum_schedule(late, start) + 1e-12
    assert momentum_schedule(late, start) <= 1


@pytest.mark.parametrize(("progress", "start"), [(-0.1, 0.9), (1.1, 0.9), (0.5, 1.5), (0.5, -1)])
def test_a_schedule_outside_its_ends_is_refused(progress, start):
    with pytest.raises(ValueError, match="between 0 and 1"):
        momentum_schedule(progress, start)


# --- collapse ---------------------------------------------------------------------------------


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_feature_std_is_one_on_the_sphere_and_zero_at_a_point():
    assert feature_std(random(0, 4000, 32)).item() == pytest.approx(1, abs=0.02)
    assert feature_std(torch.ones(50, 32)).item() == pytest.approx(0, abs=1e-6)
    # Two opposite points of a plane: one of its two dimensions has a spread of 1.
    assert feature_std(torch.tensor([[3.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(2**0.5 / 2)
    assert feature_std(torch.ones(1, 4)).item() == 0


def test_rank_counts_directions():
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7)
    assert effective_rank(random(0, 5, 1) @ random(1, 1, 9)).item() == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.ones(256, 64)).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(4, 3)).item() == 0
    p = 0.75, 0.25  # singular values 3 and 1
    expected = math.exp(-sum(x * math.log(x) for x in p))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(expected)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_rank_is_the_entropy_of_the_singular_values(rows, columns, seed):
    z = random(seed, rows, columns)
    values = torch.linalg.svdvals(z.double())
    p = values / values.sum()
    expected = torch.exp(-(p * p.log()).sum()).item()
    assert effective_rank(z).item() == pytest.approx(expected, rel=1e-4)
    assert effective_rank(5 * z.T).item() == pytest.approx(expected, rel=1e-4)
    assert 1 - 1e-6 <= expected <= min(rows, columns) + 1e-6


HEALTHY = {
    "loss": 2.0,
    "chance": 6.2,
    "feature_std": 0.9,
    "effective_rank": 30.0,
    "positive_similarity": 0.8,
    "teacher_entropy": 1.0,
    "kl": 1.0,
}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"teacher_entropy": 6.19, "loss": 6.19}, r"teacher's output is uniform.*pinned at ln K"),
        (
            {"teacher_entropy": 0.01, "kl": 0.01, "loss": 0.02, "feature_std": 0.11},
            "agree on one prototype",
        ),
        ({"feature_std": 0.01, "effective_rank": 1.0}, "output is constant"),
        ({"effective_rank": 1.8}, "about 1.8 directions"),
        ({"positive_similarity": 1.0}, r"views .* differ too little"),
        ({"loss": 6.19}, r"loss \(6.19\) stands where equal embeddings put it \(6.20\)"),
    ],
)
def test_a_diagnosis_names_the_cause(change, cause):
    assert diagnose(HEALTHY) is None
    sentence = diagnose(HEALTHY | change)
    assert sentence is not None
    assert pytest.importorskip("re").search(cause, sentence)


def test_a_diagnosis_reads_what_is_there():
    assert diagnose({}) is None
    assert diagnose({"loss": 6.2, "epoch": 1.0}) is None
    assert "constant" in (diagnose({"feature_std": 0.0}) or "")
    assert "one prototype" in (diagnose({"teacher_entropy": 0.0, "kl": 0.0, "chance": 6.2}) or "")
    # A teacher may well be sure of each picture, as long as pictures differ.
    assert diagnose(HEALTHY | {"teacher_entropy": 0.01, "kl": 0.01, "loss": 0.02}) is None
    # A picture may well equal its caption where no spread was logged.
    assert diagnose({"positive_similarity": 1.0}) is None


def test_equal_views_and_a_dead_head_are_diagnosed_in_a_real_step(batch):
    still = new(dataclasses.replace(SIMCLR, views=ViewsConfig())).train()
    with torch.no_grad():
        for parameter in still.head.parameters():
            parameter.mul_(20)  # spread out, as after some training
    assert "constant" not in (diagnose(floats(loss(still, batch))) or "")
    dead = new(SIMCLR).train()
    with torch.no_grad():
        dead.head[2].weight.zero_()
    assert "constant" in (diagnose(floats(loss(dead, batch))) or "")


def floats(out: dict[str, Tensor]) -> dict[str, float]:
    """A row of a history, as `fit` makes it."""
    out = {**out, **signs_of_collapse(out["embeddings"])}
    del out["embeddings"]
    return {key: float(value.detach()) for key, value in out.items()}

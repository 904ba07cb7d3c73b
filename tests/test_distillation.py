"""BYOL and DINO: losses against slow loops, the methods' moving parts, and exact resuming."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, strategies as st
from settings import BYOLConfig, DINOConfig, TrainConfig, VisionConfig
from torch import Tensor, nn

from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import byol_loss, dino_loss, update_centre
from cmssf_lib.methods import BYOL, DINO
from cmssf_lib.train import fit
from cmssf_lib.views import ViewsConfig

VISION = VisionConfig(kind="conv_stem", image_size=16, width=16, depth=1, heads=2)
VIEWS = ViewsConfig(area=(0.6, 1.4), turn=0.3)
SMALL_BYOL = BYOLConfig(hidden=16, dim=8, momentum=0.9, views=VIEWS)
SMALL_DINO = DINOConfig(
    hidden=16, bottleneck=8, prototypes=12, momentum=0.9, views=VIEWS, local_views=VIEWS
)


@pytest.fixture(scope="module")
def data():
    return digit_scenes("plain", train=48, test=1).train


@pytest.fixture(scope="module")
def batch(data):
    return make_batch(data, torch.arange(8))


def byol(vision: VisionConfig = VISION, **changes) -> BYOL:
    torch.manual_seed(0)
    return BYOL(ImageEncoder(vision), dataclasses.replace(SMALL_BYOL, **changes))


def dino(vision: VisionConfig = VISION, **changes) -> DINO:
    torch.manual_seed(0)
    return DINO(ImageEncoder(vision), dataclasses.replace(SMALL_DINO, **changes))


def logits(seed: int, views: int, b: int = 3, k: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(views, b, k, generator=generator, dtype=torch.float64))


# --- losses: slow loops and closed forms ------------------------------------------------------


def slow_byol(p: list[list[float]], t: list[list[float]]) -> float:
    total = 0.0
    for x, y in zip(p, t, strict=True):
        nx, ny = (math.sqrt(sum(v * v for v in z)) for z in (x, y))
        total += sum((a / nx - b / ny) ** 2 for a, b in zip(x, y, strict=True))
    return total / len(p)


def slow_softmax(x: list[float], temperature: float) -> list[float]:
    e = [math.exp(v / temperature) for v in x]
    return [v / sum(e) for v in e]


def slow_dino(student, teacher, centre, ts: float, tt: float) -> float:
    terms = []
    for t, from_teacher in enumerate(teacher):
        for s, from_student in enumerate(student):
            if s == t:
                continue
            for x, y in zip(from_teacher.tolist(), from_student.tolist(), strict=True):
                p = slow_softmax([v - c for v, c in zip(x, centre.tolist(), strict=True)], tt)
                q = slow_softmax(y, ts)
                terms.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    return sum(terms) / len(terms)


@given(seed=st.integers(0, 999), b=st.integers(1, 5), dim=st.integers(1, 6))
def test_byol_is_a_distance_on_the_sphere(seed, b, dim):
    p, t = logits(seed, 2, b, dim)
    assert float(byol_loss(p, t)) == pytest.approx(slow_byol(p.tolist(), t.tolist()), abs=1e-9)
    assert float(byol_loss(3 * p, 0.2 * t)) == pytest.approx(float(byol_loss(p, t)), abs=1e-9)


def test_byol_at_known_angles():
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert float(byol_loss(x, 7 * x)) == pytest.approx(0, abs=1e-6)
    assert float(byol_loss(x, y)) == pytest.approx(2, abs=1e-6)
    assert float(byol_loss(x, -x)) == pytest.approx(4, abs=1e-6)


@given(seed=st.integers(0, 999), large=st.integers(1, 3), small=st.integers(0, 3))
def test_dino_is_the_slow_loop(seed, large, small):
    if large + small < 2:
        small = 1
    student, teacher = logits(seed, large + small), logits(seed + 1, large)
    centre = logits(seed + 2, 1)[0][0]
    expected = slow_dino(student, teacher, centre, 0.3, 0.2)
    assert float(dino_loss(student, teacher, centre, 0.3, 0.2)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [2, 16, 256])
def test_dino_that_knows_nothing_costs_ln_k(k):
    views = [torch.zeros(5, k)] * 4
    loss = dino_loss(views, views[:2], torch.zeros(k), 0.1, 0.04)
    assert float(loss) == pytest.approx(math.log(k), rel=1e-5)
    # A student that says nothing costs ln K whatever the teacher says.
    sure = [torch.randn(5, k)] * 2
    assert float(dino_loss(views, sure, torch.zeros(k), 0.1, 0.04)) == pytest.approx(
        math.log(k), rel=1e-5
    )


def test_dino_falls_to_zero_where_all_are_sure_of_one_prototype():
    views = [10 * torch.eye(6)[:1].expand(3, 6)] * 3
    assert float(dino_loss(views, views[:2], torch.zeros(6), 0.1, 0.04)) < 1e-6


def test_dino_leaves_out_the_same_view_only():
    """With two views, moving the student's first changes only what the second teacher asks."""
    student, teacher = logits(0, 2), logits(1, 2)
    teacher[1] = torch.zeros_like(teacher[1])
    centre = torch.zeros(4, dtype=torch.float64)
    p = teacher[1].softmax(dim=1)
    other = -(teacher[0] / 0.2).softmax(1) * (student[1] / 0.3).log_softmax(1)
    expected = (other.sum(1).mean() - (p * (student[0] / 0.3).log_softmax(1)).sum(1).mean()) / 2
    torch.testing.assert_close(dino_loss(student, teacher, centre, 0.3, 0.2), expected)


def test_dino_gives_the_teacher_no_gradient():
    student = [x.requires_grad_(True) for x in logits(0, 2)]
    teacher = [x.requires_grad_(True) for x in logits(1, 2)]
    dino_loss(student, teacher, torch.zeros(4, dtype=torch.float64), 0.1, 0.04).backward()
    assert all(x.grad is not None and x.grad.any() for x in student)
    assert all(x.grad is None for x in teacher)


def test_dino_does_not_mind_a_constant_added_to_all_logits():
    student, teacher, centre = logits(0, 3), logits(1, 2), torch.zeros(4, dtype=torch.float64)
    first = dino_loss(student, teacher, centre, 0.1, 0.04)
    moved = dino_loss([s + 3 for s in student], [t - 2 for t in teacher], centre, 0.1, 0.04)
    torch.testing.assert_close(first, moved)


def test_the_centre_is_a_running_mean():
    centre = torch.zeros(4, dtype=torch.float64)
    views = logits(3, 2)
    after = update_centre(centre, views, 0.9)
    torch.testing.assert_close(after, 0.1 * (views[0].mean(0) + views[1].mean(0)) / 2)
    assert centre.abs().max() == 0  # a new tensor
    for _ in range(200):
        after = update_centre(after, views, 0.9)
    torch.testing.assert_close(after, torch.cat(views).mean(0))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: byol_loss(torch.ones(2, 3), torch.ones(3, 3)), "row i of one belonging"),
        (lambda: byol_loss(torch.ones(0, 3), torch.ones(0, 3)), r"\(0, 3\)"),
        (lambda: dino_loss(*[[torch.ones(2, 3)] * 2] * 2, torch.zeros(3), 0.0, 0.1), "number > 0"),
        (lambda: dino_loss(*[[torch.ones(2, 3)] * 2] * 2, torch.zeros(3), 0.1, -1), "number > 0"),
        (lambda: dino_loss(*[[torch.ones(2, 3)] * 2] * 2, torch.zeros(4), 0.1, 0.1), "the centre"),
        (lambda: dino_loss(*[[torch.ones(2, 3)]] * 2, torch.zeros(3), 0.1, 0.1), "least two"),
        (
            lambda: dino_loss([torch.ones(2, 3)], [torch.ones(2, 3)] * 2, torch.zeros(3), 1, 1),
            "saw 1 views and the teacher 2",
        ),
        (lambda: update_centre(torch.zeros(3), [torch.ones(2, 3)], 1.5), "between 0 and 1"),
    ],
)
def test_a_loss_of_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- BYOL -------------------------------------------------------------------------------------


def test_byols_loss_is_symmetric_and_by_hand(batch):
    method = byol().train()
    torch.manual_seed(5)
    out = method.loss(batch)
    torch.manual_seed(5)
    both = method.views(batch.images.repeat(2, 1, 1, 1))
    p = method.predictor(method.projector(method.image_encoder(both)))
    t = method.target_projector(method.target_encoder(both))
    crossed = torch.cat([t[8:], t[:8]])  # each view is told what the other one's target is
    by_hand = (2 - 2 * torch.cosine_similarity(p, crossed)).mean()
    torch.testing.assert_close(out["loss"], by_hand)


def test_byols_gradient_stops_at_the_target(batch):
    method = byol().train()
    method.loss(batch)["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("target_"):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name


def test_byols_target_follows_and_the_schedule_ends_at_one(batch):
    method = byol().train()
    with torch.no_grad():
        for parameter in method.image_encoder.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in method.target_encoder.parameters()]
    method.after_step(0.0)
    for now, was in zip(method.target_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(now, was + 0.1)
    before = [p.clone() for p in method.target_projector.parameters()]
    method.after_step(1.0)
    for now, was in zip(method.target_projector.parameters(), before, strict=True):
        assert torch.equal(now, was)


def test_byol_has_a_predictor_on_one_side_and_batch_norm_in_both_heads():
    method = byol()
    norms = [sum(isinstance(m, nn.BatchNorm1d) for m in head.modules())
             for head in (method.projector, method.predictor)]  # fmt: skip
    assert norms == [2, 1]
    assert not any("predictor" in name for name, _ in method.target_projector.named_parameters())


def test_byol_without_a_predictor_compares_the_projections_themselves(batch):
    method = byol(predictor=False).train()
    torch.manual_seed(5)
    out = method.loss(batch)
    torch.manual_seed(5)
    both = method.views(batch.images.repeat(2, 1, 1, 1))
    p = method.projector(method.image_encoder(both))
    t = method.target_projector(method.target_encoder(both))
    by_hand = (2 - 2 * torch.cosine_similarity(p, torch.cat([t[8:], t[:8]]))).mean()
    torch.testing.assert_close(out["loss"], by_hand)


def test_byol_without_a_stopped_gradient_is_its_own_target(batch):
    method = byol(stop_gradient=False).train()
    with torch.no_grad():  # a target that would be noticed
        for parameter in method.target_encoder.parameters():
            parameter.add_(1.0)
    torch.manual_seed(5)
    out = method.loss(batch)
    torch.manual_seed(5)
    z = method.projector(method.image_encoder(method.views(batch.images.repeat(2, 1, 1, 1))))
    p, crossed = method.predictor(z), torch.cat([z[8:], z[:8]])
    by_hand = (2 - 2 * torch.cosine_similarity(p, crossed)).mean()
    torch.testing.assert_close(out["loss"], by_hand)
    weight = method.projector[0].weight
    (ours,) = torch.autograd.grad(out["loss"], weight, retain_graph=True)
    (whole,) = torch.autograd.grad(by_hand, weight)  # both ways into the loss
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-3)


# --- DINO -------------------------------------------------------------------------------------


def test_dino_logs_what_adds_up(batch):
    out = dino().train().loss(batch)
    assert set(out) == {"loss", "teacher_entropy", "kl", "embeddings", "chance"}
    assert float(out["chance"]) == pytest.approx(math.log(12))
    assert 0 <= float(out["teacher_entropy"]) <= math.log(12) + 1e-5
    assert float(out["kl"]) > -1e-5
    assert float(out["kl"] + out["teacher_entropy"]) == pytest.approx(float(out["loss"].detach()))


def test_only_global_views_reach_the_teacher(batch, monkeypatch):
    method = dino(local_crops=3).train()
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, encoder in (("student", method.image_encoder), ("teacher", method.teacher_encoder)):
        encoder.backbone.patch_embed.register_forward_pre_hook(
            lambda _, x, name=name: seen[name].append(tuple(x[0].shape))
        )
    method.loss(batch)
    assert seen["student"] == [(16, 3, 16, 16), (24, 3, 8, 8)]
    assert seen["teacher"] == [(16, 3, 16, 16)]


def test_small_views_are_encoded_at_their_own_size():
    method = dino().eval()
    small = torch.rand(2, 3, 8, 8)
    assert method.image_encoder.tokens(small, size=8).shape == (2, 1 + 4, 16)
    whole = method.image_encoder.tokens(small)
    assert whole.shape == (2, 1 + 16, 16)


def test_the_centre_moves_after_its_use_and_only_in_training(batch):
    method = dino().train()
    torch.manual_seed(3)
    first = method.loss(batch)["loss"]
    assert method.centre.abs().max() > 0
    moved = method.centre.clone()
    torch.manual_seed(3)
    method.eval().loss(batch)
    assert torch.equal(method.centre, moved)
    # The same draw again, with the centre put back: the first loss was taken with a zero centre.
    method.train().centre.zero_()
    torch.manual_seed(3)
    assert torch.equal(method.loss(batch)["loss"], first)


def test_prototypes_are_frozen_at_first_and_nothing_moves_them(batch):
    method = dino(freeze_last=0.5).train()
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5
    )
    start = method.head.prototypes.detach().clone()

    def step(progress: float) -> None:
        method.loss(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)

    step(0.25)
    step(0.5)
    assert torch.equal(method.head.prototypes, start)
    assert method.state_dict()["_extra_state"] == 0.5
    step(0.75)
    assert not torch.equal(method.head.prototypes, start)


def test_a_logit_is_a_cosine():
    head = dino().head
    with torch.no_grad():
        head.prototypes.mul_(7)
    x = torch.randn(5, 16)
    z, out = head.mlp(x), head(x)[0]
    expected = torch.cosine_similarity(z[:, None], head.prototypes[None], dim=2)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in head.modules())


def test_the_head_has_a_batch_norm_when_asked(batch):
    method = dino(head_norm=True).train()
    assert sum(isinstance(m, nn.BatchNorm1d) for m in method.head.modules()) == 2
    method.loss(batch)["loss"].backward()
    before = method.teacher_head.mlp[1].running_mean.clone()
    method.after_step(0.5)
    assert not torch.equal(method.teacher_head.mlp[1].running_mean, before)  # buffers follow too


def test_a_batch_norm_in_the_head_refuses_a_batch_of_one(data):
    with pytest.raises(ValueError, match=r"a batch of 1 .*batch norm"):
        dino(head_norm=True).train().loss(make_batch(data, torch.tensor([0])))


def test_attention_is_a_map_of_the_patches(batch):
    maps = dino().eval().attention(batch.images)
    assert maps.shape == (8, 2, 4, 4)
    assert maps.min() > 0
    assert (maps.sum(dim=(2, 3)) < 1).all()  # the rest goes to [CLS] itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_temperature": 0.0}, r"student_temperature: .* equal to 0\.001, got 0\.0"),
        ({"teacher_temperature": -0.04}, "teacher_temperature: .*, got -0.04"),
        ({"local_size": 6}, "image size must be a multiple of patch size 4; got 6"),
        ({"local_size": 0}, "local_size: .* greater than 0, got 0"),
        ({"local_crops": -1}, "local_crops: .* or equal to 0, got -1"),
        ({"freeze_last": 1.5}, "freeze_last"),
        ({"momentum": 1.1}, "momentum: .* or equal to 1, got 1.1"),
        ({"centre_momentum": -0.1}, "centre_momentum: .* or equal to 0, got -0.1"),
    ],
)
def test_a_dino_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dino(**change)


def test_a_backbone_without_patches_is_refused():
    with pytest.raises(ValueError, match=r"resnet18 has no patches to choose from"):
        dino(VisionConfig(kind="timm", timm_name="resnet18", image_size=32))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"momentum": -1.0}, "momentum: .*, got -1.0"), ({"dim": 0}, "dim: .* greater than 0, got 0")],
)
def test_a_byol_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        byol(**change)


def test_byol_refuses_a_batch_of_one(data):
    with pytest.raises(ValueError, match=r"a batch of 1 .*batch norm"):
        byol().loss(make_batch(data, torch.tensor([0])))


def test_dino_takes_no_local_crops_and_a_batch_of_one(data):
    out = dino(local_crops=0).train().loss(make_batch(data, torch.tensor([0])))
    assert out["loss"].isfinite()


# --- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [byol, dino])
def test_equal_seeds_give_equal_losses(make, batch):
    method = make().eval()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(float(method(batch)["loss"].detach()))
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("make", [byol, dino])
def test_features_come_before_the_head_and_draw_nothing(make, batch):
    method = make().eval()
    out = method.features(batch.images)
    assert out.shape == (8, 16)
    assert torch.equal(out, method.features(batch.images))
    assert out.requires_grad or make is dino  # fine-tuning trains them


@pytest.mark.parametrize("make", [byol, dino])
def test_a_run_that_was_killed_goes_on_bit_for_bit(make, data, tmp_path):
    config = TrainConfig(epochs=3, batch_size=16, lr=1e-2, clip=3.0, checkpoint_minutes=0.0)
    whole = make()
    fit(whole, data, config, run=tmp_path / "whole", progress=False)
    broken = make()

    class Killed(Exception):
        pass

    calls = []
    after_step = broken.after_step

    def dies(progress: float) -> None:
        calls.append(progress)
        if len(calls) == 5:
            raise Killed
        after_step(progress)

    broken.after_step = dies
    with pytest.raises(Killed):
        fit(broken, data, config, run=tmp_path / "broken", progress=False)
    again = make()
    fit(again, data, config, run=tmp_path / "broken", progress=False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("make", [byol, dino])
def test_all_state_is_in_the_state_dict(make, batch):
    """A fresh method that is given another's state gives its losses, and goes on as it does."""
    method = make().train()
    for i in range(3):
        method.loss(batch)
        method.after_step((i + 1) / 10)
    torch.manual_seed(99)
    other = type(method)(ImageEncoder(VISION), method.config)
    other.load_state_dict(method.state_dict())
    losses = []
    for each in (method, other):
        torch.manual_seed(4)
        losses.append([float(each.train().loss(batch)["loss"].detach()) for _ in range(2)])
    assert losses[0] == losses[1]

"""Every loss in every precision, against float64: half, single, autocast, long and short vectors.

Half precision has 8 or 11 bits. A loss that rounds to them calls a converged network perfect, or
sends it the wrong way; one that squares in them overflows at 65,504.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from cmssf_lib import losses
from cmssf_lib.losses import (
    byol_loss,
    dino_loss,
    duplicate_floor,
    excess_loss,
    image_text_loss,
    mae_loss,
    masked_loss,
    moco_loss,
    multi_positive_loss,
    normalise_patches,
    nt_xent,
    supcon_loss,
    update_centre,
    vicreg_loss,
)

B, DIM, SCALE = 12, 48, 14.0
GROUPS = torch.arange(B) % 5
HIDDEN = torch.rand(B, 4, generator=torch.Generator().manual_seed(9)) < 0.6
HALVES = [torch.bfloat16, torch.float16]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(converged: bool, groups: Tensor | None = None) -> list[Tensor]:
    """Two embeddings a row: unrelated, or nearly the same (that of the row's group)."""
    a, b = random(1, B, DIM), random(2, B, DIM)
    if not converged:
        return [a, b]
    centre = a if groups is None else a[groups]
    return [centre + 0.1 * random(3, B, DIM), centre + 0.1 * b]


def with_queue(converged: bool) -> list[Tensor]:
    return [*pairs(converged), random(4, 30, DIM)]


def logits(converged: bool) -> list[Tensor]:
    """Three views by the student, two by the teacher, and the centre."""
    same = 0.8 * torch.eye(DIM, dtype=torch.float64)[:B]
    views = [0.2 * random(i, B, DIM) + same * converged for i in range(5)]
    return [*views, 0.1 * random(5, DIM)]


def dino(s1: Tensor, s2: Tensor, s3: Tensor, t1: Tensor, t2: Tensor, centre: Tensor) -> Tensor:
    return dino_loss([s1, s2, s3], [t1, t2], centre, 0.1, 0.04)


def patches(converged: bool) -> list[Tensor]:
    """A guess and the pixels."""
    pixels = random(1, B, 4, DIM).sigmoid()
    near = (pixels - pixels.mean(2, keepdim=True)) / pixels.std(2, keepdim=True)
    return [near + 0.1 * random(2, B, 4, DIM) if converged else random(2, B, 4, DIM), pixels]


@dataclass(frozen=True)
class Loss:
    """A loss of tensors alone, inputs for it, and which of them get a gradient."""

    call: Callable[..., Tensor]
    inputs: Callable[[bool], list[Tensor]]
    learned: int = 2


def grouped(loss: Callable[..., Tensor], **options: int) -> Callable[..., Tensor]:
    return lambda image, text: loss(image, text, GROUPS, SCALE, **options)


in_groups = partial(pairs, groups=GROUPS)
LOSSES = {
    "nt_xent": Loss(lambda a, b: nt_xent(a, b, 1 / SCALE), pairs),
    "moco_loss": Loss(lambda a, b, queue: moco_loss(a, b, queue, 1 / SCALE), with_queue),
    "moco_loss in batch": Loss(
        lambda a, b, queue: moco_loss(a, b, queue, 1 / SCALE, in_batch=True), with_queue
    ),
    "supcon_loss": Loss(lambda a, b: supcon_loss(a, b, GROUPS, 1 / SCALE), in_groups),
    "image_text_loss": Loss(lambda a, b: image_text_loss(a, b, SCALE), pairs),
    "image_text_loss in chunks": Loss(lambda a, b: image_text_loss(a, b, SCALE, chunk=5), pairs),
    "multi_positive_loss": Loss(grouped(multi_positive_loss), in_groups),
    "multi_positive_loss in chunks": Loss(grouped(multi_positive_loss, chunk=5), in_groups),
    "masked_loss": Loss(grouped(masked_loss), in_groups),
    "masked_loss in chunks": Loss(grouped(masked_loss, chunk=5), in_groups),
    "excess_loss": Loss(grouped(excess_loss), in_groups),
    "excess_loss in chunks": Loss(grouped(excess_loss, chunk=5), in_groups),
    "byol_loss": Loss(byol_loss, pairs),
    "vicreg_loss": Loss(vicreg_loss, pairs),
    "dino_loss": Loss(dino, logits, learned=3),
    "mae_loss": Loss(lambda p, t: mae_loss(p, t, HIDDEN, normalise=True), patches, learned=1),
    "mae_loss of pixels": Loss(
        lambda p, t: mae_loss(p, t, HIDDEN, normalise=False), patches, learned=1
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def test_no_loss_is_left_out():
    names = {name for name in vars(losses) if name.endswith("_loss") or name == "nt_xent"}
    assert names == {name.split()[0] for name in LOSSES}


def computed(
    loss: Loss, inputs: list[Tensor], autocast: torch.dtype | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients, each in the precision of its input."""
    inputs = [x.clone().requires_grad_(i < loss.learned) for i, x in enumerate(inputs)]
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        value = loss.call(*inputs)
        product = torch.eye(2) @ torch.eye(2)
    assert product.dtype == (autocast or torch.float32)  # it was on, and is on again
    return value.detach(), list(torch.autograd.grad(value, inputs[: loss.learned]))


def error(got: Tensor, right: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((got.double() - right).abs().max() / right.abs().max())


#: What the inputs are multiplied by. 64 numbers of 3,000 have a norm of 24,000; of 30,000, one
#: that half precision has no number for.
LENGTHS = {"of any length": 1.0, "long": 8000.0, "short": 1e-4}


@every_loss
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("converged", [False, True], ids=["at the start", "converged"])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_value_and_gradient_are_those_of_float64(loss, dtype, converged, length):
    if length != 1 and loss.inputs in (logits, patches):
        length = 200.0 if length > 1 else 0.1  # not normalised: a square of 200 · 2 overflows
    if length > 1 and loss.call is vicreg_loss:
        length = 5.0  # nor is this one, and its gradient grows with the cube
    inputs = [(length * x).to(dtype) for x in loss.inputs(converged)]
    assert all(x.isfinite().all() for x in inputs)
    value, gradients = computed(loss, inputs)
    right, right_gradients = computed(loss, [x.double() for x in inputs])
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(value) == pytest.approx(float(right), rel=1e-5, abs=1e-6)
    for got, gradient in zip(gradients, right_gradients, strict=True):
        assert got.dtype == dtype
        # What a number of this precision can say, and what the smallest of half precision can.
        coarse = torch.finfo(dtype).eps + 6e-8 * (dtype == torch.float16) / gradient.abs().max()
        assert error(got, gradient) < float(coarse) + 2e-3


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("lower", HALVES, ids=str)
def test_autocast_changes_nothing(loss, dtype, lower):
    inputs = [x.to(dtype) for x in loss.inputs(True)]
    value, gradients = computed(loss, inputs)
    again, same = computed(loss, inputs, autocast=lower)
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


@every_loss
@pytest.mark.parametrize("odd", [*HALVES, torch.float64], ids=str)
def test_tensors_of_different_precision_go_together(loss, odd):
    """A queue, a centre or a target that is kept in another precision than what is learned."""
    for which in range(len(loss.inputs(False))):
        inputs = [x.float() for x in loss.inputs(False)]
        inputs[which] = inputs[which].to(odd)
        value = loss.call(*inputs)
        assert value.dtype == (torch.float64 if odd == torch.float64 else torch.float32)
        right = loss.call(*(x.double() for x in inputs))
        assert float(value) == pytest.approx(float(right), rel=1e-5)


@every_loss
def test_one_nan_anywhere_makes_the_loss_nan(loss):
    """Else its gradient is no number, and nobody is told."""
    for which in range(len(loss.inputs(False))):
        inputs = [x.float() for x in loss.inputs(False)]
        for place in (0, inputs[which].numel() // 2, -1):
            broken = [x.clone() for x in inputs]
            broken[which].flatten()[place] = float("nan")
            assert loss.call(*broken).isnan(), (which, place)


def test_a_nan_in_a_visible_patch_is_told():
    prediction, pixels = (x.float() for x in patches(False))
    visible = (~HIDDEN).nonzero()[0].tolist()
    for guess in (float("nan"), float("inf")):
        broken = prediction.clone()
        broken[*visible, 3] = guess
        broken.requires_grad_()
        loss = mae_loss(broken, pixels, HIDDEN, normalise=True)
        assert loss.isnan()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_keywords_are_widened_too(dtype):
    a, b = (x.to(dtype) for x in pairs(True))
    right = nt_xent(a.double(), b.double(), 0.1)
    assert nt_xent(a=a, b=b, temperature=0.1).item() == pytest.approx(float(right), rel=1e-5)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_logit_scale_in_half_precision_keeps_its_gradient(dtype):
    image, text = (x.to(dtype) for x in pairs(False))
    for chunk in (0, 5):
        scale = torch.tensor(SCALE, dtype=dtype, requires_grad=True)
        exact = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
        image_text_loss(image, text, scale, chunk=chunk).backward()
        image_text_loss(image.double(), text.double(), exact, chunk=chunk).backward()
        assert scale.grad.item() == pytest.approx(exact.grad.item(), rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_belongs_to_a_loss_is_in_float32_too(dtype):
    views = [x.to(dtype) for x in logits(False)[:2]]
    right = update_centre(torch.zeros(DIM).double(), [x.double() for x in views], 0.9)
    moved = update_centre(torch.zeros(DIM), views, 0.9)
    torch.testing.assert_close(moved.double(), right, atol=1e-7, rtol=1e-5)
    pixels = patches(False)[1].to(dtype)
    torch.testing.assert_close(
        normalise_patches(pixels).double(), normalise_patches(pixels.double()), atol=1e-4, rtol=0
    )


# --- converged ----------------------------------------------------------------------------------


@given(
    groups=st.lists(st.integers(0, 4), min_size=2, max_size=12),
    apart=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1e-1]),
    scale=st.sampled_from([1.0, 14.3, 100.0]),
    dtype=st.sampled_from([torch.float32, *HALVES]),
    chunk=st.sampled_from([0, 3]),
    seed=st.integers(0, 99),
)
def test_excess_is_never_negative_however_converged(groups, apart, scale, dtype, chunk, seed):
    """What is left of the difference of two logarithms is of their rounding, not of a logit's."""
    groups = torch.tensor(groups)
    prototypes = torch.eye(5, dtype=torch.float64)[groups]
    image, text = (prototypes + apart * random(seed + i, len(groups), 5) for i in (0, 100))
    image, text = image.to(dtype), text.to(dtype)
    value = float(excess_loss(image, text, groups, scale, chunk=chunk))
    right = float(excess_loss(image.double(), text.double(), groups, scale, chunk=chunk))
    assert value >= -1e-6
    assert right >= -1e-14
    assert value == pytest.approx(right, rel=1e-4, abs=1e-6)


def test_the_converged_loss_of_half_precision_is_no_zero():
    """At the sharpest scale: 0.005 came out as 0, and its gradient almost wholly lost."""
    text = torch.eye(32, 64, dtype=torch.float64)
    image = text + 0.9 * text.roll(1, 0)  # the next row's text is nearly as near
    for dtype in (torch.float32, *HALVES):
        for chunk in (0, 7):
            x, y = image.to(dtype).requires_grad_(), image.to(dtype).double().requires_grad_()
            value = image_text_loss(x, text.to(dtype), 70.0, chunk=chunk)
            right = image_text_loss(y, text, 70.0)
            value.backward()
            right.backward()
            assert 1e-3 < right.item() < 0.1
            assert value.item() == pytest.approx(right.item(), rel=1e-4)
            assert error(x.grad, y.grad) < torch.finfo(dtype).eps + 1e-4


def test_the_floor_is_as_precise_as_the_loss_it_is_taken_from():
    image, text = in_groups(True)
    whole, excess = (f(image, text, GROUPS, SCALE) for f in (multi_positive_loss, excess_loss))
    floor = duplicate_floor(GROUPS, torch.float64)
    assert duplicate_floor(GROUPS).dtype == torch.float32
    assert excess.item() == pytest.approx(float(whole - floor), rel=1e-14)


@pytest.mark.parametrize("length", [1e-3, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_short_vectors_have_a_direction(length, dtype):
    """`F.cosine_similarity` takes all below 1e-8 for a right angle; the others go to 1e-12."""
    a, b = (x.to(dtype) for x in pairs(True))
    for loss in (byol_loss, LOSSES["nt_xent"].call, LOSSES["image_text_loss"].call):
        for x, y in ((length * a, b), (a, length * b), (length * a, length * b)):
            assert float(loss(x, y)) == pytest.approx(float(loss(a, b)), rel=1e-3)


def test_a_device_that_knows_no_autocast_is_no_obstacle():
    a, b = torch.empty(4, 8, device="meta"), torch.empty(4, 8, device="meta")
    assert nt_xent(a, b, 0.1).device == image_text_loss(a, b, 5.0).device == a.device

"""BYOL's, DINO's and VICReg's losses against lightly's: values, gradients, and centres."""

import pytest
import torch

from cmssf_lib.losses import byol_loss, dino_loss, update_centre, vicreg_loss

loss = pytest.importorskip("lightly.loss", reason="lightly is an oracle of this test")


def draw(seed: int, views: int, b: int, k: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(views, b, k, generator=generator))


def agree(ours, oracle, inputs) -> None:
    """Values to 1e-5, every gradient to 1e-4."""
    torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-5)
    our_gradients, gradients = (torch.autograd.grad(value, inputs) for value in (ours, oracle))
    for our_gradient, gradient in zip(our_gradients, gradients, strict=True):
        assert gradient.abs().max() > 1e-4  # an oracle without a gradient would prove nothing
        torch.testing.assert_close(our_gradient, gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("b", "dim"), [(1, 3), (16, 8), (64, 32)])
def test_byol_is_lightlys(b, dim):
    p, t = draw(b, 2, b, dim)
    inputs = [p.requires_grad_(True), t.requires_grad_(True)]
    agree(byol_loss(p, t), 2 + 2 * loss.NegativeCosineSimilarity()(p, t), inputs)


@pytest.mark.parametrize("local_crops", [0, 1, 4])
@pytest.mark.parametrize(("b", "k"), [(4, 8), (32, 64)])
def test_dino_is_lightlys_with_its_centre_after_several_steps(local_crops, b, k):
    oracle = loss.DINOLoss(output_dim=k, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    centre = torch.zeros(k)
    for step in range(5):
        student = [x.requires_grad_(True) for x in draw(2 * step, 2 + local_crops, b, k)]
        # Cosines lie between -1 and 1; logits much larger make the softmax a maximum.
        teacher = [0.3 * x for x in draw(2 * step + 1, 2, b, k)]
        ours = dino_loss(student, teacher, centre, 0.1, 0.04)
        agree(ours, oracle(teacher, student), student)
        centre = update_centre(centre, teacher, 0.9)
        torch.testing.assert_close(centre, oracle.center.flatten(), atol=1e-6, rtol=1e-5)
    assert centre.abs().max() > 1e-3


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 3.0, 0.2)])
@pytest.mark.parametrize(("b", "dim"), [(2, 3), (16, 8), (64, 32)])
def test_vicreg_is_lightlys(b, dim, weights):
    inputs = [x.requires_grad_(True) for x in draw(3, 2, b, dim)]
    named = dict(zip(("invariance", "variance", "covariance"), weights, strict=True))
    agree(vicreg_loss(*inputs, **named), loss.VICRegLoss(*weights)(*inputs), inputs)

"""Losses against the field's own implementations: equal values and equal gradients."""

import pytest
import torch
from torch import Tensor

from cmssf_lib.losses import image_text_loss, masked_loss, multi_positive_loss, nt_xent

TEMPERATURE = 0.2


def assert_agree(ours, oracle, *shapes: tuple[int, int], seed: int) -> None:
    """Both functions on the same embeddings: values to 1e-5, every gradient to 1e-4."""
    results = []
    for function in (ours, oracle):
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(s, generator=generator).requires_grad_(True) for s in shapes]
        value = function(*inputs)
        results.append((value, torch.autograd.grad(value, inputs)))
    (our_value, our_gradients), (value, gradients) = results
    torch.testing.assert_close(our_value, value, atol=1e-5, rtol=1e-5)
    for our_gradient, gradient in zip(our_gradients, gradients, strict=True):
        assert gradient.abs().max() > 1e-4  # an oracle without a gradient would prove nothing
        torch.testing.assert_close(our_gradient, gradient, atol=1e-4, rtol=1e-4)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


SIZES = [(2, 3), (16, 8), (64, 32)]


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_nt_xent_is_lightlys(n, dim):
    loss = pytest.importorskip("lightly.loss", reason="lightly is an oracle of this test")
    oracle = loss.NTXentLoss(temperature=TEMPERATURE)
    assert_agree(lambda a, b: nt_xent(a, b, TEMPERATURE), oracle, (n, dim), (n, dim), seed=n)


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_nt_xent_is_pytorch_metric_learnings(n, dim):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is an oracle of this test"
    )
    oracle = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=TEMPERATURE))
    assert_agree(lambda a, b: nt_xent(a, b, TEMPERATURE), oracle, (n, dim), (n, dim), seed=n)


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_image_text_is_open_clips(n, dim):
    clip = pytest.importorskip("open_clip.loss", reason="open_clip is an oracle of this test")
    log_scale = (1, 1)  # learned: its gradient is compared, too

    def ours(image, text, s):
        return image_text_loss(image, text, s.squeeze().exp())

    def oracle(image, text, s):  # open_clip expects unit vectors
        return clip.ClipLoss()(unit(image), unit(text), s.squeeze().exp())

    assert_agree(ours, oracle, (n, dim), (n, dim), log_scale, seed=n)


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_image_text_is_the_transformers_librarys(n, dim):
    clip = pytest.importorskip(
        "transformers.models.clip.modeling_clip", reason="transformers is an oracle of this test"
    )

    def oracle(image, text):
        return clip.image_text_contrastive_loss(unit(text) @ unit(image).T / TEMPERATURE)

    def ours(image, text):
        return image_text_loss(image, text, 1 / TEMPERATURE)

    assert_agree(ours, oracle, (n, dim), (n, dim), seed=n)


GROUPS = [
    torch.tensor([0, 0, 1, 1]),
    torch.tensor([4, 1, 4, 4, 2, 1, 3]),
    torch.arange(48) % 10,
    torch.arange(6),
]


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: f"{len(g)} pairs")
def test_multi_positive_is_supcon_in_both_directions(groups):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is an oracle of this test"
    )
    supcon = losses.SupConLoss(temperature=TEMPERATURE)

    def oracle(image, text):
        # Without .clone() the library takes both label tensors for one set and drops the pairs.
        image_to_text = supcon(image, groups, ref_emb=text, ref_labels=groups.clone())
        text_to_image = supcon(text, groups, ref_emb=image, ref_labels=groups.clone())
        return (image_to_text + text_to_image) / 2

    def ours(image, text):
        return multi_positive_loss(image, text, groups, 1 / TEMPERATURE)

    assert_agree(ours, oracle, (len(groups), 16), (len(groups), 16), seed=1)


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: f"{len(g)} pairs")
def test_multi_positive_is_timms_soft_target_cross_entropy(groups):
    timm = pytest.importorskip("timm.loss", reason="timm is an oracle of this test")
    soft = timm.SoftTargetCrossEntropy()
    targets = torch.stack([(groups == g) / (groups == g).sum() for g in groups])

    def oracle(image, text):
        logits = unit(image) @ unit(text).T / TEMPERATURE
        return (soft(logits, targets) + soft(logits.T, targets)) / 2

    def ours(image, text):
        return multi_positive_loss(image, text, groups, 1 / TEMPERATURE)

    assert_agree(ours, oracle, (len(groups), 16), (len(groups), 16), seed=2)


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: f"{len(g)} pairs")
def test_masked_is_nt_xent_with_the_pair_as_only_positive(groups):
    """One positive against the embeddings of other groups is what that library's NT-Xent takes."""
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is an oracle of this test"
    )
    own = torch.arange(len(groups))
    anchors, others = torch.where(groups[:, None] != groups[None, :])
    pairs = (own, own, anchors, others)  # (anchor, positive, anchor, negative)
    loss = losses.NTXentLoss(temperature=TEMPERATURE)

    def oracle(image, text):
        image_to_text = loss(image, ref_emb=text, indices_tuple=pairs)
        text_to_image = loss(text, ref_emb=image, indices_tuple=pairs)
        return (image_to_text + text_to_image) / 2

    def ours(image, text):
        return masked_loss(image, text, groups, 1 / TEMPERATURE)

    assert_agree(ours, oracle, (len(groups), 16), (len(groups), 16), seed=3)

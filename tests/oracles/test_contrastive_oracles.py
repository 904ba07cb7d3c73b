"""MoCo, SupCon and momentum networks against the field's own implementations."""

import pytest
import torch
from settings import MoCoConfig, VisionConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import digit_scenes
from cmssf_lib.data.image_text import make_batch
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.losses import moco_loss, supcon_loss
from cmssf_lib.methods import MoCo, momentum_copy, momentum_schedule, momentum_update
from cmssf_lib.views import ViewsConfig

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


def lightlys_loss(queue: Tensor) -> nn.Module:
    """lightly's NT-Xent with a memory bank that begins as our queue does."""
    loss = pytest.importorskip("lightly.loss", reason="lightly is an oracle of this test")
    oracle = loss.NTXentLoss(temperature=TEMPERATURE, memory_bank_size=tuple(queue.shape))
    oracle.memory_bank.bank.copy_(queue)
    return oracle


def oldest_first(oracle: nn.Module) -> Tensor:
    """The memory bank is a ring; its pointer stands on the oldest key."""
    bank, pointer = oracle.memory_bank.bank, int(oracle.memory_bank.bank_ptr)
    return torch.cat([bank[pointer:], bank[:pointer]])


@pytest.mark.parametrize(("n", "keys", "dim"), [(2, 4, 3), (16, 64, 8), (32, 96, 32)])
def test_moco_loss_is_lightlys_with_a_memory_bank(n, keys, dim):
    generator = torch.Generator().manual_seed(n)
    queue = F.normalize(torch.randn(keys, dim, generator=generator), dim=1)

    def ours(query, key):
        return moco_loss(query, key, queue, TEMPERATURE)

    def oracle(query, key):
        return lightlys_loss(queue)(query, key)

    assert_agree(ours, oracle, (n, dim), (n, dim), seed=n)


def test_moco_with_its_queue_is_lightlys_step_by_step():
    """Seven steps with a queue of three batches: losses, gradients and queues stay equal."""
    data = digit_scenes("plain", train=200, test=1).train
    vision = VisionConfig(image_size=16, width=32, depth=1, heads=2, norm="group")
    config = MoCoConfig(
        dim=16, temperature=TEMPERATURE, queue=36, momentum=0.9, views=ViewsConfig(turn=0.5)
    )
    torch.manual_seed(0)
    method = MoCo(ImageEncoder(vision), config)
    oracle = lightlys_loss(method.queue)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    for step in range(7):
        batch = make_batch(data, torch.arange(12 * step, 12 * (step + 1)))
        torch.manual_seed(step)
        first, second = method.views(batch.images.repeat(2, 1, 1, 1)).chunk(2)
        query = method.head(method.image_encoder(first))
        with torch.no_grad():
            key = method.momentum_head(method.momentum_encoder(second))
        value = oracle(query, key)
        gradients = torch.autograd.grad(value, list(method.head.parameters()))

        torch.manual_seed(step)  # the same views
        ours = method.loss(batch)["loss"]
        ours.backward()
        torch.testing.assert_close(ours, value, atol=1e-5, rtol=1e-5)
        for parameter, gradient in zip(method.head.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)
        assert max(g.abs().max() for g in gradients) > 1e-3
        torch.testing.assert_close(method.queue, oldest_first(oracle), atol=1e-6, rtol=1e-6)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / 7)


GROUPS = [
    torch.tensor([0, 0, 1, 1]),
    torch.tensor([4, 1, 4, 4, 2, 1, 3]),
    torch.arange(48) % 10,
    torch.arange(6),
]


@pytest.mark.parametrize("labels", GROUPS, ids=lambda g: f"{len(g)} pictures")
def test_supcon_is_pytorch_metric_learnings(labels):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is an oracle of this test"
    )
    supcon = losses.SupConLoss(temperature=TEMPERATURE)

    def oracle(a, b):
        return supcon(torch.cat([a, b]), torch.cat([labels, labels]))

    def ours(a, b):
        return supcon_loss(a, b, labels, TEMPERATURE)

    assert_agree(ours, oracle, (len(labels), 16), (len(labels), 16), seed=4)


def networks() -> tuple[nn.Module, nn.Module]:
    """A network that has moved, and its momentum copy from before."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    target = momentum_copy(online)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
        online(torch.randn(8, 4) + 3)  # moves the running statistics
    return online, target


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_momentum_update_is_lightlys_on_parameters(momentum):
    utils = pytest.importorskip("lightly.models.utils", reason="lightly is an oracle of this test")
    online, target = networks()
    other = momentum_copy(target)
    for _ in range(3):
        momentum_update(online, target, momentum)
        utils.update_momentum(online, other, m=momentum)
    for ours, theirs in zip(target.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    # What `momentum_update` is there to do besides: lightly's batch norm stays as it began.
    assert torch.equal(other[1].running_mean, torch.zeros(6))
    if momentum < 1:
        assert target[1].running_mean.abs().min() > 0


@pytest.mark.parametrize("start", [0.0, 0.99, 0.996])
def test_momentum_schedule_is_lightlys(start):
    scheduler = pytest.importorskip(
        "lightly.utils.scheduler", reason="lightly is an oracle of this test"
    )
    steps = 40
    for step in range(steps):  # lightly reaches the end with the last step, counted from 0
        theirs = scheduler.cosine_schedule(step, steps, start, 1.0)
        assert momentum_schedule(step / (steps - 1), start) == pytest.approx(theirs, abs=1e-12)

"""The exercises of chapter 9, training."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import (
    Exercise,
    Wrong,
    ask,
    first_hint,
    number,
    refuse,
    same,
    shaped,
    tensor,
)
from cmssf_lib.losses import image_text_loss


def rate(answer: Callable) -> str:
    """09.1: ``rate(step, steps, lr, warmup)``: warm-up, then half a cosine."""
    for step, steps, warmup in ((0, 20, 4), (1, 20, 4), (9, 20, 4), (19, 20, 4), (5, 20, 0)):
        lr = 0.2
        rest = (step - warmup) / (steps - warmup)
        cosine = lr / 2 * (1 + math.cos(math.pi * rest))
        right = lr * (step + 1) / (warmup + 1) if step < warmup else cosine
        got = number(ask(answer, step, steps, lr, warmup))
        if same(got, right):
            continue
        if step < warmup:
            hints = {
                "You start at zero: the first step would be wasted. Step 0 counts as the first.": (
                    lr * step / warmup
                ),
                "That reaches the full rate in the last step of the warm-up. Asked is warmup + 1 "
                "in the denominator, so that the step after it is the first full one.": (
                    lr * (step + 1) / warmup
                ),
                "There is no warm-up in yours.": lr,
                "The cosine begins after the warm-up.": cosine,
            }
        else:
            hints = {
                "The cosine takes the whole training in yours. It begins where the warm-up ends.": (
                    lr / 2 * (1 + math.cos(math.pi * step / steps))
                ),
                "That is constant after the warm-up. Asked is half a cosine down to zero.": lr,
                "That is a straight line. Asked is half a cosine.": lr * (1 - rest),
                "That is a quarter of a cosine: half a one goes from 1 to -1, and is then moved "
                "and scaled.": lr * math.cos(math.pi * rest / 2),
                "That rises: the sign of the cosine is turned round.": lr - cosine,
                "You go from lr to minus lr: add 1 to the cosine and take half.": (
                    lr * math.cos(math.pi * rest)
                ),
            }
        raise Wrong(
            first_hint(got, hints)
            or f"For step {step} of {steps}, {warmup} of them warm-up, expected {right:.4f} at the "
            f"rate {lr}; got {got:.4f}."
        )
    return "Up along a line, down along half a cosine."


def clip(answer: Callable) -> str:
    """09.2: ``clip(gradients, largest)``: all together at most so long."""
    given = [torch.tensor([2.0, 3.0]), torch.tensor([[6.0], [0.0]])]
    for largest in (1.0, 10.0):
        right = [g * min(1.0, largest / 7) for g in given]
        got = _list_of(ask(answer, given, largest), given)
        hints = {
            "You shorten each tensor by itself, and the direction turns. Take the length of all "
            "of them together.": [g * min(1.0, largest / g.norm().item()) for g in given],
            "You cut every number by itself, and the direction turns.": [
                g.clamp(-largest, largest) for g in given
            ],
            "You bring every gradient to that length. One that is shorter stays as it is.": [
                g * largest / 7 for g in given
            ],
            "You divide by the square of the length: take the root.": [
                g * min(1.0, largest / 49) for g in given
            ],
            "You add up the absolute values. The length is the root of the sum of squares.": [
                g * min(1.0, largest / 11) for g in given
            ],
            "You change nothing.": given,
        }
        if same(_flat(got), _flat(right)):
            continue
        raise Wrong(
            first_hint(_flat(got), {hint: _flat(wrong) for hint, wrong in hints.items()})
            or f"For the largest length {largest} expected {_flat(right).tolist()}; "
            f"got {_flat(got).tolist()}."
        )
    return "The direction stays, whatever the length was."


def adamw(answer: Callable) -> str:
    """09.3: ``adamw(weight, first, second, step, lr, decay)``: the weight after the step."""
    random = torch.Generator().manual_seed(0)
    weight, first = (torch.randn(3, 2, generator=random, dtype=torch.double) for _ in range(2))
    second = torch.rand(3, 2, generator=random, dtype=torch.double) + 0.1
    lr, decay = 0.1, 0.5
    for step in (1, 10):
        one, two = first / (1 - 0.9**step), second / (1 - 0.999**step)
        move, kept = lr * one / (two.sqrt() + 1e-8), weight * (1 - lr * decay)
        hints = {
            "The decay is missing.": weight - move,
            "The decay is not multiplied by the learning rate.": weight * (1 - decay) - move,
            "The decay has the wrong sign: it makes weights smaller.": (
                weight * (1 + lr * decay) - move
            ),
            "You let the decay pass through Adam, with the gradient. That is Adam with L2; the W "
            "stands for a decay beside it.": (
                weight - lr * (one + decay * weight) / (two.sqrt() + 1e-8)
            ),
            "You do not correct the means, which begin at zero: divide by 1 - beta ** step.": (
                kept - lr * first / (second.sqrt() + 1e-8)
            ),
            "You correct the first mean only. The second begins at zero, too.": (
                kept - lr * one / (second.sqrt() + 1e-8)
            ),
            "You divide by the mean of squares: take the root.": kept - lr * one / (two + 1e-8),
            "You go up the hill: a step is taken against the gradient.": kept + move,
            "That is the change. Asked is the new weight.": kept - move - weight,
        }
        right = kept - move
        got = shaped(ask(answer, weight, first, second, step, lr, decay), (3, 2), "a new weight")
        if not same(got, right):
            raise Wrong(
                first_hint(got, hints)
                or f"In step {step} expected {right[0, 0]:.4f} in the first place; "
                f"got {got[0, 0]:.4f}."
            )
    return "One step of AdamW, decay beside the gradient."


def grad_cache(answer: Callable) -> str:
    """09.4: ``grad_cache(weight, inputs, encode, loss, size)``: exact, a part at a time."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 5, generator=random)
    weight = torch.randn(5, 3, generator=random).requires_grad_()
    size, largest = 3, 0

    def encode(weight: Tensor, part: Tensor) -> Tensor:
        nonlocal largest
        if torch.is_grad_enabled():
            largest = max(largest, len(part))
        return (part @ weight).tanh()

    def loss(vectors: Tensor) -> Tensor:
        z = F.normalize(vectors, dim=1)
        return image_text_loss(z, z.roll(1, dims=1), 5.0)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, weight)[0]

    right = gradient(loss(encode(weight, inputs)))
    parts = [gradient(loss(encode(weight, part))) for part in inputs.split(size)]
    largest = 0

    def given(w: Tensor, x: Tensor) -> object:
        return answer(w.detach().requires_grad_(), x, encode, loss, size)

    got = shaped(ask(given, weight, inputs), (5, 3), "a gradient of the weight's shape")
    refuse(
        got,
        {
            "You compare each part with itself alone and take the mean. The loss must see the "
            "vectors of all inputs at once.": torch.stack(parts).mean(dim=0),
            "You compare each part with itself alone and add up. The loss must see the vectors of "
            "all inputs at once.": torch.stack(parts).sum(dim=0),
            "The sum over the parts is right, and their mean is not: the loss has taken its mean "
            "already.": right / 3,
            "The gradient has the wrong sign.": -right,
        },
    )
    if not same(got, right):
        raise Wrong(f"Expected {right[0, 0]:.4f} in the first place; got {got[0, 0]:.4f}.")
    if largest > size:
        raise Wrong(
            f"The gradient is right, but {largest} inputs were encoded at a time with gradients "
            f"kept, and {size} are allowed. Make all vectors under no_grad first."
        )
    return "The gradient of the whole batch, in the memory of a part."


def gather_back(answer: Callable) -> str:
    """09.5: ``gather_back(found)``: what each process carries on for its own vectors."""
    found = torch.randn(3, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    right = found.sum(dim=0)
    itself = torch.stack([found[i, i] for i in range(3)])
    got = shaped(ask(answer, found), (3, 2, 4), "a gradient for the vectors of each process")
    refuse(
        got,
        {
            "That is the mean. The mean over processes is still to come, at the weights: add up.": (
                found.mean(dim=0)
            ),
            "Each process keeps what it found itself. The others compared with its vectors, too.": (
                itself
            ),
            "Each process keeps what it found itself, times their number. Alike only where all "
            "find the same.": 3 * itself,
            "You add up what each process found for all. Asked is what all found for each: the "
            "other dimension.": found.sum(dim=1),
            "That is the mean, and over what one process found for all.": found.mean(dim=1),
        },
    )
    if not same(got, right):
        raise Wrong("Expected, for each process, the sum of what all of them found for it.")
    return "What comes back to a vector is what everybody found for it."


def place(answer: Callable) -> str:
    """09.6: ``place(done, pictures, batch)``: the epoch, and the places used up."""
    for done, pictures, batch in ((7, 100, 32), (3, 100, 32), (0, 64, 32), (25, 70, 8)):
        steps = pictures // batch
        epoch, step = divmod(done, steps)
        right = torch.tensor([epoch, step * batch])
        got = shaped(ask(answer, done, pictures, batch), (2,), "two numbers, epoch and places")
        up, exact = math.ceil(pictures / batch), divmod(done * batch, pictures)
        hints = {
            "You count the last batch, which is not full and left out.": torch.tensor(
                [done // up, done % up * batch]
            ),
            "You count in pictures. Each epoch leaves some out: count in steps.": torch.tensor(
                exact
            ),
            "Those are steps. Asked is how many places of the order are used up.": torch.tensor(
                [epoch, step]
            ),
            "You count epochs from 1.": right + torch.tensor([1, 0]),
            "You begin the epoch again: its first pictures would be seen twice.": torch.tensor(
                [epoch, 0]
            ),
            "The places are counted from the start of the training. Asked are those of the "
            "current epoch.": torch.tensor([epoch, done * batch]),
        }
        if not same(got, right):
            raise Wrong(
                first_hint(got, hints)
                or f"After {done} steps of {batch} out of {pictures} pictures expected "
                f"{right.tolist()}; got {got.tolist()}."
            )
    return "With the order, which follows from seed and epoch, that is the place in the data."


def _list_of(returned: object, given: Sequence[Tensor]) -> list[Tensor]:
    """Read a list of tensors with the shapes of those given."""
    if not isinstance(returned, (list, tuple)) or len(returned) != len(given):
        raise Wrong(f"Expected a list of {len(given)} tensors, one for each that is given.")
    return [
        shaped(tensor(x), tuple(g.shape), "a tensor as long as the one given")
        for x, g in zip(returned, given, strict=True)
    ]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.double().flatten() for t in tensors])


EXERCISES: dict[str, Exercise] = {
    "09.1": rate,
    "09.2": clip,
    "09.3": adamw,
    "09.4": grad_cache,
    "09.5": gather_back,
    "09.6": place,
}

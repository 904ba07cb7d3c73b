"""The exercises of chapter 9, training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, Wrong, ask, compare, normal, refuse, shaped
from cmssf_lib.losses import image_text_loss


def rate(answer: Answer) -> str:
    """09.1: ``rate(step, steps, lr, warmup)`` rises in a warm-up, then falls as half a cosine."""
    steps, lr = 20, 0.2
    for step, warmup in ((0, 4), (1, 4), (9, 4), (19, 4), (5, 0)):
        rest = (step - warmup) / (steps - warmup)
        cosine = lr / 2 * (1 + math.cos(math.pi * rest))
        rising = lr * (step + 1) / (warmup + 1)
        whole = lr / 2 * (1 + math.cos(math.pi * step / steps))
        hints: Mapping[str, Any] = {
            "The cosine takes the whole training in yours. It begins where the "
            "warm-up ends.": whole,
            "That is constant after the warm-up. Use half a cosine down to zero.": lr,
            "That is a straight line. Use half a cosine.": lr * (1 - rest),
            "That is a quarter of a cosine: half a one goes from 1 to -1, and is then moved and "
            "scaled.": lr * math.cos(math.pi * rest / 2),
            "That rises: the sign of the cosine is turned round.": lr - cosine,
            "You go from lr to minus lr: add 1 to the cosine and take half.": lr
            * math.cos(math.pi * rest),
        }
        if step < warmup:
            hints = {
                "You start at zero: the first step would be wasted. Step 0 counts as the first.": lr
                * step
                / warmup,
                "That reaches the full rate in the last step of the warm-up. Use warmup + 1 "
                "in the denominator, so that the step after it is the "
                "first full one.": lr * (step + 1) / warmup,
                "There is no warm-up in yours.": lr,
                "The cosine begins after the warm-up.": cosine,
            }
        right = rising if step < warmup else cosine
        compare(
            ask(answer, step, steps, lr, warmup),
            right,
            "For step {step} of 20, {warmup} of them warm-up, expected {right:.4f} at the rate "
            "0.2; got {got:.4f}.",
            hints,
            step=step,
            warmup=warmup,
        )
    return "Up along a line, down along half a cosine."


def clip(answer: Answer) -> str:
    """09.2: ``clip(gradients, largest)`` limits the norm of all gradients together."""
    given = [torch.tensor([2.0, 3.0]), torch.tensor([[6.0], [0.0]])]
    flat = _flat(given)  # its norm is 7
    for largest in (1.0, 10.0):
        each = [g * min(1.0, largest / g.norm().item()) for g in given]
        clamped, always = flat.clamp(-largest, largest), flat * largest / 7
        hints = {
            "You shorten each tensor by itself, and the direction turns. Take the length of all of "
            "them together.": _flat(each),
            "You cut every number by itself, and the direction turns.": clamped,
            "You bring every gradient to that length. One that is shorter stays as it is.": always,
            "You divide by the square of the length: take the root.": flat * min(1.0, largest / 49),
            "You add up the absolute values. The length is the root of the sum of squares.": flat
            * min(1.0, largest / 11),
            "You change nothing.": flat,
        }
        got = _flat(_list_of(ask(answer, given, largest), given))
        otherwise = "For the largest length {largest} expected {right}; got {got}."
        compare(got, flat * min(1.0, largest / 7), otherwise, hints, largest=largest)
    return "The direction stays, whatever the length was."


def _list_of(returned: object, given: Sequence[Tensor]) -> list[Tensor]:
    """Read a list of tensors, which must have the shapes of those in `given`."""
    if not isinstance(returned, (list, tuple)) or len(returned) != len(given):
        raise Wrong(f"Expected a list of {len(given)} tensors, one for each that is given.")
    what = "a tensor as long as the one given, shape"
    return [shaped(x, tuple(g.shape), what) for x, g in zip(returned, given, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.double().flatten() for t in tensors])


def adamw(answer: Answer) -> str:
    """09.3: ``adamw(weight, first, second, step, lr, decay)`` gives the weight after the step."""
    random = torch.Generator().manual_seed(0)
    weight, first = (torch.randn(3, 2, generator=random, dtype=torch.double) for _ in range(2))
    second = torch.rand(3, 2, generator=random, dtype=torch.double) + 0.1
    lr, decay, small = 0.1, 0.5, 1e-8
    for step in (1, 10):
        one, two = first / (1 - 0.9**step), second / (1 - 0.999**step)
        scale = two.sqrt() + small
        move, kept = lr * one / scale, weight * (1 - lr * decay)
        uncorrected = second.sqrt() + small
        hints = {
            "The decay is missing.": weight - move,
            "The decay is not multiplied by the learning rate.": weight * (1 - decay) - move,
            "The decay has the wrong sign: it makes weights smaller.": weight * (1 + lr * decay)
            - move,
            "You let the decay pass through Adam, with the gradient. That is Adam with L2; the W "
            "stands for a decay beside it.": weight - lr * (one + decay * weight) / scale,
            "You do not correct the means, which begin at zero: divide by 1 - beta ** step.": kept
            - lr * first / uncorrected,
            "You correct the first mean only. The second begins at zero, too.": kept
            - lr * one / uncorrected,
            "You divide by the mean of squares: take the root.": kept - lr * one / (two + small),
            "You go up the hill: a step is taken against the gradient.": kept + move,
            "That is the change. Return the new weight.": kept - move - weight,
        }
        compare(
            ask(answer, weight, first, second, step, lr, decay),
            kept - move,
            "In step {step} expected {right[0][0]} in the first place; got {got[0][0]}.",
            hints,
            what="a new weight, shape",
            step=step,
        )
    return "One step of AdamW, decay beside the gradient."


def grad_cache(answer: Answer) -> str:
    """09.4: ``grad_cache(weight, inputs, encode, loss, size)``: exact gradient, part by part."""
    draw = normal(0)
    inputs, weight = draw(8, 5), draw(5, 3).requires_grad_()
    size, largest = 3, 0

    def encode(weight: Tensor, part: Tensor) -> Tensor:
        nonlocal largest
        if torch.is_grad_enabled():
            largest = max(largest, len(part))
        return (part @ weight).tanh()

    def loss(vectors: Tensor) -> Tensor:
        z = F.normalize(vectors, dim=1)
        return image_text_loss(z, z.roll(1, dims=1), 5.0)

    def gradient(inputs: Tensor) -> Tensor:
        return torch.autograd.grad(loss(encode(weight, inputs)), weight)[0]

    right = gradient(inputs)
    parts = torch.stack([gradient(part) for part in inputs.chunk(3)])
    largest = 0
    returned = ask(answer, weight, inputs, encode, loss, size)
    hints = {
        "You compare each part with itself alone and take the mean. The loss must see the vectors "
        "of all inputs at once.": parts.mean(dim=0),
        "You compare each part with itself alone and add up. The loss must see the vectors of all "
        "inputs at once.": parts.sum(dim=0),
        "The sum over the parts is right, and their mean is not: the loss has taken its mean "
        "already.": right / 3,
        "The gradient has the wrong sign.": -right,
    }
    otherwise = "Expected {right[0][0]} in the first place; got {got[0][0]}."
    compare(returned, right, otherwise, hints, what="a gradient of the weight's shape")
    refuse(
        {
            f"The gradient is right, but {largest} inputs were encoded at a time with gradients "
            f"kept, and {size} are allowed. Make all vectors under no_grad first.": largest > size
        }
    )
    return "The gradient of the whole batch, in the memory of a part."


def gather_back(answer: Answer) -> str:
    """09.5: ``gather_back(found)`` gives the gradients that each process's own vectors receive."""
    found = normal(0)(3, 3, 2, 4)
    itself = torch.stack([found[i, i] for i in range(3)])
    hints = {
        "That is the mean. The mean over processes is still to come, at the "
        "weights: add up.": found.mean(dim=0),
        "Each process keeps what it found itself. The others compared with its "
        "vectors, too.": itself,
        "Each process keeps what it found itself, times their number. Alike only where all find "
        "the same.": 3 * itself,
        "You add up what each process found for all. Add up what all found for each: the other "
        "dimension.": found.sum(dim=1),
        "That is the mean, and over what one process found for all.": found.mean(dim=1),
    }
    otherwise = "Expected, for each process, the sum of what all of them found for it."
    what = "a gradient for the vectors of each process, shape"
    compare(ask(answer, found), found.sum(dim=0), otherwise, hints, what=what)
    return "What comes back to a vector is what everybody found for it."


def place(answer: Answer) -> str:
    """09.6: ``place(done, pictures, batch)`` gives the epoch and how many places it used."""
    for done, pictures, batch in ((7, 100, 32), (3, 100, 32), (0, 64, 32), (25, 70, 8)):
        epoch, step = divmod(done, pictures // batch)
        up = math.ceil(pictures / batch)
        rounded_up = [done // up, done % up * batch]
        in_pictures = divmod(done * batch, pictures)
        hints = {
            "You count the last batch, which is not full and left out.": rounded_up,
            "You count in pictures. Each epoch leaves some out: count in steps.": in_pictures,
            "Those are steps. Return how many places of the order are used up.": [epoch, step],
            "You count epochs from 1.": [epoch + 1, step * batch],
            "You begin the epoch again: its first pictures would be seen twice.": [epoch, 0],
            "The places are counted from the start of the training. Return those of the current "
            "epoch.": [epoch, done * batch],
        }
        compare(
            ask(answer, done, pictures, batch),
            [epoch, step * batch],
            "After {done} steps of {batch} out of {pictures} pictures expected {right}; got {got}.",
            hints,
            what="two numbers, epoch and places, shape",
            done=done,
            batch=batch,
            pictures=pictures,
        )
    return "With the order, which follows from seed and epoch, that is the place in the data."


EXERCISES = (rate, clip, adamw, grad_cache, gather_back, place)

"""Chapter 9: solutions, and typical wrong answers with the hint that each must get."""

import math

import torch

# --- solutions, as short as one would write them ---


def rate(step, steps, lr, warmup):
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return lr / 2 * (1 + math.cos(math.pi * progress))


def clip(gradients, largest):
    length = math.sqrt(sum(g.square().sum().item() for g in gradients))
    return [g * min(1, largest / length) for g in gradients]


def adamw(weight, first, second, step, lr, decay):
    first = first / (1 - 0.9**step)
    second = second / (1 - 0.999**step)
    return weight * (1 - lr * decay) - lr * first / (second.sqrt() + 1e-8)


def grad_cache(weight, inputs, encode, loss, size):
    parts = inputs.split(size)
    with torch.no_grad():
        vectors = torch.cat([encode(weight, part) for part in parts])
    vectors.requires_grad_()
    (wanted,) = torch.autograd.grad(loss(vectors), vectors)
    gradient = torch.zeros_like(weight)
    for part, want in zip(parts, wanted.split(size), strict=True):
        gradient += torch.autograd.grad(encode(weight, part), weight, want)[0]
    return gradient


def gather_back(found):
    return found.sum(dim=0)


def place(done, pictures, batch):
    epoch, step = divmod(done, pictures // batch)
    return epoch, step * batch


SOLUTIONS = {
    "09.1": rate,
    "09.2": clip,
    "09.3": adamw,
    "09.4": grad_cache,
    "09.5": gather_back,
    "09.6": place,
}


# --- what goes wrong, and what is said to it ---


def rate_with(rising=None, falling=None):
    """The solution with another warm-up, or another way down."""

    def wrong(step, steps, lr, warmup):
        if step < warmup:
            return rising(step, lr, warmup) if rising else rate(step, steps, lr, warmup)
        progress = (step - warmup) / (steps - warmup)
        return falling(progress, lr) if falling else rate(step, steps, lr, warmup)

    return wrong


def adamw_with(one=True, two=True, root=True, sign=1, decay=lambda lr, d: lr * d, change=False):
    """The solution with something left out or turned round."""

    def wrong(weight, first, second, step, lr, d):
        first = first / (1 - 0.9**step) if one else first
        second = second / (1 - 0.999**step) if two else second
        size = second.sqrt() if root else second
        new = weight * (1 - decay(lr, d)) - sign * lr * first / (size + 1e-8)
        return new - weight if change else new

    return wrong


def adam_with_l2(weight, first, second, step, lr, decay):
    first, second = first / (1 - 0.9**step), second / (1 - 0.999**step)
    return weight - lr * (first + decay * weight) / (second.sqrt() + 1e-8)


def in_parts(weight, inputs, encode, loss, size):
    parts = inputs.split(size)
    values = [loss(encode(weight, part)) for part in parts]
    return torch.autograd.grad(sum(values) / len(parts), weight)[0]


def at_once(weight, inputs, encode, loss, size):
    return torch.autograd.grad(loss(encode(weight, inputs)), weight)[0]


def itself(found):
    return torch.stack([found[i, i] for i in range(len(found))])


WRONG = {
    "from zero": ("09.1", rate_with(lambda s, lr, w: lr * s / w), "start at zero"),
    "full too soon": ("09.1", rate_with(lambda s, lr, w: lr * (s + 1) / w), "last step of the"),
    "no warm-up": ("09.1", rate_with(lambda s, lr, w: lr), "no warm-up"),
    "cosine from the start": (
        "09.1",
        lambda s, n, lr, w: lr / 2 * (1 + math.cos(math.pi * (s - w) / (n - w))),
        "begins after",
    ),
    "cosine over all": (
        "09.1",
        lambda s, n, lr, w: rate(s, n, lr, w) if s < w else rate(s, n, lr, 0),
        "whole training",
    ),
    "constant": ("09.1", rate_with(falling=lambda p, lr: lr), "constant after"),
    "straight": ("09.1", rate_with(falling=lambda p, lr: lr * (1 - p)), "straight line"),
    "quarter": (
        "09.1",
        rate_with(falling=lambda p, lr: lr * math.cos(math.pi * p / 2)),
        "quarter of a cosine",
    ),
    "rising": (
        "09.1",
        rate_with(falling=lambda p, lr: lr / 2 * (1 - math.cos(math.pi * p))),
        "That rises",
    ),
    "to minus": (
        "09.1",
        rate_with(falling=lambda p, lr: lr * math.cos(math.pi * p)),
        "minus lr",
    ),
    "some rate": ("09.1", lambda *a: rate(*a) + 1, "For step 0"),
    "each tensor": (
        "09.2",
        lambda g, c: [x * min(1, c / x.norm().item()) for x in g],
        "each tensor by itself",
    ),
    "each number": ("09.2", lambda g, c: [x.clamp(-c, c) for x in g], "every number"),
    "always": (
        "09.2",
        lambda g, c: [x * c / math.sqrt(sum(y.square().sum() for y in g)) for x in g],
        "shorter stays",
    ),
    "square": (
        "09.2",
        lambda g, c: [x * min(1, c / sum(y.square().sum().item() for y in g)) for x in g],
        "take the root",
    ),
    "absolute": (
        "09.2",
        lambda g, c: [x * min(1, c / sum(y.abs().sum().item() for y in g)) for x in g],
        "absolute values",
    ),
    "unclipped": ("09.2", lambda g, c: g, "change nothing"),
    "in place": (
        "09.2",
        lambda g, c: [x.copy_(y) for x, y in zip(g, clip(g, c), strict=True)],
        "changes the tensor",
    ),
    "one tensor": ("09.2", lambda g, c: clip(g, c)[:1], "list of 2"),
    "something clipped": ("09.2", lambda g, c: [x + 1 for x in clip(g, c)], "largest length"),
    "no decay": ("09.3", adamw_with(decay=lambda lr, d: 0), "decay is missing"),
    "whole decay": ("09.3", adamw_with(decay=lambda lr, d: d), "not multiplied"),
    "growing": ("09.3", adamw_with(decay=lambda lr, d: -lr * d), "wrong sign"),
    "L2": ("09.3", adam_with_l2, "Adam with L2"),
    "uncorrected": ("09.3", adamw_with(one=False, two=False), "do not correct"),
    "first alone": ("09.3", adamw_with(two=False), "first mean only"),
    "no root": ("09.3", adamw_with(root=False), "mean of squares"),
    "uphill": ("09.3", adamw_with(sign=-1), "up the hill"),
    "change": ("09.3", adamw_with(change=True), "That is the change"),
    "some weight": ("09.3", lambda *a: adamw(*a) + 1, "In step 1"),
    "accumulated": ("09.4", in_parts, "take the mean. The loss"),
    "added up": ("09.4", lambda *a: 3 * in_parts(*a), "and add up"),
    "a third": ("09.4", lambda *a: grad_cache(*a) / 3, "taken its mean"),
    "wrong way": ("09.4", lambda *a: -grad_cache(*a), "wrong sign"),
    "some gradient": ("09.4", lambda *a: grad_cache(*a) + 1, "first place"),
    "all at once": ("09.4", at_once, "8 inputs were encoded"),
    "mean of all": ("09.5", lambda f: f.mean(dim=0), "still to come"),
    "own alone": ("09.5", itself, "compared with its vectors"),
    "own times": ("09.5", lambda f: len(f) * itself(f), "times their number"),
    "the other sum": ("09.5", lambda f: f.sum(dim=1), "other dimension"),
    "the other mean": ("09.5", lambda f: f.mean(dim=1), "one process found for all"),
    "some sum": ("09.5", lambda f: f.sum(dim=0) + 1, "Expected, for each"),
    "rounded up": (
        "09.6",
        lambda d, n, b: (d // math.ceil(n / b), d % math.ceil(n / b) * b),
        "not full",
    ),
    "in pictures": ("09.6", lambda d, n, b: divmod(d * b, n), "count in steps"),
    "in steps": ("09.6", lambda d, n, b: divmod(d, n // b), "Those are steps"),
    "from one": ("09.6", lambda d, n, b: (d // (n // b) + 1, d % (n // b) * b), "from 1"),
    "again": ("09.6", lambda d, n, b: (d // (n // b), 0), "seen twice"),
    "in all": ("09.6", lambda d, n, b: (d // (n // b), d * b), "current epoch"),
    "somewhere": ("09.6", lambda d, n, b: (9, 9), "After 7 steps"),
}

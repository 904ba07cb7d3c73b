"""Chapter 8: solutions, and typical wrong answers with the hint that each must get."""

from itertools import pairwise

import torch
from torch.nn import functional as F

# --- solutions, as short as one would write them ---


def pooling(query, keys, values):
    weights = (keys @ query / len(query) ** 0.5).softmax(dim=0)  # one a token
    return weights @ values


def head(x, w1, b1, w2, b2):
    hidden = F.gelu(x @ w1.T + b1)
    return F.normalize(hidden @ w2.T + b2, dim=1)


def count(width, hidden, dim, depth):
    sizes = [width, *[hidden] * depth, dim]
    return sum((a + 1) * b for a, b in pairwise(sizes))


def trace(model, x):
    found, hooks = [], []
    for name, module in model.named_modules():
        if not list(module.children()):

            def note(module, inputs, output, name=name):
                found.append((name, tuple(output.shape)))

            hooks.append(module.register_forward_hook(note))
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def teacher(state):
    part = "teacher_encoder."
    return {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}


def gain(encode, rest, epochs):
    return epochs * (encode + rest) / (encode + epochs * rest)


SOLUTIONS = {
    "08.1": pooling,
    "08.2": head,
    "08.3": count,
    "08.4": trace,
    "08.5": teacher,
    "08.6": gain,
}


# --- what goes wrong, and what is said to it ---


def pooled(weigh):
    """The solution with other weights."""
    return lambda query, keys, values: weigh(keys @ query) @ values


def head_with(bend=F.gelu, after=lambda y: F.normalize(y, dim=1), first=1, second=1):
    def wrong(x, w1, b1, w2, b2):
        return after(bend(x @ w1.T + first * b1) @ w2.T + second * b2)

    return wrong


def not_transposed(x, w1, b1, w2, b2):
    return F.gelu(x @ w1 + b1) @ w2 + b2


def without_shifts(width, hidden, dim, depth):
    sizes = [width, *[hidden] * depth, dim]
    return sum(a * b for a, b in pairwise(sizes))


def only_with_layers(nothing):
    return lambda w, h, dim, depth: count(w, h, dim, depth) if depth else nothing(w, h, dim)


def traced(shape=lambda module, inputs, output: output.shape, leaves=True, remove=True, made=False):
    def wrong(model, x):
        found, hooks = {}, []
        for name, module in model.named_modules():
            if leaves and list(module.children()):
                continue
            if made:
                found[name] = None

            def note(module, inputs, output, name=name):
                found[name] = tuple(shape(module, inputs, output))

            hooks.append(module.register_forward_hook(note))
        model(x)
        for hook in hooks if remove else []:
            hook.remove()
        return list(found.items())

    return wrong


def part_of(part, cut):
    return lambda state: {k.removeprefix(cut): v for k, v in state.items() if k.startswith(part)}


WRONG = {
    "no root": ("08.1", pooled(lambda s: s.softmax(0)), "do not divide by the root"),
    "no root of it": ("08.1", pooled(lambda s: (s / 4).softmax(0)), "Asked is its root"),
    "times the root": ("08.1", pooled(lambda s: (2 * s).softmax(0)), "multiply by the root"),
    "root of tokens": ("08.1", pooled(lambda s: (s / 6**0.5).softmax(0)), "number of tokens"),
    "the weights": (
        "08.1",
        lambda q, k, v: (k @ q / 2).softmax(dim=0),
        "Those are the weights",
    ),
    "no softmax": ("08.1", pooled(lambda s: s / 2), "sum to one"),
    "the best": ("08.1", lambda q, k, v: v[(k @ q).argmax()], "best token alone"),
    "plain mean": ("08.1", lambda q, k, v: v.mean(dim=0), "query is not asked"),
    "a row": ("08.1", lambda *a: pooling(*a)[None], "as long as a value"),
    "something pooled": ("08.1", lambda *a: pooling(*a) + 1, "Expected \\["),
    "any length": ("08.2", head_with(after=lambda y: y), "have any length"),
    "nothing between": ("08.2", head_with(bend=lambda h: h), "nothing between"),
    "relu": ("08.2", head_with(bend=F.relu), "ReLU"),
    "bent twice": (
        "08.2",
        head_with(after=lambda y: F.normalize(F.gelu(y), dim=1)),
        "bend the output",
    ),
    "no shifts": ("08.2", head_with(first=0, second=0), "leave out the shifts"),
    "no first shift": ("08.2", head_with(first=0), "first shift"),
    "no second shift": ("08.2", head_with(second=0), "second shift"),
    "columns": ("08.2", head_with(after=lambda y: F.normalize(y, dim=0)), "columns"),
    "not transposed": ("08.2", not_transposed, "its transpose"),
    "one picture": ("08.2", lambda *a: head(*a)[:1], "a row a picture"),
    "something projected": ("08.2", lambda *a: -head(*a), "For the first row"),
    "matrices alone": ("08.3", without_shifts, "no shifts"),
    "no last shift": ("08.3", lambda w, h, dim, n: count(w, h, dim, n) - dim, "last layer"),
    "no hidden shifts": ("08.3", lambda w, h, dim, n: count(w, h, dim, n) - n * h, "hidden layers"),
    "no map": ("08.3", only_with_layers(lambda w, h, dim: 0), "one linear map is left"),
    "a map from hidden": (
        "08.3",
        only_with_layers(lambda w, h, dim: h * dim + dim),
        "has the width of one",
    ),
    "always one": ("08.3", lambda w, h, dim, n: count(w, h, dim, 1), "whatever depth is"),
    "one too many": ("08.3", lambda w, h, dim, n: count(w, h, dim, n + 1), "a hidden layer too"),
    "two heads": ("08.3", lambda *a: 2 * count(*a), "Both heads"),
    "something counted": ("08.3", lambda *a: count(*a) + 1, "For width 64"),
    "hooks stay": ("08.4", traced(remove=False), "still on the model"),
    "as made": ("08.4", traced(made=True), "the order in which the parts were made"),
    "whole modules": ("08.4", traced(leaves=False), "consist of others"),
    "inputs": ("08.4", traced(shape=lambda m, i, o: i[0].shape), "names are right"),
    "names alone": ("08.4", lambda *a: [name for name, _ in trace(*a)], "list of pairs"),
    "exchanged": ("08.4", lambda *a: [(s, n) for n, s in trace(*a)], "list of pairs"),
    "numbers": ("08.4", lambda *a: [(7, s) for _, s in trace(*a)], "name first"),
    "the first": ("08.4", lambda *a: trace(*a)[:1], "Expected \\[\\('first'"),
    "the student": ("08.5", part_of("image_encoder.", "image_encoder."), "That is the student"),
    "whole names": ("08.5", part_of("teacher_encoder.", ""), "name away"),
    "with the head": ("08.5", part_of("teacher_", "teacher_"), "prototypes are thrown away"),
    "everything": ("08.5", dict, "taken everything"),
    "cut too much": (
        "08.5",
        part_of("teacher_encoder.", "teacher_encoder.backbone."),
        "cut too much",
    ),
    "a list": ("08.5", lambda state: list(teacher(state).items()), "Expected a dictionary"),
    "other tensors": (
        "08.5",
        lambda state: {k: torch.zeros(3) for k in teacher(state)},
        "Expected the names",
    ),
    "no encoding": ("08.6", lambda e, r, n: (e + r) / r, "encoded once even so"),
    "no rest": ("08.6", lambda e, r, n: n, "heads and texts"),
    "upside down": ("08.6", lambda *a: 1 / gain(*a), "other way round"),
    "saved": ("08.6", lambda e, r, n: (n - 1) * e, "time saved"),
    "rest once": ("08.6", lambda e, r, n: n * (e + r) / (e + r), "heads and texts"),
    "something gained": ("08.6", lambda *a: gain(*a) + 1, "For encode 6"),
}

"""Chapter 10: solutions, and typical wrong answers with the hint that each must get."""

import math

import torch

# --- solutions, as short as one would write them ---


def confusion(labels, predictions, classes):
    return (labels * classes + predictions).bincount(minlength=classes**2).view(classes, classes)


def interval(right, n):
    z, p = 1.96, right / n
    middle = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def paired(a, b):
    d = a.double() - b.double()
    return d.mean(), d.std() / len(d) ** 0.5


def per_class(counts):
    hits = counts.diagonal()
    return torch.stack([hits / counts.sum(dim=1), hits / counts.sum(dim=0)], dim=1)


def epochs(flops, pictures, budget):
    return max(1, round(budget / (flops * pictures)))


def kept(high, low, k):
    near = []
    for x in (high, low):
        distance = torch.cdist(x, x).fill_diagonal_(torch.inf)
        near.append(distance.topk(k, largest=False).indices)
    return (near[0][:, :, None] == near[1][:, None, :]).any(dim=2).double().mean()


SOLUTIONS = {
    "10.1": confusion,
    "10.2": interval,
    "10.3": paired,
    "10.4": per_class,
    "10.5": epochs,
    "10.6": kept,
}


# --- what goes wrong, and what is said to it ---


def counted_once(labels, predictions, classes):
    counts = torch.zeros(classes, classes)
    counts[labels, predictions] += 1
    return counts


def interval_with(z):
    def wrong(right, n):
        p = right / n
        middle = p + z**2 / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)

    return wrong


def simple(right, n):
    p = right / n
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def apart(a, b):
    p, q = a.double().mean(), b.double().mean()
    return p - q, ((p * (1 - p) + q * (1 - q)) / len(a)).sqrt()


def neighbours(x, k, itself=False):
    distance = torch.cdist(x, x)
    if not itself:
        distance.fill_diagonal_(torch.inf)
    return [set(row) for row in distance.topk(k, largest=False).indices.tolist()]


def kept_as(measure, itself=False):
    def wrong(high, low, k):
        pairs = zip(neighbours(high, k, itself), neighbours(low, k, itself), strict=True)
        values = [measure(a, b, k) for a, b in pairs]
        return sum(values) / len(values)

    return wrong


WRONG = {
    "transposed": ("10.1", lambda *a: confusion(*a).T, "exchanged"),
    "parts of all": ("10.1", lambda y, p, c: confusion(y, p, c) / len(y), "parts of all"),
    "parts of a row": (
        "10.1",
        lambda *a: confusion(*a) / confusion(*a).sum(dim=1, keepdim=True).clamp(min=1),
        "parts of a row",
    ),
    "counted once": ("10.1", counted_once, "counted once"),
    "some counts": ("10.1", lambda *a: confusion(*a) + 1, "Expected"),
    "simple interval": ("10.2", simple, "simple interval"),
    "two thirds": ("10.2", interval_with(1.0), "one time in three"),
    "ninety per cent": ("10.2", interval_with(1.645), "90 %"),
    "ends exchanged": ("10.2", lambda *a: interval(*a)[::-1], "lower one first"),
    "some interval": ("10.2", lambda *a: (0.0, 1.0), "For 8970"),
    "unpaired": ("10.3", apart, "different pictures"),
    "deviation": (
        "10.3",
        lambda a, b: (paired(a, b)[0], paired(a, b)[1] * len(a) ** 0.5),
        "single difference",
    ),
    "by n": (
        "10.3",
        lambda a, b: (paired(a, b)[0], paired(a, b)[1] / len(a) ** 0.5),
        "divide by n",
    ),
    "b minus a": ("10.3", lambda a, b: paired(b, a), "turned round"),
    "two accuracies": (
        "10.3",
        lambda a, b: (a.double().mean(), b.double().mean()),
        "two accuracies",
    ),
    "some difference": ("10.3", lambda a, b: (0.5, 0.5), "Expected a difference"),
    "precision first": ("10.4", lambda c: per_class(c).flip(1), "exchanged"),
    "of all": (
        "10.4",
        lambda c: torch.stack([c.diagonal() / c.sum()] * 2, dim=1),
        "all pictures",
    ),
    "recall twice": ("10.4", lambda c: per_class(c)[:, :1].expand(-1, 2), "Both columns"),
    "some recall": ("10.4", lambda c: per_class(c) + 1, "Expected"),
    "pictures": ("10.5", lambda f, n, b: round(b / f), "number of pictures"),
    "broken epochs": ("10.5", lambda f, n, b: b / (f * n), "whole epochs"),
    "no epoch": ("10.5", lambda f, n, b: round(b / (f * n)), "at least one"),
    "up": ("10.5", lambda f, n, b: math.ceil(b / (f * n)), "round up"),
    "down": ("10.5", lambda f, n, b: math.floor(b / (f * n)), "round down"),
    "some epochs": ("10.5", lambda *_: 5000, "expected 26"),
    "itself": ("10.6", kept_as(lambda a, b, k: len(a & b) / k, itself=True), "its own nearest"),
    "how many": ("10.6", kept_as(lambda a, b, k: len(a & b)), "part of k"),
    "of either": ("10.6", kept_as(lambda a, b, k: len(a & b) / len(a | b)), "either set"),
    "all of them": ("10.6", kept_as(lambda a, b, k: a == b), "all k"),
    "any of them": ("10.6", kept_as(lambda a, b, k: bool(a & b)), "any is kept"),
    "some part": ("10.6", lambda *_: 0.123, "Expected"),
}

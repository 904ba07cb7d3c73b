"""The exercises of chapter 10, results."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, refuse, same, shaped


def confusion(answer: Callable) -> str:
    """10.1: ``confusion(labels, predictions, classes)``: row = is, column = taken for."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predictions = torch.tensor([0, 1, 1, 1, 3, 0])
    right = torch.zeros(4, 4, dtype=torch.double)
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        right[label, prediction] += 1
    marked = (right > 0).double()
    got = shaped(ask(answer, labels, predictions, 4), (4, 4), "a row and a column for each class")
    refuse(
        got,
        {
            "Rows and columns are exchanged: a row is what the picture shows.": right.T,
            "Those are parts of all pictures. Asked are counts.": right / len(labels),
            "Those are parts of a row. Asked are counts.": right
            / right.sum(dim=1, keepdim=True).clamp(min=1),
            "Each pair is counted once, however often it occurs. `x[i, j] += 1` with repeated "
            "indices does that: use bincount, or index_put_ with accumulate=True.": marked,
        },
    )
    if not same(got, right):
        raise Wrong(f"Expected {right.int().tolist()}; got {got.tolist()}.")
    return "Rows add up to the pictures of a class; the diagonal is what is right."


def interval(answer: Callable) -> str:
    """10.2: ``interval(right, n)``: Wilson's 95 % interval of an accuracy."""
    z = 1.96
    for hits, n in ((8970, 10_000), (9, 10), (10, 10)):
        p = hits / n

        def wilson(z: float, p: float = p, n: int = n) -> Tensor:
            middle = (p + z * z / (2 * n)) / (1 + z * z / n)
            half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
            return torch.tensor([middle - half, middle + half], dtype=torch.double)

        half = z * math.sqrt(p * (1 - p) / n)
        got = shaped(ask(answer, hits, n), (2,), "two numbers, the lower end and the upper one")
        if torch.allclose(got, wilson(z), atol=2e-5):  # 1.96 is 1.95996…
            continue
        hints = {
            "That is the simple interval, p ± 1.96 √(p (1 - p) / n). With few pictures it is too "
            "narrow, and at p = 1 it has no width at all.": [p - half, p + half],
            "Your z is 1: that interval misses one time in three.": wilson(1.0),
            "Your z is 1.645: that interval has 90 %.": wilson(1.645),
            "The ends are exchanged: the lower one first.": wilson(z).flip(0),
        }
        # A wrong interval may be near the right one where there are many pictures.
        near = {
            hint: wrong
            for hint, wrong in hints.items()
            if torch.allclose(got, torch.as_tensor(wrong, dtype=torch.double), atol=1e-5)
        }
        expected = ", ".join(f"{x:.4f}" for x in wilson(z).tolist())
        raise Wrong(
            next(iter(near), "")
            or f"For {hits} right of {n} expected {expected}; "
            f"got {', '.join(f'{x:.4f}' for x in got.tolist())}."
        )
    return "Ten of ten is no proof of 100 %."


def paired(answer: Callable) -> str:
    """10.3: ``paired(a, b)``: the difference of two accuracies and its standard error."""
    random = torch.Generator().manual_seed(0)
    a = torch.rand(400, generator=random) < 0.9
    b = torch.where(torch.rand(400, generator=random) < 0.9, a, ~a)
    d, n = a.double() - b.double(), len(a)
    difference, p, q = d.mean(), a.double().mean(), b.double().mean()
    apart = ((p * (1 - p) + q * (1 - q)) / n).sqrt()
    got = shaped(ask(answer, a, b), (2,), "two numbers, the difference and its standard error")
    deviations = [d.std(correction=1), d.std(correction=0)]  # by n - 1 or by n: either will do
    if any(same(got, torch.stack([difference, s / math.sqrt(n)])) for s in deviations):
        return "Where two methods fail on the same pictures, small differences can be told."
    for s in deviations:
        refuse(
            got,
            {
                "You treat the two as if they had seen different pictures. They saw the same "
                "ones, and are mostly wrong on the same: take the spread of the differences.": (
                    torch.stack([difference, apart])
                ),
                "That is the standard deviation of a single difference. The mean of n varies √n "
                "times less.": torch.stack([difference, s]),
                "You divide by n. The standard error falls with its root.": torch.stack(
                    [difference, s / n]
                ),
                "The sign is turned round: a's accuracy minus b's.": torch.stack(
                    [-difference, s / math.sqrt(n)]
                ),
                "Those are the two accuracies. Asked is their difference.": torch.stack([p, q]),
            },
        )
    raise Wrong(
        f"Expected a difference of {difference:.4f} and an error of "
        f"{deviations[0] / math.sqrt(n):.4f}; got {got[0]:.4f} and {got[1]:.4f}."
    )


def per_class(answer: Callable) -> str:
    """10.4: ``per_class(counts)``: recall and precision of each class."""
    counts = torch.tensor([[8, 2, 0], [3, 5, 2], [0, 1, 19]])
    hits, total = counts.diagonal().double(), counts.sum().double()
    recall, precision = hits / counts.sum(dim=1), hits / counts.sum(dim=0)
    right = torch.stack([recall, precision], dim=1)
    got = shaped(ask(answer, counts), (3, 2), "recall and precision for each class")
    refuse(
        got,
        {
            "Recall and precision are exchanged. Recall asks how many of a class are found: "
            "divide by the row's sum.": right.flip(1),
            "You divide by all pictures. Each class has a denominator of its own.": torch.stack(
                [hits / total, hits / total], dim=1
            ),
            "Both columns are the recall. Precision asks how many of those called so are it: "
            "divide by the column's sum.": torch.stack([recall, recall], dim=1),
        },
    )
    if not same(got, right):
        raise Wrong(f"Expected {recall[0]:.3f} and {precision[0]:.3f} for the first class.")
    return "Whoever calls everything a cat has all cats, and no precision."


def epochs(answer: Callable) -> str:
    """10.5: ``epochs(flops, pictures, budget)``: whole epochs that come nearest to a budget."""
    for flops, pictures, budget in ((4.0e8, 45_000, 4.7e14), (1.5e9, 45_000, 4.7e14), (3, 10, 10)):
        exact = budget / (flops * pictures)
        right = max(1, round(exact))
        got = number(ask(answer, flops, pictures, budget))
        hints = {
            "Those are steps through single pictures: divide by the number of pictures, too.": (
                round(budget / flops)
            ),
            "Asked are whole epochs.": exact,
            "Asked is at least one epoch.": 0,
            "You round up. Asked is the nearest.": math.ceil(exact),
            "You round down. Asked is the nearest.": math.floor(exact),
        }
        if not same(got, right):
            raise Wrong(
                first_hint(got, hints)
                or f"With {flops:g} operations a picture, {pictures:,} pictures and a budget of "
                f"{budget:g} expected {right}; got {got:g}."
            )
    return "Equal arithmetic, whatever an epoch costs."


def kept(answer: Callable) -> str:
    """10.6: ``kept(high, low, k)``: the part of the nearest neighbours that a picture keeps."""
    random = torch.Generator().manual_seed(0)
    high = torch.randn(30, 6, generator=random)
    low = high[:, :2] + 0.3 * torch.randn(30, 2, generator=random)
    k = 5

    def neighbours(x: Tensor, k: int, itself: bool = False) -> list[set[int]]:
        distance = torch.cdist(x, x)
        if not itself:
            distance.fill_diagonal_(math.inf)
        return [set(row) for row in distance.topk(k, largest=False).indices.tolist()]

    def share(itself: bool) -> float:
        pairs = zip(neighbours(high, k, itself), neighbours(low, k, itself), strict=True)
        return sum(len(a & b) for a, b in pairs) / (k * len(high))

    pairs = list(zip(neighbours(high, k), neighbours(low, k), strict=True))
    got = number(ask(answer, high, low, k))
    hints = {
        "Every point is its own nearest neighbour in yours, and that one is always kept: leave it "
        "out.": share(itself=True),
        "You count them. Asked is the part of k, 0 to 1.": k * share(itself=False),
        "You divide by all that is in either set. Asked is the part of the k.": sum(
            len(a & b) / len(a | b) for a, b in pairs
        )
        / len(pairs),
        "You ask whether all k are the same. Asked is how many of them.": sum(
            a == b for a, b in pairs
        )
        / len(pairs),
        "You ask whether any is kept. Asked is how many.": sum(bool(a & b) for a, b in pairs)
        / len(pairs),
    }
    if not same(got, share(itself=False)):
        raise Wrong(first_hint(got, hints) or f"Expected {share(itself=False):.4f}; got {got:.4f}.")
    return "What is far apart in a picture of points may have been near, and the other way round."


EXERCISES: dict[str, Exercise] = {
    "10.1": confusion,
    "10.2": interval,
    "10.3": paired,
    "10.4": per_class,
    "10.5": epochs,
    "10.6": kept,
}

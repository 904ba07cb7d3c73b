"""The exercises of chapter 10, results."""

import math
from functools import partial

import torch
from torch import Tensor

from cmssf_lib.check.answers import Answer, ask, compare, normal, refuse, same, shaped


def confusion(answer: Answer) -> str:
    """10.1: ``confusion(labels, predictions, classes)`` counts, rows by label."""
    labels, predictions = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 3, 0]])
    right = torch.zeros(4, 4)
    right.index_put_((labels, predictions), torch.ones(6), accumulate=True)
    of_rows = right / right.sum(dim=1, keepdim=True).clamp(min=1)
    hints = {
        "Rows and columns are exchanged: a row is what the picture shows.": right.T,
        "Those are parts of all pictures. Return counts.": right / 6,
        "Those are parts of a row. Return counts.": of_rows,
        "Each pair is counted once, however often it occurs. `x[i, j] += 1` with repeated indices "
        "does that: use bincount, or index_put_ with accumulate=True.": right.clamp(max=1),
    }
    what = "a row and a column for each class, shape"
    compare(ask(answer, labels, predictions, 4), right, hints=hints, what=what)
    return "Rows add up to the pictures of a class; the diagonal is what is right."


def interval(answer: Answer) -> str:
    """10.2: ``interval(right, n)`` gives Wilson's 95 % interval of an accuracy."""
    for hits, n in ((8970, 10_000), (9, 10), (10, 10)):
        p = hits / n

        def wilson(z: float, p: float = p, n: int = n) -> list[float]:
            middle = (p + z * z / (2 * n)) / (1 + z * z / n)
            half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
            return [middle - half, middle + half]

        half = 1.96 * math.sqrt(p * (1 - p) / n)
        hints = {
            "That is the simple interval, p ± 1.96 √(p (1 - p) / n). With few pictures it is too "
            "narrow, and at p = 1 it has no width at all.": [p - half, p + half],
            "Your z is 1: that interval misses one time in three.": wilson(1.0),
            "Your z is 1.645: that interval has 90 %.": wilson(1.645),
            "The ends are exchanged: the lower one first.": wilson(1.96)[::-1],
        }
        compare(
            ask(answer, hits, n),
            wilson(1.96),
            "For {hits} right of {n} expected {right}; got {got}.",
            hints,
            what="two numbers, the lower end and the upper one, shape",
            close=2e-5,  # accepts 1.95996… for 1.96; with many pictures wrong intervals are close
            hits=hits,
            n=n,
        )
    return "Ten of ten is no proof of 100 %."


def paired(answer: Answer) -> str:
    """10.3: ``paired(a, b)`` gives the difference of two accuracies and its standard error."""
    random = torch.Generator().manual_seed(0)
    a = torch.rand(400, generator=random) < 0.9
    b = torch.where(torch.rand(400, generator=random) < 0.9, a, ~a)
    d, p, q = a.double() - b.double(), a.double().mean(), b.double().mean()
    apart = ((p * (1 - p) + q * (1 - q)) / 400).sqrt()
    what = "two numbers, the difference and its standard error, shape"
    got = shaped(ask(answer, a, b), (2,), what)
    by_n = d.std(correction=0)  # dividing by n - 1 or by n: both are accepted
    for s in (by_n, d.std()):
        hints = {
            "You treat the two as if they had seen different pictures. They saw the same ones, and "
            "are mostly wrong on the same: take the spread of the differences.": [p - q, apart],
            "That is the standard deviation of a single difference. The mean of n varies √n times "
            "less.": [p - q, s],
            "You divide by n. The standard error falls with its root.": [p - q, s / 400],
            "The sign is turned round: a's accuracy minus b's.": [q - p, s / 20],
            "Those are the two accuracies. Return their difference.": [p, q],
        }
        refuse(hints, got)
    if not same(got, [p - q, by_n / 20]):
        compare(got, [p - q, s / 20], "Expected a difference and an error of {right}; got {got}.")
    return "Where two methods fail on the same pictures, small differences can be told."


def per_class(answer: Answer) -> str:
    """10.4: ``per_class(counts)`` gives the recall and precision of each class."""
    counts = torch.tensor([[8, 2, 0], [3, 5, 2], [0, 1, 19]])
    hits = counts.diagonal()
    recall, precision, of_all = (hits / n for n in (counts.sum(1), counts.sum(0), counts.sum()))
    pair = partial(torch.stack, dim=1)
    hints = {
        "Recall and precision are exchanged. Recall asks how many of a class are found: divide by "
        "the row's sum.": pair([precision, recall]),
        "You divide by all pictures. Each class has a denominator of its own.": pair(
            [of_all, of_all]
        ),
        "Both columns are the recall. Precision asks how many of those called so are it: divide by "
        "the column's sum.": pair([recall, recall]),
    }
    right = pair([recall, precision])
    otherwise = "Expected {right[0][0]:.3f} and {right[0][1]:.3f} for the first class."
    what = "recall and precision for each class, shape"
    compare(ask(answer, counts), right, otherwise, hints, what=what)
    return "Whoever calls everything a cat has all cats, and no precision."


def epochs(answer: Answer) -> str:
    """10.5: ``epochs(flops, pictures, budget)`` gives the whole epochs nearest to a budget."""
    for flops, pictures, budget in ((4.0e8, 45_000, 4.7e14), (1.5e9, 45_000, 4.7e14), (3, 10, 10)):
        exact = budget / (flops * pictures)
        hints = {
            "Those are steps through single pictures: divide by the number of "
            "pictures, too.": round(budget / flops),
            "Return whole epochs.": exact,
            "Return at least one epoch.": 0,
            "You round up. Round to the nearest.": math.ceil(exact),
            "You round down. Round to the nearest.": math.floor(exact),
        }
        given = f"{flops:g} operations a picture, {pictures:,} pictures and a budget of {budget:g}"
        otherwise = "With {given} expected {right}; got {got}."
        right = max(1, round(exact))
        compare(ask(answer, flops, pictures, budget), right, otherwise, hints, given=given)
    return "Equal arithmetic, whatever an epoch costs."


def kept(answer: Answer) -> str:
    """10.6: ``kept(high, low, k)`` gives the share of nearest neighbours that ``low`` preserves."""
    draw, k = normal(0), 5
    high = draw(30, 6)
    low = high[:, :2] + 0.3 * draw(30, 2)

    def near(x: Tensor, itself: bool = False) -> Tensor:
        distance = torch.cdist(x, x)
        if not itself:
            distance.fill_diagonal_(math.inf)
        nearest = distance.topk(k, largest=False).indices
        return torch.zeros(30, 30).scatter(1, nearest, 1.0)  # 1: column is a neighbour of row

    both = (near(high) * near(low)).sum(dim=1)  # number of each picture's k neighbours that stay
    with_itself = (near(high, itself=True) * near(low, itself=True)).sum(dim=1)
    right = both.mean() / k
    of_either = (both / (2 * k - both)).mean()
    hints = {
        "Every point is its own nearest neighbour in yours, and that one is always kept: leave it "
        "out.": with_itself.mean() / k,
        "You count them. Return the part of k, 0 to 1.": both.mean(),
        "You divide by all that is in either set. Divide by k.": of_either,
        "You ask whether all k are the same. Count how many are.": (both == k).double().mean(),
        "You ask whether any is kept. Count how many are.": (both > 0).double().mean(),
    }
    compare(ask(answer, high, low, k), right, hints=hints)
    return "What is far apart in a picture of points may have been near, and the other way round."


EXERCISES = (confusion, interval, paired, per_class, epochs, kept)

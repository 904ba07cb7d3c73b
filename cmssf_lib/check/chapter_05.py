"""The exercises of chapter 5, contrastive learning."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, shaped, tensor
from cmssf_lib.evaluate import knn
from cmssf_lib.losses import nt_xent

TEMPERATURE = 0.5
KNN_TEMPERATURE = 0.1


def two_view_loss(answer: Callable) -> str:
    """05.1: ``loss(a, b, temperature)`` is NT-Xent."""
    random = torch.Generator().manual_seed(0)
    a = 3 * torch.randn(4, 3, generator=random)
    b = a + torch.randn(4, 3, generator=random)
    z = F.normalize(torch.cat([a, b]), dim=1)
    itself = torch.eye(8, dtype=torch.bool)
    partner = torch.arange(8).roll(4)

    def loss(similarity: Tensor, target: Tensor = partner) -> Tensor:
        return F.cross_entropy(similarity, target)

    def hidden(similarity: Tensor) -> Tensor:
        return similarity.masked_fill(itself, float("-inf"))

    raw = torch.cat([a, b])
    similarity = z @ z.T / TEMPERATURE
    right = nt_xent(a, b, TEMPERATURE)
    one_way = z[:4] @ z[4:].T / TEMPERATURE  # (4, 4): what image and text are compared by
    symmetric = (loss(one_way, torch.arange(4)) + loss(one_way.T, torch.arange(4))) / 2
    got = number(ask(answer, a, b, TEMPERATURE))
    _first(
        got,
        {
            "You do not normalise: the loss compares directions, not lengths.": loss(
                hidden(raw @ raw.T / TEMPERATURE)
            ),
            "You do not divide by the temperature.": loss(hidden(z @ z.T)),
            "Each view competes with itself: put minus infinity on the diagonal before the "
            "softmax.": loss(similarity),
            "You set the diagonal to 0, and the exponential of 0 is 1: it is a similarity like "
            "any other. Use minus infinity.": loss(similarity.masked_fill(itself, 0)),
            "You compare only a with b. In this loss the other first views are negatives, too: "
            "each row sees 2n - 1 others.": symmetric,
            "You ask the first views only. The second ones ask as well: 2n rows.": loss(
                hidden(similarity)[:4], partner[:4]
            ),
            "That is the sum over the rows. Asked is their mean.": 8 * right,
            "The sign is turned round: a loss falls as partners come closer.": -right,
            "Your partners stand in the wrong place: row i belongs to row i + n, and back.": loss(
                hidden(similarity), torch.arange(8).view(4, 2).flip(1).flatten()
            ),
        },
    )
    if not same(got, right):
        raise Wrong(f"For four pairs in three dimensions expected {right:.4f}; got {got:.4f}.")
    sharp = number(ask(answer, a, b, 0.005))
    if not same(sharp, nt_xent(a, b, 0.005)):
        raise Wrong(
            "Right at the temperature 0.5, wrong at 0.005: exp of a large number overflows. Use "
            "cross_entropy or logsumexp, which subtract the largest first."
        )
    return "The loss of SimCLR, whatever the length of the embeddings."


def negatives(answer: Callable) -> str:
    """05.2: ``negatives(n)``: which of 2n views push each other away."""
    for n in (3, 4):
        rows = torch.arange(2 * n)
        itself, partner = rows[:, None] == rows, (rows[:, None] - rows).abs() == n
        right = ~itself & ~partner
        got = tensor(ask(answer, n))
        neighbour = rows[:, None] // 2 == rows // 2
        _first(
            got,
            {
                "You count the partner among the negatives.": ~itself,
                "You count each view among its own negatives.": ~partner,
                "Turned round: asked is where the negatives stand.": ~right,
                "You pair neighbours, rows 2i and 2i + 1. Here the second views stand below all "
                "first ones: the partner of row i is row i + n.": ~neighbour,
                "That is n by n. There are 2n views, and all of them are compared.": ~torch.eye(
                    n, dtype=torch.bool
                ),
            },
        )
        if got.shape != right.shape:
            raise Wrong(f"Expected a row and a column a view, {2 * n} each; got {tuple(got.shape)}")
        if not same(got, right):
            row = int((got != right.double()).any(dim=1).nonzero()[0])
            raise Wrong(
                f"For n = {n}, row {row} has its negatives at "
                f"{right[row].nonzero().flatten().tolist()}; yours are at "
                f"{got[row].nonzero().flatten().tolist()}."
            )
    return "2n - 2 negatives a row: all but the view itself and its partner."


def limits(answer: Callable) -> str:
    """05.3: ``limits(n, temperature)``: the loss at chance, and the least there can be."""
    for n, temperature in ((4, 0.5), (256, 0.2)):
        others = 2 * n - 2
        chance, apart = math.log(others + 1), -1 / (n - 1)
        right = _limits(chance, others, apart, temperature)
        got = shaped(ask(answer, n, temperature), (2,), "two numbers, chance and least")
        if same(got, right):
            continue

        hints = {
            "You count a view among its own candidates: with all embeddings equal it guesses "
            "among 2n - 1.": _limits(math.log(2 * n), others, apart, temperature),
            "That is the chance of image–text pairs, ln n. Here 2n - 1 views are candidates.": (
                _limits(math.log(n), others, apart, temperature)
            ),
            "You count the negatives only, 2n - 2. The partner is a candidate as well.": (
                _limits(math.log(others), others, apart, temperature)
            ),
            "Chance is right. The least is not 0: the softmax leaves something for the "
            "negatives, however far away they are.": torch.tensor([chance, 0.0]),
            "You let all negatives stand opposite, at -1. So many cannot: the mean over n "
            "pictures is at least -1 / (n - 1).": _limits(chance, others, -1, temperature),
            "You put the negatives at right angles. They can be a little further apart: at "
            "-1 / (n - 1).": _limits(chance, others, 0, temperature),
            "The least has n - 1 negatives in yours. Each row has 2n - 2: two views of every "
            "other picture.": _limits(chance, n - 1, apart, temperature),
            "You forget the temperature in the least value.": _limits(chance, others, apart, 1.0),
            "The two are turned round: first chance, then the least.": right.flip(0),
        }
        raise Wrong(
            first_hint(got, hints)
            or f"For n = {n} at temperature {temperature} expected {_list(right)}; got {_list(got)}"
        )
    return "A loss above the first is worse than guessing; none lies below the second."


def _limits(chance: float, others: int, apart: float, temperature: float) -> Tensor:
    return torch.tensor([chance, math.log1p(others * math.exp((apart - 1) / temperature))])


def enqueue(answer: Callable) -> str:
    """05.4: ``enqueue(queue, keys)``: the oldest keys, which stand first, make room."""
    queue = torch.arange(12).float().view(6, 2)
    keys = 100 + torch.arange(4).float().view(2, 2)
    right = torch.cat([queue[2:], keys])
    got = tensor(ask(answer, queue, keys))
    _first(
        got,
        {
            "The queue has grown. As many keys leave as come in.": torch.cat([queue, keys]),
            "You throw the newest keys away. The oldest stand first: they leave.": torch.cat(
                [queue[:-2], keys]
            ),
            "The new keys stand in front, and the newest of the old ones are gone. The oldest "
            "stand first, the new ones come last.": torch.cat([keys, queue[:-2]]),
            "You put the new keys in the place of the oldest, as a ring with a pointer does. Here "
            "the order is the age: the oldest stand first.": torch.cat([keys, queue[2:]]),
            "The new keys are in reverse order: the first of the batch is the first to come in.": (
                torch.cat([queue[2:], keys.flip(0)])
            ),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"The queue keeps its size, {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(
            f"Expected the keys {_list(right[:, 0])} (first numbers); got {_list(got[:, 0])}"
        )
    more = torch.cat([keys + 10 * i for i in range(3)])
    if not same(tensor(ask(answer, queue, more)), more):
        raise Wrong("A batch as large as the queue replaces all of it.")
    return "First in, first out, and never longer than it was."


def moving_average(answer: Callable) -> str:
    """05.5: ``average(start, online, momentum)``: the momentum network after all steps."""
    start = torch.tensor([1.0, -2.0])
    online = torch.tensor([[2.0, 0.0], [4.0, 1.0], [-3.0, 5.0]])
    momentum = 0.9

    def after(values: Tensor, keep: float, add: float, begin: Tensor = start) -> Tensor:
        target = begin
        for value in values:
            target = keep * target + add * value
        return target

    right = after(online, momentum, 1 - momentum)
    got = tensor(ask(answer, start, online, momentum))
    _first(
        got,
        {
            "Momentum is the part that is kept, not the part that is taken over.": after(
                online, 1 - momentum, momentum
            ),
            "You go through the steps backwards: the latest counts most.": after(
                online.flip(0), momentum, 1 - momentum
            ),
            "You keep only what the last step did: every step starts from the target of the one "
            "before, not from the start.": after(online[-1:], momentum, 1 - momentum),
            "You begin at zero. The momentum network begins as a copy: at start.": after(
                online, momentum, 1 - momentum, torch.zeros(2)
            ),
            "That is the plain mean. Recent steps count more.": online.mean(dim=0),
            "That is the online network as it is now: momentum 0.": online[-1],
            "Those are the targets after every step. Asked is the last.": torch.stack(
                [after(online[: i + 1], momentum, 1 - momentum) for i in range(3)]
            ),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"Expected one vector, shape {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"After three steps expected {_list(right)}; got {_list(got)}.")
    for extreme, value in ((0.0, online[-1]), (1.0, start)):
        if not same(tensor(ask(answer, start, online, extreme)), value):
            raise Wrong(f"With momentum {extreme:g} expected {_list(value)}.")
    return "A step that lies k steps back weighs momentum to the power of k."


def vote(answer: Callable) -> str:
    """05.6: ``vote(bank, labels, queries, k)``: k neighbours by cosine, weighted."""
    random = torch.Generator().manual_seed(667)  # every mistake below changes the answer
    bank = torch.randn(12, 2, generator=random)
    bank = bank * torch.tensor([0.5, 1.0, 4.0])[torch.randint(3, (12, 1), generator=random)]
    labels, queries = torch.randint(3, (12,), generator=random), torch.randn(5, 2, generator=random)
    right = knn(bank, labels, queries, 3, 3, KNN_TEMPERATURE)
    got = tensor(ask(answer, bank, labels, queries, 3))
    unit, asked = F.normalize(bank, dim=1), F.normalize(queries, dim=1)

    def votes(similarity: Tensor, weighted: bool = True, k: int = 3) -> Tensor:
        near, index = similarity.topk(k, dim=1)
        weight = (near / KNN_TEMPERATURE).exp() if weighted else torch.ones_like(near)
        return (F.one_hot(labels[index], 3) * weight[:, :, None]).sum(dim=1)  # (5, classes)

    cosine = asked @ unit.T
    _first(
        got,
        {
            "You do not normalise: long features win votes. Compare directions.": votes(
                queries @ bank.T
            ).argmax(1),
            "Every neighbour has the same vote in yours. Weight it by exp(cosine / 0.1).": votes(
                cosine, weighted=False
            ).argmax(1),
            "Only the nearest decides. Let k of them vote.": votes(cosine, k=1).argmax(1),
            "All of the bank votes. Only the k nearest do.": votes(cosine, k=12).argmax(1),
            "Those are places in the bank. Asked are classes.": cosine.argmax(dim=1),
            "Those are the votes of each class. Asked is the class with most.": votes(cosine),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"Expected one class a query, shape (5,); got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"Expected the classes {right.tolist()}; got {got.long().tolist()}.")
    return "No weight was trained: what is right here was in the features."


def _first(got: Tensor | float, hints: Mapping[str, Any]) -> None:
    if hint := first_hint(got, hints):
        raise Wrong(hint)


def _list(values: Tensor) -> list[float]:
    return [round(v, 3) for v in values.tolist()]


EXERCISES: dict[str, Exercise] = {
    "05.1": two_view_loss,
    "05.2": negatives,
    "05.3": limits,
    "05.4": enqueue,
    "05.5": moving_average,
    "05.6": vote,
}

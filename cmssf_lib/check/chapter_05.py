"""The exercises of chapter 5, contrastive learning."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, ask, compare, normal, tensor
from cmssf_lib.evaluate import knn
from cmssf_lib.losses import image_text_loss, nt_xent

TEMPERATURE = 0.5
KNN_TEMPERATURE = 0.1


def two_view_loss(answer: Answer) -> str:
    """05.1: ``loss(a, b, temperature)`` is NT-Xent."""
    draw = normal(0)
    a = 3 * draw(4, 3)
    b = a + draw(4, 3)
    raw = torch.cat([a, b])
    z = F.normalize(raw, dim=1)
    partner = torch.arange(8).roll(4)
    neighbour = torch.arange(8).view(4, 2).flip(1).flatten()
    itself = torch.eye(8, dtype=torch.bool)

    def loss(similarity: Tensor, target: Tensor = partner, own: float = -torch.inf) -> Tensor:
        return F.cross_entropy(similarity.masked_fill(itself, own), target)

    similarity = z @ z.T / TEMPERATURE
    right, raw_loss = loss(similarity), loss(raw @ raw.T / TEMPERATURE)
    others = similarity.masked_fill(itself, -torch.inf)
    first_views = F.cross_entropy(others[:4], partner[:4])
    hints = {
        "You do not normalise: the loss compares directions, not lengths.": raw_loss,
        "You do not divide by the temperature.": loss(z @ z.T),
        "Each view competes with itself: put minus infinity on the diagonal before "
        "the softmax.": F.cross_entropy(similarity, partner),
        "You set the diagonal to 0, and the exponential of 0 is 1: it is a similarity like any "
        "other. Use minus infinity.": loss(similarity, own=0.0),
        "You compare only a with b. In this loss the other first views are negatives, too: each "
        "row sees 2n - 1 others.": image_text_loss(a, b, 1 / TEMPERATURE),
        "You ask the first views only. The second ones ask as well: 2n rows.": first_views,
        "That is the sum over the rows. Return their mean.": 8 * right,
        "The sign is turned round: a loss falls as partners come closer.": -right,
        "Your partners stand in the wrong place: row i belongs to row i + n, and back.": loss(
            similarity, neighbour
        ),
    }
    otherwise = "For four pairs in three dimensions expected {right:.4f}; got {got:.4f}."
    compare(ask(answer, a, b, TEMPERATURE), nt_xent(a, b, TEMPERATURE), otherwise, hints)
    compare(
        ask(answer, a, b, 0.005),
        nt_xent(a, b, 0.005),
        "Right at the temperature 0.5, wrong at 0.005: exp of a large number overflows. Use "
        "cross_entropy or logsumexp, which subtract the largest first.",
    )
    return "The loss of SimCLR, whatever the length of the embeddings."


def negatives(answer: Answer) -> str:
    """05.2: ``negatives(n)`` is true where two of the 2n views are negatives of each other."""
    for n in (3, 4):
        rows = torch.arange(2 * n)
        itself, partner = rows[:, None] == rows, (rows[:, None] - rows).abs() == n
        right = ~itself & ~partner
        hints = {
            "You count the partner among the negatives.": ~itself,
            "You count each view among its own negatives.": ~partner,
            "Turned round: True stands for a negative.": ~right,
            "You pair neighbours, rows 2i and 2i + 1. Here the second views stand below all first "
            "ones: the partner of row i is row i + n.": rows[:, None] // 2 != rows // 2,
            "That is n by n. There are 2n views, and all of them are compared.": ~itself[:n, :n],
        }
        got = tensor(ask(answer, n))
        row = int((got != right).any(dim=1).long().argmax()) if got.shape == right.shape else 0
        otherwise = f"For n = {n}, row {row} is {{right[{row}]}}; yours is {{got[{row}]}}."
        compare(got, right, otherwise, hints, what="a row and a column a view, shape")
    return "2n - 2 negatives a row: all but the view itself and its partner."


def limits(answer: Answer) -> str:
    """05.3: ``limits(n, temperature)`` gives the loss at chance and the least possible loss."""
    for n, temperature in ((4, 0.5), (256, 0.2)):
        others, apart = 2 * n - 2, -1 / (n - 1)
        chance = math.log(others + 1)

        def least(others: int, apart: float, temperature: float = temperature) -> float:
            return math.log1p(others * math.exp((apart - 1) / temperature))

        right = torch.tensor([chance, least(others, apart)])
        low = float(right[1])
        hints = {
            "You count a view among its own candidates: with all embeddings equal it guesses among "
            "2n - 1.": [math.log(2 * n), low],
            "That is the chance of image–text pairs, ln n. Here 2n - 1 views are candidates.": [
                math.log(n),
                low,
            ],
            "You count the negatives only, 2n - 2. The partner is a candidate as well.": [
                math.log(others),
                low,
            ],
            "Chance is right. The least is not 0: the softmax leaves something for the negatives, "
            "however far away they are.": [chance, 0.0],
            "You let all negatives stand opposite, at -1. So many cannot: the mean over n pictures "
            "is at least -1 / (n - 1).": [chance, least(others, -1)],
            "You put the negatives at right angles. They can be a little further apart: at -1 / (n "
            "- 1).": [chance, least(others, 0)],
            "The least has n - 1 negatives in yours. Each row has 2n - 2: two views of every other "
            "picture.": [chance, least(n - 1, apart)],
            "You forget the temperature in the least value.": [chance, least(others, apart, 1.0)],
            "The two are turned round: first chance, then the least.": right.flip(0),
        }
        compare(
            ask(answer, n, temperature),
            right,
            "For n = {n} at temperature {temperature} expected {right}; got {got}.",
            hints,
            what="two numbers, chance and least, shape",
            n=n,
            temperature=temperature,
        )
    return "A loss above the first is worse than guessing; none lies below the second."


def enqueue(answer: Answer) -> str:
    """05.4: ``enqueue(queue, keys)`` appends keys and removes the oldest, which come first."""
    queue = torch.arange(12).float().view(6, 2)
    keys = 100 + torch.arange(4).float().view(2, 2)
    newer, older = queue[2:], queue[:-2]
    newest_lost = torch.cat([older, keys])
    hints = {
        "The queue has grown. As many keys leave as come in.": torch.cat([queue, keys]),
        "You throw the newest keys away. The oldest stand first: they leave.": newest_lost,
        "The new keys stand in front, and the newest of the old ones are gone. The oldest stand "
        "first, the new ones come last.": torch.cat([keys, older]),
        "You put the new keys in the place of the oldest, as a ring with a pointer does. Here the "
        "order is the age: the oldest stand first.": torch.cat([keys, newer]),
        "The new keys are in reverse order: the first of the batch is the "
        "first to come in.": torch.cat([newer, keys.flip(0)]),
    }
    returned, right = ask(answer, queue, keys), torch.cat([newer, keys])
    otherwise = "Expected the keys {right}; got {got}."
    compare(returned, right, otherwise, hints, what="a queue that keeps its size,")
    more = torch.cat([keys + 10 * i for i in range(3)])
    compare(ask(answer, queue, more), more, "A batch as large as the queue replaces all of it.")
    return "First in, first out, and never longer than it was."


def moving_average(answer: Answer) -> str:
    """05.5: ``average(start, online, momentum)`` gives the momentum network after all steps."""
    start = torch.tensor([1.0, -2.0])
    online = torch.tensor([[2.0, 0.0], [4.0, 1.0], [-3.0, 5.0]])

    def after(values: Tensor, momentum: float = 0.9, start: Tensor = start) -> Tensor:
        for value in values:
            start = momentum * start + (1 - momentum) * value
        return start

    from_zero = after(online, start=torch.zeros(2))
    targets = torch.stack([after(online[:i]) for i in (1, 2, 3)])
    hints = {
        "Momentum is the part that is kept, not the part that is taken over.": after(online, 0.1),
        "You go through the steps backwards: the latest counts most.": after(online.flip(0)),
        "You keep only what the last step did: every step starts from the target of the one "
        "before, not from the start.": after(online[-1:]),
        "You begin at zero. The momentum network begins as a copy: at start.": from_zero,
        "That is the plain mean. Recent steps count more.": online.mean(dim=0),
        "That is the online network as it is now: momentum 0.": online[-1],
        "Those are the targets after every step. Return the last.": targets,
    }
    otherwise = "After three steps expected {right}; got {got}."
    compare(
        ask(answer, start, online, 0.9), after(online), otherwise, hints, what="one vector, shape"
    )
    for extreme, value in ((0.0, online[-1]), (1.0, start)):
        otherwise = "With momentum {extreme:g} expected {right}."
        compare(ask(answer, start, online, extreme), value, otherwise, extreme=extreme)
    return "A step that lies k steps back weighs momentum to the power of k."


def vote(answer: Answer) -> str:
    """05.6: ``vote(bank, labels, queries, k)`` is a weighted vote of the k nearest neighbours."""
    random = torch.Generator().manual_seed(667)  # with it, each mistake below changes the answer
    bank = torch.randn(12, 2, generator=random)
    bank = bank * torch.tensor([0.5, 1.0, 4.0])[torch.randint(3, (12, 1), generator=random)]
    labels, queries = torch.randint(3, (12,), generator=random), torch.randn(5, 2, generator=random)
    cosine = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T

    def votes(similarity: Tensor, k: int = 3, weighted: bool = True) -> Tensor:
        near, index = similarity.topk(k, dim=1)
        weight = (near / KNN_TEMPERATURE).exp() if weighted else torch.ones_like(near)
        return (F.one_hot(labels[index], 3) * weight[:, :, None]).sum(dim=1)  # (5, classes)

    long_wins, equal = votes(queries @ bank.T).argmax(1), votes(cosine, weighted=False).argmax(1)
    hints = {
        "You do not normalise: long features win votes. Compare directions.": long_wins,
        "Every neighbour has the same vote in yours. Weight it by exp(cosine / 0.1).": equal,
        "Only the nearest decides. Let k of them vote.": votes(cosine, k=1).argmax(1),
        "All of the bank votes. Only the k nearest do.": votes(cosine, k=12).argmax(1),
        "Those are places in the bank. Return classes.": cosine.argmax(1),
        "Those are the votes of each class. Return the class with the most.": votes(cosine),
    }
    right = knn(bank, labels, queries, 3, 3, KNN_TEMPERATURE)
    otherwise = "Expected the classes {right}; got {got}."
    compare(
        ask(answer, bank, labels, queries, 3),
        right,
        otherwise,
        hints,
        what="one class a query, shape",
    )
    return "No weight was trained: what is right here was in the features."


EXERCISES = (two_view_loss, negatives, limits, enqueue, moving_average, vote)

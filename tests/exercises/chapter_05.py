"""Chapter 5: solutions, and typical wrong answers with the hint that each must get."""

import math

import torch
from torch.nn import functional as F

# --- solutions, as short as one would write them ---


def two_view_loss(a, b, temperature):
    n = len(a)
    z = F.normalize(torch.cat([a, b]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def negatives(n):
    rows = torch.arange(2 * n)
    return rows[:, None] % n != rows % n


def limits(n, temperature):
    furthest = -1 / (n - 1)
    least = math.log(1 + (2 * n - 2) * math.exp((furthest - 1) / temperature))
    return math.log(2 * n - 1), least


def enqueue(queue, keys):
    return torch.cat([queue[len(keys) :], keys])


def moving_average(start, online, momentum):
    target = start
    for value in online:
        target = momentum * target + (1 - momentum) * value
    return target


def vote(bank, labels, queries, k):
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    near, index = similarity.topk(k, dim=1)
    weights = (near / 0.1).exp()  # (n, k)
    votes = F.one_hot(labels[index]) * weights[:, :, None]  # (n, k, classes)
    return votes.sum(dim=1).argmax(dim=1)


SOLUTIONS = {
    "05.1": two_view_loss,
    "05.2": negatives,
    "05.3": limits,
    "05.4": enqueue,
    "05.5": moving_average,
    "05.6": vote,
}


# --- what goes wrong, and what is said to it ---


def loss_with(units=True, divide=True, diagonal=float("-inf"), rows=None, partner=None):
    """The solution with other lengths, another scale, diagonal, rows or partners."""

    def wrong(a, b, temperature):
        n = len(a)
        z = torch.cat([a, b])
        z = F.normalize(z, dim=1) if units else z
        similarity = z @ z.T / (temperature if divide else 1)
        if diagonal is not None:
            similarity = similarity.fill_diagonal_(diagonal)
        target = torch.arange(2 * n).roll(n) if partner is None else partner(n)
        return F.cross_entropy(similarity[:rows], target[:rows])

    return wrong


def one_way(a, b, temperature):
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    return F.cross_entropy(s, torch.arange(len(a)))


def symmetric(a, b, temperature):
    return (one_way(a, b, temperature) + one_way(b, a, temperature)) / 2


def by_hand(a, b, temperature):
    """Right but for temperatures that are small."""
    n = len(a)
    z = F.normalize(torch.cat([a, b]), dim=1)
    powers = (z @ z.T / temperature).exp().fill_diagonal_(0)
    own = powers[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
    return -(own / powers.sum(dim=1)).log().mean()


def least(others, furthest, temperature):
    return math.log(1 + others * math.exp((furthest - 1) / temperature))


def average_with(turned=False, begin=None, order=None):
    def wrong(start, online, momentum):
        target = start if begin is None else begin(start)
        for value in online if order is None else order(online):
            kept = 1 - momentum if turned else momentum
            target = kept * target + (1 - kept) * value
        return target

    return wrong


def all_averages(start, online, momentum):
    return torch.stack([moving_average(start, online[: i + 1], momentum) for i in range(3)])


def vote_with(units=True, weighted=True, k=None, decide=None):
    def wrong(bank, labels, queries, count):
        if units:
            bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
        near, index = (queries @ bank.T).topk(k or count, dim=1)
        weights = (near / 0.1).exp() if weighted else torch.ones_like(near)
        votes = (F.one_hot(labels[index], 3) * weights[:, :, None]).sum(dim=1)
        return votes.argmax(dim=1) if decide is None else decide(votes, index)

    return wrong


def plus_one(answer):
    return lambda *a: answer(*a) + 1


WRONG = {
    "not normalised": ("05.1", loss_with(units=False), "do not normalise"),
    "no temperature": ("05.1", loss_with(divide=False), "do not divide by the temp"),
    "no mask": ("05.1", loss_with(diagonal=None), "competes with itself"),
    "zero on the diagonal": ("05.1", loss_with(diagonal=0), "exponential of 0 is 1"),
    "image and text": ("05.1", symmetric, "only a with b. In"),
    "half of the rows": ("05.1", loss_with(rows=4), "second ones ask as well"),
    "sum": ("05.1", lambda a, b, t: 8 * two_view_loss(a, b, t), "sum over the rows"),
    "sign": ("05.1", lambda *a: -two_view_loss(*a), "sign is turned round"),
    "neighbours": (
        "05.1",
        loss_with(partner=lambda n: torch.arange(2 * n).view(n, 2).flip(1).flatten()),
        "row i belongs to row i \\+ n",
    ),
    "overflow": ("05.1", by_hand, "overflows"),
    "something": ("05.1", plus_one(two_view_loss), "four pairs in three dimensions"),
    "with partners": ("05.2", lambda n: ~torch.eye(2 * n, dtype=torch.bool), "count the partner"),
    "with itself": (
        "05.2",
        lambda n: negatives(n) | torch.eye(2 * n, dtype=torch.bool),
        "its own negatives",
    ),
    "turned round": ("05.2", lambda n: ~negatives(n), "Turned round"),
    "interleaved": (
        "05.2",
        lambda n: torch.arange(2 * n)[:, None] // 2 != torch.arange(2 * n) // 2,
        "pair neighbours",
    ),
    "n by n": ("05.2", lambda n: ~torch.eye(n, dtype=torch.bool), "n by n"),
    "one row": ("05.2", lambda n: negatives(n)[0], "a row and a column"),
    "always three": (
        "05.2",
        lambda n: negatives(n) if n == 3 else negatives(n) & (torch.arange(2 * n) > 0),
        "For n = 4, row 1",
    ),
    "chance of 2n": (
        "05.3",
        lambda n, t: (math.log(2 * n), limits(n, t)[1]),
        "own candidates",
    ),
    "chance of pairs": ("05.3", lambda n, t: (math.log(n), limits(n, t)[1]), "image–text"),
    "chance of negatives": (
        "05.3",
        lambda n, t: (math.log(2 * n - 2), limits(n, t)[1]),
        "candidate as well",
    ),
    "least is zero": ("05.3", lambda n, t: (limits(n, t)[0], 0.0), "not 0"),
    "all opposite": (
        "05.3",
        lambda n, t: (limits(n, t)[0], least(2 * n - 2, -1, t)),
        "stand opposite",
    ),
    "right angles": (
        "05.3",
        lambda n, t: (limits(n, t)[0], least(2 * n - 2, 0, t)),
        "right angles",
    ),
    "half the negatives": (
        "05.3",
        lambda n, t: (limits(n, t)[0], least(n - 1, -1 / (n - 1), t)),
        "two views of every",
    ),
    "no temperature in the least": (
        "05.3",
        lambda n, t: (limits(n, t)[0], limits(n, 1)[1]),
        "forget the temperature",
    ),
    "limits turned round": ("05.3", lambda n, t: limits(n, t)[::-1], "first chance"),
    "one limit": ("05.3", lambda n, t: limits(n, t)[0], "two numbers"),
    "other limits": ("05.3", lambda n, t: (1.0, 2.0), "For n = 4"),
    "grown": ("05.4", lambda q, k: torch.cat([q, k]), "grown. As many"),
    "newest leave": ("05.4", lambda q, k: torch.cat([q[: -len(k)], k]), "newest keys away"),
    "in front": ("05.4", lambda q, k: torch.cat([k, q[: -len(k)]]), "stand in front"),
    "a ring": ("05.4", lambda q, k: torch.cat([k, q[len(k) :]]), "ring with a pointer"),
    "keys reversed": (
        "05.4",
        lambda q, k: torch.cat([q[len(k) :], k.flip(0)]),
        "reverse order",
    ),
    "too short": ("05.4", lambda q, k: enqueue(q, k)[1:], "keeps its size"),
    "something queued": ("05.4", plus_one(enqueue), "Expected the keys"),
    "always two": ("05.4", lambda q, k: torch.cat([q[2:], k])[:6], "replaces all of it"),
    "in place": ("05.4", lambda q, k: q.copy_(enqueue(q, k)), "changes the tensor"),
    "momentum turned round": (
        "05.5",
        average_with(turned=True),
        "part that is kept",
    ),
    "backwards": ("05.5", average_with(order=lambda v: v.flip(0)), "backwards"),
    "last step": ("05.5", average_with(order=lambda v: v[-1:]), "from the start"),
    "from zero": ("05.5", average_with(begin=torch.zeros_like), "begins as a copy"),
    "plain mean": ("05.5", lambda s, v, m: v.mean(dim=0), "plain mean"),
    "online": ("05.5", lambda s, v, m: v[-1], "as it is now"),
    "every step": ("05.5", all_averages, "after every step"),
    "one number": ("05.5", lambda *a: moving_average(*a).mean(), "one vector"),
    "something averaged": ("05.5", plus_one(moving_average), "After three steps"),
    "momentum of its own": (
        "05.5",
        lambda s, v, m: moving_average(s, v, 0.9),
        "With momentum 0",
    ),
    "long features": ("05.6", vote_with(units=False), "do not normalise"),
    "equal votes": ("05.6", vote_with(weighted=False), "same vote"),
    "the nearest": ("05.6", vote_with(k=1), "Only the nearest"),
    "all vote": ("05.6", vote_with(k=12), "All of the bank"),
    "places": ("05.6", vote_with(decide=lambda v, i: i[:, 0]), "places in the bank"),
    "the votes": ("05.6", vote_with(decide=lambda v, i: v), "votes of each class"),
    "one class": ("05.6", lambda *a: vote(*a)[:1], "one class a query"),
    "some classes": ("05.6", lambda *a: 2 - vote(*a), "Expected the classes"),
}

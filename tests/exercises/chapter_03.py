"""Chapter 3: solutions, and typical wrong answers with the hint that each must get."""

import math

import torch

# --- solutions, as short as one would write them ---


def attention(query, key, value, real):
    scores = query @ key.T / query.shape[1] ** 0.5  # (n, k)
    return scores.masked_fill(~real, float("-inf")).softmax(dim=1) @ value


def heads(x, count):
    return x.unflatten(2, (count, -1)).transpose(1, 2)


def posteriors(joint):
    table = joint.double() / joint.sum()
    alone = [table.sum(dim=1), table.sum(dim=0)]
    return table, [(one / one.sum(dim=1, keepdim=True)).round(decimals=9) for one in alone]


def ceiling(joint):
    table, (of_a, of_b) = posteriors(joint)
    groups = {}
    for a in range(len(of_a)):
        for b in range(len(of_b)):
            seen = (*of_a[a].tolist(), *of_b[b].tolist())
            groups[seen] = groups.get(seen, 0) + table[a, b]
    return sum(counts.max().item() for counts in groups.values())


def entropy(weights):
    return torch.special.entr(weights).sum(dim=-1) / math.log(2)


def parameters(width, shared):
    look = 4 * (width * width + width) + 2 * width
    think = 8 * width * width + 5 * width + 2 * width
    return (3 if shared else 4) * look + 2 * think


def pixel_maps(weights, rows, columns):
    maps = weights.mean(dim=0).view(-1, rows, columns)
    return maps.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


SOLUTIONS = {
    "03.1": attention,
    "03.2": heads,
    "03.3": ceiling,
    "03.4": entropy,
    "03.5": parameters,
    "03.6": pixel_maps,
}


# --- what goes wrong, and what is said to it ---


def attention_with(scale=0.5, hide=None, share=None):
    """The solution with another scale, another way to hide, or another softmax."""

    def wrong(query, key, value, real):
        scores = query @ key.T / query.shape[1] ** scale
        scores = hide(scores, real) if hide else scores.masked_fill(~real, float("-inf"))
        return (share(scores, real) if share else scores.softmax(dim=1)) @ value

    return wrong


def by_hand(query, key, value, real):
    """Right but for scores that are large."""
    powers = (query @ key.T / query.shape[1] ** 0.5).exp() * real
    return powers / powers.sum(dim=1, keepdim=True) @ value


def weights_only(query, key, value, real):
    return attention(query, key, torch.eye(len(key)), real)


def by_rule(rule):
    def wrong(joint):
        table, (of_a, of_b) = posteriors(joint)
        choice = rule(of_a[:, None], of_b[None]).argmax(dim=2, keepdim=True)
        return table.gather(2, choice).sum()

    return wrong


def better_alone(joint):
    table = joint / joint.sum()
    return max(table.sum(dim=axis).amax(dim=1).sum() for axis in (0, 1))


def blown_up(maps):
    return maps.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def look(width):
    return 4 * width * width + 6 * width


WRONG = {
    "no mask": ("03.1", attention_with(hide=lambda s, r: s), "do not look at the mask"),
    "no scale": ("03.1", attention_with(scale=0), "do not scale"),
    "divided by d": ("03.1", attention_with(scale=1), "Divide by its root"),
    "hidden is zero": ("03.1", attention_with(hide=lambda s, r: s * r), "exponential of 0 is 1"),
    "hidden afterwards": (
        "03.1",
        attention_with(hide=lambda s, r: s, share=lambda s, r: s.softmax(dim=1) * r),
        "do not sum to 1",
    ),
    "mask turned round": (
        "03.1",
        attention_with(hide=lambda s, r: s.masked_fill(r, float("-inf"))),
        "turned round",
    ),
    "weights": ("03.1", weights_only, "weights times values"),
    "over the queries": (
        "03.1",
        attention_with(share=lambda s, r: s.softmax(dim=0)),
        "runs over the keys",
    ),
    "overflow": ("03.1", by_hand, "subtracts the largest"),
    "all together": ("03.1", lambda *a: attention(*a).sum(dim=0), "one gathered value a query"),
    "view": (
        "03.2",
        lambda x, c: x.reshape(len(x), c, x.shape[1], -1),
        "tokens are mixed",
    ),
    "not swapped": ("03.2", lambda x, c: x.unflatten(2, (c, -1)), "swap axes 1 and 2"),
    "every fourth": (
        "03.2",
        lambda x, c: x.unflatten(2, (-1, c)).permute(0, 3, 1, 2),
        "neighbouring numbers",
    ),
    "transposed": ("03.2", lambda x, c: heads(x, c).transpose(2, 3), "last axis"),
    "heads of that size": (
        "03.2",
        lambda x, c: x.unflatten(2, (-1, c)).transpose(1, 2),
        "Asked are count heads",
    ),
    "always four": ("03.2", lambda x, c: heads(x, 4), "With one head"),
    "one answer for all": (
        "03.3",
        lambda j: j.sum(dim=(0, 1)).max() / j.sum() if len(j) > 2 else ceiling(j),
        "always the same answer",
    ),
    "sees the pair": (
        "03.3",
        lambda j: j.amax(dim=2).sum() / j.sum(),
        "only the two posteriors",
    ),
    "better alone": ("03.3", better_alone, "better of the two"),
    "a count": ("03.3", lambda j: ceiling(j) * j.sum(), "Divide by the sum"),
    "one number": (
        "03.3",
        lambda j: 0.7 if j.shape == (6, 2, 4) else ceiling(j),
        "table of pairs",
    ),
    "mean of posteriors": ("03.3", by_rule(torch.add), "or their mean"),
    "product": ("03.3", by_rule(torch.mul), "multiplying the two"),
    "nats": ("03.4", lambda w: entropy(w) * math.log(2), "log2 for bits"),
    "nan": ("03.4", lambda w: -(w * w.log2()).sum(dim=-1), "0 in the limit"),
    "sign": ("03.4", lambda w: -entropy(w), "sign is turned round"),
    "mean of rows": ("03.4", lambda w: entropy(w).mean(), "entropy of its own"),
    "sum of rows": ("03.4", lambda w: entropy(w).sum(), "You add up all rows"),
    "mean over keys": ("03.4", lambda w: entropy(w) / w.shape[-1], "Add up"),
    "over the queries, entropy": (
        "03.4",
        lambda w: torch.special.entr(w).sum(dim=1) / math.log(2),
        "Sum over the last axis",
    ),
    "no biases": (
        "03.5",
        lambda w, s: parameters(w, s) - 4 * w * (3 if s else 4) - 10 * w,
        "forget the biases",
    ),
    "no norms": ("03.5", lambda w, s: parameters(w, s) - 2 * w * (5 if s else 6), "the norms"),
    "neither": (
        "03.5",
        lambda w, s: parameters(w, s) - (6 * w * (3 if s else 4) + 14 * w),
        "biases and norms",
    ),
    "no feed-forward": (
        "03.5",
        lambda w, s: (3 if s else 4) * look(w) + 4 * w,
        "feed-forward parts",
    ),
    "turned round": ("03.5", lambda w, s: parameters(w, not s), "turned round"),
    "one stream": ("03.5", lambda w, s: parameters(w, s) / 2, "one of the two streams"),
    "half when shared": (
        "03.5",
        lambda w, s: parameters(w, False) / (2 if s else 1),
        "does not halve",
    ),
    "all looks shared": (
        "03.5",
        lambda w, s: parameters(w, s) - (look(w) if s else 0),
        "not shared",
    ),
    "small": ("03.6", lambda w, r, c: w.mean(dim=0).view(-1, r, c), "not enlarged"),
    "tiled": (
        "03.6",
        lambda w, r, c: w.mean(dim=0).view(-1, r, c).repeat(1, 4, 4),
        "repeat_interleave",
    ),
    "columns first": (
        "03.6",
        lambda w, r, c: pixel_maps(w, c, r),
        "turned round",
    ),
    "sum of heads": ("03.6", lambda w, r, c: pixel_maps(w, r, c) * len(w), "Asked is their mean"),
    "one head": ("03.6", lambda w, r, c: blown_up(w[0].view(-1, r, c)), "one head only"),
    "mean over words": (
        "03.6",
        lambda w, r, c: blown_up(w.mean(dim=1).view(-1, r, c)),
        "map of its own",
    ),
}

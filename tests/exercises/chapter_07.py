"""Chapter 7: solutions, and typical wrong answers with the hint that each must get."""

import math
from collections import Counter

import torch
from torch.nn import functional as F

# --- solutions, as short as one would write them ---


def loss(image, text, logit_scale):
    logits = logit_scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def floor(captions):
    copies = Counter(captions)
    return sum(math.log(copies[caption]) for caption in captions) / len(captions)


def expectation(batch, classes):
    others, p = batch - 1, 1 / classes
    chances = [math.comb(others, k) * p**k * (1 - p) ** (others - k) for k in range(batch)]
    return sum(chance * math.log(1 + k) for k, chance in enumerate(chances))


def masked(logits, groups):
    own = torch.arange(len(logits))
    false_negative = (groups[:, None] == groups) & (own[:, None] != own)
    return F.cross_entropy(logits.masked_fill(false_negative, float("-inf")), own)


def class_logits(image, prototypes, counts, logit_scale):
    cosines = F.normalize(image, dim=1) @ F.normalize(prototypes, dim=1).T
    return logit_scale * cosines + counts.log()


def ensemble(prompts):
    return F.normalize(F.normalize(prompts, dim=2).mean(dim=1), dim=1)


SOLUTIONS = {
    "07.1": loss,
    "07.2": floor,
    "07.3": expectation,
    "07.4": masked,
    "07.5": class_logits,
    "07.6": ensemble,
}


# --- what goes wrong, and what is said to it ---


def halves(image, text, logit_scale, units=True, scaled=lambda s: s):
    """The two halves, with other lengths or another scale."""
    if units:
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = scaled(logit_scale) * image @ text.T
    own = torch.arange(len(logits))
    return torch.stack([F.cross_entropy(logits, own), F.cross_entropy(logits.T, own)])


def loss_with(**changed):
    return lambda *a: halves(*a, **changed).mean()


def two_views(image, text, logit_scale):
    z = F.normalize(torch.cat([image, text]), dim=1)
    n = len(image)
    logits = (logit_scale * z @ z.T).fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def by_hand(image, text, logit_scale):
    """Right but for scales that are large."""
    powers = (logit_scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T).exp()
    own = powers.diagonal()
    return -((own / powers.sum(dim=1)).log() + (own / powers.sum(dim=0)).log()).mean() / 2


def sizes(captions):
    return Counter(captions).values()


def mean_log(certain, drawn, classes):
    p, total = 1 / classes, 0.0
    for k in range(drawn + 1):
        chance = math.comb(drawn, k) * p**k * (1 - p) ** (drawn - k)
        total += chance * math.log(max(1, certain + k))
    return total


def masked_with(choose, value=float("-inf"), turned=False):
    """The solution with other entries masked, another value, or down the columns."""

    def wrong(logits, groups):
        own = torch.arange(len(logits))
        itself, fits = own[:, None] == own, groups[:, None] == groups
        left = logits.masked_fill(choose(itself, fits), value)
        return F.cross_entropy(left.T if turned else left, own)

    return wrong


def after_softmax(logits, groups):
    own = torch.arange(len(logits))
    false_negative = (groups[:, None] == groups) & (own[:, None] != own)
    return -logits.softmax(dim=1).masked_fill(false_negative, 0).diagonal().log().mean()


def multi_positive(logits, groups):
    fits = (groups[:, None] == groups).float()
    return -(logits.log_softmax(dim=1) * fits / fits.sum(1, keepdim=True)).sum(1).mean()


def summed_group(logits, groups):
    return -(logits.softmax(dim=1) * (groups[:, None] == groups)).sum(1).log().mean()


def only_these_groups(logits, groups):
    """Right for the first example, wrong where all rows share a caption."""
    return masked(logits, groups) + (groups.unique().numel() == 1)


def logits_with(prior=torch.log, units=True, scaled=lambda s, cosines, prior: s * cosines + prior):
    def wrong(image, prototypes, counts, logit_scale):
        if units:
            image, prototypes = F.normalize(image, dim=1), F.normalize(prototypes, dim=1)
        return scaled(logit_scale, image @ prototypes.T, prior(counts))

    return wrong


def ensemble_with(units=True, mean=lambda x: x.mean(dim=1), after=True):
    def wrong(prompts):
        out = mean(F.normalize(prompts, dim=2) if units else prompts)
        return F.normalize(out, dim=-1) if after else out

    return wrong


WRONG = {
    "not normalised": ("07.1", loss_with(units=False), "do not normalise"),
    "no scale": ("07.1", loss_with(scaled=lambda s: 1.0), "do not use the logit scale"),
    "divided": ("07.1", loss_with(scaled=lambda s: 1 / s), "You divide by"),
    "exponentiated again": ("07.1", loss_with(scaled=math.exp), "for its logarithm"),
    "images only": ("07.1", lambda *a: halves(*a)[0], "texts do not ask"),
    "texts only": ("07.1", lambda *a: halves(*a)[1], "images do not ask"),
    "sum of the halves": ("07.1", lambda *a: halves(*a).sum(), "sum of the two halves"),
    "sum of the rows": ("07.1", lambda *a: 5 * loss(*a), "add up over the rows"),
    "sign": ("07.1", lambda *a: -loss(*a), "sign is turned round"),
    "two views": ("07.1", two_views, "SimCLR's loss"),
    "overflow": ("07.1", by_hand, "overflows"),
    "something": ("07.1", lambda *a: loss(*a) + 1, "For five pairs"),
    "over captions": (
        "07.2",
        lambda c: sum(map(math.log, sizes(c))) / len(sizes(c)),
        "average over the different captions",
    ),
    "summed floor": ("07.2", lambda c: floor(c) * len(c), "add up over the rows"),
    "log of the mean": (
        "07.2",
        lambda c: math.log(sum(n * n for n in sizes(c)) / len(c)),
        "mean number of copies",
    ),
    "equally often": ("07.2", lambda c: math.log(len(c) / len(set(c))), "equally often"),
    "bits": ("07.2", lambda c: floor(c) / math.log(2), "base 2"),
    "other copies": (
        "07.2",
        lambda c: sum(math.log(max(1, c.count(x) - 1)) for x in c) / len(c),
        "other copies only",
    ),
    "ln 0": ("07.2", lambda c: sum(math.log(c.count(x) - 1) for x in c) / len(c), "Is it ln 0"),
    "room": ("07.2", lambda c: math.log(len(c)) - floor(c), "room above the floor"),
    "guessing": ("07.2", lambda c: math.log(len(c)), "what guessing costs"),
    "something lower": ("07.2", lambda c: floor(c) - 1, "For \\['cat'"),
    "always this batch": ("07.2", lambda c: floor(["a", "b", "a", "c", "a", "b", "d"]), "'dog'"),
    "balanced": ("07.3", lambda b, c: math.log(b / c), "perfectly balanced"),
    "log outside": ("07.3", lambda b, c: math.log(1 + (b - 1) / c), "logarithm of the expected"),
    "all drawn": ("07.3", lambda b, c: mean_log(0, b, c), "You draw all rows"),
    "without itself": ("07.3", lambda b, c: mean_log(0, b - 1, c), "forget the asking row"),
    "one too many": ("07.3", lambda b, c: mean_log(1, b, c), "draw batch others"),
    "expectation in bits": ("07.3", lambda b, c: expectation(b, c) / math.log(2), "base 2"),
    "guessing expected": ("07.3", lambda b, c: math.log(b), "what guessing costs"),
    "room expected": ("07.3", lambda b, c: math.log(b) - expectation(b, c), "room between"),
    "right for two classes": (
        "07.3",
        lambda b, c: expectation(b, c) + (c == 10),
        "batches of 64 with 10",
    ),
    "nothing masked": ("07.4", masked_with(lambda i, f: i & ~i), "Either nothing is masked"),
    "zeros": ("07.4", masked_with(lambda i, f: f & ~i, 0.0), "exponential of 0 is 1"),
    "the partner, too": ("07.4", masked_with(lambda i, f: f, -1e9), "expected"),
    "nothing left": ("07.4", masked_with(lambda i, f: f), "own text as well"),
    "the other way": ("07.4", masked_with(lambda i, f: ~f), "keep the false ones"),
    "afterwards": ("07.4", after_softmax, "spent already"),
    "partners": ("07.4", multi_positive, "multi-positive"),
    "added up": ("07.4", summed_group, "group's probability up"),
    "sum of the masked": ("07.4", lambda x, g: len(x) * masked(x, g), "add up over the rows"),
    "columns": ("07.4", masked_with(lambda i, f: f & ~i, turned=True), "down the columns"),
    "masked sign": ("07.4", lambda x, g: -masked(x, g), "sign is turned round"),
    "one caption for all": ("07.4", only_these_groups, "all rows share one caption"),
    "something masked": ("07.4", lambda x, g: masked(x, g) + 1, "For six rows"),
    "no prior": ("07.5", logits_with(torch.zeros_like), "prior is missing"),
    "counts": ("07.5", logits_with(lambda n: n), "add the counts"),
    "prior subtracted": ("07.5", logits_with(lambda n: -n.log()), "subtract the prior"),
    "prior scaled": (
        "07.5",
        logits_with(scaled=lambda s, c, p: s * (c + p)),
        "scale the prior, too",
    ),
    "counts multiplied": (
        "07.5",
        logits_with(lambda n: n, scaled=lambda s, c, n: s * c * n),
        "multiply the logits",
    ),
    "long vectors": ("07.5", logits_with(units=False), "do not normalise"),
    "cosines alone": ("07.5", logits_with(scaled=lambda s, c, p: c + p), "do not use the logit"),
    "probabilities": ("07.5", lambda *a: class_logits(*a).softmax(dim=1), "before the softmax"),
    "a column a picture": ("07.5", lambda *a: class_logits(*a).T, "a column a class"),
    "something classified": ("07.5", lambda *a: class_logits(*a) ** 2, "For the first picture"),
    "short mean": ("07.6", ensemble_with(after=False), "shorter than one"),
    "long prompts": ("07.6", ensemble_with(units=False), "Long embeddings"),
    "no length at all": ("07.6", ensemble_with(units=False, after=False), "neither"),
    "sum of prompts": (
        "07.6",
        ensemble_with(mean=lambda x: x.sum(dim=1), after=False),
        "add the prompts up",
    ),
    "first prompt": ("07.6", ensemble_with(mean=lambda x: x[:, 0]), "first prompt"),
    "over classes": ("07.6", ensemble_with(mean=lambda x: x.mean(dim=0)), "average over the class"),
    "over everything": (
        "07.6",
        ensemble_with(mean=lambda x: x.mean(dim=(0, 1))),
        "each class has its own",
    ),
    "one class": ("07.6", lambda p: ensemble(p)[:1], "one row a class"),
    "something together": ("07.6", lambda p: -ensemble(p), "For the first class"),
}

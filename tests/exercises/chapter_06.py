"""Chapter 6: solutions, and typical wrong answers with the hint that each must get."""

import math

import torch
from torch.nn import functional as F

# --- solutions, as short as one would write them ---


def byol(prediction, target):
    return (2 - 2 * F.cosine_similarity(prediction, target, dim=1)).mean()


def momentum(online, target, kept):
    return kept * target + (1 - kept) * online


def centre(old, teacher, kept):
    return kept * old + (1 - kept) * torch.cat(teacher).mean(dim=0)


def dino(student, teacher, middle, student_temperature, teacher_temperature):
    terms = []
    for t, said in enumerate(teacher):
        target = ((said - middle) / teacher_temperature).softmax(dim=1)
        for s, view in enumerate(student):
            if s != t:
                log_p = (view / student_temperature).log_softmax(dim=1)
                terms.append(-(target * log_p).sum(dim=1).mean())
    return torch.stack(terms).mean()


def which(p):
    most = math.log(p.shape[1])
    if torch.special.entr(p).sum(dim=1).mean() > 0.98 * most:
        return "uniform"
    if torch.special.entr(p.mean(dim=0)).sum() < 0.02 * most:
        return "one prototype"
    return "healthy"


def effective_rank(z):
    values = torch.linalg.svdvals(z)
    return torch.special.entr(values / values.sum()).sum().exp()


SOLUTIONS = {
    "06.1": byol,
    "06.2": momentum,
    "06.3": centre,
    "06.4": dino,
    "06.5": which,
    "06.6": effective_rank,
}


# --- what goes wrong, and what is said to it ---


def dino_with(skip=True, log=torch.log_softmax, total=torch.mean, **changed):
    """The solution with pairs, centre, temperatures or sums taken otherwise."""

    def wrong(student, teacher, middle, ts, tt):
        ts, tt = changed.get("temperatures", lambda a, b: (a, b))(ts, tt)
        of_teacher = changed.get("teacher", lambda x, c, t: (x - c) / t)
        of_student = changed.get("student", lambda x, c: x)
        terms = [
            -(of_teacher(t, middle, tt).softmax(1) * log(of_student(s, middle) / ts, 1)).sum(1)
            for i, t in enumerate(teacher)
            for j, s in enumerate(student)
            if i != j or not skip
        ]
        return total(torch.stack([term.mean() for term in terms]))

    return wrong


def other_way_round(student, teacher, middle, ts, tt):
    terms = [
        -((s / ts).softmax(1) * ((t - middle) / tt).log_softmax(1)).sum(1).mean()
        for i, t in enumerate(teacher)
        for j, s in enumerate(student)
        if i != j
    ]
    return sum(terms) / len(terms)


def by_one(entropy, bound):
    return "uniform" if entropy > bound else "one prototype" if entropy < 0.02 else "healthy"


def by_each_picture(bound):
    """Only each picture's entropy: takes a sure teacher for a collapsed one."""
    return lambda p: by_one(torch.special.entr(p).sum(dim=1).mean() / math.log(p.shape[1]), bound)


def by_the_mean(bound):
    """Only the entropy of the mean row: takes a balanced teacher for a uniform one."""
    return lambda p: by_one(torch.special.entr(p.mean(dim=0)).sum() / math.log(p.shape[1]), bound)


def fixed_bound(p):
    if torch.special.entr(p).sum(dim=1).mean() > 0.98 * math.log(8) and p.shape[1] == 8:
        return "uniform"
    return "one prototype" if torch.special.entr(p.mean(dim=0)).sum() < 0.05 else "healthy"


def nan_entropy(p):
    h = -(p * p.log()).sum(dim=1).mean()
    m = -(p.mean(dim=0) * p.mean(dim=0).log()).sum()
    most = math.log(p.shape[1])
    return "uniform" if h > 0.98 * most else "one prototype" if m < 0.02 * most else "healthy"


EXCHANGED = {"uniform": "one prototype", "one prototype": "uniform", "healthy": "healthy"}


def share_entropy(z, power=1.0, log=torch.log):
    values = torch.linalg.svdvals(z) ** power
    share = values / values.sum()
    return -(share * log(share)).sum()


WRONG = {
    "no length one": ("06.1", lambda p, z: (2 - 2 * (p * z).sum(1)).mean(), "lengths must not"),
    "distance as it is": ("06.1", lambda p, z: (p - z).pow(2).sum(1).mean(), "as they are"),
    "half": ("06.1", lambda p, z: (1 - F.cosine_similarity(p, z)).mean(), "half of what"),
    "minus cosine": ("06.1", lambda p, z: -F.cosine_similarity(p, z).mean(), "asked is 2 - 2 cos"),
    "summed": ("06.1", lambda p, z: byol(p, z) * len(p), "Asked is the mean"),
    "one a picture": ("06.1", lambda p, z: 2 - 2 * F.cosine_similarity(p, z), "one a picture"),
    "mean squared error": (
        "06.1",
        lambda p, z: F.mse_loss(F.normalize(p, dim=1), F.normalize(z, dim=1)),
        "over the dimensions too",
    ),
    "columns": (
        "06.1",
        lambda p, z: 2 - 2 * (F.normalize(p, dim=0) * F.normalize(z, dim=0)).sum(1).mean(),
        "a row, gets length",
    ),
    "weights exchanged": ("06.2", lambda o, t, m: (1 - m) * t + m * o, "exchanged"),
    "added": ("06.2", lambda o, t, m: t + (1 - m) * o, "must sum to one"),
    "away": ("06.2", lambda o, t, m: t - (1 - m) * (o - t), "mind the sign"),
    "stands still": ("06.2", lambda o, t, m: t.clone(), "has not moved"),
    "a copy": ("06.2", lambda o, t, m: o.clone(), "a tenth of the way"),
    "in place": ("06.2", lambda o, t, m: t.lerp_(o, 1 - m), "changes the tensor"),
    "centre exchanged": ("06.3", lambda c, t, m: centre(c, t, 1 - m), "exchanged"),
    "this batch": ("06.3", lambda c, t, m: torch.cat(t).mean(0), "keeps its part"),
    "first view": ("06.3", lambda c, t, m: m * c + (1 - m) * t[0].mean(0), "first view only"),
    "softmax": (
        "06.3",
        lambda c, t, m: m * c + (1 - m) * torch.cat(t).softmax(1).mean(0),
        "average the softmax",
    ),
    "all added": ("06.3", lambda c, t, m: m * c + (1 - m) * torch.cat(t).sum(0), "everything up"),
    "one for all": ("06.3", lambda c, t, m: m * c + (1 - m) * torch.cat(t).mean(), "of its own"),
    "rows": ("06.3", lambda c, t, m: torch.cat(t).mean(1), r"shape \(4,\)"),
    "same view": ("06.4", dino_with(skip=False), "with itself too"),
    "no centre": ("06.4", dino_with(teacher=lambda x, c, t: x / t), "do not subtract"),
    "centred student": ("06.4", dino_with(student=lambda x, c: x - c), "the teacher's only"),
    "temperatures": ("06.4", dino_with(temperatures=lambda a, b: (b, a)), "exchanged"),
    "not sharpened": ("06.4", dino_with(temperatures=lambda a, b: (a, a)), "the smaller one"),
    "divided first": ("06.4", dino_with(teacher=lambda x, c, t: x / t - c), "after the division"),
    "pairs summed": ("06.4", dino_with(total=torch.sum), "add up over the pairs"),
    "all pairs": ("06.4", dino_with(total=lambda x: x.sum() / 6), "the skipped ones as well"),
    "mean over prototypes": ("06.4", lambda *a: dino(*a) / 4, "over the prototypes as well"),
    "sign": ("06.4", lambda *a: -dino(*a), "sign is turned round"),
    "other way round": ("06.4", other_way_round, "of what the student says"),
    "overflow": ("06.4", dino_with(log=lambda x, dim: x.softmax(dim).log()), "Use log_softmax"),
    **{
        f"sure of each, bound {bound}": ("06.5", by_each_picture(bound), "sure of different things")
        for bound in (0.8, 0.98, 0.999)
    },
    **{
        f"balanced, bound {bound}": ("06.5", by_the_mean(bound), "prototype of its own")
        for bound in (0.8, 0.98, 0.999)
    },
    "names exchanged": ("06.5", lambda p: EXCHANGED[which(p)], "names are exchanged"),
    "one failure": (
        "06.5",
        lambda p: "healthy" if which(p) == "healthy" else "uniform",
        "two different failures",
    ),
    "always healthy": ("06.5", lambda p: "healthy", "two different failures"),
    "another word": ("06.5", lambda p: "collapsed", "Expected one of 'uniform'"),
    "nan": ("06.5", nan_entropy, "0 where a probability is 0"),
    "bound of eight": ("06.5", fixed_bound, "the bound depends on K"),
    "entropy alone": ("06.6", share_entropy, "a number of directions"),
    "bits": ("06.6", lambda z: share_entropy(z, log=torch.log2), "in bits"),
    "two bases": ("06.6", lambda z: share_entropy(z, log=torch.log2).exp(), "base e"),
    "eigenvalues": ("06.6", lambda z: share_entropy(z, power=2).exp(), "square the singular"),
    "ordinary": ("06.6", torch.linalg.matrix_rank, "ordinary rank"),
    "not shares": (
        "06.6",
        lambda z: torch.special.entr(torch.linalg.svdvals(z)).sum().exp(),
        "must sum to one",
    ),
    "nan on a line": (
        "06.6",
        lambda z: (
            share_entropy(z + 0 * z).exp()
            if torch.linalg.matrix_rank(z) > 1
            else torch.tensor(torch.nan)
        ),
        "no number",
    ),
}

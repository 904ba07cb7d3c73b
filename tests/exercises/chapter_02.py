"""Chapter 2: solutions, and typical wrong answers with the hint that each must get."""

import torch

# --- solutions, as short as one would write them ---


def mean(answers, present):
    kept = answers.masked_fill(~present[:, :, None], 0.0)
    return kept.sum(dim=1) / present.sum(dim=1, keepdim=True)


def gate(scores, present):
    return scores.masked_fill(~present, float("-inf")).softmax(dim=1)


def product(projected, present):
    return (1 + projected).masked_fill(~present[:, :, None], 1.0).prod(dim=1)


def hidden(present, probability, generator):
    draw = torch.rand(present.shape, generator=generator).masked_fill(~present, -1.0)
    kept = draw >= probability
    return kept.scatter(1, draw.argmax(dim=1, keepdim=True), True)


def clue_ceiling(clues):
    classes = {name for names in clues.values() for name in names}
    said = {c: sum(c in names for names in clues.values()) for c in classes}
    return sum(max(1 / said[c] for c in names) for names in clues.values()) / len(classes)


def output_ceiling(joint):
    of_a, of_b = (p / p.sum(dim=1, keepdim=True) for p in (joint.sum(dim=1), joint.sum(dim=0)))
    groups = {}
    for i, a in enumerate(of_a):
        for j, b in enumerate(of_b):
            seen = tuple(round(x, 6) for x in [*a.tolist(), *b.tolist()])
            groups[seen] = groups.get(seen, 0) + joint[i, j]
    return sum(float(group.max()) for group in groups.values())


SOLUTIONS = {
    "02.1": mean,
    "02.2": gate,
    "02.3": product,
    "02.4": hidden,
    "02.5": clue_ceiling,
    "02.6": output_ceiling,
}


# --- what goes wrong, and what is said to it ---


def exponentials(scores, present):
    weights = scores.exp() * present
    return weights / weights.sum(dim=1, keepdim=True)


def hide_all(present, probability, generator):
    return present & (torch.rand(present.shape, generator=generator) >= probability)


def give_back_first(present, probability, generator):
    kept = hide_all(present, probability, generator)
    first = torch.nn.functional.one_hot(present.int().argmax(dim=1), 3).bool()
    return torch.where(kept.any(dim=1, keepdim=True), kept, first)


def resurrect(present, probability, generator):
    return hidden(torch.ones_like(present), probability, generator)


def turned_round(present, probability, generator):
    return hidden(present, 1 - probability, generator)


def one_draw(present, probability, generator):
    draw = torch.rand(3, generator=generator) < probability
    kept = present & ~draw
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def all_or_one(present, probability, generator):
    kept = hide_all(present, probability, generator)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def singles(joint):
    return [float(joint.sum(dim=1 - axis).amax(dim=1).sum()) for axis in (0, 1)]


WRONG = {
    "mask unused": ("02.1", lambda a, p: a.mean(dim=1), "mask is not used"),
    "divided by all": (
        "02.1",
        lambda a, p: (a * p[:, :, None]).mean(dim=1),
        "how many are present",
    ),
    "not divided": ("02.1", lambda a, p: (a * p[:, :, None]).sum(dim=1), "do not divide"),
    "uniform guess": (
        "02.1",
        lambda a, p: torch.where(p[:, :, None], a, 1 / a.shape[2]).mean(dim=1),
        "towards doubt",
    ),
    "mask inverted": (
        "02.1",
        lambda a, p: (a * ~p[:, :, None]).sum(dim=1) / (~p).sum(dim=1, keepdim=True).clamp(min=1),
        "the mask is True where",
    ),
    "inf kept": (
        "02.1",
        lambda a, p: (a * p[:, :, None]).sum(dim=1) / p.sum(dim=1, keepdim=True),
        "Zero times inf",
    ),
    "over the classes": ("02.1", lambda a, p: a.mean(dim=2), r"shape \(5, 4\); got \(5, 3\)"),
    "gate without mask": ("02.2", lambda s, p: s.softmax(dim=1), "mask is not used"),
    "mask afterwards": ("02.2", lambda s, p: s.softmax(dim=1) * p, "after the softmax"),
    "score zero": ("02.2", lambda s, p: (s * p).softmax(dim=1), "exponential is one"),
    "over examples": (
        "02.2",
        lambda s, p: s.masked_fill(~p, float("-inf")).softmax(dim=0),
        "dim=1",
    ),
    "no softmax": (
        "02.2",
        lambda s, p: s * p / (s * p).sum(dim=1, keepdim=True),
        "where is the softmax",
    ),
    "overflow": ("02.2", exponentials, "overflow"),
    "product without mask": ("02.3", lambda x, p: (1 + x).prod(dim=1), "mask is not used"),
    "zero factor": ("02.3", lambda x, p: ((1 + x) * p[:, :, None]).prod(dim=1), "silences"),
    "no one added": (
        "02.3",
        lambda x, p: x.masked_fill(~p[:, :, None], 1.0).prod(dim=1),
        "without adding one",
    ),
    "one added to one": (
        "02.3",
        lambda x, p: (1 + x.masked_fill(~p[:, :, None], 1.0)).prod(dim=1),
        "becomes two",
    ),
    "a sum": (
        "02.3",
        lambda x, p: (1 + x).masked_fill(~p[:, :, None], 0.0).sum(dim=1),
        "multiplies",
    ),
    "inf multiplied": (
        "02.3",
        lambda x, p: (1 + x * p[:, :, None]).prod(dim=1),
        "until inf stands",
    ),
    "nothing left": ("02.4", hide_all, "left with nothing"),
    "resurrected": ("02.4", resurrect, "missing from the start"),
    "always the first": ("02.4", give_back_first, "not always the same"),
    "keep for hide": ("02.4", turned_round, "turned round"),
    "one draw for all": ("02.4", one_draw, "draw for each example"),
    "all given back": ("02.4", all_or_one, "a third of the cases"),
    "nothing drawn": ("02.4", lambda p, q, g: p, "Nothing is drawn"),
    "generator left": (
        "02.4",
        lambda p, q, g: hidden(p, q, None),
        "pass generator=",
    ),
    "pairs alike": (
        "02.5",
        lambda c: len(c) / sum(len(names) for names in c.values()),
        "all pairs of sentence and class alike",
    ),
    "sentences alike": (
        "02.5",
        lambda c: sum(1 / len(names) for names in c.values()) / len(c),
        "not equally frequent",
    ),
    "classes forgotten": (
        "02.5",
        lambda c: clue_ceiling(c) * len({n for names in c.values() for n in names}),
        "one case of 4",
    ),
    "chance": (
        "02.5",
        lambda c: 1 / len({n for names in c.values() for n in names}),
        "That is chance",
    ),
    "ten classes": ("02.5", lambda c: clue_ceiling(c) * 4 / 10, "expected"),
    "both seen": ("02.6", lambda j: j.amax(dim=2).sum(), "does not see them"),
    "best single": ("02.6", lambda j: max(singles(j)), "best single modality|sees nothing"),
    "prior": ("02.6", lambda j: j.sum(dim=(0, 1)).max(), "sees nothing|single modality"),
    "always a half": ("02.6", lambda j: 0.5, "expected|single modality"),
}

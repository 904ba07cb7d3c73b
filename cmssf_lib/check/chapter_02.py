"""The exercises of chapter 2, fusion."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cmssf_lib.check.answers import Answer, ask, brief, compare, normal, refuse, same, shaped
from cmssf_lib.data import DIGIT_CLUES
from cmssf_lib.evaluate import joint_ceiling, output_fusion_ceiling, single_ceiling

#: Which of three modalities are present in each of five examples; at least one always is.
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
HERE = PRESENT[:, :, None]
ROW_1 = "For row 1 of the example expected {right[1]}; got {got[1]}."


def mean(answer: Answer) -> str:
    """02.1: ``mean(answers, present)`` averages the answers of the modalities that are present."""
    random = torch.Generator().manual_seed(0)
    answers = torch.rand(5, 3, 4, generator=random).double().softmax(dim=2)
    kept, missing = answers * HERE, answers * ~HERE
    right = kept.sum(dim=1) / HERE.sum(dim=1)
    hints = {
        "You take the mean over all modalities, and what stands for a missing one counts. The mask "
        "is not used.": answers.mean(dim=1),
        "You divide by the number of all modalities. Divide by how many are present, or the "
        "answers no longer sum to one.": kept.mean(dim=1),
        "You add up and do not divide: the answers should sum to one.": kept.sum(dim=1),
        "You let a missing modality guess: a uniform answer in its place pulls the mean towards "
        "doubt. Leave it out.": torch.where(HERE, answers, 0.25).mean(dim=1),
        "You keep what is missing and leave out what is present: the mask is True where a modality "
        "is there.": missing.sum(dim=1) / (~HERE).sum(dim=1).clamp(min=1),
    }
    what = "a row of probabilities an example, shape"
    compare(ask(answer, answers, PRESENT), right, ROW_1, hints, what=what)
    compare(
        ask(answer, answers.masked_fill(~HERE, torch.inf), PRESENT),
        right,
        "Right, until inf stands where an answer is missing. Zero times inf is nan: put something "
        "in its place (masked_fill or torch.where) before you add up.",
    )
    return "Who is not there has no say, whatever stands in the empty place."


def gate(answer: Answer) -> str:
    """02.2: ``gate(scores, present)`` is a softmax over the modalities that are present."""
    # Scores of different size; multiplied by 1,000 below, they overflow a naive softmax.
    scores = torch.tensor(
        [[2.0, 0.0, -1.0], [0.5, 3.0, 0.0], [-2.0, -5.0, 4.0], [1.0, 1.0, 0.0], [9.0, 8.0, -7.0]]
    ).double()
    hidden, zeroed = scores.masked_fill(~PRESENT, -torch.inf), scores * PRESENT
    no_softmax = zeroed / zeroed.sum(dim=1, keepdim=True)
    hints = {
        "The mask is not used: a modality that is missing gets weight.": scores.softmax(dim=1),
        "The mask comes after the softmax, so the weights that are left do not sum to one. Take "
        "the missing scores out before.": scores.softmax(dim=1) * PRESENT,
        "A score of zero is not nothing: its exponential is one. A missing modality needs minus "
        "infinity.": zeroed.softmax(dim=1),
        "Your softmax runs over the examples; each example shares out its own "
        "weights: dim=1.": hidden.softmax(dim=0),
        "These are scores and no weights yet: where is the softmax?": no_softmax,
    }
    got = ask(answer, scores, PRESENT)
    compare(got, hidden.softmax(dim=1), ROW_1, hints, what="a weight a modality, shape")
    compare(
        ask(answer, scores * 1000, PRESENT),
        (hidden * 1000).softmax(dim=1),
        "Scores of a thousand make your weights overflow. torch.softmax takes the largest score "
        "out first; exponentials by hand do not.",
    )
    return "The weights sum to one over whoever is there."


def product(answer: Answer) -> str:
    """02.3: ``product(projected, present)`` multiplies 1 + projected over present modalities."""
    projected = normal(1)(5, 3, 4).double()
    factors, filled = 1 + projected, torch.where(HERE, projected, 1.0)
    right = torch.where(HERE, factors, 1.0).prod(dim=1)
    hints = {
        "The mask is not used: a missing modality multiplies too.": factors.prod(dim=1),
        "You put zero for a missing factor, and zero silences all the others. What leaves a "
        "product as it is?": (factors * HERE).prod(dim=1),
        "You multiply without adding one: then what a modality says alone is lost.": filled.prod(
            dim=1
        ),
        "You put one in the place of a missing projection and add one afterwards: the factor "
        "becomes two. It is the factor that must be one.": (1 + filled).prod(dim=1),
        "You add up. A bilinear form multiplies.": (factors * HERE).sum(dim=1),
    }
    compare(
        ask(answer, projected, PRESENT), right, ROW_1, hints, what="one vector an example, shape"
    )
    compare(
        ask(answer, projected.masked_fill(~HERE, torch.inf), PRESENT),
        right,
        "Right, until inf stands where a modality is missing: replace it, do not multiply it.",
    )
    return "One is the neutral element: a missing factor changes nothing."


def hidden(answer: Answer) -> str:
    """02.4: ``hide(present, probability, generator)`` hides at random, but never the last one."""
    present = PRESENT.repeat(20_000, 1)

    def draw(seed: int) -> Float64[Tensor, "..."]:
        returned = ask(answer, present, 0.4, torch.Generator().manual_seed(seed))
        return shaped(returned, tuple(present.shape), "a mask of shape")

    got = draw(0)
    kept = got != 0
    empty = int((~kept.any(dim=1)).sum())
    rows = kept[present.all(dim=1)]
    # With three present, each is kept with probability 1 - p, plus p³ / 3 for being given back.
    share, expected = rows.double().mean(dim=0), 1 - 0.4 + 0.4**3 / 3
    off = bool((share - expected).abs().max() > 0.02)
    swapped = abs(float(share.mean()) - (0.4 + 0.6**3 / 3)) < 0.01
    brought_back = bool((kept & ~present).any())
    repeats, fixed = same(draw(0), got), same(draw(1), got)
    hints = {
        "Your function brings back modalities that were missing from the start.": brought_back,
        "The same generator state gives another mask: pass generator= to torch.rand.": not repeats,
        "Every generator gives the same mask. Nothing is drawn, or you seed inside.": fixed,
        f"{empty} of {len(kept)} examples are left with nothing. Where the last one would go, give "
        "one back.": empty > 0,
        "All examples lose the same modalities: draw for each example.": len(rows.unique(dim=0))
        == 1,
        "You keep with the probability of hiding: it is turned round.": off and swapped,
        f"The three modalities are kept in {brief(share)} of the cases. Which one is given back "
        "must be drawn too, not always the same.": off and bool(share.max() - share.min() > 0.02),
        f"With three present, each should be kept in {expected:.3f} of the cases: 1 - p, and a "
        f"third of the cases in which all go. Yours are kept in {brief(share)}.": off,
    }
    refuse(hints)
    return "Every example loses something now and then, and none loses everything."


def clue_ceiling(answer: Answer) -> str:
    """02.5: ``clue_ceiling(clues)`` gives the highest accuracy possible from the sentence."""
    clues = {
        "it flies": ("bird", "plane"),
        "it has eyes": ("bird", "cat", "dog"),
        "it has fur": ("cat", "dog"),
        "it is made of metal": ("plane",),
        "it barks": ("dog",),
    }
    # A class with n sentences uses each with probability 1 / n.
    said = {c: sum(c in names for names in clues.values()) for c in ("bird", "plane", "cat", "dog")}
    best = sum(max(1 / said[name] for name in names) for names in clues.values())
    worst = sum(min(1 / said[name] for name in names) for names in clues.values())
    by_sentence = sum(1 / len(names) for names in clues.values()) / len(clues)
    hints = {
        "You count all pairs of sentence and class alike. A class with three true sentences says "
        "each of them less often than a class with one.": len(clues) / sum(said.values()),
        "You average over the sentences. They are not equally frequent: weight each by how often "
        "it is said.": by_sentence,
        "You add up, and forget that each class comes up in one case of 4.": best,
        "That is chance. The sentence knows more than nothing.": 1 / 4,
        "You bet on the class that says the sentence least often.": worst / 4,
    }
    otherwise = "For the example expected {right:.4f}; got {got:.4f}."
    compare(ask(answer, clues), best / 4, otherwise, hints)
    digits = "For the digits' clues it is 31/120 = {right:.4f}; you say {got:.4f}."
    compare(ask(answer, dict(DIGIT_CLUES)), 31 / 120, digits)
    return "Under each sentence, bet on the class that says it most often."


def output_ceiling(answer: Answer) -> str:
    """02.6: ``output_ceiling(joint)`` is the accuracy if equal posteriors get equal answers."""
    for name, joint in _tables().items():
        right = output_fusion_ceiling(joint)
        singles = [single_ceiling(joint, axis) for axis in (0, 1)]
        most_frequent = joint.sum(dim=(0, 1)).max()
        hints = {
            "That is what anyone who sees both modalities can reach. Output-level fusion does not "
            "see them: cells with the same two posteriors get one answer.": joint_ceiling(joint),
            "That is the best single modality. Two posteriors together know more.": max(singles),
            "That is the weaker single modality.": min(singles),
            "That is the most frequent answer, for a reader who sees "
            "nothing at all.": most_frequent,
        }
        otherwise = "For the table {name!r} expected {right:.3f}; got {got:.3f}."
        compare(ask(answer, joint), right, otherwise, hints, name=name)
    return "What is the same to the witnesses must get the same answer."


def _tables() -> Mapping[str, Float[Tensor, "a b classes"]]:
    """Return tables of joint probabilities for which the ceilings differ."""
    same_digit = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [0, 1]]]).double() / 4
    conjunction = torch.tensor([[[1, 0], [1, 0]], [[1, 0], [0, 1]]]).double() / 4
    # Values 0 and 1 of `a` have the same posterior, value 2 another; `b` is weakly informative.
    mixed = torch.tensor(
        [[[3, 1], [0, 2], [1, 1]], [[0, 2], [3, 1], [1, 1]], [[1, 6], [1, 2], [2, 0]]]
    ).double()
    return {"same": same_digit, "and": conjunction, "mixed": mixed / mixed.sum()}


EXERCISES = (mean, gate, product, hidden, clue_ceiling, output_ceiling)

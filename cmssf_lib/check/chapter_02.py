"""The exercises of chapter 2, fusion."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, shaped, tensor
from cmssf_lib.data import DIGIT_CLUES
from cmssf_lib.evaluate import output_fusion_ceiling

#: Five examples of three modalities; each row of the mask keeps at least one.
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()


def mean(answer: Callable) -> str:
    """02.1: ``mean(answers, present)``: the mean of the answers that are there."""
    random = torch.Generator().manual_seed(0)
    answers = torch.rand(5, 3, 4, generator=random).double().softmax(dim=2)
    here = PRESENT[:, :, None]
    kept = answers * here
    right = kept.sum(dim=1) / here.sum(dim=1)
    got = shaped(ask(answer, answers, PRESENT), (5, 4), "a row of probabilities an example")
    uniform = torch.where(here, answers, torch.full_like(answers, 0.25))
    hint = first_hint(
        got,
        {
            "You take the mean over all modalities, and what stands for a missing one counts. "
            "The mask is not used.": answers.mean(dim=1),
            "You divide by the number of all modalities. Divide by how many are present, or the "
            "answers no longer sum to one.": kept.mean(dim=1),
            "You add up and do not divide: the answers should sum to one.": kept.sum(dim=1),
            "You let a missing modality guess: a uniform answer in its place pulls the mean "
            "towards doubt. Leave it out.": uniform.mean(dim=1),
            "You keep what is missing and leave out what is present: the mask is True where a "
            "modality is there.": (answers * ~here).sum(dim=1) / (~here).sum(dim=1).clamp(min=1),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For the example expected {_row(right[1])} in row 1; got {_row(got[1])}.")
    holes = answers.masked_fill(~here, float("inf"))
    if not same(tensor(ask(answer, holes, PRESENT)), right):
        raise Wrong(
            "Right, until inf stands where an answer is missing. Zero times inf is nan: put "
            "something in its place (masked_fill or torch.where) before you add up."
        )
    return "Who is not there has no say, whatever stands in the empty place."


def gate(answer: Callable) -> str:
    """02.2: ``gate(scores, present)``: a softmax over the modalities that are there."""
    # Large and small, so that an exponential without care is not finite.
    scores = torch.tensor(
        [[2.0, 0.0, -1.0], [0.5, 3.0, 0.0], [-2.0, -5.0, 4.0], [1.0, 1.0, 0.0], [9.0, 8.0, -7.0]]
    ).double()
    right = scores.masked_fill(~PRESENT, float("-inf")).softmax(dim=1)
    got = shaped(ask(answer, scores, PRESENT), (5, 3), "a weight a modality")
    full = scores.softmax(dim=1)
    hint = first_hint(
        got,
        {
            "The mask is not used: a modality that is missing gets weight.": full,
            "The mask comes after the softmax, so the weights that are left do not sum to one. "
            "Take the missing scores out before.": full * PRESENT,
            "A score of zero is not nothing: its exponential is one. A missing modality needs "
            "minus infinity.": scores.masked_fill(~PRESENT, 0.0).softmax(dim=1),
            "Your softmax runs over the examples; each example shares out its own weights: "
            "dim=1.": scores.masked_fill(~PRESENT, float("-inf")).softmax(dim=0),
            "These are scores and no weights yet: where is the softmax?": scores
            * PRESENT
            / (scores * PRESENT).sum(dim=1, keepdim=True),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For row 1 of the example expected {_row(right[1])}; got {_row(got[1])}.")
    far = tensor(ask(answer, scores * 1000, PRESENT))
    if not far.isfinite().all() or not same(far.sum(dim=1), torch.ones(5)):
        raise Wrong(
            "Scores of a thousand make your weights overflow. torch.softmax takes the largest "
            "score out first; exponentials by hand do not."
        )
    return "The weights sum to one over whoever is there."


def product(answer: Callable) -> str:
    """02.3: ``product(projected, present)``: (1 + projected), multiplied over the present."""
    random = torch.Generator().manual_seed(1)
    projected = torch.randn(5, 3, 4, generator=random).double()
    here = PRESENT[:, :, None]
    factors = 1 + projected
    right = torch.where(here, factors, 1.0).prod(dim=1)
    got = shaped(ask(answer, projected, PRESENT), (5, 4), "one vector an example")
    hint = first_hint(
        got,
        {
            "The mask is not used: a missing modality multiplies too.": factors.prod(dim=1),
            "You put zero for a missing factor, and zero silences all the others. What leaves a "
            "product as it is?": (factors * here).prod(dim=1),
            "You multiply without adding one: then what a modality says alone is lost.": (
                torch.where(here, projected, 1.0).prod(dim=1)
            ),
            "You put one in the place of a missing projection and add one afterwards: the factor "
            "becomes two. It is the factor that must be one.": (
                1 + torch.where(here, projected, 1.0)
            ).prod(dim=1),
            "You add up. A bilinear form multiplies.": torch.where(here, factors, 0.0).sum(dim=1),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For row 1 of the example expected {_row(right[1])}; got {_row(got[1])}.")
    holes = projected.masked_fill(~here, float("inf"))
    if not same(tensor(ask(answer, holes, PRESENT)), right):
        raise Wrong(
            "Right, until inf stands where a modality is missing: replace it, do not multiply it."
        )
    return "One is the neutral element: a missing factor changes nothing."


def hidden(answer: Callable) -> str:
    """02.4: ``hide(present, probability, generator)``, never the last one."""
    present = PRESENT.repeat(20_000, 1)
    count = present.sum(dim=1)

    def draw(seed: int, probability: float = 0.4) -> Float64[Tensor, "..."]:
        return tensor(ask(answer, present, probability, torch.Generator().manual_seed(seed)))

    got = draw(0)
    if got.shape != present.shape:
        raise Wrong(f"Expected a mask of shape {tuple(present.shape)}; got {tuple(got.shape)}.")
    kept = got != 0
    if (kept & ~present).any():
        raise Wrong("Your function brings back modalities that were missing from the start.")
    if not same(draw(0), got):
        raise Wrong("The same generator state gives another mask: pass generator= to torch.rand.")
    if same(draw(1), got):
        raise Wrong("Every generator gives the same mask. Nothing is drawn, or you seed inside.")
    if (~kept.any(dim=1)).any():
        raise Wrong(
            f"{int((~kept.any(dim=1)).sum())} of {len(kept)} examples are left with nothing. "
            "Where the last one would go, give one back."
        )
    rows = kept[count == 3]
    if not (rows != rows[:1]).any():
        raise Wrong("All examples lose the same modalities: draw for each example.")
    # With three present: each is kept with 1 - p, or is the one of three that is given back.
    share, expected = rows.double().mean(dim=0), 1 - 0.4 + 0.4**3 / 3
    if (share - expected).abs().max() > 0.02:
        if abs(float(share.mean()) - (0.4 + 0.6**3 / 3)) < 0.01:
            raise Wrong("You keep with the probability of hiding: it is turned round.")
        if share.max() - share.min() > 0.02:
            raise Wrong(
                f"The three modalities are kept in {_row(share)} of the cases. Which one is given "
                "back must be drawn too, not always the same."
            )
        raise Wrong(
            f"With three present, each should be kept in {expected:.3f} of the cases: 1 - p, and "
            f"a third of the cases in which all go. Yours are kept in {_row(share)}."
        )
    return "Every example loses something now and then, and none loses everything."


def clue_ceiling(answer: Callable) -> str:
    """02.5: ``clue_ceiling(clues)``: the best accuracy of a reader of the sentence."""
    clues = {
        "it flies": ("bird", "plane"),
        "it has eyes": ("bird", "cat", "dog"),
        "it has fur": ("cat", "dog"),
        "it is made of metal": ("plane",),
        "it barks": ("dog",),
    }
    right = _ceiling(clues)
    got = number(ask(answer, clues))
    classes = {name for names in clues.values() for name in names}
    pairs = sum(len(names) for names in clues.values())
    hint = first_hint(
        got,
        {
            "You count all pairs of sentence and class alike. A class with three true sentences "
            "says each of them less often than a class with one.": len(clues) / pairs,
            "You average over the sentences. They are not equally frequent: weight each by how "
            "often it is said.": sum(1 / len(names) for names in clues.values()) / len(clues),
            f"You add up, and forget that each class comes up in one case of {len(classes)}.": right
            * len(classes),
            "That is chance. The sentence knows more than nothing.": 1 / len(classes),
            "You bet on the class that says the sentence least often.": sum(
                min(1 / _said(clues, name) for name in names) for names in clues.values()
            )
            / len(classes),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For the example expected {right:.4f}; got {got:.4f}.")
    digits = number(ask(answer, dict(DIGIT_CLUES)))
    if not same(digits, 31 / 120):
        raise Wrong(f"For the digits' clues it is 31/120 = {31 / 120:.4f}; you say {digits:.4f}.")
    return "Under each sentence, bet on the class that says it most often."


def _said(clues: Mapping[str, tuple[str, ...]], name: str) -> int:
    """How many sentences are true of a class."""
    return sum(name in names for names in clues.values())


def _ceiling(clues: Mapping[str, tuple[str, ...]]) -> float:
    classes = {name for names in clues.values() for name in names}
    return sum(max(1 / _said(clues, c) for c in names) for names in clues.values()) / len(classes)


def output_ceiling(answer: Callable) -> str:
    """02.6: ``output_ceiling(joint)``: equal posteriors, equal answer."""
    for name, joint in TABLES.items():
        right = output_fusion_ceiling(joint)
        got = number(ask(answer, joint))
        if same(got, right):
            continue
        table, total = joint / joint.sum(), float(joint.sum())
        singles = [float(table.sum(dim=1 - axis).amax(dim=1).sum()) for axis in (0, 1)]
        hint = first_hint(
            got,
            {
                "That is what anyone who sees both modalities can reach. Output-level fusion "
                "does not see them: cells with the same two posteriors get one answer.": float(
                    table.amax(dim=2).sum()
                ),
                "That is the best single modality. Two posteriors together know more.": max(
                    singles
                ),
                "That is the weaker single modality.": min(singles),
                "That is the most frequent answer, for a reader who sees nothing at all.": float(
                    table.sum(dim=(0, 1)).max()
                ),
                "You forget that the joint table need not sum to one here.": right * total,
            },
        )
        raise Wrong(hint or f"For the table {name!r} expected {right:.3f}; got {got:.3f}.")
    return "What is the same to the witnesses must get the same answer."


def _tables() -> dict[str, Float[Tensor, "a b classes"]]:
    """Tables on which the ceilings differ; probabilities, as the exercise says."""
    same_digit = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [0, 1]]]).double() / 4
    conjunction = torch.tensor([[[1, 0], [1, 0]], [[1, 0], [0, 1]]]).double() / 4
    # Values 0 and 1 of a have the same posterior, value 2 another; b likewise says a little.
    mixed = torch.tensor(
        [
            [[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]],
            [[0.0, 2.0], [3.0, 1.0], [1.0, 1.0]],
            [[1.0, 6.0], [1.0, 2.0], [2.0, 0.0]],
        ]
    ).double()
    return {"same": same_digit, "and": conjunction, "mixed": mixed / mixed.sum()}


TABLES = _tables()


def _row(values: Float64[Tensor, " n"]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values.tolist()) + "]"


EXERCISES: dict[str, Exercise] = {
    "02.1": mean,
    "02.2": gate,
    "02.3": product,
    "02.4": hidden,
    "02.5": clue_ceiling,
    "02.6": output_ceiling,
}

"""The exercises of chapter 6, self-distillation."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, Wrong, ask, brief, compare, normal, refuse, tensor
from cmssf_lib.losses import byol_loss, dino_loss, update_centre

VERDICTS = ("uniform", "one prototype", "healthy")


def byol(answer: Answer) -> str:
    """06.1: ``loss(prediction, target)`` is BYOL's loss of two (b, dim), not yet normalised."""
    draw = normal(0)
    p, z = draw(5, 3), 2 * draw(5, 3)
    right = byol_loss(p, z)
    cosines = F.cosine_similarity(p, z, dim=1)
    columns = (F.normalize(p, dim=0) * F.normalize(z, dim=0)).sum(dim=1)
    hints = {
        "You do not bring the vectors to length one: their lengths must not count.": 2
        - 2 * (p * z).sum(dim=1).mean(),
        "That is the squared distance of the vectors as they are. Bring both to "
        "length one first.": (p - z).square().sum(dim=1).mean(),
        "That is 1 - cos, half of what you should return.": right / 2,
        "That is -cos. It has the same gradient but for a factor; asked "
        "is 2 - 2 cos.": -cosines.mean(),
        "You add up over the batch. Asked is the mean.": right * 5,
        "Return one number, the mean over the batch; got one a picture.": 2 - 2 * cosines,
        "You average over the dimensions too. A squared distance is their sum.": right / 3,
        "You normalise columns. Each picture's vector, a row, gets length one.": 2
        - 2 * columns.mean(),
    }
    compare(ask(answer, p, z), right, hints=hints)
    return "Zero for the same direction, two for a right angle, four for opposite ones."


def momentum(answer: Answer) -> str:
    """06.2: ``step(online, target, momentum)`` gives the target's new values."""
    online, target = torch.tensor([1.0, 4.0, -2.0]), torch.tensor([0.0, 2.0, 2.0])

    def mixed(kept: float, added: float) -> Tensor:
        return kept * target + added * online

    hints = {
        "The weights are exchanged: momentum is the part of itself that the target keeps.": mixed(
            0.1, 0.9
        ),
        "You add to the target without taking from it: the two weights must sum to one.": mixed(
            1, 0.1
        ),
        "You move away from the online network: mind the sign of the difference.": mixed(1.1, -0.1),
        "The target has not moved.": target,
        "That is the online network. The target only moves a tenth of the way here.": online,
    }
    compare(ask(answer, online, target, 0.9), mixed(0.9, 0.1), hints=hints)
    return "At momentum 0 the target is the online network, at 1 it stands still."


def centre(answer: Answer) -> str:
    """06.3: ``centre(old, teacher, momentum)`` gives the new centre; teacher: a list of (b, K)."""
    draw = normal(1)
    old, teacher = draw(4), [draw(3, 4) + 1, draw(3, 4)]
    together = torch.cat(teacher)
    mean, kept = together.mean(dim=0), 0.9 * old
    exchanged = 0.1 * old + 0.9 * mean
    hints = {
        "The weights are exchanged: momentum is the part of itself that the "
        "centre keeps.": exchanged,
        "That is the mean of this batch alone. The old centre keeps its part.": mean,
        "You use the first view only. The centre is the mean over all views.": kept
        + 0.1 * teacher[0].mean(dim=0),
        "You average the softmax. The centre is a mean of logits, from which it "
        "is subtracted.": kept + 0.1 * together.softmax(dim=1).mean(dim=0),
        "You add everything up. Average over pictures and views.": kept + 0.1 * together.sum(dim=0),
        "You average over the prototypes too: each prototype has a centre of its own.": kept
        + 0.1 * together.mean(),
    }
    right = update_centre(old, teacher, 0.9)
    what = "one number a prototype, shape"
    compare(ask(answer, old, teacher, 0.9), right, hints=hints, what=what)
    return "What the teacher says of all pictures alike is now known, and can be subtracted."


def dino(answer: Answer) -> str:
    """06.4: ``loss(student, teacher, centre, student_temperature, teacher_temperature)``: DINO."""
    draw = normal(2)
    student, teacher = [draw(3, 4) for _ in range(3)], [draw(3, 4) for _ in range(2)]
    middle = draw(4)
    ts, tt = 0.5, 0.25
    loss = partial(dino_loss, student, teacher, middle)
    right = loss(ts, tt)
    uncentred = dino_loss(student, teacher, 0 * middle, ts, tt)
    both_centred = dino_loss([s - middle for s in student], teacher, middle, ts, tt)
    divided_first = dino_loss(student, [t / tt for t in teacher], middle, ts, 1.0)
    said = torch.stack([((t - middle) / tt).softmax(dim=1) for t in teacher])[:, None]
    seen = torch.stack([(s / ts).softmax(dim=1) for s in student])  # (3, 3, 4), said (2, 1, 3, 4)
    pairs = -(said * seen.log()).sum(dim=-1).mean(dim=-1)  # (2, 3); diagonal: same view
    swapped = -(seen * said.log()).sum(dim=-1).mean(dim=-1)
    turned = swapped[~torch.eye(2, 3, dtype=torch.bool)].mean()
    hints = {
        "You compare a view with itself too. Skip the pairs of the same view.": pairs.mean(),
        "You do not subtract the centre from the teacher's logits.": uncentred,
        "The centre is the teacher's only: leave the student's logits alone.": both_centred,
        "The two temperatures are exchanged.": loss(tt, ts),
        "The teacher gets its own temperature, the smaller one.": loss(ts, ts),
        "You subtract the centre after the division. Subtract it from the logits.": divided_first,
        "You add up over the pairs. Return their mean; there are four here.": 4 * right,
        "You average over the prototypes as well. A cross-entropy is their sum.": right / 4,
        "The sign is turned round: logarithms of probabilities are negative.": -right,
        "You divide by the number of all pairs, the skipped ones as well.": right * 4 / 6,
        "The other way round: the logarithm is taken of what the student says.": turned,
    }
    compare(ask(answer, student, teacher, middle, ts, tt), right, hints=hints)
    large = [1000 * s for s in student]
    compare(
        ask(answer, large, teacher, middle, ts, tt),
        dino_loss(large, teacher, middle, ts, tt),
        "Large logits give something that is no number: log of a softmax that is 0. Use "
        "log_softmax.",
    )
    return "Every student's view answers for every teacher's view but its own."


def which(answer: Answer) -> str:
    """06.5: ``verdict(p)`` names the collapse of a teacher's output (b, K)."""
    sure = torch.eye(8)
    even, one, each = torch.full((8, 8), 1 / 8), sure[[3] * 8], sure
    soft = 0.7 * sure[[0, 1, 2, 0, 1, 2, 0, 1]] + 0.3 * even
    # `even` and `each` have the same mean over rows; `one` and `each` the same entropies of rows.
    cases = {
        "even": (even, "uniform"),
        "one": (one, "one prototype"),
        "each": (each, "healthy"),
        "soft": (soft, "healthy"),
    }
    said = {name: ask(answer, p) for name, (p, _) in cases.items()}
    for verdict in said.values():
        if not isinstance(verdict, str) or verdict not in VERDICTS:
            raise Wrong(f"Expected one of {', '.join(map(repr, VERDICTS))}; got {verdict!r:.60}.")
    of_even, of_one, of_each, _ = said.values()
    hints = {
        "A teacher that is sure of every picture is not collapsed if it is sure of different "
        "things. Look at the entropy of the mean over the pictures.": of_each == "one prototype",
        "The mean over pictures is even when every picture has a prototype of its own: that is "
        "what one wishes. For 'uniform' look at the entropy of "
        "each picture.": of_each == "uniform",
        "The two names are exchanged: an even output has the largest entropy, ln K.": (
            of_even,
            of_one,
        )
        == ("one prototype", "uniform"),
        "One prototype for all and all prototypes alike are two different failures.": of_one
        == of_even,
    }
    for name, (p, right) in cases.items():
        rows = (
            f"For the rows {brief(p[0])}, {brief(p[1])}, … expected {right!r}; got {said[name]!r}."
        )
        hints[f"{rows} Is your entropy in nats, and 0 where a probability is 0?"] = (
            said[name] != right
        )
    refuse(hints)
    many = "With 256 prototypes an even output has entropy ln 256: the bound depends on K."
    refuse({many: ask(answer, torch.full((4, 256), 1 / 256)) != "uniform"})
    return "One entropy alone could not have told: it takes each picture's and the mean's."


def effective_rank(answer: Answer) -> str:
    """06.6: ``rank(z)`` gives the effective rank of embeddings (b, dim)."""
    z = normal(3)(8, 4) * torch.tensor([3.0, 1.0, 0.5, 0.1])
    s = torch.linalg.svdvals(z.double())

    def entropy(values: Tensor) -> Tensor:
        return torch.special.entr(values).sum()

    squares = s.square() / s.square().sum()
    nats = entropy(s / s.sum())
    bits = nats / math.log(2)
    hints = {
        "That is the entropy. Its exponential is a number of directions.": nats,
        "That is the entropy in bits. Raise 2 to it, or use exp and natural logs.": bits,
        "Your logarithm has base 2 and your exponential base e.": bits.exp(),
        "You square the singular values (those are eigenvalues of zᵀz). Use the singular "
        "values themselves.": entropy(squares).exp(),
        "That is the ordinary rank: tiny directions count in full.": 4,
        "The singular values must sum to one before they have an entropy.": entropy(s).exp(),
    }
    compare(ask(answer, z), nats.exp(), hints=hints)
    line = torch.arange(1.0, 5.0)[:, None] @ torch.tensor([[1.0, 2.0, 0.0]])
    flat = tensor(ask(answer, line))
    hints = {
        "For embeddings on one line you return no number: 0 · log 0 is nan on a computer and 0 in "
        "the limit. torch.special.entr knows that.": bool(flat.isnan().any())
    }
    otherwise = "Embeddings on one line have effective rank 1; got {got:.4f}."
    compare(flat, 1, otherwise, hints, close=1e-3)
    return "One for a line, dim if all directions are alike."


EXERCISES = (byol, momentum, centre, dino, which, effective_rank)

"""The exercises of chapter 6, self-distillation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, tensor
from cmssf_lib.losses import byol_loss, dino_loss, update_centre
from cmssf_lib.methods import rank

VERDICTS = ("uniform", "one prototype", "healthy")


def byol(answer: Callable) -> str:
    """06.1: ``loss(prediction, target)``, both (b, dim), of any length."""
    random = torch.Generator().manual_seed(0)
    p, z = torch.randn(5, 3, generator=random), 2 * torch.randn(5, 3, generator=random)
    right = byol_loss(p, z)
    cosines = F.cosine_similarity(p, z, dim=1)
    got = tensor(ask(answer, p, z))
    hint = first_hint(
        got,
        {
            "You do not bring the vectors to length one: their lengths must not count.": (
                2 - 2 * (p * z).sum(dim=1)
            ).mean(),
            "That is the squared distance of the vectors as they are. Bring both to length one "
            "first.": (p - z).square().sum(dim=1).mean(),
            "That is 1 - cos, half of what is asked.": right / 2,
            "That is -cos. It has the same gradient but for a factor; asked is 2 - 2 cos.": (
                -cosines.mean()
            ),
            "You add up over the batch. Asked is the mean.": right * 5,
            "Asked is one number, the mean over the batch; got one a picture.": 2 - 2 * cosines,
            "You average over the dimensions too. A squared distance is their sum.": right / 3,
            "You normalise columns. Each picture's vector, a row, gets length one.": (
                2 - 2 * (F.normalize(p, dim=0) * F.normalize(z, dim=0)).sum(dim=1)
            ).mean(),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(number(got), right):
        raise Wrong(f"Expected {float(right):.4f}; got {number(got):.4f}.")
    return "Zero for the same direction, two for a right angle, four for opposite ones."


def momentum(answer: Callable) -> str:
    """06.2: ``step(online, target, momentum)`` → the target's new values."""
    online, target = torch.tensor([1.0, 4.0, -2.0]), torch.tensor([0.0, 2.0, 2.0])
    right = 0.9 * target + 0.1 * online
    got = tensor(ask(answer, online, target, 0.9))
    hint = first_hint(
        got,
        {
            "The weights are exchanged: momentum is the part of itself that the target keeps.": (
                0.1 * target + 0.9 * online
            ),
            "You add to the target without taking from it: the two weights must sum to one.": (
                target + 0.1 * online
            ),
            "You move away from the online network: mind the sign of the difference.": (
                target - 0.1 * (online - target)
            ),
            "The target has not moved.": target,
            "That is the online network. The target only moves a tenth of the way here.": online,
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"Expected {_list(right)}; got {_list(got)}.")
    return "At momentum 0 the target is the online network, at 1 it stands still."


def centre(answer: Callable) -> str:
    """06.3: ``centre(old, teacher, momentum)``, teacher a list of (b, K) logits."""
    random = torch.Generator().manual_seed(1)
    old = torch.randn(4, generator=random)
    teacher = [torch.randn(3, 4, generator=random) + 1, torch.randn(3, 4, generator=random)]
    together = torch.cat(teacher)
    mean = together.mean(dim=0)
    right = update_centre(old, teacher, 0.9)
    got = tensor(ask(answer, old, teacher, 0.9))
    hint = first_hint(
        got,
        {
            "The weights are exchanged: momentum is the part of itself that the centre keeps.": (
                0.1 * old + 0.9 * mean
            ),
            "That is the mean of this batch alone. The old centre keeps its part.": mean,
            "You use the first view only. The centre is the mean over all views.": (
                0.9 * old + 0.1 * teacher[0].mean(dim=0)
            ),
            "You average the softmax. The centre is a mean of logits, from which it is "
            "subtracted.": 0.9 * old + 0.1 * together.softmax(dim=1).mean(dim=0),
            "You add everything up. Average over pictures and views.": (
                0.9 * old + 0.1 * together.sum(dim=0)
            ),
            "You average over the prototypes too: each prototype has a centre of its own.": (
                0.9 * old + 0.1 * together.mean()
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected one number a prototype, shape (4,); got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"Expected {_list(right)}; got {_list(got)}.")
    return "What the teacher says of all pictures alike is now known, and can be subtracted."


def dino(answer: Callable) -> str:
    """06.4: ``loss(student, teacher, centre, student_temperature, teacher_temperature)``."""
    random = torch.Generator().manual_seed(2)
    student = [torch.randn(3, 4, generator=random) for _ in range(3)]
    teacher = [torch.randn(3, 4, generator=random) for _ in range(2)]
    middle = torch.randn(4, generator=random)
    ts, tt = 0.5, 0.25
    right = dino_loss(student, teacher, middle, ts, tt)
    nothing = torch.zeros(4)
    centred = dino_loss([s - middle for s in student], teacher, middle, ts, tt)
    say = [((t - middle) / tt).softmax(dim=1) for t in teacher]
    log_p = [(s / ts).log_softmax(dim=1) for s in student]
    every = torch.stack([-(p * q).sum(dim=1).mean() for p in say for q in log_p])
    got = tensor(ask(answer, student, teacher, middle, ts, tt))
    hint = first_hint(
        got,
        {
            "You compare a view with itself too. Skip the pairs of the same view.": every.mean(),
            "You do not subtract the centre from the teacher's logits.": dino_loss(
                student, teacher, nothing, ts, tt
            ),
            "The centre is the teacher's only: leave the student's logits alone.": centred,
            "The two temperatures are exchanged.": dino_loss(student, teacher, middle, tt, ts),
            "The teacher gets its own temperature, the smaller one.": dino_loss(
                student, teacher, middle, ts, ts
            ),
            "You subtract the centre after the division. Subtract it from the logits.": dino_loss(
                student, [t / tt for t in teacher], middle, ts, 1.0
            ),
            "You add up over the pairs. Asked is their mean; there are four here.": 4 * right,
            "You average over the prototypes as well. A cross-entropy is their sum.": right / 4,
            "The sign is turned round: logarithms of probabilities are negative.": -right,
            "You divide by the number of all pairs, the skipped ones as well.": right * 4 / 6,
            "The other way round: the logarithm is taken of what the student says.": _swapped(
                student, say, ts
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(number(got), right):
        raise Wrong(f"Expected {float(right):.4f}; got {number(got):.4f}.")
    large = [1000 * s for s in student]
    if not bool(tensor(ask(answer, large, teacher, middle, ts, tt)).isfinite().all()):
        raise Wrong(
            "Large logits give something that is no number: log of a softmax that is 0. Use "
            "log_softmax."
        )
    return "Every student's view answers for every teacher's view but its own."


def _swapped(student: list[Tensor], say: list[Tensor], temperature: float) -> Tensor:
    """Cross-entropy with teacher and student exchanged."""
    p = [(s / temperature).softmax(dim=1) for s in student]
    pairs = [
        -(q * t.log()).sum(dim=1).mean()
        for i, t in enumerate(say)
        for j, q in enumerate(p)
        if i != j
    ]
    return torch.stack(pairs).mean()


def which(answer: Callable) -> str:
    """06.5: ``verdict(p)`` names the collapse of a teacher's output (b, K)."""
    even = torch.full((6, 8), 1 / 8)
    one = torch.zeros(6, 8)
    one[:, 3] = 1
    each = torch.eye(8)[:6]  # sure of every picture, and of each another thing
    soft = 0.7 * torch.eye(8)[[0, 1, 2, 0, 1, 2]] + 0.3 * even
    cases = [("even", even, "uniform"), ("one", one, "one prototype"), ("each", each, "healthy")]
    cases.append(("soft", soft, "healthy"))
    said = {name: ask(answer, p) for name, p, _ in cases}
    for verdict in said.values():
        if not isinstance(verdict, str) or verdict not in VERDICTS:
            raise Wrong(f"Expected one of {', '.join(map(repr, VERDICTS))}; got {verdict!r:.60}.")
    if said["each"] == "one prototype":
        raise Wrong(
            "A teacher that is sure of every picture is not collapsed if it is sure of different "
            "things. Look at the entropy of the mean over the pictures."
        )
    if said["each"] == "uniform":
        raise Wrong(
            "The mean over pictures is even when every picture has a prototype of its own: that is "
            "what one wishes. For 'uniform' look at the entropy of each picture."
        )
    if said["even"] == "one prototype" and said["one"] == "uniform":
        raise Wrong("The two names are exchanged: an even output has the largest entropy, ln K.")
    if said["one"] == said["even"]:
        raise Wrong("One prototype for all and all prototypes alike are two different failures.")
    for name, p, right in cases:
        if said[name] != right:
            raise Wrong(
                f"For the rows {_list(p[0])}, {_list(p[1])}, … expected {right!r}; got "
                f"{said[name]!r}. Is your entropy in nats, and 0 where a probability is 0?"
            )
    many = torch.full((4, 256), 1 / 256)
    if ask(answer, many) != "uniform":
        raise Wrong(
            "With 256 prototypes an even output has entropy ln 256: the bound depends on K."
        )
    return "One entropy alone could not have told: it takes each picture's and the mean's."


def effective_rank(answer: Callable) -> str:
    """06.6: ``rank(z)``, the effective rank of (b, dim)."""
    random = torch.Generator().manual_seed(3)
    z = torch.randn(8, 4, generator=random) * torch.tensor([3.0, 1.0, 0.5, 0.1])
    s = torch.linalg.svdvals(z.double())
    share, squares = s / s.sum(), s.square() / s.square().sum()
    entropy, unscaled = torch.special.entr(share).sum(), torch.special.entr(s).sum().exp()
    right, bits = rank(z), entropy / math.log(2)
    got = tensor(ask(answer, z))
    hint = first_hint(
        got,
        {
            "That is the entropy. Its exponential is a number of directions.": entropy,
            "That is the entropy in bits. Raise 2 to it, or use exp and natural logs.": bits,
            "Your logarithm has base 2 and your exponential base e.": bits.exp(),
            "You square the singular values (those are eigenvalues of zᵀz). Asked are the singular "
            "values themselves.": torch.special.entr(squares).sum().exp(),
            "That is the ordinary rank: tiny directions count in full.": 4,
            "The singular values must sum to one before they have an entropy.": unscaled,
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(number(got), right):
        raise Wrong(f"Expected {float(right):.4f}; got {number(got):.4f}.")
    line = torch.arange(1.0, 5.0)[:, None] @ torch.tensor([[1.0, 2.0, 0.0]])
    flat = number(ask(answer, line))
    if math.isnan(flat):
        raise Wrong(
            "For embeddings on one line you return no number: 0 · log 0 is nan on a computer and 0 "
            "in the limit. torch.special.entr knows that."
        )
    if not math.isclose(flat, 1.0, abs_tol=1e-3):
        raise Wrong(f"Embeddings on one line have effective rank 1; got {flat:.4f}.")
    return "One for a line, dim if all directions are alike."


def _list(values: Tensor) -> list[float]:
    return [round(v, 4) for v in values.double().flatten().tolist()]


EXERCISES: dict[str, Exercise] = {
    "06.1": byol,
    "06.2": momentum,
    "06.3": centre,
    "06.4": dino,
    "06.5": which,
    "06.6": effective_rank,
}

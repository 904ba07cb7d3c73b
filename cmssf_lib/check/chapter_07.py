"""The exercises of chapter 7, contrast of images and text."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, shaped, tensor
from cmssf_lib.losses import duplicate_floor, expected_floor, image_text_loss, nt_xent

SCALE = 4.0
SHARP = 100.0  # as large as CLIP lets it become: e to the power of it is no float32


def loss(answer: Callable) -> str:
    """07.1: ``loss(image, text, logit_scale)`` is the symmetric image–text loss."""
    random = torch.Generator().manual_seed(0)
    image = 3 * torch.randn(5, 3, generator=random)
    text = image + 2 * torch.randn(5, 3, generator=random)
    i, t, own = F.normalize(image, dim=1), F.normalize(text, dim=1), torch.arange(5)
    right = image_text_loss(image, text, SCALE)

    def both(logits: Tensor) -> Tensor:
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    cosines = i @ t.T
    got = number(ask(answer, image, text, SCALE))
    _first(
        got,
        {
            "You do not normalise: the loss compares directions, not lengths.": both(
                SCALE * image @ text.T
            ),
            "You do not use the logit scale: it multiplies the cosines.": both(cosines),
            "You divide by the logit scale. It multiplies; a temperature would divide.": both(
                cosines / SCALE
            ),
            "You take the logit scale for its logarithm. What you are given has been "
            "exponentiated already.": both(math.exp(SCALE) * cosines),
            "Your texts do not ask. The other half of the loss runs down the columns.": (
                F.cross_entropy(SCALE * cosines, own)
            ),
            "Your images do not ask. The other half of the loss runs along the rows.": (
                F.cross_entropy(SCALE * cosines.T, own)
            ),
            "That is the sum of the two halves. Asked is their mean.": 2 * right,
            "You add up over the rows. Asked is the mean.": 5 * right,
            "The sign is turned round: a loss falls as partners come closer.": -right,
            "That is SimCLR's loss, where images compete with images as well. Here a picture "
            "looks among the texts only.": nt_xent(image, text, 1 / SCALE),
        },
    )
    if not same(got, right):
        raise Wrong(f"For five pairs in three dimensions expected {right:.4f}; got {got:.4f}.")
    if not same(number(ask(answer, image, text, SHARP)), image_text_loss(image, text, SHARP)):
        raise Wrong(
            f"Right at the scale {SCALE:g}, wrong at {SHARP:g}: exp of a large number overflows. "
            "Use cross_entropy or logsumexp, which subtract the largest first."
        )
    return "One matrix, read along its rows and down its columns."


def floor(answer: Callable) -> str:
    """07.2: ``floor(captions)``: the least the one-hot loss of this batch can be."""
    captions = ["cat", "dog", "cat", "frog", "cat", "dog", "ship"]
    sizes = torch.tensor([3.0, 2.0, 1.0, 1.0])  # cat, dog, frog, ship
    right = duplicate_floor(torch.tensor([0, 1, 0, 2, 0, 1, 3]))
    rows = len(captions)
    alone = "Is it ln 0? The own copy is one, too: a single caption costs ln 1."
    got = number(ask(answer, captions, on={ValueError: alone}))
    _first(
        got,
        {
            "You average over the different captions. Asked is the mean over the rows: a caption "
            "that three pictures share counts three times.": sizes.log().mean(),
            "You add up over the rows. Asked is the mean.": right * rows,
            "That is the logarithm of the mean number of copies. Asked is the mean of the "
            "logarithm, which is smaller.": (sizes.square().sum() / rows).log(),
            "That would be right if all captions came equally often.": math.log(rows / len(sizes)),
            "Your logarithm has base 2. A loss is measured in nats.": right / math.log(2),
            "You count the other copies only. The own one is a copy, too: ln n, not ln(n - 1).": (
                3 * math.log(2) / rows
            ),
            "That is the room above the floor, the entropy of the captions.": math.log(rows)
            - right,
            "That is what guessing costs, ln B.": math.log(rows),
        },
    )
    if not same(got, right):
        raise Wrong(f"For {captions} expected {right:.4f}; got {got:.4f}.")
    for few, value in ((["cat", "dog"], 0.0), (["cat"] * 4, math.log(4))):
        if not same(number(ask(answer, few)), value):
            raise Wrong(f"For {few} expected {value:.4f}.")
    return "No model can do better on this batch, however large and however long it is trained."


def expectation(answer: Callable) -> str:
    """07.3: ``floor(batch, classes)``: the mean floor of random batches."""
    for batch, classes in ((3, 2), (16, 4), (64, 10)):
        right = expected_floor(batch, classes)
        got = number(ask(answer, batch, classes))
        if same(got, right):
            continue
        hints = {
            "That is ln(batch / classes), as if every batch were perfectly balanced. A row itself "
            "is always one of its class.": math.log(batch / classes),
            "You take the logarithm of the expected number. Asked is the expectation of the "
            "logarithm, which is smaller.": math.log(1 + (batch - 1) / classes),
            "You draw all rows at random, the asking one as well. It is there for certain: 1 plus "
            "a binomial number of the *others*.": _mean_log(0, batch, classes),
            "You forget the asking row itself: with k others there are 1 + k equal captions.": (
                _mean_log(0, batch - 1, classes)
            ),
            "You draw batch others. There are batch - 1.": _mean_log(1, batch, classes),
            "Your logarithm has base 2. A loss is measured in nats.": right / math.log(2),
            "That is what guessing costs, ln B.": math.log(batch),
            "That is the room between guessing and the floor.": math.log(batch) - right,
        }
        raise Wrong(
            first_hint(got, hints)
            or f"For batches of {batch} with {classes} captions expected {right:.4f}; got {got:.4f}"
        )
    return "For large batches it nears ln(batch / classes), from above."


def _mean_log(certain: int, drawn: int, classes: int) -> float:
    """E[ln n] if n is the certain rows and a binomial number of those drawn (ln 0 counts as 0)."""
    p = 1 / classes
    chances = [math.comb(drawn, k) * p**k * (1 - p) ** (drawn - k) for k in range(drawn + 1)]
    return sum(c * math.log(max(1, certain + k)) for k, c in enumerate(chances))


def masked(answer: Callable) -> str:
    """07.4: ``loss(logits, groups)``: image→text, without the false negatives."""
    random = torch.Generator().manual_seed(1)
    groups = torch.tensor([0, 1, 0, 2, 0, 1])
    logits = 2 * torch.randn(6, 6, generator=random)
    own = torch.arange(6)
    same_group, itself = groups[:, None] == groups, torch.eye(6, dtype=torch.bool)
    false_negative = same_group & ~itself

    def without(out: Tensor, value: float = float("-inf")) -> Tensor:
        return F.cross_entropy(logits.masked_fill(out, value), own)

    right = without(false_negative)
    soft = -(logits.log_softmax(dim=1) * same_group / same_group.sum(1, keepdim=True)).sum(1).mean()
    got = number(ask(answer, logits, groups))
    _first(
        got,
        {
            "That is the one-hot loss. Either nothing is masked, or you mask after the softmax, "
            "where the probability is spent already: mask the logits.": F.cross_entropy(
                logits, own
            ),
            "You set the false negatives to 0, and the exponential of 0 is 1: they compete on. "
            "Use minus infinity.": without(false_negative, 0.0),
            "You mask the own text as well: then there is nothing to find.": without(same_group),
            "You mask the true negatives and keep the false ones.": without(~same_group),
            "That is the multi-positive loss: the others of the group are partners there. Here "
            "they are left out.": soft,
            "You add the group's probability up. Here the others of the group are left out.": (
                -(logits.softmax(dim=1) * same_group).sum(dim=1).log().mean()
            ),
            "You add up over the rows. Asked is the mean.": 6 * right,
            "You read down the columns. A picture looks along its row.": F.cross_entropy(
                logits.masked_fill(false_negative, float("-inf")).T, own
            ),
            "The sign is turned round: a loss falls as partners come closer.": -right,
        },
    )
    if not same(got, right):
        raise Wrong(f"For six rows in three groups expected {right:.4f}; got {got:.4f}.")
    if not same(number(ask(answer, logits, torch.zeros(6, dtype=torch.int64))), 0.0):
        raise Wrong("If all rows share one caption, nothing is left to tell apart: the loss is 0.")
    return "Its least value is 0, because nothing that fits is a negative any more."


def class_logits(answer: Callable) -> str:
    """07.5: ``logits(image, prototypes, counts, logit_scale)``: the classifier in the loss."""
    random = torch.Generator().manual_seed(2)
    image, prototypes = (torch.randn(n, 4, generator=random) for n in (5, 3))
    counts = torch.tensor([6, 2, 1])
    cosines = F.normalize(image, dim=1) @ F.normalize(prototypes, dim=1).T  # (5, 3)
    prior = counts.log()
    got = shaped(
        ask(answer, image, prototypes, counts, SCALE), (5, 3), "a row a picture, a column a class"
    )
    # What is the same in a whole row changes no softmax: ln(n / B) is as right as ln n.
    right = (SCALE * cosines + prior).softmax(dim=1)
    _first(
        got.softmax(dim=1),
        {
            "The prior is missing: a caption that stands in the batch six times is found more "
            "easily.": (SCALE * cosines).softmax(dim=1),
            "You add the counts. Asked is their logarithm: n copies multiply a power by n.": (
                SCALE * cosines + counts
            ).softmax(dim=1),
            "You subtract the prior. n equal columns attract more, not less.": (
                SCALE * cosines - prior
            ).softmax(dim=1),
            "You scale the prior, too. Only cosines are multiplied by the logit scale.": (
                SCALE * (cosines + prior)
            ).softmax(dim=1),
            "You multiply the logits by the counts. It is the powers that are multiplied: add "
            "ln n.": (SCALE * cosines * counts).softmax(dim=1),
            "You do not normalise: the loss compares directions, not lengths.": (
                SCALE * image @ prototypes.T + prior
            ).softmax(dim=1),
            "You do not use the logit scale: it multiplies the cosines.": (cosines + prior).softmax(
                dim=1
            ),
        },
    )
    if same(got, right):
        raise Wrong("Those are the probabilities. Asked are the logits, before the softmax.")
    if not same(got.softmax(dim=1), right):
        raise Wrong(
            f"For the first picture the softmax of the logits is {_list(right[0])}; that of yours "
            f"is {_list(got.softmax(dim=1)[0])}."
        )
    return "A linear classifier, whose weights the text tower has written."


def ensemble(answer: Callable) -> str:
    """07.6: ``ensemble(prompts)``: (classes, prompts, dim) → (classes, dim), of length one."""
    random = torch.Generator().manual_seed(3)
    prompts = torch.randn(3, 4, 5, generator=random)
    prompts = prompts * torch.tensor([0.3, 1.0, 2.0, 4.0])[:, None]
    units = F.normalize(prompts, dim=2)
    right = F.normalize(units.mean(dim=1), dim=1)
    got = tensor(ask(answer, prompts))
    _first(
        got,
        {
            "The mean of vectors of length one is shorter than one, and for each class another "
            "length. Normalise the mean as well.": units.mean(dim=1),
            "Long embeddings count more in yours. Bring every prompt to length one first.": (
                F.normalize(prompts.mean(dim=1), dim=1)
            ),
            "You normalise neither the prompts nor their mean.": prompts.mean(dim=1),
            "You add the prompts up. Asked is a vector of length one.": units.sum(dim=1),
            "Only the first prompt is used. Average over all of them.": units[:, 0],
            "You average over the classes. Each class keeps a row; average over its prompts.": (
                F.normalize(units.mean(dim=0), dim=1)
            ),
            "That is the mean over everything: each class has its own.": F.normalize(
                units.mean(dim=(0, 1)), dim=0
            ),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"Expected one row a class, {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"For the first class expected {_list(right[0])}; got {_list(got[0])}.")
    return "One vector a class: as fast as one prompt, and not at the mercy of its wording."


def _first(got: Tensor | float, hints: Mapping[str, Any]) -> None:
    if hint := first_hint(got, hints):
        raise Wrong(hint)


def _list(values: Tensor) -> list[float]:
    return [round(v, 3) for v in values.tolist()]


EXERCISES: dict[str, Exercise] = {
    "07.1": loss,
    "07.2": floor,
    "07.3": expectation,
    "07.4": masked,
    "07.5": class_logits,
    "07.6": ensemble,
}

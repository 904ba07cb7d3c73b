"""The exercises of chapter 7, image–text contrastive learning."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, ask, compare, normal, shaped
from cmssf_lib.losses import duplicate_floor, expected_floor, image_text_loss, nt_xent

SCALE = 4.0
SHARP = 100.0  # CLIP's largest scale; its exponential overflows float32


def loss(answer: Answer) -> str:
    """07.1: ``loss(image, text, logit_scale)`` is the symmetric image–text loss."""
    draw = normal(0)
    image = 3 * draw(5, 3)
    text = image + 2 * draw(5, 3)
    cosines = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = torch.arange(5)

    def halves(logits: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(logits, own), F.cross_entropy(logits.T, own)])

    rows, columns = halves(SCALE * cosines)
    right = image_text_loss(image, text, SCALE)
    raw = image @ text.T
    divided = halves(cosines / SCALE).mean()
    hints = {
        "You do not normalise: the loss compares directions, not lengths.": halves(
            SCALE * raw
        ).mean(),
        "You do not use the logit scale: it multiplies the cosines.": halves(cosines).mean(),
        "You divide by the logit scale. It multiplies; a temperature would divide.": divided,
        "You take the logit scale for its logarithm. What you are given has been exponentiated "
        "already.": halves(math.exp(SCALE) * cosines).mean(),
        "Your texts do not ask. The other half of the loss runs down the columns.": rows,
        "Your images do not ask. The other half of the loss runs along the rows.": columns,
        "That is the sum of the two halves. Return their mean.": 2 * right,
        "You add up over the rows. Return the mean.": 5 * right,
        "The sign is turned round: a loss falls as partners come closer.": -right,
        "That is SimCLR's loss, where images compete with images as well. Here a picture looks "
        "among the texts only.": nt_xent(image, text, 1 / SCALE),
    }
    otherwise = "For five pairs in three dimensions expected {right:.4f}; got {got:.4f}."
    compare(ask(answer, image, text, SCALE), right, otherwise, hints)
    compare(
        ask(answer, image, text, SHARP),
        image_text_loss(image, text, SHARP),
        f"Right at the scale {SCALE:g}, wrong at {SHARP:g}: exp of a large number overflows. Use "
        "cross_entropy or logsumexp, which subtract the largest first.",
    )
    return "One matrix, read along its rows and down its columns."


def floor(answer: Answer) -> str:
    """07.2: ``floor(captions)`` gives the least possible one-hot loss of this batch."""
    captions = ["cat", "dog", "cat", "frog", "cat", "dog", "ship"]
    sizes = torch.tensor([3.0, 2.0, 1.0, 1.0])  # cat, dog, frog, ship
    right = duplicate_floor(torch.tensor([0, 1, 0, 2, 0, 1, 3]))
    guess = math.log(7)
    others = 3 * math.log(2) / 7
    hints = {
        "You average over the different captions. Return the mean over the rows: a caption that "
        "three pictures share counts three times.": sizes.log().mean(),
        "You add up over the rows. Return the mean.": right * 7,
        "That is the logarithm of the mean number of copies. Return the mean of the logarithm, "
        "which is smaller.": (sizes.square().sum() / 7).log(),
        "That would be right if all captions came equally often.": math.log(7 / 4),
        "Your logarithm has base 2. A loss is measured in nats.": right / math.log(2),
        "You count the other copies only. The own one is a copy, too: ln n, not ln(n - 1).": others,
        "That is the room above the floor, the entropy of the captions.": guess - right,
        "That is what guessing costs, ln B.": guess,
    }
    alone = "Is it ln 0? The own copy is one, too: a single caption costs ln 1."
    otherwise = "For {captions} expected {right:.4f}; got {got:.4f}."
    got = ask(answer, captions, on={ValueError: alone})
    compare(got, right, otherwise, hints, captions=captions)
    for few, value in ((["cat", "dog"], 0.0), (["cat"] * 4, math.log(4))):
        compare(ask(answer, few), value, "For {few} expected {right:.4f}.", few=few)
    return "No model can do better on this batch, however large and however long it is trained."


def expectation(answer: Answer) -> str:
    """07.3: ``floor(batch, classes)`` gives the expected floor of random batches."""
    for batch, classes in ((3, 2), (16, 4), (64, 10)):
        right, guess, others = expected_floor(batch, classes), math.log(batch), batch - 1
        hints = {
            "That is ln(batch / classes), as if every batch were perfectly balanced. A row itself "
            "is always one of its class.": math.log(batch / classes),
            "You take the logarithm of the expected number. Return the expectation of the "
            "logarithm, which is smaller.": math.log(1 + others / classes),
            "You draw all rows at random, the asking one as well. It is there for certain: 1 plus "
            "a binomial number of the *others*.": _mean_log(0, batch, classes),
            "You forget the asking row itself: with k others there are 1 + k "
            "equal captions.": _mean_log(0, others, classes),
            "You draw batch others. There are batch - 1.": _mean_log(1, batch, classes),
            "Your logarithm has base 2. A loss is measured in nats.": right / math.log(2),
            "That is what guessing costs, ln B.": guess,
            "That is the room between guessing and the floor.": guess - right,
        }
        otherwise = (
            "For batches of {batch} with {classes} captions expected {right:.4f}; got {got:.4f}."
        )
        returned = ask(answer, batch, classes)
        compare(returned, right, otherwise, hints, batch=batch, classes=classes)
    return "For large batches it nears ln(batch / classes), from above."


def _mean_log(certain: int, drawn: int, classes: int) -> float:
    """Return E[ln n] for n = certain + Binomial(drawn, 1 / classes), with ln 0 taken as 0."""
    p = 1 / classes
    chances = [math.comb(drawn, k) * p**k * (1 - p) ** (drawn - k) for k in range(drawn + 1)]
    return sum(c * math.log(max(1, certain + k)) for k, c in enumerate(chances))


def masked(answer: Answer) -> str:
    """07.4: ``loss(logits, groups)`` is the image→text loss without the false negatives."""
    groups = torch.tensor([0, 1, 0, 2, 0, 1])
    logits = 2 * normal(1)(6, 6)
    fits, itself, own = groups[:, None] == groups, torch.eye(6, dtype=torch.bool), torch.arange(6)
    false_negative = fits & ~itself

    def without(out: Tensor, value: float = -torch.inf) -> Tensor:
        return F.cross_entropy(logits.masked_fill(out, value), own)

    right = without(false_negative)
    columns = logits.masked_fill(false_negative, -torch.inf).T
    each = logits.log_softmax(dim=1) * fits / fits.sum(dim=1, keepdim=True)
    summed = (logits.softmax(dim=1) * fits).sum(dim=1)
    hints = {
        "That is the one-hot loss. Either nothing is masked, or you mask after the softmax, where "
        "the probability is spent already: mask the logits.": F.cross_entropy(logits, own),
        "You set the false negatives to 0, and the exponential of 0 is 1: they compete on. Use "
        "minus infinity.": without(false_negative, 0.0),
        "You mask the own text as well: then there is nothing to find.": without(fits),
        "You mask the true negatives and keep the false ones.": without(~fits),
        "That is the multi-positive loss: the others of the group are partners there. Here they "
        "are left out.": -each.sum(dim=1).mean(),
        "You add the group's probability up. Here the others of the group "
        "are left out.": -summed.log().mean(),
        "You add up over the rows. Return the mean.": 6 * right,
        "You read down the columns. A picture looks along its row.": F.cross_entropy(columns, own),
        "The sign is turned round: a loss falls as partners come closer.": -right,
    }
    otherwise = "For six rows in three groups expected {right:.4f}; got {got:.4f}."
    compare(ask(answer, logits, groups), right, otherwise, hints)
    nothing = "If all rows share one caption, nothing is left to tell apart: the loss is 0."
    compare(ask(answer, logits, torch.zeros(6, dtype=torch.int64)), 0, nothing)
    return "Its least value is 0, because nothing that fits is a negative any more."


def class_logits(answer: Answer) -> str:
    """07.5: ``logits(image, prototypes, counts, logit_scale)`` of the classifier in the loss."""
    draw = normal(2)
    image, prototypes, counts = draw(5, 4), draw(3, 4), torch.tensor([6, 2, 1])
    cosines = F.normalize(image, dim=1) @ F.normalize(prototypes, dim=1).T  # (5, 3)
    scaled, prior = SCALE * cosines, counts.log()
    # Adding a constant to a row leaves its softmax unchanged, so ln(n / B) is as right as ln n.
    right = (scaled + prior).softmax(dim=1)
    returned = ask(answer, image, prototypes, counts, SCALE)
    got = shaped(returned, (5, 3), "a row a picture, a column a class, shape")
    raw, all_scaled = image @ prototypes.T, SCALE * (cosines + prior)
    wrong = {
        "The prior is missing: a caption that stands in the batch six times is found "
        "more easily.": scaled,
        "You add the counts. Add their logarithm: n copies multiply a power by n.": scaled + counts,
        "You subtract the prior. n equal columns attract more, not less.": scaled - prior,
        "You scale the prior, too. Only cosines are multiplied by the logit scale.": all_scaled,
        "You multiply the logits by the counts. It is the powers that are "
        "multiplied: add ln n.": scaled * counts,
        "You do not normalise: the loss compares directions, not lengths.": SCALE * raw + prior,
        "You do not use the logit scale: it multiplies the cosines.": cosines + prior,
    }
    hints = {hint: logits.softmax(dim=1) for hint, logits in wrong.items()}
    hints["Those are the probabilities. Return the logits, before the softmax."] = right.softmax(
        dim=1
    )
    otherwise = (
        "For the first picture the softmax of the logits is {right[0]}; that of yours is {got[0]}."
    )
    compare(got.softmax(dim=1), right, otherwise, hints)
    return "A linear classifier, whose weights the text tower has written."


def ensemble(answer: Answer) -> str:
    """07.6: ``ensemble(prompts)``: (classes, prompts, dim) → (classes, dim), each of length one."""
    prompts = normal(3)(3, 4, 5) * torch.tensor([0.3, 1.0, 2.0, 4.0])[:, None]
    units = F.normalize(prompts, dim=2)
    mean = units.mean(dim=1)

    def unit(vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)

    hints = {
        "The mean of vectors of length one is shorter than one, and for each class another length. "
        "Normalise the mean as well.": mean,
        "Long embeddings count more in yours. Bring every prompt to length one first.": unit(
            prompts.mean(dim=1)
        ),
        "You normalise neither the prompts nor their mean.": prompts.mean(dim=1),
        "You add the prompts up. Return a vector of length one.": units.sum(dim=1),
        "Only the first prompt is used. Average over all of them.": units[:, 0],
        "You average over the classes. Each class keeps a row; average over its prompts.": unit(
            units.mean(dim=0)
        ),
        "That is the mean over everything: each class has its own.": unit(mean.mean(dim=0)),
    }
    otherwise = "For the first class expected {right[0]}; got {got[0]}."
    compare(
        ask(answer, prompts),
        F.normalize(mean, dim=1),
        otherwise,
        hints,
        what="one row a class, shape",
    )
    return "One vector a class: as fast as one prompt, and not at the mercy of its wording."


EXERCISES = (loss, floor, expectation, masked, class_logits, ensemble)

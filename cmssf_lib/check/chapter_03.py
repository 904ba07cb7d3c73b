"""The exercises of chapter 3, co-attention."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, ask, compare, normal, refuse, same, tensor
from cmssf_lib.evaluate import joint_ceiling, output_fusion_ceiling, single_ceiling
from cmssf_lib.fusion import CoAttentionLayer


def masked_attention(answer: Answer) -> str:
    """03.1: ``attention(query, key, value, real)`` of (n, d), (k, d), (k, e) and (k,) bool."""
    draw = normal(0)
    query, key, value = draw(3, 4), draw(5, 4), draw(5, 2)
    real = torch.tensor([True, False, True, True, False])
    scores = query @ key.T / 2  # sqrt(4): there are four dimensions

    def attend(scores: Tensor, hide: Tensor = ~real) -> Tensor:
        return scores.masked_fill(hide, -torch.inf).softmax(dim=1)

    everywhere = scores.softmax(dim=1)
    wrong = {
        "You do not look at the mask: hidden keys still give their values.": everywhere,
        "You do not scale: divide the scores by the root of the number of dimensions.": attend(
            2 * scores
        ),
        "You divide by d. Divide by its root: the spread of a dot product grows like that.": attend(
            scores / 2
        ),
        "You set hidden scores to 0, and the exponential of 0 is 1: it is a score like any other. "
        "Use minus infinity.": (scores * real).softmax(dim=1),
        "You hide keys after the softmax: the weights that are left do not sum to 1. Hide their "
        "scores before it.": everywhere * real,
        "Your mask is turned round: real is true where a query may look.": attend(scores, real),
    }
    got = tensor(ask(answer, query, key, value, real))
    hints = {hint: weights @ value for hint, weights in wrong.items()} | {
        "Those are the weights. Return weights times values.": attend(scores),
        "Some results are not numbers: a softmax met nothing but hidden scores. Each query shares "
        "out its own attention, so the softmax runs over the keys, not "
        "the queries.": bool(got.isnan().any()),
    }
    otherwise = "For the first query expected {right[0]}; got {got[0]}."
    compare(got, attend(scores) @ value, otherwise, hints, what="one gathered value a query, shape")
    large = tensor(ask(answer, 200 * query, 200 * key, value, real))
    refuse(
        {
            "Large scores give something that is no number: exp of a large score overflows. Use "
            "torch.softmax, which subtracts the largest "
            "score first.": not bool(large.isfinite().all())
        }
    )
    return "Hidden keys give nothing away, and what is left sums to one."


def heads(answer: Answer) -> str:
    """03.2: ``heads(x, count)`` splits (b, n, width) into (b, count, n, width / count)."""
    x = torch.arange(2 * 3 * 8).float().view(2, 3, 8)
    right = x.unflatten(2, (4, 2)).transpose(1, 2)
    pairs = x.unflatten(2, (2, 4))
    hints = {
        "The shape is right, but tokens are mixed: view fills it in the order of memory. Split the "
        "width first, then swap tokens and heads.": x.reshape(2, 4, 3, 2),
        "Tokens and heads stand in each other's place: swap axes 1 and 2.": x.view(2, 3, 4, 2),
        "Each head has neighbouring numbers of the width, not every fourth.": pairs.permute(
            0, 3, 1, 2
        ),
        "You turned tokens and numbers round as well: the last axis is what a head keeps of a "
        "token.": right.transpose(2, 3),
        "You make heads of count numbers each. Asked are count heads.": pairs.transpose(1, 2),
    }
    otherwise = "Head 0 of the first token should hold {right[0][0][0]}; it holds {got[0][0][0]}."
    compare(ask(answer, x, 4), right, otherwise, hints)
    one = tensor(ask(answer, x, 1))
    together = "With one head the whole width stays together: shape (2, 1, 3, 8)."
    refuse({together: not same(one, x[:, None])})
    return "Every head sees every token, and its own part of the width."


def ceiling(answer: Answer) -> str:
    """03.3: ``ceiling(joint)`` gives the highest accuracy of any fusion of two outputs."""
    xor = torch.eye(2)[torch.tensor([[0, 1], [1, 0]])]  # the answer is 1 where a and b differ
    # A picture holds two of four answers, and a question selects the first or the second of them.
    pairs = F.one_hot(torch.combinations(torch.arange(4)), 4).float()  # (6, 2, 4)
    uneven = torch.tensor([[[3.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 4.0]]])
    # Two weak signs of answer 0 are together a strong sign of answer 1: fixed rules miss that.
    odd = torch.tensor([[[1.0, 3.0], [3.0, 0.0]], [[3.0, 0.0], [1.0, 6.0]]])
    tables = {"xor": xor, "of pairs": pairs, "of counts": uneven, "of hints": odd}
    for name, joint in tables.items():
        right, total = output_fusion_ceiling(joint), joint.sum()
        better = max(single_ceiling(joint, axis) for axis in (0, 1))
        hints = {
            "You let the rule see the pair (a, b) itself. It sees only the two posteriors: pairs "
            "with the same posteriors must get the same answer.": joint_ceiling(joint),
            "That is the better of the two modalities alone. A fusion can use both.": better,
            "That is a count. Divide by the sum of the table.": right * total,
            "That is what multiplying the two posteriors, or their mean, reaches. Another rule may "
            "reach more: take the best answer of each group.": _by_product(joint),
            "That is what always the same answer reaches.": joint.sum(dim=(0, 1)).max() / total,
        }
        otherwise = "For the table {name} the ceiling is {right:.4f}; got {got:.4f}."
        compare(ask(answer, joint), right, otherwise, hints, name=name)
    return "Equal posteriors, equal answers: that is all there is to it."


def _by_product(joint: Tensor) -> Tensor:
    """Return the accuracy of choosing the answer with the largest product of the posteriors."""
    table = joint.double() / joint.sum()
    of_a, of_b = (F.normalize(table.sum(dim=axis), p=1, dim=1) for axis in (1, 0))
    choice = (of_a[:, None] * of_b[None]).argmax(dim=2, keepdim=True)
    return table.gather(2, choice).sum()


def entropy(answer: Answer) -> str:
    """03.4: ``entropy(weights)`` gives the entropy in bits of each row of (…, keys)."""
    weights = torch.tensor(
        [[[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]], [[1.0, 0, 0, 0], [0.7, 0.1, 0.1, 0.1]]]
    )
    bits = torch.special.entr(weights).sum(dim=-1) / math.log(2)
    got = tensor(ask(answer, weights))
    hints = {
        "Some entropies are not numbers: 0 × log 0 is nan on a computer and 0 in the limit. Mind "
        "the weights that are 0.": bool(got.isnan().any()),
        "That is in nats: use log2 for bits.": bits * math.log(2),
        "The sign is turned round: logarithms of weights are negative.": -bits,
        "You average over all rows. Each row has an entropy of its own.": bits.mean(),
        "You add up all rows. Each row has an entropy of its own.": bits.sum(),
        "You average over the keys. Add up: the weights are in the sum already.": bits / 4,
        "Expected one entropy a row, shape (2, 2) for weights of shape (2, 2, 4). Sum over the "
        "last axis.": got.shape != bits.shape,
    }
    compare(got, bits, "Expected {right} bits; got {got}.", hints)
    return "Two bits for four equal keys, none for a single one."


def parameters(answer: Answer) -> str:
    """03.5: ``parameters(width, shared)`` counts the parameters of one co-attention layer."""
    for width, shared in ((12, False), (12, True), (16, False), (16, True)):
        layer = CoAttentionLayer(width, 4, shared)
        right, cross = _size(layer), _size(layer.cross[0])
        biases = sum(m.bias.numel() for m in layer.modules() if isinstance(m, nn.Linear))
        norms = sum(2 * width for m in layer.modules() if isinstance(m, nn.LayerNorm))
        mlps = 2 * (8 * width * width + 5 * width)
        halved = (right + cross) / 2
        hints = {
            "You forget the biases: each matrix has one.": right - biases,
            "You forget the norms: each part has one, with a scale and a shift.": right - norms,
            "You forget biases and norms.": right - biases - norms,
            "You forget the feed-forward parts.": right - mlps,
            "You have shared and separate turned round.": right + (cross if shared else -cross),
            "That is one of the two streams.": right / 2,
            "Sharing does not halve the layer: only the looks across are shared.": halved,
            "The two looks at itself are not shared.": right - cross,
        }
        otherwise = (
            "A layer of width {width} with {kind} weights has {right} parameters; you count {got}."
        )
        kind = "shared" if shared else "separate"
        returned = ask(answer, width, shared)
        compare(returned, right, otherwise, hints, close=1e-9, width=width, kind=kind)
    return "Sharing saves one attention of four, and no feed-forward part."


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def pixel_maps(answer: Answer) -> str:
    """03.6: ``pixel_maps(weights, rows, columns)``: mean over heads, enlarged to 4×4 per patch."""
    random = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 3, 8, generator=random).softmax(dim=-1)  # (heads, words, patches)
    mean, over_words = weights.mean(dim=0), weights.mean(dim=1)
    grid = mean.view(3, 2, 4)

    def enlarged(maps: Tensor, rows: int = 2, columns: int = 4) -> Tensor:
        patches = maps.view(-1, rows, columns)
        return patches.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)

    hints = {
        "The map is not enlarged yet: each patch covers 4×4 pixels.": grid,
        "You repeat the whole map. Repeat each number: repeat_interleave.": grid.tile(1, 4, 4),
        "Rows and columns are turned round: patches run row by row.": enlarged(mean, 4, 2),
        "You add the heads up. Asked is their mean.": enlarged(2 * mean),
        "You keep one head only. Return the mean over heads.": enlarged(weights[0]),
        "You average over the words. Each word has a map of its own.": enlarged(over_words),
    }
    otherwise = "The shape is right, but numbers stand in wrong places."
    compare(
        ask(answer, weights, 2, 4), enlarged(mean), otherwise, hints, what="one map a word, shape"
    )
    return "One map a word, in the pixels of the picture."


EXERCISES = (masked_attention, heads, ceiling, entropy, parameters, pixel_maps)

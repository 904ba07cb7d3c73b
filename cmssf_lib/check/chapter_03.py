"""The exercises of chapter 3, co-attention."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from cmssf_lib.check.answers import Exercise, Wrong, ask, brief, first_hint, number, same, tensor
from cmssf_lib.evaluate import joint_ceiling, output_fusion_ceiling, single_ceiling
from cmssf_lib.fusion import CoAttentionLayer


def masked_attention(answer: Callable) -> str:
    """03.1: ``attention(query, key, value, real)`` of (n, d), (k, d), (k, e) and (k,) bool."""
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(3, 4, generator=random), torch.randn(5, 4, generator=random)
    value = torch.randn(5, 2, generator=random)
    real = torch.tensor([True, False, True, True, False])
    scores = query @ key.T / 2
    hidden = scores.masked_fill(~real, float("-inf"))
    right = hidden.softmax(dim=1) @ value
    got = tensor(ask(answer, query, key, value, real))
    if bool(got.isnan().any()):
        raise Wrong(
            "Some results are not numbers: a softmax met nothing but hidden scores. Each query "
            "shares out its own attention, so the softmax runs over the keys, not the queries."
        )
    hint = first_hint(
        got,
        {
            "You do not look at the mask: hidden keys still give their values.": F.softmax(
                scores, 1
            )
            @ value,
            "You do not scale: divide the scores by the root of the number of dimensions.": (
                2 * hidden
            ).softmax(dim=1)
            @ value,
            "You divide by d. Divide by its root: the spread of a dot product grows like that.": (
                hidden / 2
            ).softmax(dim=1)
            @ value,
            "You set hidden scores to 0, and the exponential of 0 is 1: it is a score like any "
            "other. Use minus infinity.": (scores * real).softmax(dim=1) @ value,
            "You hide keys after the softmax: the weights that are left do not sum to 1. Hide "
            "their scores before it.": (scores.softmax(dim=1) * real) @ value,
            "Your mask is turned round: real is true where a query may look.": scores.masked_fill(
                real, float("-inf")
            ).softmax(dim=1)
            @ value,
            "Those are the weights. Asked is weights times values.": hidden.softmax(dim=1),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected one gathered value a query, shape (3, 2); got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"For the first query expected {brief(right[0])}; got {brief(got[0])}.")
    large = tensor(ask(answer, 200 * query, 200 * key, value, real))
    if not bool(large.isfinite().all()):
        raise Wrong(
            "Large scores give something that is no number: exp of a large score overflows. Use "
            "torch.softmax, which subtracts the largest score first."
        )
    return "Hidden keys give nothing away, and what is left sums to one."


def heads(answer: Callable) -> str:
    """03.2: ``heads(x, count)`` splits (b, n, width) into (b, count, n, width / count)."""
    x = torch.arange(2 * 3 * 8).float().view(2, 3, 8)
    right = x.unflatten(2, (4, 2)).transpose(1, 2)
    got = tensor(ask(answer, x, 4))
    hint = first_hint(
        got,
        {
            "The shape is right, but tokens are mixed: view fills it in the order of memory. "
            "Split the width first, then swap tokens and heads.": x.reshape(2, 4, 3, 2),
            "Tokens and heads stand in each other's place: swap axes 1 and 2.": x.view(2, 3, 4, 2),
            "Each head has neighbouring numbers of the width, not every fourth.": x.view(
                2, 3, 2, 4
            ).permute(0, 3, 1, 2),
            "You turned tokens and numbers round as well: the last axis is what a head keeps of "
            "a token.": right.transpose(2, 3),
            "You make heads of count numbers each. Asked are count heads.": x.unflatten(
                2, (2, 4)
            ).transpose(1, 2),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected shape {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(
            f"Head 0 of the first token should hold {brief(right[0, 0, 0])}; it holds "
            f"{brief(got[0, 0, 0])}."
        )
    one = tensor(ask(answer, x, 1))
    if not same(one, x[:, None]):
        raise Wrong("With one head the whole width stays together: shape (2, 1, 3, 8).")
    return "Every head sees every token, and its own part of the width."


def ceiling(answer: Callable) -> str:
    """03.3: ``ceiling(joint)``: the best that any fusion of two outputs can reach."""
    xor = torch.eye(2)[torch.tensor([[0, 1], [1, 0]])]  # the answer is 1 where a and b differ
    # A picture names two of four answers, a question says which pair of them it is about.
    pairs = torch.zeros(6, 2, 4)
    for row, (first, second) in enumerate(((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))):
        pairs[row, 0, first] += 1
        pairs[row, 1, second] += 1
    uneven = torch.tensor([[[3.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 4.0]]])
    # Two weak hints at 0 are, together, a strong one at 1: no fixed rule knows that.
    odd = torch.tensor([[[1.0, 3.0], [3.0, 0.0]], [[3.0, 0.0], [1.0, 6.0]]])
    tables = {"xor": xor, "of pairs": pairs, "of counts": uneven, "of hints": odd}
    for name, joint in tables.items():
        right = output_fusion_ceiling(joint)
        got = number(ask(answer, joint))
        if same(got, right):
            continue
        hints = {
            "You let the rule see the pair (a, b) itself. It sees only the two posteriors: pairs "
            "with the same posteriors must get the same answer.": joint_ceiling(joint),
            "That is the better of the two modalities alone. A fusion can use both.": max(
                single_ceiling(joint, 0), single_ceiling(joint, 1)
            ),
            "That is a count. Divide by the sum of the table.": right * float(joint.sum()),
            "That is what multiplying the two posteriors, or their mean, reaches. Another rule may "
            "reach more: take the best answer of each group.": _by_product(joint),
            "That is what always the same answer reaches.": float(
                joint.sum(dim=(0, 1)).max() / joint.sum()
            ),
        }
        raise Wrong(
            first_hint(got, hints)
            or f"For the table {name} the ceiling is {right:.4f}; got {got:.4f}."
        )
    return "Equal posteriors, equal answers: that is all there is to it."


def _by_product(joint: torch.Tensor) -> float:
    """Accuracy of the answer that is likeliest by the product of the two posteriors."""
    table = joint.double() / joint.sum()
    of_a, of_b = (F.normalize(table.sum(dim=axis), p=1, dim=1) for axis in (1, 0))
    choice = (of_a[:, None] * of_b[None]).argmax(dim=2, keepdim=True)
    return float(table.gather(2, choice).sum())


def entropy(answer: Callable) -> str:
    """03.4: ``entropy(weights)`` in bits of each row of (…, keys)."""
    weights = torch.tensor(
        [[[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]], [[1.0, 0, 0, 0], [0.7, 0.1, 0.1, 0.1]]]
    )
    bits = torch.special.entr(weights).sum(dim=-1) / math.log(2)
    got = tensor(ask(answer, weights))
    if bool(got.isnan().any()):
        raise Wrong(
            "Some entropies are not numbers: 0 × log 0 is nan on a computer and 0 in the limit. "
            "Mind the weights that are 0."
        )
    hint = first_hint(
        got,
        {
            "That is in nats: use log2 for bits.": bits * math.log(2),
            "The sign is turned round: logarithms of weights are negative.": -bits,
            "You average over all rows. Each row has an entropy of its own.": bits.mean(),
            "You add up all rows. Each row has an entropy of its own.": bits.sum(),
            "You average over the keys. Add up: the weights are in the sum already.": bits / 4,
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != bits.shape:
        raise Wrong(
            f"Expected one entropy a row, shape {tuple(bits.shape)} for weights of shape "
            f"{tuple(weights.shape)}; got {tuple(got.shape)}. Sum over the last axis."
        )
    if not same(got, bits):
        raise Wrong(f"Expected {brief(bits.flatten())} bits; got {brief(got.flatten())}.")
    return "Two bits for four equal keys, none for a single one."


def parameters(answer: Callable) -> str:
    """03.5: ``parameters(width, shared)`` of one co-attention layer."""
    for width in (12, 16):
        for shared in (False, True):
            layer = CoAttentionLayer(width, 4, shared)
            right = sum(p.numel() for p in layer.parameters())
            got = number(ask(answer, width, shared))
            if got == right:
                continue
            cross = sum(p.numel() for p in layer.cross[0].parameters())
            biases = sum(m.bias.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))
            norms = sum(2 * width for m in layer.modules() if isinstance(m, torch.nn.LayerNorm))
            mlps = 2 * (8 * width * width + 5 * width)
            other = right + (cross if shared else -cross)
            hints = {
                "You forget the biases: each matrix has one.": right - biases,
                "You forget the norms: each part has one, with a scale and a shift.": right - norms,
                "You forget biases and norms.": right - biases - norms,
                "You forget the feed-forward parts.": right - mlps,
                "You have shared and separate turned round.": other,
                "That is one of the two streams.": right / 2,
                "Sharing does not halve the layer: only the looks across are shared.": (
                    right + cross
                )
                / 2,
                "The two looks at itself are not shared.": right - cross,
            }
            raise Wrong(
                first_hint(got, hints)
                or f"A layer of width {width} with {'shared' if shared else 'separate'} weights "
                f"has {right} parameters; you count {got:g}."
            )
    return "Sharing saves one attention of four, and no feed-forward part."


def pixel_maps(answer: Callable) -> str:
    """03.6: ``pixel_maps(weights, rows, columns)``: the mean over heads, 4×4 pixels a patch."""
    random = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 3, 8, generator=random).softmax(dim=-1)  # (heads, words, patches)
    mean = weights.mean(dim=0)
    grid = mean.view(3, 2, 4)
    right = _enlarged(grid)
    got = tensor(ask(answer, weights, 2, 4))
    hint = first_hint(
        got,
        {
            "The map is not enlarged yet: each patch covers 4×4 pixels.": grid,
            "You repeat the whole map. Repeat each number: repeat_interleave.": torch.tile(
                grid, (1, 4, 4)
            ),
            "Rows and columns are turned round: patches run row by row.": _enlarged(
                mean.view(3, 4, 2)
            ),
            "You add the heads up. Asked is their mean.": 2 * right,
            "You keep one head only. Asked is the mean over heads.": _enlarged(
                weights[0].view(3, 2, 4)
            ),
            "You average over the words. Each word has a map of its own.": _enlarged(
                weights.mean(dim=1).view(2, 2, 4)
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected one map a word, shape {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong("The shape is right, but numbers stand in wrong places.")
    return "One map a word, in the pixels of the picture."


def _enlarged(maps: torch.Tensor) -> torch.Tensor:
    return maps.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


EXERCISES: dict[str, Exercise] = {
    "03.1": masked_attention,
    "03.2": heads,
    "03.3": ceiling,
    "03.4": entropy,
    "03.5": parameters,
    "03.6": pixel_maps,
}

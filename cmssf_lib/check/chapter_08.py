"""The exercises of chapter 8, the model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, Wrong, ask, compare, normal, refuse, same
from cmssf_lib.encoders import ProjectionHead


def pooling(answer: Answer) -> str:
    """08.1: ``pool(query, keys, values)`` is single-head attention from [CLS] to the tokens."""
    draw = normal(0)
    query, keys, values = 2 * draw(4), draw(6, 4), draw(6, 3)
    scores = keys @ query

    def pooled(scores: Tensor) -> Tensor:
        return scores.softmax(dim=0) @ values

    weights, best = (scores / 2).softmax(dim=0), values[scores.argmax()]
    by_tokens = pooled(scores / math.sqrt(6))
    unbounded = scores / 2 @ values
    hints = {
        "You do not divide by the root of the number of dimensions.": pooled(scores),
        "You divide by the number of dimensions. Asked is its root.": pooled(scores / 4),
        "You multiply by the root of the dimensions. It divides.": pooled(2 * scores),
        "That is the root of the number of tokens. Take that of the dimensions.": by_tokens,
        "Those are the weights. Return the mean of the values with these weights.": weights,
        "You take the scores themselves for weights. A softmax makes them sum to one.": unbounded,
        "That is the value of the best token alone. Attention takes a share of each.": best,
        "That is the plain mean: the query is not asked.": values.mean(dim=0),
    }
    right = pooled(scores / 2)  # sqrt(4): there are four dimensions
    what = "one vector as long as a value, shape"
    compare(ask(answer, query, keys, values), right, hints=hints, what=what)
    return "A mean whose weights the query chooses: that is all that [CLS] ever does."


def head(answer: Answer) -> str:
    """08.2: ``head(x, w1, b1, w2, b2)`` has one hidden layer and gives vectors of length one."""
    draw = normal(1)
    x, w1, b1, w2, b2 = draw(5, 4), draw(6, 4), draw(6), draw(3, 6), draw(3)

    def made(bend: Callable[[Tensor], Tensor], first: int = 1, second: int = 1) -> Tensor:
        return bend(x @ w1.T + first * b1) @ w2.T + second * b2

    def unit(y: Tensor) -> Tensor:
        return F.normalize(y, dim=1)

    plain = made(F.gelu)
    hints = {
        "The vectors have any length. In the shared space they have length one.": plain,
        "There is nothing between the two layers, and so they are one: a product of matrices is a "
        "matrix.": unit(made(lambda hidden: hidden)),
        "That is ReLU. This head has GELU.": unit(made(F.relu)),
        "You bend the output, too. The last layer is linear, so that the vector can "
        "point anywhere.": unit(F.gelu(plain)),
        "You leave out the shifts.": unit(made(F.gelu, first=0, second=0)),
        "You leave out the second shift.": unit(made(F.gelu, second=0)),
        "You leave out the first shift.": unit(made(F.gelu, first=0)),
        "You bring columns to length one. A row is a picture.": F.normalize(plain, dim=0),
    }
    turned = "A weight is (outputs, inputs), as nn.Linear keeps it: multiply by its transpose."
    returned = ask(answer, x, w1, b1, w2, b2, on={RuntimeError: turned})
    otherwise = "For the first row expected {right[0]}; got {got[0]}."
    compare(returned, unit(plain), otherwise, hints, what="a row a picture, shape")
    return "That is the library's head, and the step onto the sphere."


def count(answer: Answer) -> str:
    """08.3: ``count(width, hidden, dim, depth)`` gives the parameters of a projection head."""
    width, hidden, dim = 64, 32, 16
    first, between, last = width * hidden, hidden * hidden, hidden * dim
    for depth in (1, 2, 0):
        right = sum(p.numel() for p in ProjectionHead(width, hidden, dim, depth).parameters())
        hints = {
            "You count no shifts: each layer has one for each of its outputs.": right
            - depth * hidden
            - dim,
            "The last layer has a shift as well.": right - dim,
            "The hidden layers have shifts as well.": right - depth * hidden,
            "Without a hidden layer one linear map is left, from the encoder's width to the shared "
            "space.": 0,
            "Without a hidden layer nothing has the width of one: the map begins at the encoder's "
            "width.": last + dim,
            "You count one hidden layer, whatever depth is.": first + last + hidden + dim,
            "You count a hidden layer too many: between depth of them lie depth - 1 squares.": right
            + between
            + hidden,
            "Both heads together have that many. Count only one.": 2 * right,
        }
        returned = ask(answer, width, hidden, dim, depth)
        given = f"width 64, hidden 32, dim 16 and depth {depth}"
        otherwise = "For {given} expected {right:,}; got {got:,}."
        compare(returned, right, otherwise, hints, given=given)
    return "Most of a small head is its two matrices."


class _Small(nn.Module):
    """Four submodules, one with two parts, that run in a different order than they are created."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.body = nn.Sequential(nn.Linear(5, 4), nn.GELU())
        self.first = nn.Linear(6, 5)
        self.between = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.body(self.first(x))))


def trace(answer: Answer) -> str:
    """08.4: ``trace(model, x)`` lists name and output shape of leaf modules as they run."""
    torch.manual_seed(0)
    model, x = _Small(), torch.randn(7, 6)
    sizes = {"first": 5, "body.0": 4, "body.1": 4, "between": 3, "last": 2}
    right = [(name, (7, size)) for name, size in sizes.items()]
    made = [(name, (7, sizes[name])) for name, _ in model.named_modules() if name in sizes]
    got = _pairs(ask(lambda: answer(model, x)))  # not a copy, to find hooks left on the model
    names = [name for name, _ in got]
    left = sum(len(module._forward_hooks) for module in model.modules())
    hints = {
        f"{left} hooks are still on the model: every later call would pay for them. Remove them "
        "when the model has run.": left > 0,
        "That is the order in which the parts were made. Return the order in which they run: "
        "write down a shape when its hook is called.": got == made,
        "Modules that consist of others are in your list, too. Return those without parts: not "
        "list(module.children()).": set(names) > set(sizes),
        f"The names are right. Expected the shapes of the outputs, {right[0]} first; "
        f"got {got[:1]}.": names == list(sizes) and got != right,
        f"Expected {right}; got {got}.": got != right,
    }
    refuse(hints)
    return "No shape was typed, so none can be out of date."


def _pairs(returned: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Read a list of (name, shape).

    Raises:
        Wrong: If it is not such a list.
    """
    try:
        pairs = [(name, tuple(int(size) for size in shape)) for name, shape in returned]
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong('Expected a list of pairs, such as ("first", (7, 5)).') from error
    if not all(isinstance(name, str) for name, _ in pairs):
        raise Wrong("Expected a list of pairs: the module's name first, then the shape.")
    return pairs


def teacher(answer: Answer) -> str:
    """08.5: ``weights(state)`` takes the encoder's initial weights from a DINO run's state dict."""
    draw = normal(2)
    encoder, mlp = ("backbone.cls_token", "backbone.norm.weight"), ("mlp.0.weight",)
    parts = {"image_encoder": encoder, "teacher_encoder": encoder, "head": mlp, "teacher_head": mlp}
    state = {f"{part}.{name}": draw(3) for part, names in parts.items() for name in names}
    state["centre"] = torch.zeros(3)

    def of(part: str, cut: str) -> dict[str, Tensor]:
        return {k.removeprefix(cut): v for k, v in state.items() if k.startswith(part)}

    def has(expected: Mapping[str, Tensor]) -> bool:
        return got.keys() == expected.keys() and all(
            isinstance(got[k], Tensor) and same(got[k], expected[k]) for k in expected
        )

    got, right = ask(answer, state), of("teacher_encoder.", "teacher_encoder.")
    if not isinstance(got, Mapping):
        raise Wrong(f"Expected a dictionary, name to tensor; got a {type(got).__name__}.")
    headed = has(of("teacher_", "teacher_"))
    bare = has(of("teacher_encoder.", "teacher_encoder.backbone."))
    hints = {
        "That is the student. DINO shows the teacher's features: a mean of many students, and the "
        "better one.": has(of("image_encoder.", "image_encoder.")),
        "Those are the right tensors. Take the part's name away, so that they fit an encoder that "
        "stands alone.": has(of("teacher_encoder.", "")),
        "The teacher's head is in it. The prototypes are thrown away: only the "
        "encoder goes on.": headed,
        "You have taken everything. The teacher's encoder alone goes on.": has(state),
        "You have cut too much: the encoder's own names begin with 'backbone'.": bare,
        f"Expected the names {sorted(right)}; got {sorted(map(str, got))[:6]}.": not has(right),
    }
    refuse(hints)
    return "Strict loading of these says if one is missing."


def gain(answer: Answer) -> str:
    """08.6: ``gain(encode, rest, epochs)`` gives how many times faster a cached tower trains."""
    for encode, rest, epochs in ((6.0, 2.0, 10), (6.0, 2.0, 1), (1.0, 3.0, 40)):
        right = epochs * (encode + rest) / (encode + epochs * rest)
        hints = {
            "You forget that the pictures are encoded once even so.": (encode + rest) / rest,
            "You forget what is left to do in each epoch: heads and texts.": epochs,
            "That is the other way round: above 1 is faster.": 1 / right,
            "That is the time saved, not the ratio.": (epochs - 1) * encode,
            "You encode once, and do the rest once as well. The rest comes in every epoch.": epochs,
        }
        given = f"encode {encode:g}, rest {rest:g} and {epochs} epochs"
        otherwise = "For {given} expected {right:.3f}; got {got:.3f}."
        compare(ask(answer, encode, rest, epochs), right, otherwise, hints, given=given)
    return "With many epochs it nears (encode + rest) / rest, and never passes it."


EXERCISES = (pooling, head, count, trace, teacher, gain)

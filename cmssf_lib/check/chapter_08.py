"""The exercises of chapter 8, the model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.check.answers import (
    Exercise,
    Wrong,
    ask,
    brief,
    first_hint,
    number,
    refuse,
    same,
    tensor,
)
from cmssf_lib.encoders import ProjectionHead


def pooling(answer: Callable) -> str:
    """08.1: ``pool(query, keys, values)``: what [CLS] takes from the tokens, one head."""
    random = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(4, generator=random)
    keys, values = torch.randn(6, 4, generator=random), torch.randn(6, 3, generator=random)
    scores = keys @ query
    right = (scores / 2).softmax(dim=0) @ values  # the root of four dimensions is two
    got = tensor(ask(answer, query, keys, values))
    refuse(
        got,
        {
            "You do not divide by the root of the number of dimensions.": scores.softmax(0)
            @ values,
            "You divide by the number of dimensions. Asked is its root.": (scores / 4).softmax(0)
            @ values,
            "You multiply by the root of the dimensions. It divides.": (2 * scores).softmax(0)
            @ values,
            "That is the root of the number of tokens. Asked is that of the dimensions.": (
                scores / math.sqrt(6)
            ).softmax(0)
            @ values,
            "Those are the weights. Asked is the mean of the values that they make.": (
                scores / 2
            ).softmax(0),
            "You take the scores themselves for weights. A softmax makes them sum to one.": (
                scores / 2
            )
            @ values,
            "That is the value of the best token alone. Attention takes a share of each.": values[
                scores.argmax()
            ],
            "That is the plain mean: the query is not asked.": values.mean(dim=0),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"Expected one vector as long as a value, (3,); got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"Expected {brief(right)}; got {brief(got)}.")
    return "A mean whose weights the query chooses: that is all that [CLS] ever does."


def head(answer: Callable) -> str:
    """08.2: ``head(x, w1, b1, w2, b2)``: one hidden layer, and a vector of length one."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, generator=random)
    w1, b1 = torch.randn(6, 4, generator=random), torch.randn(6, generator=random)
    w2, b2 = torch.randn(3, 6, generator=random), torch.randn(3, generator=random)

    def made(bend: Callable[[Tensor], Tensor], b1: Tensor = b1, b2: Tensor = b2) -> Tensor:
        return bend(x @ w1.T + b1) @ w2.T + b2

    right = F.normalize(made(F.gelu), dim=1)
    turned = "A weight is (outputs, inputs), as nn.Linear keeps it: multiply by its transpose."
    got = tensor(ask(answer, x, w1, b1, w2, b2, on={RuntimeError: turned}))
    refuse(
        got,
        {
            "The vectors have any length. In the shared space they have length one.": made(F.gelu),
            "There is nothing between the two layers, and so they are one: a product of matrices "
            "is a matrix.": F.normalize(made(lambda h: h), dim=1),
            "That is ReLU. This head has GELU.": F.normalize(made(F.relu), dim=1),
            "You bend the output, too. The last layer is linear, so that the vector can point "
            "anywhere.": F.normalize(F.gelu(made(F.gelu)), dim=1),
            "You leave out the shifts.": F.normalize(made(F.gelu, 0 * b1, 0 * b2), dim=1),
            "You leave out the second shift.": F.normalize(made(F.gelu, b2=0 * b2), dim=1),
            "You leave out the first shift.": F.normalize(made(F.gelu, b1=0 * b1), dim=1),
            "You bring columns to length one. A row is a picture.": F.normalize(
                made(F.gelu), dim=0
            ),
        },
    )
    if got.shape != right.shape:
        raise Wrong(f"Expected a row a picture, {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong(f"For the first row expected {brief(right[0])}; got {brief(got[0])}.")
    return "That is the library's head, and the step onto the sphere."


def count(answer: Callable) -> str:
    """08.3: ``count(width, hidden, dim, depth)``: the numbers a projection head learns."""
    for width, hidden, dim, depth in ((64, 32, 16, 1), (64, 32, 16, 2), (64, 32, 16, 0)):
        right = sum(p.numel() for p in ProjectionHead(width, hidden, dim, depth).parameters())
        got = number(ask(answer, width, hidden, dim, depth))
        if same(got, right):
            continue
        first, between, last = width * hidden, hidden * hidden, hidden * dim
        hints = {
            "You count no shifts: each layer has one for each of its outputs.": (
                first + (depth - 1) * between + last if depth else width * dim
            ),
            "The last layer has a shift as well.": right - dim,
            "The hidden layers have shifts as well.": right - depth * hidden,
            "Without a hidden layer one linear map is left, from the encoder's width to the "
            "shared space.": 0,
            "Without a hidden layer nothing has the width of one: the map begins at the "
            "encoder's width.": hidden * dim + dim,
            "You count one hidden layer, whatever depth is.": first + last + hidden + dim,
            "You count a hidden layer too many: between depth of them lie depth - 1 squares.": (
                right + between + hidden
            ),
            "Both heads together have that many. Asked is one.": 2 * right,
        }
        hint = first_hint(got, hints)
        raise Wrong(
            hint
            or f"For width {width}, hidden {hidden}, dim {dim} and depth {depth} expected "
            f"{right:,}; got {got:,.0f}."
        )
    return "Most of a small head is its two matrices."


class _Small(nn.Module):
    """Three modules of which one has two inside, used in another order than they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.body = nn.Sequential(nn.Linear(5, 4), nn.GELU())
        self.first = nn.Linear(6, 5)
        self.between = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.body(self.first(x))))


def trace(answer: Callable) -> str:
    """08.4: ``trace(model, x)``: name and output shape of each module without parts, in order."""
    torch.manual_seed(0)
    model, x = _Small(), torch.randn(7, 6)
    sizes = {"first": 5, "body.0": 4, "body.1": 4, "between": 3, "last": 2}
    right = [(name, (7, size)) for name, size in sizes.items()]
    got = _pairs(ask(lambda: answer(model, x)))
    named = dict(right)
    made = [(name, named[name]) for name, _ in model.named_modules() if name in named]
    if left := sum(len(module._forward_hooks) for module in model.modules()):
        raise Wrong(
            f"{left} hooks are still on the model: every later call would pay for them. Remove "
            "them when the model has run."
        )
    if got == made:
        raise Wrong(
            "That is the order in which the parts were made. Asked is the order in which they "
            "run: write down a shape when its hook is called."
        )
    if {name for name, _ in got} > set(named):
        raise Wrong(
            "Modules that consist of others are in your list, too. Asked are those without parts: "
            "not list(module.children())."
        )
    if [name for name, _ in got] == list(named) and got != right:
        raise Wrong(
            f"The names are right. Expected the shapes of the outputs, {right[0]} first; got "
            f"{got[0]}."
        )
    if got != right:
        raise Wrong(f"Expected {right}; got {got}.")
    return "No shape was typed, so none can be out of date."


def _pairs(returned: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Read a list of (name, shape).

    Raises:
        Wrong: If it is something else.
    """
    try:
        pairs = [(name, tuple(int(size) for size in shape)) for name, shape in returned]
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong('Expected a list of pairs, such as ("first", (7, 5)).') from error
    if not all(isinstance(name, str) for name, _ in pairs):
        raise Wrong("Expected a list of pairs: the module's name first, then the shape.")
    return pairs


def teacher(answer: Callable) -> str:
    """08.5: ``weights(state)``: of a DINO run's state dict, the weights to start from."""
    random = torch.Generator().manual_seed(2)
    parts = ("image_encoder.", "teacher_encoder.", "head.", "teacher_head.")
    names = ("backbone.cls_token", "backbone.norm.weight")
    state = {
        part + name: torch.randn(3, generator=random)
        for part in parts
        for name in (names if "encoder" in part else ("mlp.0.weight",))
    }
    state["centre"] = torch.zeros(3)

    def of(part: str, cut: str) -> dict[str, Tensor]:
        return {k.removeprefix(cut): v for k, v in state.items() if k.startswith(part)}

    right = of("teacher_encoder.", "teacher_encoder.")
    got = ask(answer, state)
    if not isinstance(got, Mapping):
        raise Wrong(f"Expected a dictionary, name to tensor; got a {type(got).__name__}.")
    for hint, wrong in {
        "That is the student. DINO shows the teacher's features: a mean of many students, and the "
        "better one.": of("image_encoder.", "image_encoder."),
        "Those are the right tensors. Take the part's name away, so that they fit an encoder that "
        "stands alone.": of("teacher_encoder.", ""),
        "The teacher's head is in it. The prototypes are thrown away: only the encoder goes on.": (
            of("teacher_", "teacher_")
        ),
        "You have taken everything. The teacher's encoder alone goes on.": dict(state),
        "You have cut too much: the encoder's own names begin with 'backbone'.": of(
            "teacher_encoder.", "teacher_encoder.backbone."
        ),
    }.items():
        if _equal(got, wrong):
            raise Wrong(hint)
    if not _equal(got, right):
        raise Wrong(f"Expected the names {sorted(right)}; got {sorted(map(str, got))[:6]}.")
    return "Strict loading of these says if one is missing."


def _equal(got: Mapping[Any, Any], expected: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors by the same names."""
    return got.keys() == expected.keys() and all(
        isinstance(got[k], Tensor) and same(got[k], expected[k]) for k in expected
    )


def gain(answer: Callable) -> str:
    """08.6: ``gain(encode, rest, epochs)``: how many times faster a cached tower trains."""
    for encode, rest, epochs in ((6.0, 2.0, 10), (6.0, 2.0, 1), (1.0, 3.0, 40)):
        right = epochs * (encode + rest) / (encode + epochs * rest)
        got = number(ask(answer, encode, rest, epochs))
        if same(got, right):
            continue
        hints = {
            "You forget that the pictures are encoded once even so.": (encode + rest) / rest,
            "You forget what is left to do in each epoch: heads and texts.": epochs,
            "That is the other way round: above 1 is faster.": 1 / right,
            "That is the time saved, not the ratio.": (epochs - 1) * encode,
            "You encode once, and do the rest once as well. The rest comes in every epoch.": (
                epochs * (encode + rest) / (encode + rest)
            ),
        }
        raise Wrong(
            first_hint(got, hints)
            or f"For encode {encode:g}, rest {rest:g} and {epochs} epochs expected {right:.3f}; "
            f"got {got:.3f}."
        )
    return "With many epochs it nears (encode + rest) / rest, and never passes it."


EXERCISES: dict[str, Exercise] = {
    "08.1": pooling,
    "08.2": head,
    "08.3": count,
    "08.4": trace,
    "08.5": teacher,
    "08.6": gain,
}

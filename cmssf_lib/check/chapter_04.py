"""The exercises of chapter 4, masked autoencoders."""

from collections.abc import Callable

import torch
from torch import Tensor

from cmssf_lib.check.answers import Exercise, Wrong, ask, brief, first_hint, number, same, tensor
from cmssf_lib.encoders import ConvStem
from cmssf_lib.losses import mae_loss, normalise_patches, patchify
from cmssf_lib.losses.reconstruction import EPSILON


def patches(answer: Callable) -> str:
    """04.1: ``patches(image, patch)`` cuts (c, h, w) into (n, patch · patch · c)."""
    image = torch.arange(3 * 4 * 6).float().view(3, 4, 6)
    right = patchify(image[None], 2)[0]
    got = tensor(ask(answer, image, 2))
    grid = image.view(3, 2, 2, 3, 2)  # (c, row, y, column, x)
    hint = first_hint(
        got,
        {
            "The shape is right, but view takes the numbers in the order of memory: it cuts "
            "strips, not squares. Split height and width first, then move axes.": image.reshape(
                6, 12
            ),
            "The squares are right, but within one the channels stand one after the other. The "
            "three channels of a pixel belong side by side: move c to the end.": grid.permute(
                1, 3, 0, 2, 4
            ).reshape(6, 12),
            "Patches run row by row; yours run column by column.": grid.permute(
                3, 1, 2, 4, 0
            ).reshape(6, 12),
            "Pixels within a patch run row by row; yours run column by column.": grid.permute(
                1, 3, 4, 2, 0
            ).reshape(6, 12),
            "The patches are right, but not flat: one row of numbers each.": right.view(6, 2, 2, 3),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(
            f"Six patches of 2×2 pixels and 3 channels have shape (6, 12); got {tuple(got.shape)}."
        )
    if not same(got, right):
        raise Wrong(f"The first patch should be {brief(right[0])}; it is {brief(got[0])}.")
    single = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([p.flatten() for p in single[0].unfold(0, 4, 4).transpose(1, 2)])
    if not same(tensor(ask(answer, single, 4)), expected):
        raise Wrong("It fails for one channel and patches of 4: use the sizes that are given.")
    return "Every pixel is in one patch, and its channels stand side by side."


def mask(answer: Callable) -> str:
    """04.2: ``mask(noise, kept)`` is true where a patch is hidden; the smallest noise stays."""
    noise = torch.rand(4, 7, generator=torch.Generator().manual_seed(3))
    order = noise.argsort(dim=1)
    right = order.argsort(dim=1) >= 2
    got = tensor(ask(answer, noise, 2))
    hint = first_hint(
        got,
        {
            "It is turned round: true is for hidden patches.": ~right,
            "You keep those with the largest noise. Asked is the smallest.": order.argsort(dim=1)
            < 5,
            "argsort says which patch comes first, not which place a patch has. The places are "
            "argsort of argsort; or scatter into a mask.": order >= 2,
            "Those are the places of the visible patches. Asked is a mask.": order[:, :2],
            "You hide as many as should stay.": order.argsort(dim=1) >= 5,
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected a mask of shape {tuple(right.shape)}; got {tuple(got.shape)}.")
    visible = (got == 0).sum(dim=1)
    if not bool((visible == 2).all()):
        raise Wrong(
            f"Every picture should keep 2 patches; yours keep {visible.tolist()}. A threshold on "
            "the noise keeps 2 on average only: sort each row."
        )
    if not same(got, right):
        raise Wrong(f"For the first picture expected {brief(right[0])}; got {brief(got[0])}.")
    return "Every picture hides other patches, and equally many."


def loss(answer: Callable) -> str:
    """04.3: ``loss(prediction, patches, mask)`` on normalised pixels, hidden patches only."""
    random = torch.Generator().manual_seed(0)
    guess, target = torch.rand(2, 3, 5, 12, generator=random)
    hidden = torch.rand(3, 5, generator=random).argsort(dim=1) >= 2  # three of five
    right = float(mae_loss(guess, target, hidden, normalise=True))
    biased = target - target.mean(dim=2, keepdim=True)
    biased = biased / (target.var(dim=2, keepdim=True, correction=0) + EPSILON).sqrt()
    every = (guess - normalise_patches(target)).square()
    over_all = (target - target.mean()) / target.std()
    got = number(ask(answer, guess, target, hidden))
    hint = first_hint(
        got,
        {
            "Visible patches count in yours. What was seen is no guess.": float(every.mean()),
            "You set visible patches to zero but still divide by all of them: divide by the "
            "number of hidden ones.": right * 3 / 5,
            "You use the visible patches. The mask is true where a patch was hidden.": float(
                mae_loss(guess, target, ~hidden, normalise=True)
            ),
            "You do not normalise the patches.": float(
                mae_loss(guess, target, hidden, normalise=False)
            ),
            "You normalise with the biased variance. The paper's code divides by v - 1, as "
            "torch.var does by default.": float(mae_loss(guess, biased, hidden, normalise=False)),
            "You add up the values of a patch. Asked is their mean.": 12 * right,
            "You take the root. Asked is the mean of the squares.": right**0.5,
            "You normalise over all patches together. Each patch has a mean and a deviation of "
            "its own.": float(mae_loss(guess, over_all, hidden, normalise=False)),
            "You normalise the guesses as well. Only the target is normalised: the network has "
            "to say what it means.": float(
                mae_loss(normalise_patches(guess), target, hidden, normalise=True)
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For the example the loss is {right:.4f}; got {got:.4f}.")
    flat = torch.full((1, 2, 12), 0.3)
    one = torch.tensor([[True, False]])
    if not abs(number(ask(answer, torch.zeros(1, 2, 12), flat, one))) < 0.01:
        raise Wrong(
            "A patch of one colour has no variance to divide by: add 1e-6 to it before the root."
        )
    return "Only what was hidden counts, and only what is in a patch."


def fill(answer: Callable) -> str:
    """04.4: ``fill(seen, keep, token, n)`` puts visible tokens to their places among n."""
    random = torch.Generator().manual_seed(1)
    seen = torch.randn(2, 3, 4, generator=random)
    keep = torch.tensor([[5, 0, 2], [1, 4, 3]])
    token = torch.randn(4, generator=random)
    right = _filled(seen, keep, token)
    got = tensor(ask(answer, seen, keep, token, 6))
    others = token.expand(2, 3, 4)
    hint = first_hint(
        got,
        {
            "The visible tokens stand at the head. Each belongs to its own place, or the decoder "
            "gives it the wrong position.": torch.cat([seen, others], dim=1),
            "You sorted keep and not the tokens with it: token i belongs to place keep[i].": (
                _filled(seen, keep.sort(dim=1).values, token)
            ),
            "Every picture has places of its own; you use those of the first.": _filled(
                seen, keep[:1].expand(2, -1), token
            ),
            "Hidden places are zero. They hold the mask token.": _filled(seen, keep, 0 * token),
            "You added the mask token to the visible ones as well.": _filled(
                seen + token, keep, token
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected a token for each of 6 places, (2, 6, 4); got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong("The shape is right, but tokens stand in wrong places.")
    return "Every visible token is back in its place, every other place holds the mask token."


def _filled(seen: Tensor, keep: Tensor, token: Tensor) -> Tensor:
    whole = token.repeat(len(seen), 6, 1)
    for i, places in enumerate(keep.tolist()):
        for j, place in enumerate(places):
            whole[i, place] = seen[i, j]
    return whole


def restore(answer: Callable) -> str:
    """04.5: ``restore(guess, patches, mask)``: from normalised guesses back to pixels."""
    random = torch.Generator().manual_seed(2)
    guess = torch.randn(2, 4, 12, generator=random)
    true = torch.rand(2, 4, 12, generator=random)
    hidden = torch.rand(2, 4, generator=random).argsort(dim=1) >= 1
    mean = true.mean(dim=2, keepdim=True)
    std, biased = ((true.var(dim=2, keepdim=True, correction=c) + EPSILON).sqrt() for c in (1, 0))
    filled = {
        "right": guess * std + mean,
        "as it is": guess,
        "mean": guess + mean,
        "order": (guess + mean) * std,
        "variance": guess * std**2 + mean,
        "biased": guess * biased + mean,
        "divided": (guess - mean) / std,
    }
    pictures = {k: torch.where(hidden[:, :, None], v, true) for k, v in filled.items()}
    right = pictures["right"]
    got = tensor(ask(answer, guess, true, hidden))
    hint = first_hint(
        got,
        {
            "You fill in the guesses as they are: they are in units of each patch's deviation.": (
                pictures["as it is"]
            ),
            "You add the mean and forget the deviation.": pictures["mean"],
            "First times the deviation, then plus the mean: the other way round the mean is "
            "scaled as well.": pictures["order"],
            "You multiply by the variance. Take its root.": pictures["variance"],
            "You use the biased variance; the targets were made with v - 1.": pictures["biased"],
            "You normalise once more. Asked is the way back.": pictures["divided"],
            "You replace the visible patches, too. They were seen, so show them.": filled["right"],
            "You replace the visible patches and keep the hidden ones.": torch.where(
                hidden[:, :, None], true, filled["right"]
            ),
        },
    )
    if hint:
        raise Wrong(hint)
    if got.shape != right.shape:
        raise Wrong(f"Expected patches of shape {tuple(right.shape)}; got {tuple(got.shape)}.")
    if not same(got, right):
        raise Wrong("The shape is right, the numbers are not: guess · deviation + mean.")
    return "A picture to look at, and now you know what of it was not guessed."


def leak(answer: Callable) -> str:
    """04.6: ``leak(stem, image, place)``: pixels outside its patch that move a token."""
    torch.manual_seed(0)
    stem, image = ConvStem(16, 4, 3, 16).eval(), torch.rand(3, 16, 16)
    for apart in (False, True):
        stem.apart = apart
        for place in (5, 0):
            inside, outside = _reach(stem, image, place)
            got = number(ask(answer, stem, image, place))
            if got == outside:
                continue
            hints = {
                "You count the patch's own pixels as well.": inside + outside,
                "You count channels. A pixel is a place with three of them.": 3 * outside,
                "You count channels, and the patch's own pixels as well.": 3 * (inside + outside),
                "You count all pixels outside. Count those whose gradient is not zero.": 240,
                "Those are the pixels inside the patch.": inside,
            }
            raise Wrong(
                first_hint(got, hints)
                or f"Token {place} of a stem with apart={apart} is moved by {outside} pixels "
                f"outside its patch; you count {got:g}."
            )
    return "An ordinary stem looks far over the border, one with apart=True not at all."


def _reach(stem: ConvStem, image: Tensor, place: int) -> tuple[int, int]:
    """Pixels inside and outside a token's own patch that move it."""
    pixels = image[None].clone().requires_grad_(True)
    moved = torch.autograd.grad(stem(pixels)[0, place].square().sum(), pixels)[0]
    seen = moved[0].abs().sum(dim=0) > 0
    row, column = divmod(place, image.shape[2] // 4)
    inside = int(seen[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].sum())
    return inside, int(seen.sum()) - inside


EXERCISES: dict[str, Exercise] = {
    "04.1": patches,
    "04.2": mask,
    "04.3": loss,
    "04.4": fill,
    "04.5": restore,
    "04.6": leak,
}

"""The exercises of chapter 4, masked autoencoders."""

from functools import partial

import torch
from torch import Tensor

from cmssf_lib.check.answers import Answer, ask, compare, normal, tensor
from cmssf_lib.encoders import ConvStem
from cmssf_lib.losses import mae_loss, normalise_patches, patchify

SMALL = 1e-6  # added to the variance, as in the paper's code


def patches(answer: Answer) -> str:
    """04.1: ``patches(image, patch)`` cuts (c, h, w) into (n, patch · patch · c)."""
    image = torch.arange(3 * 4 * 6).float().view(3, 4, 6)
    right = patchify(image[None], 2)[0]
    grid = image.view(3, 2, 2, 3, 2)  # (c, row, y, column, x)

    def by(*axes: int) -> Tensor:
        return grid.permute(*axes).reshape(6, 12)

    hints = {
        "The shape is right, but view takes the numbers in the order of memory: it cuts strips, "
        "not squares. Split height and width first, then move axes.": image.reshape(6, 12),
        "The squares are right, but within one the channels stand one after the other. The three "
        "channels of a pixel belong side by side: move c to the end.": by(1, 3, 0, 2, 4),
        "Patches run row by row; yours run column by column.": by(3, 1, 2, 4, 0),
        "Pixels within a patch run row by row; yours run column by column.": by(1, 3, 4, 2, 0),
        "The patches are right, but not flat: one row of numbers each.": right.view(6, 2, 2, 3),
    }
    what = "six patches of 2×2 pixels and 3 channels, which have shape"
    otherwise = "The first patch should be {right[0]}; it is {got[0]}."
    compare(ask(answer, image, 2), right, otherwise, hints, what=what)
    single = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(0))
    sizes = "It fails for one channel and patches of 4: use the sizes that are given."
    compare(ask(answer, single, 4), single.view(2, 16), sizes)
    return "Every pixel is in one patch, and its channels stand side by side."


def mask(answer: Answer) -> str:
    """04.2: ``mask(noise, kept)`` is true where a patch is hidden; the smallest noise stays."""
    noise = torch.rand(4, 7, generator=torch.Generator().manual_seed(3))
    order = noise.argsort(dim=1)
    places = order.argsort(dim=1)
    right = places >= 2
    got = tensor(ask(answer, noise, 2))
    uneven, visible = False, []
    if got.shape == right.shape:
        visible = (got == 0).sum(dim=1).tolist()
        uneven = visible != [2] * 4
    hints = {
        "It is turned round: true is for hidden patches.": ~right,
        "You keep those with the largest noise. Keep the smallest.": places < 5,
        "argsort says which patch comes first, not which place a patch has. The places are argsort "
        "of argsort; or scatter into a mask.": order >= 2,
        "Those are the places of the visible patches. Asked is a mask.": order[:, :2],
        "You hide as many as should stay.": places >= 5,
        f"Every picture should keep 2 patches; yours keep {visible}. A threshold on the noise "
        "keeps 2 on average only: sort each row.": uneven,
    }
    otherwise = "For the first picture expected {right[0]}; got {got[0]}."
    compare(got, right, otherwise, hints, what="a mask of shape")
    return "Every picture hides other patches, and equally many."


def loss(answer: Answer) -> str:
    """04.3: ``loss(prediction, patches, mask)`` is the loss on normalised hidden patches."""
    random = torch.Generator().manual_seed(0)
    guess, target = torch.rand(2, 3, 5, 12, generator=random)
    hidden = torch.rand(3, 5, generator=random).argsort(dim=1) >= 2  # three of five
    right = mae_loss(guess, target, hidden, normalise=True)
    normal_target = normalise_patches(target)
    centred = target - target.mean(dim=2, keepdim=True)
    biased = centred / (target.var(dim=2, keepdim=True, correction=0) + SMALL).sqrt()
    over_all = (target - target.mean()) / target.std()
    plain = partial(mae_loss, normalise=False)
    every = (guess - normal_target).square().mean()
    visible = plain(guess, normal_target, ~hidden)
    hints = {
        "Visible patches count in yours. What was seen is no guess.": every,
        "You set visible patches to zero but still divide by all of them: divide by the number of "
        "hidden ones.": right * 3 / 5,
        "You use the visible patches. The mask is true where a patch was hidden.": visible,
        "You do not normalise the patches.": plain(guess, target, hidden),
        "You normalise with the biased variance. The paper's code divides by v - 1, as torch.var "
        "does by default.": plain(guess, biased, hidden),
        "You add up the values of a patch. Take their mean.": 12 * right,
        "You take the root. Return the mean of the squares.": right.sqrt(),
        "You normalise over all patches together. Each patch has a mean and a "
        "deviation of its own.": plain(guess, over_all, hidden),
        "You normalise the guesses as well. Only the target is normalised: the network has to say "
        "what it means.": plain(normalise_patches(guess), normal_target, hidden),
    }
    otherwise = "For the example the loss is {right:.4f}; got {got:.4f}."
    compare(ask(answer, guess, target, hidden), right, otherwise, hints)
    flat, one = torch.full((1, 2, 12), 0.3), torch.tensor([[True, False]])
    no_variance = (
        "A patch of one colour has no variance to divide by: add 1e-6 to it before the root."
    )
    compare(ask(answer, torch.zeros(1, 2, 12), flat, one), 0, no_variance, close=0.01)
    return "Only what was hidden counts, and only what is in a patch."


def fill(answer: Answer) -> str:
    """04.4: ``fill(seen, keep, token, n)`` puts visible tokens back in their places among n."""
    draw = normal(1)
    seen, keep, token = draw(2, 3, 4), torch.tensor([[5, 0, 2], [1, 4, 3]]), draw(4)

    def filled(seen: Tensor, keep: Tensor, token: Tensor) -> Tensor:
        return token.repeat(2, 6, 1).scatter(1, keep[:, :, None].expand(2, 3, 4), seen)

    head = torch.cat([seen, token.expand(2, 3, 4)], dim=1)
    in_order = filled(seen, keep.sort(dim=1).values, token)
    of_first = filled(seen, keep[:1].expand(2, 3), token)
    hints = {
        "The visible tokens stand at the head. Each belongs to its own place, or the decoder gives "
        "it the wrong position.": head,
        "You sorted keep and not the tokens with it: token i belongs to place keep[i].": in_order,
        "Every picture has places of its own; you use those of the first.": of_first,
        "Hidden places are zero. They hold the mask token.": filled(seen, keep, 0 * token),
        "You added the mask token to the visible ones as well.": filled(seen + token, keep, token),
    }
    returned, right = ask(answer, seen, keep, token, 6), filled(seen, keep, token)
    otherwise = "The shape is right, but tokens stand in wrong places."
    compare(returned, right, otherwise, hints, what="a token for each of 6 places, shape")
    return "Every visible token is back in its place, every other place holds the mask token."


def restore(answer: Answer) -> str:
    """04.5: ``restore(guess, patches, mask)`` turns normalised predictions back into pixels."""
    random = torch.Generator().manual_seed(2)
    guess = torch.randn(2, 4, 12, generator=random)
    true = torch.rand(2, 4, 12, generator=random)
    hidden = torch.rand(2, 4, generator=random).argsort(dim=1) >= 1
    mean = true.mean(dim=2, keepdim=True)
    std, biased = ((true.var(dim=2, keepdim=True, correction=c) + SMALL).sqrt() for c in (1, 0))

    back, where = guess * std + mean, hidden[:, :, None]
    filled_in = {
        "You fill in the guesses as they are: they are in units of each patch's deviation.": guess,
        "You add the mean and forget the deviation.": guess + mean,
        "First times the deviation, then plus the mean: the other way round the mean is scaled as "
        "well.": (guess + mean) * std,
        "You multiply by the variance. Take its root.": guess * std**2 + mean,
        "You use the biased variance; the targets were made with v - 1.": guess * biased + mean,
        "You normalise once more instead of going the way back.": (guess - mean) / std,
    }
    hints = {hint: torch.where(where, made, true) for hint, made in filled_in.items()} | {
        "You replace the visible patches, too. They were seen, so show them.": back,
        "You replace the visible patches and keep the hidden ones.": torch.where(where, true, back),
    }
    right = torch.where(where, back, true)
    otherwise = "The shape is right, the numbers are not: guess · deviation + mean."
    compare(ask(answer, guess, true, hidden), right, otherwise, hints, what="patches of shape")
    return "A picture to look at, and now you know what of it was not guessed."


def leak(answer: Answer) -> str:
    """04.6: ``leak(stem, image, place)`` counts pixels outside its patch that affect a token."""
    torch.manual_seed(0)
    stem, image = ConvStem(16, 4, 3, 16).eval(), torch.rand(3, 16, 16)
    for apart, place in ((False, 5), (False, 0), (True, 5), (True, 0)):
        stem.apart = apart
        inside, outside = _reach(stem, image, place)
        hints = {
            "You count the patch's own pixels as well.": inside + outside,
            "You count channels. A pixel is a place with three of them.": 3 * outside,
            "You count channels, and the patch's own pixels as well.": 3 * (inside + outside),
            "You count all pixels outside. Count those whose gradient is not zero.": 240,
            "Those are the pixels inside the patch.": inside,
        }
        otherwise = (
            f"Token {place} of a stem with apart={apart} is moved by {outside} pixels outside its "
            "patch; you count {got}."
        )
        compare(ask(answer, stem, image, place), outside, otherwise, hints)
    return "An ordinary stem looks far over the border, one with apart=True not at all."


def _reach(stem: ConvStem, image: Tensor, place: int) -> tuple[int, int]:
    """Count the pixels inside and outside a token's own patch that affect it."""
    pixels = image[None].clone().requires_grad_(True)
    moved = torch.autograd.grad(stem(pixels)[0, place].square().sum(), pixels)[0]
    seen = moved[0].abs().sum(dim=0) > 0
    row, column = divmod(place, image.shape[2] // 4)
    inside = int(seen[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].sum())
    return inside, int(seen.sum()) - inside


EXERCISES = (patches, mask, loss, fill, restore, leak)

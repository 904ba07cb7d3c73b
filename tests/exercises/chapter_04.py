"""Chapter 4: solutions, and typical wrong answers with the hint that each must get."""

import torch

# --- solutions, as short as one would write them ---


def patches(image, patch):
    c, h, w = image.shape
    grid = image.reshape(c, h // patch, patch, w // patch, patch)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * c)


def mask(noise, kept):
    return noise.argsort(dim=1).argsort(dim=1) >= kept


def loss(prediction, patches, mask):
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    target = (patches - mean) / (variance + 1e-6).sqrt()
    return (prediction - target).square()[mask].mean()


def fill(seen, keep, token, n):
    whole = token.repeat(len(seen), n, 1)
    return whole.scatter(1, keep[:, :, None].expand(-1, -1, seen.shape[2]), seen)


def restore(guess, patches, mask):
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return torch.where(mask[:, :, None], guess * (variance + 1e-6).sqrt() + mean, patches)


def leak(stem, image, place):
    pixels = image[None].clone().requires_grad_(True)
    stem(pixels)[0, place].sum().backward()
    seen = pixels.grad[0].abs().sum(dim=0) > 0
    row, column = divmod(place, image.shape[2] // 4)
    seen[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = False
    return int(seen.sum())


SOLUTIONS = {
    "04.1": patches,
    "04.2": mask,
    "04.3": loss,
    "04.4": fill,
    "04.5": restore,
    "04.6": leak,
}


# --- what goes wrong, and what is said to it ---


def patches_by(*axes, flat=True):
    """Patches with the axes (c, row, y, column, x) in another order."""

    def wrong(image, patch):
        c, h, w = image.shape
        grid = image.reshape(c, h // patch, patch, w // patch, patch).permute(*axes)
        return grid.reshape(-1, patch * patch * c) if flat else grid.flatten(0, 1)

    return wrong


def strips(image, patch):
    return image.reshape(-1, patch * patch * len(image))


def loss_by(target=None, over=None, score=None):
    """The loss with another target, other patches, or another last step."""

    def wrong(prediction, patches, mask):
        made = target(patches) if target else normal(patches)
        error = (prediction - made).square()
        chosen = over(error, mask) if over else error[mask]
        return score(chosen, error, mask) if score else chosen.mean()

    return wrong


def normal(x, correction=1, small=1e-6):
    mean, variance = x.mean(dim=2, keepdim=True), x.var(dim=2, keepdim=True, correction=correction)
    return (x - mean) / (variance + small).sqrt()


def fill_by(change):
    def wrong(seen, keep, token, n):
        return fill(*change(seen, keep, token), n)

    return wrong


def restore_by(back, everywhere=False, turned=False):
    def wrong(guess, patches, mask):
        mean, std = patches.mean(dim=2, keepdim=True), patches.std(dim=2, keepdim=True)
        made = back(guess, mean, std)
        where = torch.ones_like(mask) if everywhere else (~mask if turned else mask)
        return torch.where(where[:, :, None], made, patches)

    return wrong


def reach(own, channels):
    """Pixels, or their channels, that move a token, with or without its own patch."""

    def wrong(stem, image, place):
        pixels = image[None].clone().requires_grad_(True)
        stem(pixels)[0, place].sum().backward()
        seen = pixels.grad[0] != 0
        row, column = divmod(place, image.shape[2] // 4)
        if not own:
            seen[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = False
        return int(seen.sum() if channels else seen.any(dim=0).sum())

    return wrong


def inside(stem, image, place):
    return reach(True, False)(stem, image, place) - leak(stem, image, place)


WRONG = {
    "view": ("04.1", strips, "strips, not squares"),
    "channels first": ("04.1", patches_by(1, 3, 0, 2, 4), "channels of a pixel belong side by"),
    "columns first": ("04.1", patches_by(3, 1, 2, 4, 0), "yours run column by column"),
    "pixels by column": ("04.1", patches_by(1, 3, 4, 2, 0), "Pixels within a patch"),
    "not flat": ("04.1", patches_by(1, 3, 2, 4, 0, flat=False), "not flat"),
    "one row": ("04.1", lambda i, p: patches(i, p).flatten(), r"have shape \(6, 12\)"),
    "backwards": ("04.1", lambda i, p: patches(i, p).flip(0), "first patch should be"),
    "always two": (
        "04.1",
        lambda i, p: patches(i, 2) if len(i) == 3 else patches(i, 2).view(2, 16),
        "use the sizes that are given",
    ),
    "turned round": ("04.2", lambda n, k: ~mask(n, k), "turned round"),
    "largest": (
        "04.2",
        lambda n, k: mask(-n, k),
        "largest noise",
    ),
    "argsort once": ("04.2", lambda n, k: n.argsort(dim=1) >= k, "argsort of argsort"),
    "places": ("04.2", lambda n, k: n.argsort(dim=1)[:, :k], "Asked is a mask"),
    "hides kept": (
        "04.2",
        lambda n, k: mask(n, n.shape[1] - k),
        "hide as many",
    ),
    "threshold": ("04.2", lambda n, k: n > k / n.shape[1], "on average only"),
    "one picture": ("04.2", lambda n, k: mask(n, k)[0], "a mask of shape"),
    "same for all": (
        "04.2",
        lambda n, k: mask(n[1:2], k).expand(len(n), -1),
        "For the first picture",
    ),
    "all patches": ("04.3", loss_by(over=lambda e, m: e), "no guess"),
    "zeros count": (
        "04.3",
        loss_by(over=lambda e, m: e * m[:, :, None]),
        "number of hidden ones",
    ),
    "visible": ("04.3", loss_by(over=lambda e, m: e[~m]), "visible patches"),
    "pixels": ("04.3", loss_by(target=lambda p: p), "do not normalise"),
    "biased": ("04.3", loss_by(target=lambda p: normal(p, 0)), "biased"),
    "sum": ("04.3", loss_by(score=lambda c, e, m: c.sum(dim=-1).mean()), "add up"),
    "root": ("04.3", loss_by(score=lambda c, e, m: c.mean().sqrt()), "take the root"),
    "all together": (
        "04.3",
        loss_by(target=lambda p: (p - p.mean()) / p.std()),
        "over all patches together",
    ),
    "guesses too": ("04.3", lambda g, p, m: loss(normal(g), p, m), "Only the target"),
    "absolute": (
        "04.3",
        lambda g, p, m: (g - normal(p)).abs()[m].mean(),
        "For the example",
    ),
    "no epsilon": ("04.3", loss_by(target=lambda p: normal(p, small=0)), "no variance"),
    "at the head": (
        "04.4",
        lambda s, k, t, n: torch.cat([s, t.expand(len(s), n - s.shape[1], -1)], dim=1),
        "at the head",
    ),
    "sorted": (
        "04.4",
        fill_by(lambda s, k, t: (s, k.sort(dim=1).values, t)),
        r"place keep\[i\]",
    ),
    "first picture's": (
        "04.4",
        fill_by(lambda s, k, t: (s, k[:1].expand(len(k), -1), t)),
        "places of its own",
    ),
    "zeros": ("04.4", fill_by(lambda s, k, t: (s, k, 0 * t)), "hold the mask token"),
    "added": ("04.4", fill_by(lambda s, k, t: (s + t, k, t)), "added the mask token"),
    "too short": (
        "04.4",
        lambda s, k, t, n: fill(s, k, t, n)[:, :5],
        "each of 6 places",
    ),
    "reversed": ("04.4", lambda s, k, t, n: fill(s, k, t, n).flip(1), "wrong places"),
    "as it is": ("04.5", restore_by(lambda g, m, s: g), "as they are"),
    "mean only": ("04.5", restore_by(lambda g, m, s: g + m), "forget the deviation"),
    "order": ("04.5", restore_by(lambda g, m, s: (g + m) * s), "First times"),
    "variance": ("04.5", restore_by(lambda g, m, s: g * s**2 + m), "Take its root"),
    "biased back": (
        "04.5",
        restore_by(lambda g, m, s: g * s * (11 / 12) ** 0.5 + m),
        "v - 1",
    ),
    "once more": ("04.5", restore_by(lambda g, m, s: (g - m) / s), "the way back"),
    "everywhere": (
        "04.5",
        restore_by(lambda g, m, s: g * s + m, everywhere=True),
        "They were seen",
    ),
    "other patches": (
        "04.5",
        restore_by(lambda g, m, s: g * s + m, turned=True),
        "keep the hidden",
    ),
    "hidden only": (
        "04.5",
        lambda g, p, m: restore(g, p, m)[m],
        "Expected patches of shape",
    ),
    "doubled": ("04.5", restore_by(lambda g, m, s: 2 * g * s + m), "deviation \\+ mean"),
    "own pixels": ("04.6", reach(True, False), "own pixels as well"),
    "channels": ("04.6", reach(False, True), "You count channels. A pixel"),
    "channels and own": ("04.6", reach(True, True), "count channels, and"),
    "all outside": ("04.6", lambda s, i, p: 240, "whose gradient is not zero"),
    "inside": ("04.6", inside, "inside the patch"),
    "never": ("04.6", lambda s, i, p: 0, "you count 0"),
}

"""Momentum: a second network that follows the first one slowly.

MoCo's key encoder, BYOL's target and DINO's teacher are the same thing: an exponential moving
average (EMA) of the network that is trained. It gets no gradient; it moves after, or before,
each step by a small part of the way.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def momentum_copy(online: Network) -> Network:
    """Return a copy that starts where `online` stands and never gets a gradient.

    Args:
        online: The network that is trained.

    Returns:
        A deep copy; none of its parameters requires a gradient.
    """
    target = copy.deepcopy(online)
    return target.requires_grad_(False)


@torch.no_grad()
def momentum_update(online: nn.Module, target: nn.Module, momentum: float) -> None:
    """Move `target` towards `online`: target ← momentum · target + (1 - momentum) · online.

    Buffers count as well as parameters. A batch norm's running mean is as much a part of the
    network as its gain: an average of the parameters alone would, in evaluation mode, normalise
    by the zeros and ones that it began with. So buffers of floating-point numbers follow the
    same rule, and those of whole numbers (a count of batches), which have no average, are
    copied.

    Args:
        online: The network that is trained.
        target: Its `momentum_copy`, changed in place.
        momentum: Part of itself that `target` keeps, 0 (all of `online`) to 1 (nothing of it).

    Raises:
        ValueError: If the momentum is not between 0 and 1, or the two networks are not built
            alike.

    References:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"
        (MoCo), equation 2. Buffers are this library's addition.
    """
    require_momentum(momentum)
    ours = dict(online.named_parameters()) | dict(online.named_buffers())
    theirs = dict(target.named_parameters()) | dict(target.named_buffers())
    shapes = [{name: value.shape for name, value in net.items()} for net in (ours, theirs)]
    if shapes[0] != shapes[1]:
        differ = sorted(k for k in ours | theirs if shapes[0].get(k) != shapes[1].get(k))
        raise ValueError(
            f"the two networks are not built alike: {', '.join(differ[:5])}. The target must be "
            "a momentum_copy of the online network"
        )
    for name, value in theirs.items():
        if value.is_floating_point():
            value.lerp_(ours[name], 1 - momentum)
        else:
            value.copy_(ours[name])


def momentum_schedule(progress: float, start: float) -> float:
    """Return a momentum that rises from `start` to 1 along half a cosine.

    Early on the online network learns fast and the target should keep up; at the end the
    target stands still. `Method.after_step` is called after the step, so the last value is exactly
    1; DINO's published code counts steps from 0 and ends just below it.

    Args:
        progress: Part of the training that is done, 0 to 1.
        start: The momentum at the beginning.

    Raises:
        ValueError: If either is not between 0 and 1.

    References:
        Grill et al. 2020, "Bootstrap Your Own Latent" (BYOL), section 3.3.
    """
    if not 0 <= progress <= 1 or not 0 <= start <= 1:
        raise ValueError(
            f"progress and start lie between 0 and 1; got progress={progress}, start={start}"
        )
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def require_momentum(momentum: float) -> None:
    """Refuse a momentum that is not between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"the momentum is {momentum}; it is the part of itself that the momentum network "
            "keeps in a step: give a number between 0 and 1"
        )

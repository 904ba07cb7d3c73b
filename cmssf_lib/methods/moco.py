"""MoCo: a view finds its picture's other view among a queue of earlier ones.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", with a head
as in its third version (Chen, Xie & He 2021, "An Empirical Study of Training Self-Supervised
Vision Transformers").

    view a → ImageEncoder    → head ──────── query ─┐
                  ┊ EMA         ┊ EMA               ├→ InfoNCE     (gradient: upper row only)
    view b → momentum encoder → momentum head ─ key ─┤
                                                queue ┘ ← key, afterwards
"""

import copy
import math
from typing import TypeVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import BatchNormHead, ImageEncoder
from cmssf_lib.losses import moco_loss
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.settings import Fraction, settings
from cmssf_lib.views import Views, ViewsConfig

Network = TypeVar("Network", bound=nn.Module)


@settings
class MoCoConfig:
    """MoCo (chapter 5)."""

    hidden: PositiveInt  # width of the projection head's hidden layer
    dim: PositiveInt  # dimensions in which views are compared
    temperature: PositiveFloat  # divides the cosine similarities
    queue: PositiveInt  # keys that are kept as negatives; a multiple of the batch size
    in_batch: bool  # whether the keys of the batch's other pictures are negatives as well
    momentum: Fraction  # part of itself that the momentum encoder keeps in a step
    views: ViewsConfig  # how the two views of a picture are made


class MoCo(Method):
    """Learns without labels, with more negatives than a batch holds.

    The loss is asymmetric, as in the paper: the first view asks, the second answers. A symmetric
    one sees every picture twice a step and must not be compared with it at equal epochs.

    Keys age while they wait, and a short training changes its network fast: a long queue does
    harm there. ``in_batch`` asks among the freshest ones as well, those of the batch's other
    pictures.

    While training, batch norm lets the pictures of a batch see each other, and a query and its
    key share a batch. The paper shuffles the keys among several GPUs against it, which on one
    device does nothing. An encoder can do without batch norm (``norm="group"``); the head keeps
    its own, without which a short training uses few directions (watch "effective_rank").

    Args:
        image_encoder: Trained; kept.
        config: Head, temperature, queue, momentum, views.

    Attributes:
        queue: ``(config.queue, dim)``, keys of unit length, the oldest first. It begins with
            random directions, as the paper's does.
    """

    queue: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: MoCoConfig) -> None:
        super().__init__()
        self.config = config
        self.views = Views(config.views)
        self.image_encoder = image_encoder
        self.head = BatchNormHead(image_encoder.width, config.hidden, config.dim)
        self.momentum_encoder = momentum_copy(self.image_encoder)
        self.momentum_head = momentum_copy(self.head)
        # A buffer: part of state_dict, and so of every checkpoint.
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.dim), dim=1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ask each first view for its second among the queue's keys.

        Training then puts the batch's keys into the queue. Evaluation draws views as well (two
        equal pictures would be no question), but leaves the queue as it is.

        Returns:
            As `Method.loss`, with the mean similarity of a query with its own key
            ("positive_similarity") and with the queue's ("negative_similarity").

        Raises:
            ValueError: If the batch holds a single picture, or, in training, the queue is not a
                whole number of batches.
        """
        require_two_pictures(batch)
        if self.training and len(self.queue) % len(batch):
            raise ValueError(
                f"a queue of {len(self.queue)} keys is not a whole number of batches of "
                f"{len(batch)}: choose a queue that is a multiple of the batch size"
            )
        both = self.views(batch.images.repeat(2, 1, 1, 1))  # (2b, 3, h, w)
        first, second = both.chunk(2)
        query = self.head(self.image_encoder.encode(first))  # (b, dim)
        with torch.no_grad():
            key = F.normalize(self.momentum_head(self.momentum_encoder.encode(second)), dim=1)
        queue = self.queue  # as it was: with its own key in it, a query would push that away
        in_batch = self.config.in_batch
        loss = moco_loss(query, key, queue, self.config.temperature, in_batch=in_batch)
        if self.training:
            # First in, first out. A new tensor: `loss` still needs the old one for its gradient.
            self.queue = torch.cat([queue[len(key) :], key])
        unit = F.normalize(query.detach(), dim=1)
        candidates = len(queue) + (len(key) if in_batch else 1)
        return {
            "loss": loss,
            "positive_similarity": (unit * key).sum(dim=1).mean(),
            # The mean over all pairs is the product of the means.
            "negative_similarity": unit.mean(dim=0) @ queue.mean(dim=0),
            "embeddings": query.detach(),
            "chance": torch.tensor(math.log(candidates)),
        }

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder, after each step of the optimizer.

        Here, and not in `loss`, because the paper's algorithm 1 has it here: once for each step,
        also where a step is made of several losses. It is before the next key forward all the
        same, and before the checkpoint of this step, so a run that was killed goes on exactly.

        Args:
            progress: Part of the training that is done, 0 to 1. MoCo's momentum is constant.
        """
        momentum_update(self.image_encoder, self.momentum_encoder, self.config.momentum)
        momentum_update(self.head, self.momentum_head, self.config.momentum)


# --- the momentum network, which BYOL and DINO have as well --------------------------------------


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
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"the momentum is {momentum}; it is the part of itself that the momentum network "
            "keeps in a step: give a number between 0 and 1"
        )
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

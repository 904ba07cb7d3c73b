"""MoCo: a view must find the other view of its picture among a queue of earlier ones.

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
    queue: PositiveInt  # number of keys kept as negatives; a multiple of the batch size
    in_batch: bool  # whether the keys of the batch's other pictures are negatives too
    momentum: Fraction  # EMA momentum of the momentum encoder
    views: ViewsConfig  # how the two views of a picture are made


class MoCo(Method):
    """Learns without labels, with more negatives than a batch holds.

    The loss is asymmetric, as in the paper: the first view is the query, the second the key. A
    symmetric loss uses every picture twice per step, so the two are not comparable at equal epochs.

    The keys in the queue come from older versions of the network. In a short training the network
    changes fast, and a long queue does harm. With ``in_batch``, the most recent keys, those of the
    batch's other pictures, are negatives too.

    In training, batch norm leaks information between the pictures of a batch, and a query and its
    key share a batch. To prevent this the paper shuffles the keys among several GPUs, which has no
    effect on one device. The encoder can do without batch norm (``norm="group"``), but the head
    keeps it: without it, a short training uses few directions (see "effective_rank").

    Args:
        image_encoder: Trained; kept.
        config: Head, temperature, queue, momentum, views.

    Attributes:
        queue: ``(config.queue, dim)``, keys of unit length, oldest first. As in the paper, it
            starts with random directions.
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
        """Compare each query with its own key and with the keys in the queue.

        Training then adds the batch's keys to the queue. Evaluation also draws views (with two
        identical pictures the task would be trivial), but does not change the queue.

        Returns:
            As `Method.loss`, with the mean similarity of a query to its own key
            ("positive_similarity") and to the keys in the queue ("negative_similarity").

        Raises:
            ValueError: If the batch holds a single picture, or, in training, the length of the
                queue is not a multiple of the batch size.
        """
        require_two_pictures(batch)
        if self.training and len(self.queue) % len(batch):
            raise ValueError(
                f"a queue of {len(self.queue)} keys is not a whole number of batches of "
                f"{len(batch)}: choose a queue that is a multiple of the batch size"
            )
        first, second = self.views(batch.images.repeat(2, 1, 1, 1)).chunk(2)  # (b, 3, h, w) each
        query = self.head(self.image_encoder.encode(first))  # (b, dim)
        with torch.no_grad():
            key = F.normalize(self.momentum_head(self.momentum_encoder.encode(second)), dim=1)
        # Before this batch's keys are added, which would be false negatives. A copy, because the
        # backward pass needs it after they were added.
        queue = self.queue.clone()
        in_batch = self.config.in_batch
        loss = moco_loss(query, key, queue, self.config.temperature, in_batch=in_batch)
        if self.training:
            self.queue.copy_(torch.cat([queue[len(key) :], key]))  # first in, first out
        unit = F.normalize(query.detach(), dim=1)
        candidates = len(queue) + (len(key) if in_batch else 1)
        return {
            "loss": loss,
            "positive_similarity": (unit * key).sum(dim=1).mean(),
            # The mean dot product over all pairs is the dot product of the means.
            "negative_similarity": unit.mean(dim=0) @ queue.mean(dim=0),
            "embeddings": query.detach(),
            "chance": torch.tensor(math.log(candidates)),
        }

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder towards the encoder, after each step of the optimizer.

        As in the paper's algorithm 1, this happens once per step, even if a step computes several
        losses; hence here, not in `loss`. It comes before the step's checkpoint, so an interrupted
        run resumes exactly.

        Args:
            progress: Fraction of the training that is done, 0 to 1. MoCo's momentum is constant.
        """
        momentum_update(self.image_encoder, self.momentum_encoder, self.config.momentum)
        momentum_update(self.head, self.momentum_head, self.config.momentum)


# --- the momentum network, which BYOL and DINO also use -------------------------------------------


def momentum_copy(online: Network) -> Network:
    """Return a copy of `online` that receives no gradient.

    Args:
        online: The network that is trained.

    Returns:
        A deep copy; none of its parameters requires a gradient.
    """
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def momentum_update(online: nn.Module, target: nn.Module, momentum: float) -> None:
    """Move `target` towards `online`: target ← momentum · target + (1 - momentum) · online.

    Buffers are updated like parameters. Otherwise a batch norm of the target would, in evaluation
    mode, normalise with the running mean and variance that it started with. Floating-point buffers
    follow the formula above; integer buffers (such as a count of batches) are copied.

    Args:
        online: The network that is trained.
        target: Its `momentum_copy`, changed in place.
        momentum: Weight of the old `target`, from 0 (copy `online`) to 1 (no change).

    Raises:
        ValueError: If the momentum is not between 0 and 1, or the two networks have different
            parameters or buffers.

    References:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"
        (MoCo), equation 2. Buffers are this library's addition.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie between 0 and 1, got {momentum}")
    source = dict(online.named_parameters()) | dict(online.named_buffers())
    moved = dict(target.named_parameters()) | dict(target.named_buffers())
    shapes = [{(name, value.shape) for name, value in net.items()} for net in (source, moved)]
    if differ := sorted({name for name, _ in shapes[0] ^ shapes[1]}):
        raise ValueError(
            f"the two networks differ in {', '.join(differ[:5])}: the target must be a "
            "momentum_copy of the online network"
        )
    floats = [name for name, value in moved.items() if value.is_floating_point()]
    # All at once: on a GPU one operation, not one for each tensor.
    old, new = [moved[name] for name in floats], [source[name] for name in floats]
    torch._foreach_lerp_(old, new, 1 - momentum)
    for name in moved.keys() - floats:
        moved[name].copy_(source[name])


def momentum_schedule(progress: float, start: float) -> float:
    """Return a momentum that rises from `start` to 1 along half a cosine.

    Early in training the online network learns fast and the target should follow; at the end the
    target stops. `Method.after_step` runs after the step, so the last value is exactly 1. DINO's
    published code counts steps from 0 and ends just below 1.

    Args:
        progress: Fraction of the training that is done, 0 to 1.
        start: The momentum at the beginning.

    Raises:
        ValueError: If either is not between 0 and 1.

    References:
        Grill et al. 2020, "Bootstrap Your Own Latent" (BYOL), section 3.3.
    """
    if not 0 <= progress <= 1 or not 0 <= start <= 1:
        raise ValueError(
            f"progress and start must lie between 0 and 1, got progress={progress}, start={start}"
        )
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2

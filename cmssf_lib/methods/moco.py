"""MoCo: a view finds its picture's other view among a queue of earlier ones.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", with a head
as in its third version (Chen, Xie & He 2021, "An Empirical Study of Training Self-Supervised
Vision Transformers").

    view a → ImageEncoder    → head ──────── query ─┐
                  ┊ EMA         ┊ EMA               ├→ InfoNCE     (gradient: upper row only)
    view b → momentum encoder → momentum head ─ key ─┤
                                                queue ┘ ← key, afterwards
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import Batch
from cmssf_lib.encoders import BatchNormHead, ImageEncoder
from cmssf_lib.losses import moco_loss, require_temperature
from cmssf_lib.methods.base import Method, require_two_pictures
from cmssf_lib.methods.ema import momentum_copy, momentum_update, require_momentum
from cmssf_lib.views import Views, ViewsConfig


@dataclass(frozen=True)
class MoCoConfig:
    """MoCo (chapter 5)."""

    hidden: int  # width of the projection head's hidden layer
    dim: int  # dimensions in which views are compared
    temperature: float  # divides the cosine similarities
    queue: int  # keys that are kept as negatives; a multiple of the batch size
    in_batch: bool  # whether the keys of the batch's other pictures are negatives as well
    momentum: float  # part of itself that the momentum encoder keeps in a step
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

    Raises:
        ValueError: If the temperature or the queue is not positive, or the momentum not between
            0 and 1.
    """

    queue: Tensor

    def __init__(self, image_encoder: ImageEncoder, config: MoCoConfig) -> None:
        super().__init__()
        require_temperature(config.temperature)
        require_momentum(config.momentum)
        if config.queue < 1:
            raise ValueError(f"the queue holds {config.queue} keys; expected at least one batch")
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

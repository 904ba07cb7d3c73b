"""What a method is: the type that `fit` trains and that everything is measured on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.data.image_text import Batch
from cmssf_lib.machine import fastest_device

if TYPE_CHECKING:  # the loop trains methods without knowing encoders
    from cmssf_lib.encoders import ImageEncoder

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


class Method(nn.Module):
    """A way to learn from pictures: `loss`, `after_step`, `features`.

    A method brings an ``image_encoder`` or has `features` of its own.

    Attributes:
        lasting: Beginnings of the names, in ``state_dict``, of what serves when the training is
            over. A record of the book keeps no other weights.
        compares_all_processes: Whether `loss` compares the pictures of all processes that train
            together; if not, a single one may train it.
    """

    image_encoder: "ImageEncoder"
    lasting: tuple[str, ...] = ("image_encoder.",)
    compares_all_processes: bool = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Say how wrong the method is about a batch of b pictures.

        Returns:
            "loss", a number, which is stepped on, and what is only logged, a number each. Two
            entries serve the watch against a collapse (`cmssf_lib.train.watch`): "embeddings",
            ``(b, dim)``, what was compared, and "chance", the loss if all of these were equal.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Move what no gradient moves, after each step: a momentum encoder, say.

        Args:
            progress: Part of the training that is done, 0 to 1.
        """

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return what is kept for other tasks: the encoder's [CLS] vector, no head, no view.

        Args:
            images: uint8, or floats in [0, 1].
        """
        features: Tensor = self.image_encoder(images)
        return features

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`; PyTorch's wrappers for several processes call a module this way."""
        return self.loss(batch)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode, without gradients, on the fastest device; then all is as it was before.

    Every module gets its own old mode back. One flag for the whole method would not do: a frozen
    tower stays in evaluation mode while the rest trains.

    A module on the CPU goes to the machine's card and comes back, so that whoever asks need not
    know of devices; one that is on a card already (in the middle of a training) stays there.

    On NVIDIA's cards all digits of float32 count here, where PyTorch may drop half of them for
    speed (TF32): a number must be the same on another machine.

    Args:
        module: A method, or a part of one.

    Yields:
        The device on which the module is now, for what it is given.
    """
    modes = {part: part.training for part in module.modules()}
    convolutions = torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    try:
        module.eval()
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.no_grad(), on_fastest_device(module) as device:
            yield device
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        for part, training in modes.items():
            part.training = training


@contextmanager
def on_fastest_device(module: nn.Module) -> Iterator[torch.device]:
    """Lend a module on the CPU to the machine's fastest device, and take it back.

    This is the book's rule for devices: what a reader holds stays where it is, and what takes long
    (`fit`, measuring, caching) goes to the card and comes back by itself.

    Yields:
        The device on which the module is.
    """
    home = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    device = fastest_device() if home.type == "cpu" else home
    try:
        module.to(device)
        yield device
    finally:
        module.to(home)


def require_two_pictures(batch: Batch, what_for: str = "to contrast the first with") -> None:
    """Refuse a batch that holds a single picture.

    Args:
        batch: Given to `Method.loss`.
        what_for: Why a second one is needed.

    Raises:
        ValueError: If there is one picture.
    """
    if len(batch) < 2:
        raise ValueError(
            f"a batch of {len(batch)} holds no second picture {what_for}: expected at least two. "
            "Use a larger batch, or drop the last incomplete one"
        )


@torch.no_grad()
def similarities(
    a: Float[Tensor, "b dim"], b: Float[Tensor, "b dim"], groups: Int[Tensor, " b"] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """Mean cosine similarity of what belongs together, and of what does not.

    No table of all pairs is needed: the sum over all pairs is the product of the two sums, and
    that over the pairs of a group is the same with the group's own sums.

    Args:
        a: Embeddings, of the first views or of the pictures; at least two.
        b: Embeddings of the second views, or of the captions; row i belongs to row i of ``a``.
        groups: Equal numbers mark rows that are no negatives of each other, such as pictures
            with one caption. ``None``: each row is a group of its own.

    Returns:
        "positive_similarity", of a row with its own, and "negative_similarity", of rows of two
        groups; zero if all rows are of one group.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    own, everywhere, n = (a * b).sum(), a.sum(dim=0) @ b.sum(dim=0), len(a)
    if groups is None:
        negative = (everywhere - own) / (n * (n - 1))
    else:
        _, group, size = groups.unique(return_inverse=True, return_counts=True)
        sums = [x.new_zeros(len(size), x.shape[1]).index_add_(0, group, x) for x in (a, b)]
        pairs = n**2 - size.square().sum()
        negative = (everywhere - (sums[0] * sums[1]).sum()) / pairs.clamp(min=1)
    return {"positive_similarity": own / n, "negative_similarity": negative}

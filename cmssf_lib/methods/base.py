"""The type of all methods, which `fit` trains and `evaluate` measures."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cmssf_lib.data.image_text import Batch
from cmssf_lib.machine import fastest_device

if TYPE_CHECKING:  # the loop trains methods without knowing encoders
    from cmssf_lib.encoders import ImageEncoder
Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


class Method(nn.Module):
    """A way to learn from pictures: `loss`, `after_step`, `features`.

    A method has an ``image_encoder`` or its own implementation of `features`.

    Attributes:
        lasting: Prefixes, in ``state_dict``, of the weights that are useful after training. The
            book's records keep only these.
        compares_all_processes: Whether `loss` compares the pictures of all processes that train
            together. If not, only a single process may train the method.
        capturable: Whether a GPU may capture its steps as CUDA graphs.
    """

    image_encoder: "ImageEncoder"
    lasting: tuple[str, ...] = ("image_encoder.",)
    compares_all_processes: bool = False
    capturable: bool = True

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch of b pictures.

        Returns:
            "loss", the scalar to minimise, and scalars that are only logged. Two more entries help
            to detect a collapse (`cmssf_lib.train.watch`): "embeddings", ``(b, dim)``, which the
            loss compared, and "chance", the loss if all embeddings were equal.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Update what has no gradient, such as a momentum encoder, after each optimizer step.

        Args:
            progress: Fraction of the training that is done, 0 to 1.
        """

    def phase(self) -> Hashable:
        """Return what decides, beside tensors, how a training step computes.

        On a GPU steps are captured as a graph and replayed, as long as this stays the same.
        """
        return None

    def features(self, images: Images) -> Float[Tensor, "b width"]:
        """Return the features for other tasks: the encoder's [CLS] vector, without head or views.

        Args:
            images: uint8, or floats in [0, 1].
        """
        return self.image_encoder(images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`: PyTorch's wrappers for several processes call `forward`."""
        return self.loss(batch)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[torch.device]:
    """Evaluate without gradients on the fastest device, then restore mode and device.

    Each submodule's own mode is restored, because they can differ: a frozen tower stays in
    evaluation mode while the rest trains.

    A module on the CPU moves to the machine's accelerator and back, so callers need not handle
    devices. A module that is already on an accelerator (during training) stays there.

    On NVIDIA GPUs, products use full float32 precision here. TF32, which PyTorch may use for speed,
    rounds more coarsely, and results would differ between machines.

    Args:
        module: A method, or a part of one.

    Yields:
        The device that the module is on, where its inputs must be too.
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
    """Move a module from the CPU to the machine's fastest device, and back afterwards.

    This is the book's rule for devices: a reader's objects stay where they are, and each long
    computation (`fit`, evaluation, caching) moves what it needs to the accelerator and back.

    Args:
        module: Stays where it is if it is not on the CPU.

    Yields:
        The device that the module is on.
    """
    home = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    device = fastest_device() if home.type == "cpu" else home
    try:
        module.to(device)
        yield device
    finally:
        module.to(home)


def require_two_pictures(batch: Batch, user: str = "a contrastive loss") -> None:
    """Refuse a batch of fewer than two pictures.

    Args:
        batch: Given to `Method.loss`.
        user: What needs two pictures, for the error message.

    Raises:
        ValueError: If there are fewer than two pictures.
    """
    if len(batch) < 2:
        raise ValueError(
            f"a batch of {len(batch)} is too small for {user}: expected at least two pictures. "
            "Use a larger batch, or drop the last incomplete one"
        )

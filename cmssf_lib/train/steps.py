"""Training settings, learning rate, optimizer, and checks before the first step."""

import errno
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from cmssf_lib.data.image_text import Batch, ImageTextData
from cmssf_lib.settings import BelowOne, settings

if TYPE_CHECKING:
    from cmssf_lib.train.session import Session

# fused: one call for all parameters. Without it a step of DINO's quick preset takes a sixth longer.
# `cmssf_lib.train` adds Muon.
OPTIMIZERS: dict[str, partial[Any]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}

Step = Callable[[Batch], None]  # from the views to the update
LogStep = Callable[[int, dict[str, Tensor], Tensor], None]


class Beside:
    """Something that works beside the steps of a training. It is made before the first of them."""

    def __init__(self, session: "Session") -> None:
        self.session = session

    def after_step(self) -> None:
        """Do what is to be done after each step."""

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Do what is to be done after each epoch, which has added this row to the history."""

    def end(self) -> None:
        """Clean up, after errors too."""


@settings
class TrainConfig:
    """How `fit` trains."""

    epochs: NonNegativeInt  # passes through the data
    batch_size: PositiveInt  # pictures a step, over all processes
    lr: PositiveFloat  # largest learning rate
    # Factor on `lr` for the text tower. As long as the image tower cannot tell two digits apart,
    # the loss pulls their captions together; a slow text tower keeps them apart until it can.
    text_lr: PositiveFloat
    weight_decay: NonNegativeFloat  # on matrices only, never on biases, norms or the logit scale
    optimizer: Literal["adam", "adamw", "muon"]  # "muon": see `make_optimizer`
    schedule: Literal["constant", "cosine"]
    warmup: BelowOne  # fraction of all steps over which the learning rate rises to `lr`
    clip: NonNegativeFloat  # largest norm of the gradient; 0 for no limit
    seed: int = 0  # of all randomness
    # Of the encoders; losses and norms stay in float32. "auto": see `precision_on`.
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    checkpoint_minutes: NonNegativeFloat = 5.0  # between checkpoints; each epoch also ends with one
    half_weights: bool = False  # round the matrices to half precision at the end, before evaluation


def precision_on(device: torch.device, precision: str) -> str:
    """Return the mixed precision to train in: "no" (float32), "bf16" or "fp16".

    "auto" chooses what a GPU computes fastest: bfloat16, or on older ones (before Ampere, such as
    Colab's T4) float16, with a scaler that keeps small gradients from becoming zero. Elsewhere
    float32: CPUs without bfloat16 emulate it slowly.
    """
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def require_trainable(config: TrainConfig, data: ImageTextData) -> None:
    """Refuse settings and data that cannot work, before any work is done.

    Raises:
        ValueError: The message says which field is wrong and what it may be.
    """
    if config.epochs < 1:
        raise ValueError("epochs=0 trains nothing: give at least one")
    if len(data) < config.batch_size:
        raise ValueError(
            f"{data.name} holds {len(data)} pictures, fewer than one batch of "
            f"{config.batch_size}: choose a smaller batch"
        )
    if len(data.class_names) > 1 and len(torch.unique(data.labels)) < 2:
        raise ValueError(
            f"all pictures of {data.name} are of one class "
            f"({data.class_names[int(data.labels[0])]}): there is nothing to tell apart"
        )


def require_room(folder: Path, method: nn.Module) -> None:
    """Refuse a folder in which the checkpoints of a method would not fit on the disk.

    Raises:
        OSError: If too few bytes are free.
    """
    # Weights and two moments, twice: the new file is written before the old one goes.
    needed = 2 * 3 * sum(t.nbytes for t in method.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        why = f"has {free / 1e6:,.0f} MB free and checkpoints take {needed / 1e6:,.0f} MB"
        what = f"{folder} {why}: free some space or choose another folder"
        raise OSError(errno.ENOSPC, what)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step.

    It rises linearly over the warm-up, then stays ("constant") or falls along half a cosine
    to zero ("cosine").

    Args:
        step: From 0.
        steps: Number of steps in the whole training.
        config: ``lr``, ``schedule`` and ``warmup``.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay applies to matrices only.

    Biases, the gains of norms and the logit scale have no reason to be small, so parameters with
    fewer than two dimensions do not decay. Each parameter group has an ``lr_factor``, by which
    `fit` multiplies the learning rate.

    "muon" orthogonalises the update of each weight matrix, so that all directions move equally
    far (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"). It is used
    for linear maps and convolutions. Everything else has AdamW: position embeddings, [CLS],
    prototypes, and the text tower, which is kept slow on purpose (``text_lr``).

    Raises:
        ValueError: If every parameter is frozen.
    """
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("the method has no parameter to train: all of them are frozen")
    maps = {
        module.weight
        for name, module in method.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith("text_")
    }
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for name, parameter in trained.items():
        group = {
            "weight_decay": config.weight_decay if parameter.ndim >= 2 else 0.0,
            "lr_factor": config.text_lr if name.startswith("text_") else 1.0,
        }
        if config.optimizer == "muon":
            group["use_fallback"] = parameter not in maps
        alike = groups.setdefault(tuple(group.values()), {"params": [], **group})
        alike["params"].append(parameter)
    optimizer: torch.optim.Optimizer = OPTIMIZERS[config.optimizer](
        list(groups.values()), lr=config.lr
    )
    return optimizer


@torch.no_grad()
def round_weights(method: nn.Module) -> None:
    """Round the matrices to half precision, in place.

    Biases, norms with their statistics, and the logit scale stay in full precision.
    """
    for tensor in method.state_dict().values():
        if tensor.dtype == torch.float32 and tensor.ndim > 1:
            tensor.copy_(tensor.half())


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Stop a forward pass that stores more for its backward pass than there is free memory.

    Otherwise the system would kill the process without a message, or swap for hours.

    Raises:
        MemoryError: As soon as that is certain, before the memory is used up.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
    else:
        free = int(psutil.virtual_memory().available)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # shared by operations that store the same tensor
        kept[storage.data_ptr()] = storage.nbytes()
        if (needed := sum(kept.values())) > free:
            raise MemoryError(
                f"a step needs more than {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: "
                "choose a smaller batch, fewer or smaller views, or a smaller encoder"
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield

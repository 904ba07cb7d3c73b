"""A training's settings, and how large a step is, for which parameter, in how much memory."""

import errno
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from timm.optim import Muon
from torch import Tensor, nn

from cmssf_lib.data.image_text import ImageTextData
from cmssf_lib.methods.base import Method
from cmssf_lib.settings import BelowOne, settings

# fused: one call for all parameters; without it a step of DINO's quick preset takes a sixth longer.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    # timm's, and not PyTorch's: that one refuses convolutions. With its default scale a matrix
    # moves as far in a step as AdamW would move it, so the same learning rate serves both.
    "muon": partial(Muon, nesterov=True, betas=(0.9, 0.999)),
}


@settings
class TrainConfig:
    """How `fit` trains."""

    epochs: NonNegativeInt  # passes through the data
    batch_size: PositiveInt  # pictures a step, over all processes
    lr: PositiveFloat  # largest learning rate
    # Factor on it for the text tower. While the pictures cannot tell two digits apart, the loss
    # pulls the two captions together; a slow text tower keeps them apart until the pictures can.
    text_lr: PositiveFloat
    weight_decay: NonNegativeFloat  # on matrices only, never on biases, norms or the logit scale
    optimizer: Literal["adam", "adamw", "muon"]  # Muon: the image tower's matrices; else AdamW
    schedule: Literal["constant", "cosine"]
    warmup: BelowOne  # part of all steps over which the learning rate rises to `lr`
    clip: NonNegativeFloat  # largest norm of the gradient; 0 for no limit
    seed: int = 0  # of everything random
    # Accelerate's mixed precision. Not fp16: it finds a scale for the gradients by letting steps
    # fail.
    precision: Literal["no", "bf16"] = "no"
    checkpoint_minutes: NonNegativeFloat = 5.0  # between checkpoints; each epoch ends with one
    half_weights: bool = False  # round matrices to half precision at the end; measured is then kept


def require_trainable(config: TrainConfig, data: ImageTextData) -> None:
    """Refuse what cannot work, before any work is done.

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
    if len(torch.unique(data.labels)) < 2:
        raise ValueError(
            f"all pictures of {data.name} are of one class "
            f"({data.class_names[int(data.labels[0])]}): there is nothing to tell apart"
        )


def require_one_model(method: Method, config: TrainConfig, processes: int) -> None:
    """Refuse several processes where they would train another model than one does.

    Raises:
        ValueError: If the batch does not divide among them, or pictures of one process only would
            be compared or normed with each other.
    """
    if processes == 1:
        return
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide among {processes} processes: choose a "
            "multiple"
        )
    for part in method.modules():
        if isinstance(part, Method) and not part.compares_all_processes:
            beside = "" if part is method else ", which is learned beside,"
            raise ValueError(
                f"{type(part).__name__}{beside} would compare the pictures of one process only, "
                f"and {processes} were started: start a single one"
            )
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"batch norm would norm the pictures of each of the {processes} processes by "
                "themselves: take vision.norm=group, or start a single one"
            )


def require_room(folder: Path, needed: float, what: str) -> None:
    """Refuse to begin what would not fit on the disk.

    Args:
        folder: Where it is to be; it is there.
        needed: Bytes.
        what: For the message.

    Raises:
        OSError: If there are fewer bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder} has {free / 1e6:,.0f} MB free and {what} take {needed / 1e6:,.0f} MB: free "
            "some space or choose another folder",
        )


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step.

    It rises linearly over the warm-up, then stays ("constant") or falls along half a cosine
    to zero ("cosine").

    Args:
        step: Counted from 0.
        steps: Of the whole training.
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
    """Make the optimizer; only matrices decay.

    A bias, a norm's gain and the logit scale have no reason to be small, so weight decay
    leaves every parameter with fewer than two dimensions alone. Each group carries its
    ``lr_factor``, by which `fit` multiplies the learning rate.

    "muon" makes each step of a matrix turn all directions alike (Jordan et al. 2024, "Muon: An
    optimizer for hidden layers in neural networks"). It is for the weights of linear maps and of
    convolutions. Positions, [CLS] and prototypes are no maps, and the text tower is kept slow on
    purpose (``text_lr``): these have AdamW.

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
    return OPTIMIZERS[config.optimizer](list(groups.values()), lr=config.lr)


@torch.no_grad()
def round_weights(method: nn.Module) -> None:
    """Round matrices to what half precision holds: ten binary digits behind the first.

    Biases, norms with their statistics and the logit scale keep all of theirs.
    """
    for tensor in method.state_dict().values():
        if tensor.dtype == torch.float32 and tensor.ndim > 1:
            tensor.copy_(tensor.half())


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Stop a forward pass that keeps more for its backward pass than there is memory.

    The system would otherwise end the process without a word, or swap for hours.

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
        storage = tensor.untyped_storage()  # that several operations keep, and is there once
        kept[storage.data_ptr()] = storage.nbytes()
        if (needed := sum(kept.values())) > free:
            raise MemoryError(
                f"a step takes more than {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: "
                "choose a smaller batch, fewer or smaller views, or a smaller encoder"
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield

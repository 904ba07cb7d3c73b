"""How large a step is, for which parameter, when none must be taken, and what is kept of it all."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from timm.optim import Muon
from torch import Tensor, nn

from cmssf_lib.data import ImageTextData
from cmssf_lib.presets import TrainConfig
from cmssf_lib.runs import Run

SCHEDULES = ("constant", "cosine")
#: Not fp16: it needs a scale for the gradients that is found by letting steps fail.
PRECISIONS = ("no", "bf16")
# fused: one call for all parameters; without it a step of DINO's quick preset takes a sixth longer.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    # timm's, and not PyTorch's: that one refuses convolutions. With its default scale a matrix
    # moves as far in a step as AdamW would move it, so the same learning rate serves both.
    "muon": partial(Muon, nesterov=True, betas=(0.9, 0.999)),
}


def check(config: TrainConfig, data: ImageTextData) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        ValueError: The message says which field is wrong and what it may be.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {config.optimizer!r}; choose {list(OPTIMIZERS)}")
    if config.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {config.schedule!r}; choose {list(SCHEDULES)}")
    if config.epochs < 1 or config.batch_size < 1 or not config.lr > 0:
        raise ValueError(
            "epochs, batch_size and lr must be positive; got "
            f"{config.epochs}, {config.batch_size}, {config.lr}"
        )
    if config.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {config.precision!r}; choose {list(PRECISIONS)}")
    if not 0 <= config.warmup < 1:
        raise ValueError(f"warmup is a part of the training, 0 to under 1; got {config.warmup}")
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


def check_processes(method: nn.Module, config: TrainConfig, count: int) -> None:
    """Refuse several processes where they would train another model than one does.

    Raises:
        ValueError: If the batch does not divide among them, or pictures of one process only would
            be compared or normed with each other.
    """
    if count == 1:
        return
    if config.batch_size % count:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide among {count} processes: choose a "
            "multiple"
        )
    if not getattr(method, "compares_all_processes", False):
        raise ValueError(
            f"{type(method).__name__} would compare the pictures of one process only, and "
            f"{count} were started: start a single one"
        )
    if getattr(method, "image_task", None) is not None:
        task = type(method.image_task).__name__
        raise ValueError(
            f"{task}, which the image encoder learns beside (cmssf.image_loss), would compare the "
            f"pictures of one process only, and {count} were started: start a single one"
        )
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules()):
        raise ValueError(
            f"batch norm would norm the pictures of each of the {count} processes by themselves: "
            "take vision.norm=group, or start a single one"
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
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained.items():
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        factor = config.text_lr if name.startswith("text_") else 1.0
        by_adam = config.optimizer != "muon" or parameter not in maps
        groups[decay, factor, by_adam].append(parameter)
    fallback = {"use_fallback": True} if config.optimizer == "muon" else {}
    return OPTIMIZERS[config.optimizer](
        [
            {
                "params": parameters,
                "weight_decay": decay,
                "lr_factor": factor,
                **(fallback if by_adam else {}),
            }
            for (decay, factor, by_adam), parameters in groups.items()
        ],
        lr=config.lr,
    )


def stop_if_not_finite(
    loss: Float[Tensor, ""], norm: Float[Tensor, ""], epoch: int, step: int, run: Run
) -> None:
    """Refuse a step that would spoil the weights.

    Raises:
        FloatingPointError: If the loss or the norm of its gradient is not a finite number.
    """
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    there = run.path is not None and (run.path / "checkpoint.safetensors").is_file()
    kept = f"The last checkpoint in {run.path} is untouched. " if there else ""
    raise FloatingPointError(
        f"the loss is {loss.item():.4g} and the gradient's norm {norm.item():.4g} in epoch "
        f"{epoch + 1}, step {step + 1}: training stopped before the step. {kept}"
        "A lower learning rate, a longer warm-up or clip=1 are the usual cures"
    )


@torch.no_grad()
def round_weights(method: nn.Module) -> None:
    """Round matrices to what half precision holds: ten binary digits behind the first.

    Biases, norms with their statistics and the logit scale keep all of theirs.
    """
    for tensor in method.state_dict().values():
        if tensor.dtype == torch.float32 and tensor.ndim > 1:
            tensor.copy_(tensor.half())

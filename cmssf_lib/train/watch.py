"""Beside a training: checks of several processes, records of machines, warnings of a collapse.

A collapse is a low loss reached without looking at the pictures: all embeddings become alike. Two
statistics of the embeddings are logged every few steps, and `diagnose` reads a row of a run's
history and names the likely cause in a sentence.
"""

import math
import warnings
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cmssf_lib.environment import environment, peak_memory
from cmssf_lib.methods.base import Method
from cmssf_lib.runs import Run
from cmssf_lib.train.session import Session
from cmssf_lib.train.steps import Beside, TrainConfig

CONSTANT = 0.1  # a `feature_std` below this: the embeddings are nearly equal
FEW = 2.5  # an effective rank below this: embeddings on a line or a plane
SAME = 0.9999  # a similarity above this: the views themselves are equal
SPREAD = 0.5  # a `feature_std` above this: the embeddings clearly differ
PINNED = 0.98  # a loss above this fraction of its value at chance has not left chance
#: Part of a training, and the least number of epochs, without warnings: every training begins
#: near a collapse.
GRACE, GRACE_EPOCHS = 0.25, 2


class CollapseWarning(UserWarning):
    """The embeddings become constant, or use few dimensions; see `diagnose`."""


class CollapseWatch(Beside):
    """Warns once if the history shows a collapse after the first quarter of the training."""

    warned = False

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Look at the epoch that has ended."""
        grace = max(GRACE_EPOCHS, GRACE * self.session.config.epochs)
        if self.warned or not self.session.first or row["epoch"] - 1 < grace:
            return
        if cause := diagnose(row):
            self.warned = True
            warnings.warn(f"epoch {row['epoch']:.0f}: {cause}", CollapseWarning, stacklevel=5)


def require_one_model(method: Method, config: TrainConfig, processes: int) -> None:
    """Refuse several processes if the result would differ from that of a single one.

    Raises:
        ValueError: If the batch cannot be divided among them, or the loss or a batch norm would
            only see the pictures of one process.
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
            beside = "" if part is method else ", the second loss,"
            raise ValueError(
                f"{type(part).__name__}{beside} would compare the pictures of one process only, "
                f"and {processes} were started: start a single one"
            )
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"batch norm would normalise the pictures of each of the {processes} processes "
                "separately: set vision.norm=group, or start a single one"
            )


class ProcessCheck(Beside):
    """Refuses several processes that would not train one model; see `require_one_model`."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        require_one_model(session.method, session.config, session.accelerator.num_processes)


class MachineRecord(Beside):
    """Records the machines that a run was trained on, and the peak memory."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        run, accelerator = session.run, session.accelerator
        before = Run.load(run.path).environment if run.path is not None and run.begun else None
        run.environment |= environment(accelerator.device, before)
        run.environment["processes"] = accelerator.num_processes
        run.environment["precision"] = accelerator.mixed_precision

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Record the peak so far."""
        self.session.run.environment |= peak_memory(self.session.accelerator.device)


def feature_std(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """Return how widely embeddings are spread: about 1 if evenly on the sphere, 0 if all are equal.

    The embeddings are normalised to unit length. The result is the standard deviation of each
    dimension over the batch, averaged over dimensions, times √dim.

    Args:
        z: Embeddings of different pictures, not necessarily normalised.

    References:
        Chen & He 2021, "Exploring Simple Siamese Representation Learning" (SimSiam), section 4.1.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))  # half precision is too coarse here
    stds = F.normalize(z, dim=1).std(dim=0, correction=0)  # (dim,)
    return stds.mean() * math.sqrt(z.shape[1])


def effective_rank(z: Float[Tensor, "b dim"]) -> Float[Tensor, ""]:
    """Return how many dimensions embeddings use: the effective rank of the matrix they form.

    It is the exponential of the entropy of the singular values, scaled to sum to one, and lies
    between 1 (all on one line) and min(b, dim) (equally spread in all directions).

    Args:
        z: Embeddings of different pictures.

    Returns:
        The effective rank, on the CPU; 0 if all embeddings are zero, nan if any is not finite.

    References:
        Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    # The eigenvalues of the smaller Gram matrix are the squared singular values. Squaring halves
    # the number of correct digits, hence double precision, on the CPU, since MPS has none.
    z = z.detach().cpu().double()
    if not z.isfinite().all():
        return z.new_tensor(math.nan)
    product = z.T @ z if len(z) > z.shape[1] else z @ z.T
    values = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
    if values.sum() == 0:
        return values.sum()
    return torch.special.entr(values / values.sum()).sum().exp()


def signs_of_collapse(z: Float[Tensor, "b dim"]) -> dict[str, Float[Tensor, ""]]:
    """Return the statistics that are logged for the embeddings that a loss compared."""
    return {"feature_std": feature_std(z), "effective_rank": effective_rank(z)}


def diagnose(row: Mapping[str, float]) -> str | None:
    """Name the likely cause if a row of a run's history shows a collapse.

    Early in a training much of this is normal, so use it after the first few epochs.

    Args:
        row: With any of "feature_std", "effective_rank", "loss", "chance",
            "positive_similarity", "teacher_entropy" and "kl" (DINO). Tests whose numbers are
            missing are skipped.

    Returns:
        A sentence, or ``None`` if nothing looks wrong.
    """
    std, directions = row.get("feature_std", math.nan), row.get("effective_rank", math.nan)
    loss, chance = row.get("loss", math.nan), row.get("chance", math.nan)
    entropy = row.get("teacher_entropy", math.nan)
    # A comparison with nan is false, so a test whose numbers are missing is skipped.
    if entropy > PINNED * chance:
        return (
            f"the teacher's output is uniform (entropy {entropy:.2f} of at most {chance:.2f}), so "
            "the loss is pinned at ln K: the centre alone wins. Sharpen it: a lower teacher "
            "temperature, or a slower centre"
        )
    # Both nearly zero is a collapse only if all pictures choose the same prototype: on easy data
    # the teacher can rightly be certain about each picture.
    if entropy + row.get("kl", math.nan) < 0.01 * chance and not std > SPREAD:
        return (
            f"teacher and student agree on one prototype for every picture (loss {loss:.3f}): the "
            "sharpening alone wins. Centre the teacher's output, or let the centre follow faster"
        )
    if std < CONSTANT:
        return (
            f"all pictures get nearly the same embedding (feature_std {std:.3f}, healthy is about "
            "1): the output is constant. Look for a gradient that reaches the target network, a "
            "missing predictor or centre, or too large a learning rate"
        )
    if directions < FEW:
        return (
            f"the embeddings use about {directions:.1f} directions of their space: they have "
            "collapsed onto a line or a plane. Where nothing pushes negatives apart, look for a "
            "gradient that reaches the target network or a target that is too fast; else lower "
            "the temperature or take more negatives"
        )
    if std > CONSTANT and row.get("positive_similarity", math.nan) > SAME:
        return (
            "the two views of a picture have the same embedding to four digits: they differ too "
            "little, and telling them from other pictures takes no learning. Widen the views"
        )
    if loss > PINNED * chance:
        return (
            f"the loss ({loss:.2f}) stands where equal embeddings put it ({chance:.2f}): nothing "
            "is told apart yet. If it stays, change the learning rate, or lower the temperature"
        )
    return None

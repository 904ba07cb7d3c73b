"""Losses of learning from a teacher that is a slow copy of the student.

No negatives stand here: nothing in these two formulas keeps all pictures from being given the same
answer. What does (a predictor and a stopped gradient in BYOL, a centre and a sharp teacher in
DINO) belongs to the methods.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def byol_loss(
    prediction: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Squared distance between prediction and target on the unit sphere: 2 - 2 cos.

    Zero if each prediction points the way of its target, 2 if they are at right angles, 4 if they
    are opposite.

    Args:
        prediction: Of the online network for one view.
        target: Of the target network for the other view; row i belongs to row i of
            `prediction`. The gradient would flow into it as well: stopping it is the caller's
            business (`torch.no_grad` around the target network), because without that the loss
            is no longer BYOL's and collapses.

    Returns:
        The mean over the batch, for one direction. BYOL adds the loss with the views exchanged.

    Raises:
        ValueError: The shapes differ, or the batch is empty.

    References:
        Grill et al. 2020, "Bootstrap Your Own Latent" (BYOL), equation 2.
    """
    if prediction.ndim != 2 or prediction.shape != target.shape or len(prediction) == 0:
        raise ValueError(
            f"prediction and target have shapes {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}; expected two of the same shape (batch, dim), row i of one "
            "belonging to row i of the other"
        )
    return (2 - 2 * F.cosine_similarity(prediction, target, dim=1)).mean()


def dino_loss(
    student: Sequence[Float[Tensor, "batch prototypes"]],
    teacher: Sequence[Float[Tensor, "batch prototypes"]],
    centre: Float[Tensor, "prototypes"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy between what teacher and student say about different views of a picture.

    Both name one of K prototypes, by a softmax of their logits. The teacher's is taken after the
    centre is subtracted. A student and a teacher that are sure of nothing, all logits equal, give
    ln K.

    Args:
        student: Logits for every view: first the views the teacher sees too, in the same order,
            then all others.
        teacher: Logits for the global views; their gradient is stopped here.
        centre: Subtracted from the teacher's logits (see `update_centre`).
        student_temperature: Divides the student's logits.
        teacher_temperature: Divides the teacher's; the smaller one, so that the target is
            sharper than the answer.

    Returns:
        The mean over the batch and over all pairs of a teacher's and a student's view that are
        not the same view.

    Raises:
        ValueError: A temperature is not positive, shapes differ, the student saw fewer views
            than the teacher, or there is no pair of different views.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO),
        equations 1 and 3, algorithm 1.
    """
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(
            f"the temperatures are {student_temperature} (student) and {teacher_temperature} "
            "(teacher); they divide the logits: give > 0"
        )
    shapes = {tuple(view.shape) for view in (*student, *teacher)}
    if len(shapes) != 1 or centre.shape != next(iter(shapes))[1:]:
        raise ValueError(
            f"the views' logits have shapes {sorted(shapes)} and the centre has "
            f"{tuple(centre.shape)}; expected (batch, prototypes) for all views and "
            "(prototypes,) for the centre"
        )
    if not 1 <= len(teacher) <= len(student) or len(student) < 2:
        raise ValueError(
            f"the student saw {len(student)} views and the teacher {len(teacher)}; expected at "
            "least two and one, and everything the teacher saw among what the student saw"
        )
    log_p = [F.log_softmax(view / student_temperature, dim=1) for view in student]
    total = log_p[0].new_zeros(())
    for t, view in enumerate(teacher):
        target = F.softmax((view.detach() - centre) / teacher_temperature, dim=1)  # (batch, K)
        # All of the student's views are compared with this target at once, except the same view.
        others = torch.stack([p for s, p in enumerate(log_p) if s != t]).sum(dim=0)
        total = total - (target * others).sum(dim=1).mean()
    return total / (len(teacher) * (len(student) - 1))


def update_centre(
    centre: Float[Tensor, "prototypes"],
    teacher: Sequence[Float[Tensor, "batch prototypes"]],
    momentum: float,
) -> Float[Tensor, "prototypes"]:
    """Return the centre moved towards the mean of the teacher's logits.

    The centre keeps one prototype from winning everywhere: what all pictures have in common is
    taken away. It is used first and updated after.

    Args:
        centre: The running mean so far.
        teacher: Logits of each global view.
        momentum: Part of itself that the centre keeps.

    Raises:
        ValueError: The momentum is not between 0 and 1.

    References:
        Caron et al. 2021 (DINO), equation 4.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"the centre's momentum lies between 0 and 1; got {momentum}")
    return momentum * centre + (1 - momentum) * torch.cat(list(teacher)).detach().mean(dim=0)

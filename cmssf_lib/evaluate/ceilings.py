"""Ceilings: how often an answer can be right at most, given what is seen of a question.

Computed by counting, not measured: the tables say how often everything comes together, and
the best possible rule is found by looking at each case. What stays under such a ceiling is no
fault of a model or its training.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cmssf_lib.data import ImageTextData


def single_ceiling(joint: Shaped[Tensor, "a b classes"], axis: int) -> float:
    """Return the best accuracy from one modality alone: under each of its values, one answer.

    Args:
        joint: How often each value of modality A, value of modality B and answer come
            together, as counts or probabilities.
        axis: 0 for what A alone can reach, 1 for B.

    Raises:
        ValueError: If the axis is neither, or the table is not one of frequencies.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis is 0 for modality A or 1 for modality B; got {axis}")
    table = _probabilities(joint)
    return float(table.sum(dim=1 - axis).amax(dim=1).sum())


def joint_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy of anyone who sees both modalities.

    Args:
        joint: As for `single_ceiling`.

    Raises:
        ValueError: If the table is not one of frequencies.
    """
    return float(_probabilities(joint).amax(dim=2).sum())


def output_fusion_ceiling(joint: Shaped[Tensor, "a b classes"]) -> float:
    """Return the best accuracy of any fusion of two models' outputs.

    Output-level fusion never sees a picture or a question, only what the two models say about
    the answer: p(answer | a) and p(answer | b). Its rule, be it a mean, learned weights or a
    stacked classifier, is a function of these two. So it must give one answer to all cases
    (a, b) in which both posteriors are the same. The cases are sorted into such groups; in
    each, the most frequent answer is the best that can be given.

    It is assumed that both single models are ideal: that their outputs are the posteriors. A
    poorer model knows less. But a real network's outputs also differ a little between pictures
    about which the posterior is the same, and a rule that is learned from many examples can
    read something from that: measured accuracies may lie a few points higher.

    Args:
        joint: How often each value of modality A, value of modality B and answer come
            together, as counts or probabilities. Best as whole numbers or float64: posteriors
            count as the same up to 1e-9, those of a table in float32 only up to 1e-5.

    Returns:
        Between the larger of the two single ceilings and the joint one.

    Raises:
        ValueError: If the table is not one of frequencies.
    """
    table = _probabilities(joint)
    exact = joint.dtype == torch.float64 or not joint.is_floating_point()
    groups = []
    for axis in (0, 1):
        alone = table.sum(dim=1 - axis)  # (a, classes), then (b, classes)
        # A value that never occurs has no posterior; it weighs nothing, wherever it is put.
        posterior = (alone / alone.sum(dim=1, keepdim=True)).nan_to_num()
        rounded = posterior.round(decimals=9 if exact else 5)
        groups.append(torch.unique(rounded, dim=0, return_inverse=True)[1])
    of_a, of_b = groups  # (a,) and (b,): in which group each value is
    grouped = torch.zeros(int(of_a.max()) + 1, table.shape[1], table.shape[2], dtype=table.dtype)
    grouped.index_add_(0, of_a, table)
    both = torch.zeros(len(grouped), int(of_b.max()) + 1, table.shape[2], dtype=table.dtype)
    both.index_add_(1, of_b, grouped)
    return float(both.amax(dim=2).sum())


def caption_ceiling(data: ImageTextData) -> float:
    """Return the best accuracy of any classifier that reads nothing but the captions.

    Under each caption it can give one answer; the best is the class most often found there.
    It counts on this very data, so with few pictures a caption it is a little too high.

    Args:
        data: Pictures with captions and labels.
    """
    counts = torch.zeros(len(data.unique_captions), len(data.class_names))
    ones = torch.ones(len(data))
    counts.index_put_((data.caption_index.cpu(), data.labels.cpu()), ones, accumulate=True)
    return float(counts.amax(dim=1).sum()) / len(data)


def _probabilities(joint: Shaped[Tensor, "a b classes"]) -> Float[Tensor, "a b classes"]:
    """Check a table of frequencies and let it sum to one."""
    if joint.ndim != 3:
        raise ValueError(
            f"a joint table has three axes (modality A, modality B, answer); got shape "
            f"{tuple(joint.shape)}"
        )
    table = joint.double()
    if not (table.isfinite().all() and (table >= 0).all() and table.sum() > 0):
        raise ValueError(
            "a joint table holds counts or probabilities: finite, none negative, not all zero"
        )
    return table / table.sum()

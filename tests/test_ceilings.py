"""Ceilings: against every rule there is, tables with a known answer, and what cannot matter."""

import itertools

import pytest
import torch
from hypothesis import given, strategies as st

from cmssf_lib.captions import DIGIT_WORDS
from cmssf_lib.data import (
    CIFAR10_CLUES,
    DIGIT_CLUES,
    ImageTextData,
    digit_scenes,
    match_table,
    question_table,
    with_clues,
)
from cmssf_lib.evaluate import (
    caption_ceiling,
    joint_ceiling,
    output_fusion_ceiling,
    single_ceiling,
)

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


@st.composite
def tables(draw, most: int = 4):
    """Small tables of counts, not all zero."""
    shape = [draw(st.integers(1, most)) for _ in range(3)]
    size = shape[0] * shape[1] * shape[2]
    counts = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any))
    return torch.tensor(counts).view(*shape)


def every_rule(joint: torch.Tensor) -> float:
    """Try each function from the two posteriors to an answer; keep the best accuracy."""
    counts = joint.tolist()
    a, b, classes = joint.shape

    def posterior(total: list[int]) -> tuple[float, ...]:
        return tuple(round(count / (sum(total) or 1), 9) for count in total)

    of_a = [posterior([sum(counts[i][j][c] for j in range(b)) for c in range(classes)])
            for i in range(a)]  # fmt: skip
    of_b = [posterior([sum(counts[i][j][c] for i in range(a)) for c in range(classes)])
            for j in range(b)]  # fmt: skip
    seen = sorted({(of_a[i], of_b[j]) for i in range(a) for j in range(b)})
    best = 0
    for answers in itertools.product(range(classes), repeat=len(seen)):
        rule = dict(zip(seen, answers, strict=True))
        right = sum(counts[i][j][rule[of_a[i], of_b[j]]] for i in range(a) for j in range(b))
        best = max(best, right)
    return best / int(joint.sum())


@given(tables(most=3))
def test_no_rule_on_the_two_posteriors_beats_the_ceiling_and_one_reaches_it(joint):
    assert output_fusion_ceiling(joint) == pytest.approx(every_rule(joint), abs=1e-12)


@given(tables(), st.randoms(use_true_random=False))
def test_names_do_not_matter(joint, random):
    """Values and answers in another order are the same problem; so are the modalities swapped."""
    expected = output_fusion_ceiling(joint)
    for axis, size in enumerate(joint.shape):
        order = torch.tensor(random.sample(range(size), size))
        assert output_fusion_ceiling(joint.index_select(axis, order)) == pytest.approx(expected)
    assert output_fusion_ceiling(joint.transpose(0, 1)) == pytest.approx(expected)


@given(tables(), st.integers(1, 7))
def test_counts_and_probabilities_are_the_same_table(joint, times):
    expected = output_fusion_ceiling(joint)
    for same in (times * joint, joint.double() / joint.sum(), joint.float() / joint.sum()):
        assert output_fusion_ceiling(same) == pytest.approx(expected, abs=1e-6)


@given(tables())
def test_fusing_outputs_lies_between_one_modality_and_both(joint):
    alone = [single_ceiling(joint, axis) for axis in (0, 1)]
    fused = output_fusion_ceiling(joint)
    assert max(alone) - 1e-12 <= fused <= joint_ceiling(joint) + 1e-12
    prior = float(joint.sum(dim=(0, 1)).max() / joint.sum())
    assert min(alone) >= prior - 1e-6


@given(tables(), st.integers(0, 3))
def test_a_value_that_never_occurs_changes_nothing(joint, where):
    silent = torch.zeros_like(joint[:1])
    longer = torch.cat([joint[:where], silent, joint[where:]])
    assert output_fusion_ceiling(longer) == pytest.approx(output_fusion_ceiling(joint))


def test_outputs_that_say_it_all_fuse_perfectly():
    """A knows whether the answer is below two, B whether it is even: together they know it."""
    joint = torch.zeros(2, 2, 4)
    for answer in range(4):
        joint[answer // 2, answer % 2, answer] = 1
    assert single_ceiling(joint, 0) == single_ceiling(joint, 1) == 0.5
    assert output_fusion_ceiling(joint) == 1.0


def test_exclusive_or_is_a_coin_toss_for_outputs():
    joint = torch.zeros(2, 2, 2)
    for a, b in itertools.product(range(2), repeat=2):
        joint[a, b, a ^ b] = 1
    assert output_fusion_ceiling(joint) == 0.5
    assert joint_ceiling(joint) == 1.0


def test_a_hand_made_table():
    """One modality decides half the cases: 0.5 from those, a quarter by guessing the rest."""
    joint = torch.zeros(3, 2, 2)
    joint[0, :, 0] = 1  # a = 0: the answer is 0, whatever b
    for a, b in itertools.product(range(2), repeat=2):
        joint[1 + a, b, a ^ b] = 0.5  # else it is an exclusive or
    assert single_ceiling(joint, 0) == pytest.approx(0.75)
    assert single_ceiling(joint, 1) == pytest.approx(0.75)
    assert output_fusion_ceiling(joint) == pytest.approx(0.75)


def test_the_ceilings_of_the_two_tasks():
    """Half, where picture and question or picture and tone together settle everything."""
    for joint, alone in ((question_table(), (3 / 16, 0.25625)), (match_table(), (0.5, 0.5))):
        assert float(joint.sum()) == pytest.approx(1)
        assert output_fusion_ceiling(joint) == pytest.approx(0.5, abs=1e-9)
        assert output_fusion_ceiling(joint.float()) == pytest.approx(0.5, abs=1e-6)
        assert joint_ceiling(joint) == pytest.approx(1)
        for axis in (0, 1):
            assert single_ceiling(joint, axis) == pytest.approx(alone[axis])


def test_the_last_digits_of_a_table_in_single_precision_tell_nothing():
    """In float64 the same differences count: posteriors that differ give the value away."""
    jitter = 1 + 1e-6 * torch.randn(10, 10, 2, generator=torch.Generator().manual_seed(0)).double()
    joint = match_table() * jitter
    assert output_fusion_ceiling(joint.float()) == pytest.approx(0.5, abs=1e-5)
    assert output_fusion_ceiling(joint) > 0.9


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (torch.tensor([[[1.0, -0.1]]]), "none negative"),
        (torch.zeros(2, 2, 2), "not all zero"),
        (torch.tensor([[[1.0, float("nan")]]]), "finite"),
        (torch.tensor([[[1.0, float("inf")]]]), "finite"),
    ],
)
def test_a_table_that_holds_no_frequencies_is_refused(joint, message):
    for ceiling in (output_fusion_ceiling, joint_ceiling, lambda j: single_ceiling(j, 0)):
        with pytest.raises(ValueError, match=message):
            ceiling(joint)


@pytest.mark.parametrize("axis", [2, -1])
def test_there_are_two_modalities(axis):
    with pytest.raises(ValueError, match=f"axis must be 0 for modality A or 1 .* got {axis}"):
        single_ceiling(torch.ones(2, 2, 2), axis)


# --- captions ---------------------------------------------------------------------------------


def said(captions: str, labels: list[int]) -> ImageTextData:
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return ImageTextData(images, torch.tensor(labels), tuple(captions), ("x", "y"))


def test_the_caption_ceiling_by_hand():
    assert caption_ceiling(said("aabb", [0, 1, 0, 1])) == 0.5
    assert caption_ceiling(said("aabb", [0, 0, 1, 1])) == 1.0
    assert caption_ceiling(said("aaabb", [0, 0, 1, 1, 1])) == pytest.approx(0.8)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), min_size=1, max_size=6))
def test_no_reader_of_captions_beats_the_ceiling_and_one_reaches_it(pairs):
    data = said("".join(c for c, _ in pairs), [label for _, label in pairs])
    best = max(
        sum(dict(zip("abc", answers, strict=True))[c] == label for c, label in pairs)
        for answers in itertools.product(range(2), repeat=3)
    )
    assert caption_ceiling(data) == pytest.approx(best / len(pairs))


def test_a_class_caption_gives_the_class_away():
    assert caption_ceiling(digit_scenes("plain", train=200, test=1).train) == 1.0


@pytest.mark.parametrize(
    ("clues", "names", "expected"),
    [(DIGIT_CLUES, DIGIT_WORDS, 0.2583), (CIFAR10_CLUES, CIFAR10_CLASSES, 0.3083)],
)
def test_clues_leave_the_class_open(clues, names, expected):
    """With even classes: under a clue, the class with the fewest other clues is likeliest."""
    joint = torch.zeros(len(clues), 1, len(names))
    for c, name in enumerate(names):
        true = torch.tensor([name in classes for classes in clues.values()])
        joint[true, 0, c] = 1 / true.sum()
    assert single_ceiling(joint, 0) == pytest.approx(expected, abs=1e-4)
    labels = torch.arange(10).repeat(3000)
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    data = ImageTextData(images, labels, ("-",) * len(labels), tuple(names))
    assert caption_ceiling(with_clues(data, clues, seed=0)) == pytest.approx(expected, abs=0.01)

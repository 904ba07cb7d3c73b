"""Losses against slow loops in plain Python, closed forms, and properties that must always hold."""

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor

from cmssf_lib.losses import (
    duplicate_floor,
    excess_loss,
    expected_floor,
    image_text_loss,
    masked_loss,
    moco_loss,
    multi_positive_loss,
    nt_xent,
    supcon_loss,
    vicreg_loss,
)

GROUPED = [multi_positive_loss, masked_loss, excess_loss]


def embeddings(seed: int, *shape: int) -> Tensor:
    """Random float64 embeddings of various lengths, so that normalising matters."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x * (0.1 + 3 * torch.rand(shape[0], 1, generator=generator, dtype=torch.float64))


def arguments_of(loss, groups: Tensor, scale: float) -> tuple:
    """What a loss takes after the two embeddings."""
    sharpness = 1 / scale if loss is nt_xent else scale
    return (groups, sharpness) if loss in GROUPED else (sharpness,)


# --- slow references: nested loops over Python floats -----------------------------------------


def cosine(x: list[float], y: list[float]) -> float:
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x)) / math.sqrt(sum(q * q for q in y))


def slow_nt_xent(a: Tensor, b: Tensor, temperature: float) -> float:
    z = a.tolist() + b.tolist()
    n = len(a)
    total = 0.0
    for i in range(2 * n):
        j = i + n if i < n else i - n
        denominator = sum(
            math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i
        )
        total += -math.log(math.exp(cosine(z[i], z[j]) / temperature) / denominator)
    return total / (2 * n)


def slow_image_text(image: Tensor, text: Tensor, groups: Tensor, scale: float, kind: str) -> float:
    """Both directions of every image–text loss; `kind` says who is a partner, who is left out."""
    total = 0.0
    for rows, columns in ((image.tolist(), text.tolist()), (text.tolist(), image.tolist())):
        for i in range(len(rows)):
            p = [math.exp(scale * cosine(rows[i], column)) for column in columns]
            same = [j for j in range(len(rows)) if groups[j] == groups[i]]
            if kind == "masked":
                denominator = sum(p[j] for j in range(len(rows)) if j == i or j not in same)
            else:
                denominator = sum(p)
            partners = [i] if kind in ("one_hot", "masked") else same
            loss = -sum(math.log(p[j] / denominator) for j in partners) / len(partners)
            if kind == "excess":  # KL against uniform targets: minus their entropy
                loss -= math.log(len(partners))
            total += loss
    return total / (2 * len(image))


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_nt_xent_equals_slow_loops(n, temperature):
    a, b = embeddings(n, n, 5), embeddings(n + 100, n, 5)
    assert nt_xent(a, b, temperature).item() == pytest.approx(
        slow_nt_xent(a, b, temperature), abs=1e-10
    )


@pytest.mark.parametrize(
    "groups", [[0, 0], [3, 1], [0, 1, 2, 3, 4], [0, 0, 1, 1, 1, 2], [5, 5, 5, 5]], ids=str
)
@pytest.mark.parametrize("scale", [0.5, 1 / 0.07])
def test_image_text_losses_equal_slow_loops(groups, scale):
    groups = torch.tensor(groups)
    image, text = embeddings(1, len(groups), 4), embeddings(2, len(groups), 4)
    ours = {
        "one_hot": image_text_loss(image, text, scale),
        "multi_positive": multi_positive_loss(image, text, groups, scale),
        "masked": masked_loss(image, text, groups, scale),
        "excess": excess_loss(image, text, groups, scale),
    }
    for kind, value in ours.items():
        expected = slow_image_text(image, text, groups, scale, kind)
        assert value.item() == pytest.approx(expected, abs=1e-6), kind


# --- in chunks --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [image_text_loss, *GROUPED])
@given(batch=st.integers(2, 9), chunk=st.integers(1, 12), seed=st.integers(0, 99))
def test_chunks_change_neither_the_loss_nor_a_gradient(loss, batch, chunk, seed):
    groups = torch.randint(0, 3, (batch,), generator=torch.Generator().manual_seed(seed))
    found = []
    for rows in (0, chunk):
        image, text = (embeddings(seed + k, batch, 4).requires_grad_() for k in (0, 1000))
        scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        value = loss(image, text, *arguments_of(loss, groups, scale), chunk=rows)
        found.append((value, *torch.autograd.grad(value, (image, text, scale))))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-12)


def test_chunks_hold_no_more_rows_than_asked_for():
    held = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            held.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    image, text = (torch.randn(64, 2, requires_grad=True) for _ in range(2))
    for chunk, largest in ((0, 64 * 64), (8, 8 * 64)):
        held.clear()
        with Shapes():
            masked_loss(image, text, torch.arange(64) // 2, 10.0, chunk=chunk).backward()
        assert max(held) == largest


@pytest.mark.parametrize("loss", [image_text_loss, *GROUPED])
def test_a_negative_chunk_is_refused(loss):
    image, text = embeddings(1, 4, 3), embeddings(2, 4, 3)
    with pytest.raises(ValueError, match="chunk is -1; expected the number of rows"):
        loss(image, text, *arguments_of(loss, torch.arange(4), 5.0), chunk=-1)


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 128])
def test_identical_embeddings_give_the_logarithm_of_the_choices(n):
    same = torch.ones(n, 8)
    groups = torch.arange(n) // 2
    assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)
    assert image_text_loss(same, same, 10.0).item() == pytest.approx(math.log(n), abs=1e-5)
    assert multi_positive_loss(same, same, groups, 10.0).item() == pytest.approx(
        math.log(n), abs=1e-5
    )


def test_orthogonal_pairs_have_a_closed_form():
    # Partner at similarity 1, the n - 1 others at 0: ln(1 + (n - 1) e^-s), and twice the others
    # for two views.
    n, scale = 6, 3.0
    z = torch.eye(n)
    assert image_text_loss(z, z, scale).item() == pytest.approx(
        math.log(1 + (n - 1) * math.exp(-scale)), abs=1e-6
    )
    assert nt_xent(z, z, 1 / scale).item() == pytest.approx(
        math.log(1 + 2 * (n - 1) * math.exp(-scale)), abs=1e-6
    )


def test_the_start_of_the_source_chapter_is_the_logarithm_of_its_batch():
    same = torch.ones(128, 4)
    assert image_text_loss(same, same, 1 / 0.07).item() == pytest.approx(4.852, abs=5e-4)


def test_masked_loss_counts_only_the_other_groups():
    # At uniform similarity a row chooses between its partner and the rows of other groups.
    groups = torch.tensor([0, 0, 0, 1])
    same = torch.ones(4, 3)
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert masked_loss(same, same, groups, 5.0).item() == pytest.approx(expected, abs=1e-6)


def test_masked_loss_is_zero_where_nothing_can_be_told_apart():
    image, text = embeddings(3, 5, 4), embeddings(4, 5, 4)
    image.requires_grad_(True)
    loss = masked_loss(image, text, torch.zeros(5, dtype=torch.int64), 10.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


@pytest.mark.parametrize("loss", [masked_loss, excess_loss])
def test_the_repaired_losses_reach_zero_and_the_others_stop_at_the_floor(loss):
    groups = torch.arange(12) % 3
    prototypes = torch.eye(3)[groups]  # a perfect model of class captions
    floor = duplicate_floor(groups).item()
    assert floor == pytest.approx(math.log(4))
    assert loss(prototypes, prototypes, groups, 100.0).item() == pytest.approx(0, abs=1e-5)
    assert image_text_loss(prototypes, prototypes, 100.0).item() == pytest.approx(floor, abs=1e-5)
    assert multi_positive_loss(prototypes, prototypes, groups, 100.0).item() == pytest.approx(
        floor, abs=1e-5
    )


# --- the floor --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "floor"), [(32, 1.317), (64, 1.929), (128, 2.585), (256, 3.260), (512, 3.945)]
)
def test_expected_floor_of_ten_classes(batch_size, floor):
    assert expected_floor(batch_size, 10) == pytest.approx(floor, abs=5e-4)


@pytest.mark.parametrize(("batch_size", "classes"), [(2, 3), (16, 4), (64, 10)])
def test_expected_floor_is_the_mean_over_random_batches(batch_size, classes):
    generator = torch.Generator().manual_seed(0)
    floors = torch.stack(
        [
            duplicate_floor(torch.randint(classes, (batch_size,), generator=generator))
            for _ in range(4000)
        ]
    )
    error = floors.std().item() / math.sqrt(len(floors))
    assert abs(floors.mean().item() - expected_floor(batch_size, classes)) < 4 * error


def test_expected_floor_by_hand():
    # Two rows, two classes: equal with probability 1/2, which costs ln 2.
    assert expected_floor(2, 2) == pytest.approx(math.log(2) / 2)
    assert expected_floor(1, 10) == 0
    assert expected_floor(100, 1) == pytest.approx(math.log(100))
    # Large enough that the binomial coefficient itself has no float.
    assert expected_floor(20_000, 10) == pytest.approx(math.log(2_000), abs=5e-3)


def test_duplicate_floor_by_hand():
    assert duplicate_floor(torch.tensor([7, 2, 5])).item() == 0
    assert duplicate_floor(torch.tensor([1, 1, 2])).item() == pytest.approx(2 / 3 * math.log(2))


@st.composite
def batches_of_groups(draw) -> tuple[Tensor, int]:
    """Groups with at least one duplicate or none, and a seed for embeddings."""
    groups = draw(st.lists(st.integers(0, 4), min_size=2, max_size=10))
    return torch.tensor(groups), draw(st.integers(0, 2**31))


#: As wide as CLIP's own clamp, [1, 100], and somewhat softer.
scales = st.floats(0.1, 100.0)


@given(batches_of_groups(), scales)
def test_one_hot_never_falls_below_the_floor(batch, scale):
    groups, seed = batch
    image = embeddings(seed, len(groups), 3)
    text = embeddings(seed + 1, 5, 3)[groups]  # equal captions have equal embeddings
    floor = duplicate_floor(groups).item()
    assert image_text_loss(image, text, scale).item() >= floor - 1e-6


@given(batches_of_groups(), scales)
def test_multi_positive_never_falls_below_the_floor(batch, scale):
    groups, seed = batch
    image, text = embeddings(seed, len(groups), 3), embeddings(seed + 1, len(groups), 3)
    floor = duplicate_floor(groups).item()
    assert multi_positive_loss(image, text, groups, scale).item() >= floor - 1e-6


@given(batches_of_groups(), scales)
def test_theorem_one_hot_is_multi_positive_on_equal_captions(batch, scale):
    """Where equal captions have equal embeddings, value and gradients agree."""
    groups, seed = batch
    results = []
    for loss in (lambda i, t, s: image_text_loss(i, t, s), multi_positive_groups(groups)):
        image = embeddings(seed, len(groups), 4).requires_grad_(True)
        unique = embeddings(seed + 1, 5, 4).requires_grad_(True)  # one row a caption
        log_scale = torch.tensor(scale, dtype=torch.float64).log().requires_grad_(True)
        value = loss(image, unique[groups], log_scale.exp())
        results.append((value, *torch.autograd.grad(value, (image, unique, log_scale))))
    for one_hot, multi_positive in zip(*results, strict=True):
        torch.testing.assert_close(one_hot, multi_positive, atol=1e-10, rtol=1e-10)


def multi_positive_groups(groups: Tensor):
    return lambda image, text, scale: multi_positive_loss(image, text, groups, scale)


def test_theorem_fails_for_captions_of_the_single_image():
    # The other half of the theorem: with embeddings that differ inside a group, so do the losses.
    groups = torch.tensor([0, 0, 1, 1])
    image, text = embeddings(5, 4, 3), embeddings(6, 4, 3)
    difference = image_text_loss(image, text, 5.0) - multi_positive_loss(image, text, groups, 5.0)
    assert abs(difference.item()) > 0.01


def test_theorem_image_half_is_a_classifier_with_a_class_prior():
    """Image→text is a softmax over prototypes with the prior ln n_c, plus the mean ln n_c."""
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    image, prototypes = embeddings(7, 6, 4), embeddings(8, 3, 4)
    cosines = 8.0 * F.normalize(image, dim=1) @ F.normalize(prototypes, dim=1).T
    classifier = F.cross_entropy(cosines + groups.bincount().log(), groups)
    one_hot = F.cross_entropy(cosines[:, groups], torch.arange(6))
    assert (classifier + duplicate_floor(groups)).item() == pytest.approx(one_hot.item(), abs=1e-6)
    both = image_text_loss(image, prototypes[groups], 8.0)
    assert both.item() == pytest.approx(
        (one_hot + F.cross_entropy(cosines[:, groups].T, torch.arange(6))).item() / 2
    )


# --- properties -------------------------------------------------------------------------------


@given(batches_of_groups(), scales)
def test_excess_is_never_negative_and_has_the_gradient_of_multi_positive(batch, scale):
    groups, seed = batch
    gradients = []
    for loss in (excess_loss, multi_positive_loss):
        image = embeddings(seed, len(groups), 3).requires_grad_(True)
        text = embeddings(seed + 1, len(groups), 3)
        value = loss(image, text, groups, scale)
        gradients.append(torch.autograd.grad(value, image)[0])
        if loss is excess_loss:
            assert value.item() >= -1e-6
    torch.testing.assert_close(*gradients)


@given(batches_of_groups(), scales, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(batch, scale, random):
    """Permuting the pairs permutes the gradients and leaves the value."""
    groups, seed = batch
    order = list(range(len(groups)))
    random.shuffle(order)
    for loss in [nt_xent, image_text_loss, *GROUPED]:
        image = embeddings(seed, len(groups), 3).requires_grad_(True)
        text = embeddings(seed + 1, len(groups), 3)
        straight = loss(image, text, *arguments_of(loss, groups, scale))
        permuted = loss(image[order], text[order], *arguments_of(loss, groups[order], scale))
        torch.testing.assert_close(straight, permuted)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, image)[0] for value in (straight, permuted)),
            atol=1e-9,
            rtol=1e-6,
        )


@given(batches_of_groups(), scales)
def test_the_lengths_of_embeddings_do_not_matter_and_the_sides_can_be_swapped(batch, scale):
    groups, seed = batch
    image, text = embeddings(seed, len(groups), 3), embeddings(seed + 1, len(groups), 3)
    lengths = 0.1 + embeddings(seed + 2, len(groups), 1).abs()
    for loss in [nt_xent, image_text_loss, *GROUPED]:
        arguments = (
            *((groups,) if loss in GROUPED else ()),
            1 / scale if loss is nt_xent else scale,
        )
        value = loss(image, text, *arguments)
        torch.testing.assert_close(value, loss(image * lengths, text, *arguments))
        torch.testing.assert_close(value, loss(text, image, *arguments))


@given(batches_of_groups())
def test_the_names_of_groups_do_not_matter(batch):
    groups, seed = batch
    image, text = embeddings(seed, len(groups), 3), embeddings(seed + 1, len(groups), 3)
    renamed = 1000 - 7 * groups
    for loss in GROUPED:
        torch.testing.assert_close(loss(image, text, groups, 4.0), loss(image, text, renamed, 4.0))


@given(st.lists(st.just(0), min_size=2, max_size=8), st.integers(0, 1000), scales)
def test_without_duplicates_all_image_text_losses_are_one(groups, seed, scale):
    distinct = torch.arange(len(groups))
    image, text = embeddings(seed, len(groups), 3), embeddings(seed + 1, len(groups), 3)
    one_hot = image_text_loss(image, text, scale)
    for loss in GROUPED:
        torch.testing.assert_close(loss(image, text, distinct, scale), one_hot)


@given(batches_of_groups(), st.sampled_from([1e-3, 1.0, 100.0, 1e4]))
def test_values_and_gradients_are_finite_in_single_precision(batch, scale):
    groups, seed = batch
    for loss in [nt_xent, image_text_loss, *GROUPED]:
        image = embeddings(seed, len(groups), 3).float().requires_grad_(True)
        text = embeddings(seed + 1, len(groups), 3).float().requires_grad_(True)
        arguments = (
            *((groups,) if loss in GROUPED else ()),
            1 / scale if loss is nt_xent else scale,
        )
        value = loss(image, text, *arguments)
        value.backward()
        assert value.isfinite()
        assert image.grad.isfinite().all()
        assert text.grad.isfinite().all()


def test_gradients_agree_with_finite_differences():
    groups = torch.tensor([0, 1, 0, 2])
    image, text = embeddings(1, 4, 3).requires_grad_(True), embeddings(2, 4, 3).requires_grad_(True)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (image, text))
    assert torch.autograd.gradcheck(image_text_loss, (image, text, scale))
    for loss in GROUPED:
        assert torch.autograd.gradcheck(
            lambda i, t, s, loss=loss: loss(i, t, groups, s), (image, text, scale)
        )


def test_logit_scale_may_be_a_number_or_a_tensor_that_learns():
    image, text = embeddings(1, 4, 3), embeddings(2, 4, 3)
    log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = image_text_loss(image, text, log_scale.exp())
    loss.backward()
    assert loss.item() == pytest.approx(image_text_loss(image, text, math.exp(2.0)).item())
    assert log_scale.grad.item() != 0


def test_inputs_are_left_as_they_were():
    groups = torch.tensor([0, 1, 0])
    image, text = embeddings(1, 3, 4), embeddings(2, 3, 4)
    before = image.clone(), text.clone(), groups.clone()
    nt_xent(image, text, 0.5)
    for loss in GROUPED:
        loss(image, text, groups, 5.0)
    for old, new in zip(before, (image, text, groups), strict=True):
        assert torch.equal(old, new)


# --- a queue of negatives, and labels for partners ----------------------------------------------


def slow_moco(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> float:
    total = 0.0
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        own = math.exp(cosine(q, k) / temperature)
        others = sum(math.exp(cosine(q, old) / temperature) for old in queue.tolist())
        total += -math.log(own / (own + others))
    return total / len(query)


def slow_supcon(a: Tensor, b: Tensor, labels: Tensor, temperature: float) -> float:
    z, y = a.tolist() + b.tolist(), labels.tolist() * 2
    total = 0.0
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        denominator = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in others)
        partners = [k for k in others if y[k] == y[i]]
        for k in partners:
            p = math.exp(cosine(z[i], z[k]) / temperature) / denominator
            total += -math.log(p) / len(partners)
    return total / len(z)


@pytest.mark.parametrize(("n", "keys"), [(1, 1), (1, 6), (3, 2), (5, 10)])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_moco_equals_slow_loops(n, keys, temperature):
    query, key, queue = embeddings(n, n, 5), embeddings(n + 1, n, 5), embeddings(n + 2, keys, 5)
    assert moco_loss(query, key, queue, temperature).item() == pytest.approx(
        slow_moco(query, key, queue, temperature), abs=1e-10
    )


@pytest.mark.parametrize(("n", "keys"), [(1, 1), (3, 2), (5, 10)])
@pytest.mark.parametrize("temperature", [0.07, 2.0])
def test_moco_with_the_keys_of_the_batch_equals_slow_loops(n, keys, temperature):
    query, key, queue = embeddings(n, n, 5), embeddings(n + 1, n, 5), embeddings(n + 2, keys, 5)
    # Each query on its own: the other pictures' keys are as good as old ones.
    each = [
        slow_moco(query[[i]], key[[i]], torch.cat([key[:i], key[i + 1 :], queue]), temperature)
        for i in range(n)
    ]
    ours = moco_loss(query, key, queue, temperature, in_batch=True)
    assert ours.item() == pytest.approx(sum(each) / n, abs=1e-10)


@pytest.mark.parametrize(
    "labels", [[0, 0], [3, 1], [0, 1, 2, 3], [0, 0, 1, 1, 1, 2], [5, 5, 5]], ids=str
)
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_supcon_equals_slow_loops(labels, temperature):
    labels = torch.tensor(labels)
    a, b = embeddings(1, len(labels), 4), embeddings(2, len(labels), 4)
    assert supcon_loss(a, b, labels, temperature).item() == pytest.approx(
        slow_supcon(a, b, labels, temperature), abs=1e-10
    )


@pytest.mark.parametrize(("n", "keys"), [(2, 1), (5, 64), (3, 2048)])
def test_equal_embeddings_cost_the_logarithm_of_the_choices(n, keys):
    same, queue = torch.ones(n, 8), torch.ones(keys, 8)
    assert moco_loss(same, same, queue, 0.2).item() == pytest.approx(math.log(1 + keys), abs=1e-5)
    in_batch = moco_loss(same, same, queue, 0.2, in_batch=True)
    assert in_batch.item() == pytest.approx(math.log(n + keys), abs=1e-5)
    labels = torch.arange(n) // 2
    assert supcon_loss(same, same, labels, 0.2).item() == pytest.approx(
        math.log(2 * n - 1), abs=1e-5
    )


def test_a_queue_at_right_angles_has_a_closed_form():
    z = torch.eye(8)
    assert moco_loss(z[:2], z[:2], z[2:], 0.5).item() == pytest.approx(
        math.log(1 + 6 * math.exp(-2)), abs=1e-6
    )


def test_supcon_stops_at_the_entropy_of_its_targets():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    perfect = torch.eye(3)[labels]
    floor = sum(math.log(2 * count - 1) for count in (3, 3, 3, 2, 2, 1)) / 6
    assert supcon_loss(perfect, perfect, labels, 0.01).item() == pytest.approx(floor, abs=1e-5)


@given(batches_of_groups(), st.floats(0.01, 10.0))
def test_supcon_never_falls_below_its_floor_and_is_nt_xent_without_equal_labels(batch, temperature):
    labels, seed = batch
    a, b = embeddings(seed, len(labels), 3), embeddings(seed + 1, len(labels), 3)
    count = (labels[:, None] == labels[None, :]).sum(dim=1)
    floor = (2 * count - 1).double().log().mean().item()
    assert supcon_loss(a, b, labels, temperature).item() >= floor - 1e-6
    distinct = torch.arange(len(labels))
    torch.testing.assert_close(supcon_loss(a, b, distinct, temperature), nt_xent(a, b, temperature))


@given(batches_of_groups(), st.randoms(use_true_random=False))
def test_orders_lengths_and_names_do_not_matter_to_moco_and_supcon(batch, random):
    labels, seed = batch
    n = len(labels)
    a, b, queue = embeddings(seed, n, 3), embeddings(seed + 1, n, 3), embeddings(seed + 2, 7, 3)
    order, turned = list(range(n)), list(range(7))
    random.shuffle(order)
    random.shuffle(turned)
    lengths = 0.1 + embeddings(seed + 3, n, 1).abs()
    moco = moco_loss(a, b, queue, 0.3)
    torch.testing.assert_close(moco, moco_loss(a[order], b[order], queue[turned], 0.3))
    torch.testing.assert_close(moco, moco_loss(a * lengths, b / lengths, 5 * queue, 0.3))
    supcon = supcon_loss(a, b, labels, 0.3)
    torch.testing.assert_close(supcon, supcon_loss(a[order], b[order], labels[order], 0.3))
    torch.testing.assert_close(supcon, supcon_loss(b, a * lengths, 1000 - 7 * labels, 0.3))


@given(batches_of_groups(), st.sampled_from([1e-3, 0.07, 1.0, 100.0]))
def test_moco_and_supcon_are_finite_in_single_precision(batch, temperature):
    labels, seed = batch
    for loss in (
        lambda a, b: moco_loss(a, b, embeddings(seed + 2, 6, 3).float(), temperature),
        lambda a, b: supcon_loss(a, b, labels, temperature),
    ):
        a = embeddings(seed, len(labels), 3).float().requires_grad_(True)
        b = embeddings(seed + 1, len(labels), 3).float().requires_grad_(True)
        value = loss(a, b)
        value.backward()
        assert value.isfinite()
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


def test_gradients_of_moco_and_supcon_agree_with_finite_differences():
    labels = torch.tensor([0, 1, 0, 2])
    a, b = embeddings(1, 4, 3).requires_grad_(True), embeddings(2, 4, 3).requires_grad_(True)
    queue = embeddings(3, 5, 3).requires_grad_(True)
    for in_batch in (False, True):
        assert torch.autograd.gradcheck(
            lambda q, k, old, b=in_batch: moco_loss(q, k, old, 0.3, in_batch=b), (a, b, queue)
        )
    assert torch.autograd.gradcheck(lambda x, y: supcon_loss(x, y, labels, 0.3), (a, b))


@pytest.mark.parametrize("queue", [(0, 4), (6, 5), (4,)], ids=str)
def test_a_queue_that_does_not_fit_is_refused(queue, as_shipped):
    with pytest.raises(ValueError, match=r"queue has shape .*expected \(keys, 4\)"):
        moco_loss(torch.randn(3, 4), torch.randn(3, 4), torch.randn(*queue), 0.2)


def test_an_empty_batch_of_queries_is_refused(as_shipped):
    with pytest.raises(ValueError, match="at least one pair"):
        moco_loss(torch.randn(0, 4), torch.randn(0, 4), torch.randn(6, 4), 0.2)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()], ids=str)
def test_labels_of_the_wrong_shape_are_refused(shape, as_shipped):
    with pytest.raises(ValueError, match=r"labels has shape .*one number per picture: \(4,\)"):
        supcon_loss(torch.randn(4, 4), torch.randn(4, 4), torch.zeros(shape, dtype=torch.int64), 1)


@pytest.mark.parametrize("temperature", [math.nan, math.inf, 0.0])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    for loss in (
        lambda: nt_xent(a, b, temperature),
        lambda: moco_loss(a, b, torch.randn(6, 4), temperature),
        lambda: supcon_loss(a, b, torch.arange(4), temperature),
    ):
        with pytest.raises(ValueError, match=f"temperature is {temperature}.* > 0"):
            loss()


# --- bad input --------------------------------------------------------------------------------

ALL = [
    pytest.param(lambda a, b, s=2.0: nt_xent(a, b, s), id="nt_xent"),
    pytest.param(lambda a, b, s=2.0: image_text_loss(a, b, s), id="image_text"),
    pytest.param(lambda a, b, s=2.0: supcon_loss(a, b, torch.arange(len(a)), s), id="supcon"),
    *(
        pytest.param(
            lambda a, b, s=2.0, loss=loss: loss(a, b, torch.arange(len(a)), s), id=loss.__name__
        )
        for loss in GROUPED
    ),
]

#: The queue holds negatives enough for a single query, so a batch of one is no mistake here.
VICREG = pytest.param(lambda a, b, s=2.0: vicreg_loss(a, b), id="vicreg")
MOCO = pytest.param(lambda a, b, s=2.0: moco_loss(a, b, torch.randn(6, 4), s), id="moco")


@pytest.mark.parametrize("loss", [*ALL, VICREG])
def test_a_batch_of_one_is_refused(loss, as_shipped):
    with pytest.raises(ValueError, match=r"at least two pairs, got 1.*larger batch"):
        loss(torch.randn(1, 4), torch.randn(1, 4))


@pytest.mark.parametrize("loss", [*ALL, MOCO, VICREG])
@pytest.mark.parametrize("other", [(3, 4), (4, 5), (4,)], ids=str)
def test_shapes_that_differ_are_refused(loss, other, as_shipped):
    with pytest.raises(ValueError, match=r"shapes \(4, 4\) and .*expected two of the same shape"):
        loss(torch.randn(4, 4), torch.randn(*other))


@pytest.mark.parametrize("loss", [*ALL, MOCO])
@pytest.mark.parametrize("sharpness", [0.0, -2.0])
def test_a_temperature_or_scale_that_is_not_positive_is_refused(loss, sharpness):
    with pytest.raises(ValueError, match=rf"is {sharpness}.* > 0"):
        loss(torch.randn(4, 4), torch.randn(4, 4), sharpness)


def test_a_negative_scale_tensor_is_refused_with_the_likely_cause():
    scale = torch.tensor(-1.0, requires_grad=True)
    with pytest.raises(ValueError, match="If you hold its logarithm"):
        image_text_loss(torch.randn(4, 4), torch.randn(4, 4), scale)


@pytest.mark.parametrize("loss", GROUPED)
@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()], ids=str)
def test_groups_of_the_wrong_shape_are_refused(loss, shape, as_shipped):
    with pytest.raises(ValueError, match="groups has shape"):
        loss(torch.randn(4, 4), torch.randn(4, 4), torch.zeros(shape, dtype=torch.int64), 2.0)


def test_an_empty_batch_has_no_floor(as_shipped):
    with pytest.raises(ValueError, match="at least one"):
        duplicate_floor(torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize(("batch_size", "classes"), [(0, 10), (128, 0), (-1, 2)])
def test_expected_floor_refuses_impossible_sizes(batch_size, classes):
    with pytest.raises(ValueError, match="at least 1"):
        expected_floor(batch_size, classes)


def test_shapes_are_checked_while_testing():
    # The fixture `as_shipped` is only worth something if the checks are on without it.
    with pytest.raises(jaxtyping.TypeCheckError):
        image_text_loss(torch.randn(4, 4), torch.randn(3, 4), 2.0)

"""Evaluation against brute force, closed forms, and inputs that must be refused."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as hypothesis_settings, strategies as st
from settings import CMSSFConfig, TextConfig, VisionConfig, new_cmssf
from tensor_sizes import LargestTensor
from torch import Tensor, nn

from cmssf_lib.captions import scene_prompts
from cmssf_lib.data import ImageTextData, Splits, digit_scenes
from cmssf_lib.evaluate import (
    accuracy,
    class_captions,
    confusion,
    embed,
    embed_features,
    embed_images,
    embed_mirrored,
    embed_texts,
    embeddings,
    exact_caption_retrieval,
    knn,
    monitor,
    nearest_pixels,
    neighbours,
    pair_similarity,
    report,
    retrieval,
    zero_shot,
    zero_shot_prompts_from_captions,
)
from cmssf_lib.losses import duplicate_floor, image_text_loss
from cmssf_lib.methods import CMSSF
from cmssf_lib.views import ViewsConfig


def rows(seed: int, n: int, dim: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return (x @ y / x.norm() / y.norm()).item()


class Colours(CMSSF):
    """A method that sees a picture's mean colour and reads a caption's colour words.

    It has what can go wrong in evaluation: dropout, batch statistics, and a part that stays in
    evaluation mode while the rest trains.
    """

    WORDS = ("red", "green", "blue")
    config = CMSSFConfig()

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Linear(3, 3).eval()
        self.calls: list[int] = []

    def features(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        assert not torch.is_grad_enabled()
        return self.dropout(self.norm(images.float().mean(dim=(2, 3)) / 255))

    def project(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.project(self.features(images))

    def encode_text(self, captions) -> Tensor:
        words = [[float(word in caption) for word in self.WORDS] for caption in captions]
        return F.normalize(torch.tensor(words) + 0.01, dim=1)

    def loss(self, batch) -> dict[str, Tensor]:
        image, text = self.encode_image(batch.images), self.encode_text(batch.captions)
        text = text[batch.caption_index]
        return {
            "loss": image_text_loss(image, text, 10.0),
            "floor": duplicate_floor(batch.caption_index),
        }


def colour_data(n: int, seed: int = 0, noise: int = 20) -> ImageTextData:
    """Plain red, green and blue pictures, sorted by class, with one caption a class."""
    labels = torch.arange(n) * 3 // n
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, noise, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), labels] += 200
    return ImageTextData(
        images=images,
        labels=labels,
        captions=tuple(f"a photo of a {Colours.WORDS[label]}" for label in labels.tolist()),
        class_names=Colours.WORDS,
        name="colours",
    )


# --- embed ------------------------------------------------------------------------------------


def test_embed_returns_the_encoders_outputs_in_evaluation_mode(monkeypatch):
    monkeypatch.setattr(embeddings, "BATCH", 4)
    method, data = Colours(), colour_data(10)
    e = embed(method, data)
    assert method.calls == [4, 4, 2]  # the encoder sees each picture once
    method.eval()
    with torch.no_grad():
        torch.testing.assert_close(e.features, method.features(data.images))
        torch.testing.assert_close(e.image, method.encode_image(data.images))
        torch.testing.assert_close(e.text, method.encode_text(data.unique_captions))
        torch.testing.assert_close(e.text_per_image, method.encode_text(data.captions))
    assert torch.equal(e.labels, data.labels)
    assert [data.unique_captions[i] for i in e.caption_index] == list(data.captions)


def test_embed_counts_all_digits_and_gives_the_callers_precision_back():
    """A graphics card may drop half of them, and then says other numbers than a processor."""
    seen = []

    class Noting(Colours):
        def features(self, images):
            seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
            return super().features(images)

    torch.set_float32_matmul_precision("high")
    try:
        embed(Noting(), colour_data(10))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {(False, "highest")}
    assert torch.backends.cudnn.allow_tf32


def test_embed_does_not_depend_on_the_batch_size(monkeypatch):
    method, data = Colours(), colour_data(10)
    b = embed(method, data)
    monkeypatch.setattr(embeddings, "BATCH", 1)
    a = embed(method, data)
    for name in ("features", "image", "text"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("fails", [False, True])
def test_embed_leaves_modes_weights_and_statistics_as_they_were(fails, monkeypatch):
    method = Colours().train()
    method.frozen.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    if fails:
        monkeypatch.setattr(method, "encode_text", lambda captions: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(method, colour_data(6))
    else:
        embed(method, colour_data(6))
    assert method.training
    assert method.dropout.training
    assert not method.frozen.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.is_grad_enabled()


def test_pictures_alone_are_embedded_as_those_of_a_data_set(monkeypatch):
    data = colour_data(10)
    whole = embed(Colours(), data).image
    assert torch.equal(embed_images(Colours(), data), whole)
    monkeypatch.setattr(embeddings, "BATCH", 3)
    assert torch.equal(embed_images(Colours(), data.images), whole)


def test_a_picture_and_its_mirror_image_are_in_one_place():
    class LeftHalf(Colours):
        """Sees the left half of a picture only."""

        def features(self, images: Tensor) -> Tensor:
            return super().features(images[..., :2])

    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    method = LeftHalf()
    left, right = embed_images(method, images), embed_images(method, images.flip(-1))
    both = embed_mirrored(method, images, seen=left)
    assert not torch.allclose(left, right)
    torch.testing.assert_close(both, F.normalize((left + right) / 2, dim=1))
    torch.testing.assert_close(both, embed_mirrored(method, images.flip(-1), seen=right))


def test_embed_does_not_touch_the_random_numbers_of_training():
    method, data = Colours(), colour_data(6)
    state = torch.get_rng_state()
    embed(method, data)
    assert torch.equal(state, torch.get_rng_state())


def test_embed_refuses_broken_weights_and_nothing():
    method = Colours()
    method.norm.weight.data[0] = math.nan
    with pytest.raises(ValueError, match=r"9 of 9 embeddings hold NaN.*last good checkpoint"):
        embed(method, colour_data(9))
    with pytest.raises(ValueError, match="nothing to embed"):
        embed_texts(Colours(), [])


# --- knn --------------------------------------------------------------------------------------


def slow_knn(bank, labels, query, classes, k, temperature):
    similar = sorted(((cosine(x, query), int(y)) for x, y in zip(bank, labels, strict=True)))[-k:]
    votes = [sum(math.exp(s / temperature) for s, y in similar if y == c) for c in range(classes)]
    return max(range(classes), key=votes.__getitem__)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.1), (30, 0.07), (60, 1.0)])
def test_knn_equals_slow_loops(k, temperature):
    bank, queries = rows(0, 60, 4) * 3, rows(1, 25, 4)
    labels = torch.arange(60) % 4
    ours = knn(bank, labels, queries, 4, k, temperature)
    expected = [slow_knn(bank, labels, q, 4, k, temperature) for q in queries]
    assert ours.tolist() == expected


def test_knn_weighs_near_votes_more():
    # One neighbour at angle 0 against two at 60 degrees: e^(1/T) against 2 e^(0.5/T).
    bank = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.5, -(0.75**0.5)]])
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn(bank, labels, query, 2, k=3, temperature=0.1).item() == 0
    assert knn(bank, labels, query, 2, k=3, temperature=1.0).item() == 1


def test_knn_survives_a_tiny_temperature():
    bank, labels = rows(0, 20, 4), torch.arange(20) % 3
    assert torch.equal(knn(bank, labels, bank, 3, k=20, temperature=1e-4), labels)


def test_blocks_change_nothing(monkeypatch):
    bank, queries, labels = rows(0, 50, 6), rows(1, 23, 6), torch.arange(50) % 3
    groups, captions = torch.arange(23) % 3, torch.arange(23) % 7

    def results():
        return (
            knn(bank, labels, queries, 3, k=9).tolist(),
            retrieval(queries, bank, groups, labels),
            exact_caption_retrieval(queries, bank[:7], captions),
            nearest_pixels(colour_data(30, seed=1, noise=250), colour_data(17, seed=2, noise=250)),
        )

    whole = results()
    for block in (1, 60, 500):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        in_blocks = results()
        assert in_blocks[0] == whole[0]
        assert in_blocks[1] == pytest.approx(whole[1], abs=1e-6)
        assert in_blocks[2] == pytest.approx(whole[2], abs=1e-6)
        assert in_blocks[3] == whole[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 7}, r"k is 7, but the bank holds 6"),
        ({"k": 0}, r"k is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"classes": 2}, "bank_labels holds values from 0 to 2; with 2 classes"),
        ({"bank_labels": torch.tensor([0, 1, 2, -1, 0, 0])}, "values from -1"),
        ({"bank_labels": torch.arange(5)}, r"expected \(6,\)"),
        ({"queries": torch.ones(2, 5)}, r"bank has shape \(6, 4\) and queries \(2, 5\)"),
        ({"queries": torch.ones(0, 4)}, "queries 0"),
        ({"bank": torch.ones(0, 4), "bank_labels": torch.arange(0)}, "bank holds 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_knn_refuses(change, message, as_shipped):
    good = {
        "bank": rows(0, 6, 4),
        "bank_labels": torch.arange(6) % 3,
        "queries": rows(1, 2, 4),
        "classes": 3,
        "k": 3,
        "temperature": 0.1,
    }
    knn(**good)
    with pytest.raises(ValueError, match=message):
        knn(**good | change)


# --- raw pixels -------------------------------------------------------------------------------


def test_nearest_pixels_equals_slow_loops():
    splits = digit_scenes("plain", train=120, test=40)
    right = 0
    for image, label in zip(splits.test.images.int(), splits.test.labels, strict=True):
        distance = [(image - other).square().sum().item() for other in splits.train.images.int()]
        right += int(splits.train.labels[distance.index(min(distance))] == label)
    assert nearest_pixels(*splits) == right / 40


def test_nearest_pixels_refuses_other_sizes():
    small, large = (digit_scenes(train=3, test=3, image_size=size).train for size in (16, 24))
    with pytest.raises(ValueError, match="same size"):
        nearest_pixels(small, large)


# --- zero-shot --------------------------------------------------------------------------------


def test_zero_shot_takes_the_most_similar_prompt_whatever_its_length():
    prompts = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    images = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.1, 0.05]])
    assert zero_shot(images, prompts).tolist() == [0, 1, 0]


def test_zero_shot_on_class_captions_is_perfect_where_colours_are_the_classes():
    data = colour_data(30)
    captions = [[f"a photo of a {name}", name] for name in data.class_names]
    prompts = zero_shot_prompts_from_captions(Colours(), captions)
    assert accuracy(zero_shot(embed(Colours(), data).image, prompts), data.labels) == 1


def test_prompt_ensembles_are_normalised_means_of_normalised_embeddings():
    method = Colours()
    # Embeddings of different lengths, which the mean must not weigh.
    method.encode_text = lambda captions: torch.tensor([[float(len(c)), 1.0] for c in captions])
    prompts = zero_shot_prompts_from_captions(method, [["a", "bbbb"], ["cc"]])
    a, b, c = (torch.tensor(v) / torch.tensor(v).norm() for v in ([1.0, 1], [4.0, 1], [2.0, 1]))
    mean = (a + b) / 2
    torch.testing.assert_close(prompts, torch.stack([mean / mean.norm(), c]))


def test_class_captions_of_enough_scenes_are_all_prompts_of_each_digit():
    captions = class_captions(digit_scenes("colour", train=4000, test=1).train)
    assert [sorted(texts) for texts in captions] == [sorted(scene_prompts(d)) for d in range(10)]


def test_embedding_keeps_no_tokens_in_memory(monkeypatch):
    """The encoder returns [CLS] as a view of all tokens; what is collected must be a copy of it."""
    kept = []
    whole = torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, *a: kept.extend(parts) or whole(parts, *a))
    monkeypatch.setattr(embeddings, "BATCH", 5)

    class Tokens(Colours):
        def features(self, images):
            return torch.zeros(len(images), 65, 3)[:, 0]

    embed_features(Tokens(), colour_data(10, seed=1))
    assert [part.untyped_storage().nbytes() for part in kept] == [5 * 3 * 4] * 2


def test_zero_shot_takes_the_class_of_the_nearest_prompt(as_shipped):
    """Two prompts of class 0 that point apart: their mean lies near neither of them."""
    prompts = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, 1.0]])
    classes = torch.tensor([0, 0, 1])
    image = torch.tensor([[0.9, 0.2], [-0.9, 0.2], [0.1, 0.9]])
    assert zero_shot(image, prompts, classes).tolist() == [0, 0, 1]
    means = torch.stack([prompts[:2].mean(0), prompts[2]])
    assert zero_shot(image, means).tolist() != [0, 0, 1]
    with pytest.raises(ValueError, match=r"classes has shape \(2,\); expected \(3,\)"):
        zero_shot(image, prompts, classes[:2])


def test_zero_shot_refuses(as_shipped):
    with pytest.raises(ValueError, match="one class every answer is right"):
        zero_shot(rows(0, 3, 2), rows(1, 1, 2))
    with pytest.raises(ValueError, match=r"image has shape \(3, 2\) and prompts \(4, 3\)"):
        zero_shot(rows(0, 3, 2), rows(1, 4, 3))
    with pytest.raises(ValueError, match="image holds 0"):
        zero_shot(rows(0, 0, 2), rows(1, 4, 2))
    with pytest.raises(ValueError, match=r"no caption for the classes \[1\]"):
        zero_shot_prompts_from_captions(Colours(), [["red"], []])
    with pytest.raises(ValueError, match="nothing to embed"):
        zero_shot_prompts_from_captions(Colours(), [])


# --- confusion and accuracy -------------------------------------------------------------------


def test_confusion_counts_truth_in_rows():
    counts = confusion(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_confusion_and_accuracy_refuse(as_shipped):
    zero = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="predictions holds values from 0 to 5; with 3 classes"):
        confusion(torch.tensor([0, 1, 5]), zero, 3)
    with pytest.raises(ValueError, match="labels holds values from 0 to 4"):
        confusion(zero, torch.tensor([0, 4, 1]), 3)
    with pytest.raises(ValueError, match="one per row"):
        confusion(zero, zero[:2], 3)
    with pytest.raises(ValueError, match="shapes must be equal"):
        accuracy(zero, zero[:2])
    with pytest.raises(ValueError, match="at least one entry"):
        accuracy(zero[:0], zero[:0])


# --- retrieval --------------------------------------------------------------------------------


def test_retrieval_by_hand():
    # Ranking of the one query by angle: right, wrong, right, wrong.
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    result = retrieval(
        torch.tensor([[1.0, 0.0]]),
        gallery,
        torch.tensor([7]),
        torch.tensor([7, 1, 7, 1]),
        (1, 2, 3),
    )
    assert result == pytest.approx(
        {
            "R@1": 1,
            "R@2": 1,
            "R@3": 1,
            "P@1": 1,
            "P@2": 1 / 2,
            "P@3": 2 / 3,
            "mAP": (1 + 2 / 3) / 2,
        }
    )


def test_retrieval_equals_slow_loops():
    queries, gallery = rows(0, 12, 5), rows(1, 40, 5)
    query_groups, gallery_groups = torch.arange(12) % 4, torch.arange(40) % 4
    recall, precision, average_precision = {1: 0, 5: 0, 10: 0}, {1: 0, 5: 0, 10: 0}, 0
    for q, group in zip(queries, query_groups, strict=True):
        ranking = sorted(range(40), key=lambda j: -cosine(q, gallery[j]))
        right = [bool(gallery_groups[j] == group) for j in ranking]
        for k in recall:
            recall[k] += any(right[:k]) / 12
            precision[k] += sum(right[:k]) / k / 12
        hits = [rank for rank, is_right in enumerate(right, 1) if is_right]
        average_precision += sum(i / rank for i, rank in enumerate(hits, 1)) / len(hits) / 12
    expected = {f"R@{k}": v for k, v in recall.items()} | {
        f"P@{k}": v for k, v in precision.items()
    }
    ours = retrieval(queries, gallery, query_groups, gallery_groups)
    assert ours == pytest.approx(expected | {"mAP": average_precision}, abs=1e-6)
    without = retrieval(queries, gallery, query_groups, gallery_groups, mean_ap=False)
    assert without == pytest.approx(expected, abs=1e-6)


@st.composite
def tied_rankings(draw):
    """A query and a gallery of unit axes: gallery items on one axis are exactly equally similar."""
    axes = draw(st.lists(st.integers(0, 2), min_size=2, max_size=5))
    right = draw(st.lists(st.booleans(), min_size=len(axes), max_size=len(axes)))
    k = draw(st.integers(1, len(axes)))
    return torch.tensor([[3.0, 2.0, 1.0]]), axes, right, k


@given(tied_rankings())
def test_ties_count_as_the_mean_over_all_orders(case):
    query, axes, right, k = case
    if all(right) or not any(right):
        right = [True, *[False] * (len(right) - 1)]
    recall, precision, orders = 0.0, 0.0, 0
    for order in itertools.permutations(range(len(axes))):
        first = sorted(order, key=lambda j: axes[j])[:k]  # stable: ties stay in this order
        recall += any(right[j] for j in first)
        precision += sum(right[j] for j in first) / k
        orders += 1
    ours = retrieval(query, torch.eye(3)[axes], torch.tensor([1]), torch.tensor(right).int(), (k,))
    assert ours[f"R@{k}"] == pytest.approx(recall / orders, abs=1e-5)
    assert ours[f"P@{k}"] == pytest.approx(precision / orders, abs=1e-5)


def test_a_collapsed_method_is_at_chance_and_not_at_the_mercy_of_the_order():
    same, groups = torch.ones(100, 4), torch.arange(100) // 10  # sorted by class
    result = retrieval(same, same, groups, groups)
    assert result["P@10"] == pytest.approx(0.1)
    assert result["mAP"] == pytest.approx(0.1)
    assert result["R@1"] == pytest.approx(0.1)
    assert result["R@10"] == pytest.approx(1 - math.comb(90, 10) / math.comb(100, 10))


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=25)
def test_the_order_of_the_gallery_does_not_matter(seed, random):
    queries, gallery = rows(seed, 6, 3), rows(seed + 1, 14, 3).round()  # rounding makes ties
    gallery[:, 0] += 0.5  # no row of length zero
    query_groups, gallery_groups = torch.arange(6) % 2, torch.arange(14) % 2
    order = list(range(14))
    random.shuffle(order)
    straight = retrieval(queries, gallery, query_groups, gallery_groups)
    shuffled = retrieval(queries, gallery[order], query_groups, gallery_groups[order])
    assert straight == pytest.approx(shuffled, abs=1e-6)


def test_retrieval_refuses(as_shipped):
    q, g = rows(0, 4, 3), rows(1, 8, 3)
    qg, gg = torch.arange(4) % 2, torch.arange(8) % 2
    retrieval(q, g, qg, gg, (1,))
    with pytest.raises(ValueError, match=r"ks is \(1, 9\), but the gallery holds 8"):
        retrieval(q, g, qg, gg, (1, 9))
    with pytest.raises(ValueError, match="ks is"):
        retrieval(q, g, qg, gg, ())
    with pytest.raises(ValueError, match="one group only"):
        retrieval(q, g, qg * 0, gg * 0, (1,))
    with pytest.raises(ValueError, match=r"no item of the query groups \[5\]"):
        retrieval(q, g, torch.tensor([0, 5, 1, 5]), gg, (1,))
    with pytest.raises(ValueError, match=r"query_groups has shape \(8,\); expected \(4,\)"):
        retrieval(q, g, gg, gg, (1,))
    with pytest.raises(ValueError, match=r"gallery_groups has shape \(4,\); expected \(8,\)"):
        retrieval(q, g, qg, qg, (1,))
    with pytest.raises(ValueError, match="same width"):
        retrieval(q[:, :2], g, qg, gg, (1,))
    with pytest.raises(ValueError, match="queries holds 0"):
        retrieval(q[:0], g, qg[:0], gg, (1,))


# --- exact captions ---------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 2), min_size=2, max_size=5),
    st.permutations([3.0, 2.0, 1.0]),
    st.booleans(),
    st.integers(1, 5),
)
def test_exact_captions_are_the_mean_over_all_orders_of_the_copies(captions, scores, tie, k):
    k = min(k, len(captions))
    if tie:
        scores = [min(score, 2.0) for score in scores]  # two captions with one similarity
    image = torch.tensor([scores] * len(captions))
    ours = exact_caption_retrieval(image, torch.eye(3), torch.tensor(captions), (k,))
    found, ceiling = 0.0, 0.0
    for own, caption in enumerate(captions):
        orders = list(itertools.permutations(range(len(captions))))
        for order in orders:
            ranking = sorted(order, key=lambda j: -scores[captions[j]])
            found += (own in ranking[:k]) / len(orders) / len(captions)
            best = sorted(order, key=lambda j: captions[j] != caption)  # a perfect ranking
            ceiling += (own in best[:k]) / len(orders) / len(captions)
    assert ours[f"R@{k}"] == pytest.approx(found, abs=1e-5)
    assert ours[f"R@{k}_ceiling"] == pytest.approx(ceiling, abs=1e-5)


def test_the_ceilings_of_one_caption_a_class():
    """10,000 test pictures with ten captions: 0.1 %. A batch of 128: 7.8 %, 10/128."""
    perfect, groups = torch.eye(10), torch.arange(10_000) % 10
    result = exact_caption_retrieval(perfect[groups], perfect, groups)
    assert result["R@1_ceiling"] == pytest.approx(0.001)
    assert result["R@10_ceiling"] == pytest.approx(0.01)
    assert result["R@1"] == pytest.approx(0.001)  # a perfect method reaches it
    batch = torch.arange(128) % 10
    assert exact_caption_retrieval(perfect[batch], perfect, batch)["R@1"] == pytest.approx(10 / 128)


def test_distinct_captions_have_a_ceiling_of_one():
    z = rows(0, 20, 8)
    result = exact_caption_retrieval(z, z, torch.arange(20))
    assert set(result.values()) == {1.0}


@given(st.integers(0, 1000), st.lists(st.integers(0, 4), min_size=10, max_size=20))
@hypothesis_settings(max_examples=25)
def test_no_method_beats_the_ceiling(seed, captions):
    captions = torch.tensor(captions)
    result = exact_caption_retrieval(rows(seed, len(captions), 3), rows(seed + 1, 5, 3), captions)
    for k in (1, 5, 10):
        assert 0 <= result[f"R@{k}"] <= result[f"R@{k}_ceiling"] + 1e-6 <= 1 + 1e-6


def test_exact_caption_retrieval_refuses(as_shipped):
    image, text, index = rows(0, 6, 3), rows(1, 2, 3), torch.arange(6) % 2
    exact_caption_retrieval(image, text, index, (1,))
    with pytest.raises(IndexError):
        exact_caption_retrieval(image, text, index + 1, (1,))
    with pytest.raises(ValueError, match="one per row"):
        exact_caption_retrieval(image, text, index[:5], (1,))
    with pytest.raises(ValueError, match="gallery holds 6"):
        exact_caption_retrieval(image, text, index)
    with pytest.raises(ValueError, match="same width"):
        exact_caption_retrieval(image, rows(1, 2, 4), index, (1,))
    with pytest.raises(ValueError, match="queries holds 0"):
        exact_caption_retrieval(image[:0], text, index[:0], (1,))


# --- pair similarity --------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1, 2, 2, 2], [5, -3, 5, 8]], ids=str)
def test_pair_similarity_equals_slow_loops(labels):
    n = len(labels)
    image, text = rows(0, n, 4) * 5, rows(1, n, 4)
    pairs = [(i, j, cosine(image[i], text[j])) for i in range(n) for j in range(n)]
    groups = {
        "positive": [s for i, j, s in pairs if i == j],
        "different_class": [s for i, j, s in pairs if labels[i] != labels[j]],
        "contaminated": [s for i, j, s in pairs if i != j],
    }
    expected = {name: sum(values) / len(values) for name, values in groups.items()}
    ours = pair_similarity(image, text, torch.tensor(labels))
    assert ours == pytest.approx(expected, abs=1e-6)


def test_the_ideal_of_ten_classes_is_a_simplex():
    corners = F.normalize(torch.eye(10) - 0.1, dim=1)  # ten points as far apart as they can be
    labels = torch.arange(1000) % 10
    result = pair_similarity(corners[labels], corners[labels], labels)
    assert result["positive"] == pytest.approx(1)
    assert result["different_class"] == pytest.approx(-1 / 9)
    # The contaminated mean of a perfect method is about 0: a tenth of its pairs are positives.
    assert result["contaminated"] == pytest.approx((99 * 1 + 900 * -1 / 9) / 999)


def test_pair_similarity_refuses(as_shipped):
    z, labels = rows(0, 4, 3), torch.arange(4)
    with pytest.raises(ValueError, match="all pictures are of one class"):
        pair_similarity(z, z, labels * 0)
    with pytest.raises(ValueError, match="one text and one label per picture"):
        pair_similarity(z, rows(0, 3, 3), labels)
    with pytest.raises(ValueError, match="one text and one label per picture"):
        pair_similarity(z, z, labels[:3])
    with pytest.raises(ValueError, match="same width"):
        pair_similarity(z, rows(0, 4, 2), labels)


# --- report and monitor -----------------------------------------------------------------------

REPORTED = {
    "zero_shot",
    "zero_shot_ensemble",
    "knn",
    "knn_k",
    *(f"image_to_text_R@{k}" for k in (1, 5, 10)),
    *(f"text_to_image_{m}@{k}" for m in "RP" for k in (1, 5, 10)),
    "text_to_image_mAP",
    *(f"exact_caption_R@{k}{end}" for k in (1, 5, 10) for end in ("", "_ceiling")),
    "positive_similarity",
    "different_class_similarity",
    "contaminated_similarity",
}


def test_report_of_a_method_that_sees_what_it_needs():
    # Backwards, so that the order of the captions is not that of the classes.
    test = colour_data(30, seed=2).subset(range(29, -1, -1))
    splits = Splits(colour_data(60, seed=1), test)
    result = report(Colours(), splits)
    assert set(result) == REPORTED
    assert all(type(value) is float for value in result.values())
    for name in ("zero_shot", "knn", "image_to_text_R@1", "text_to_image_mAP"):
        assert result[name] == 1, name
    assert result["knn_k"] == 6
    # Ten pictures share each caption.
    assert result["exact_caption_R@1"] == pytest.approx(0.1, abs=1e-15)
    assert result["exact_caption_R@1_ceiling"] == pytest.approx(0.1, abs=1e-15)
    assert result["exact_caption_R@10_ceiling"] == pytest.approx(1)
    assert result["positive_similarity"] > 0.95 > result["different_class_similarity"]


def test_with_one_caption_a_class_retrieval_is_zero_shot():
    splits = Splits(colour_data(60, noise=55), colour_data(45, seed=3, noise=55))
    method = Colours()
    with torch.no_grad():
        method.norm.weight.copy_(torch.tensor([1.0, 2.0, 0.1]))  # mistakes, but not at random
    result = report(method, splits)
    assert 0.3 < result["zero_shot"] < 1
    for k in (1, 5, 10):
        assert result[f"image_to_text_R@{k}"] == pytest.approx(result["zero_shot"])


def test_each_class_that_uses_a_caption_asks_for_its_own_pictures():
    # A caption that two classes share is two questions, neither of which hides the other.
    data = colour_data(30)
    shared = ImageTextData(data.images, data.labels, ("a red thing",) * 30, data.class_names)
    result = report(Colours(), Splits(shared, shared))
    assert result["text_to_image_P@10"] == pytest.approx(1 / 3, abs=1e-6)  # red ones, three times


def test_monitor_takes_given_prompts():
    wrong = [["blue"], ["red"], ["green"]]
    result = monitor(Colours(), colour_data(30), batch_size=8, prompts=wrong)
    assert result["validation_zero_shot"] == 0
    with pytest.raises(ValueError, match="nothing to embed"):
        monitor(Colours(), colour_data(30), batch_size=8, prompts=[])


def test_report_refuses_one_class():
    data = colour_data(60)
    with pytest.raises(ValueError, match="one group only"):
        report(Colours(), Splits(data, data.subset(range(20))))


def test_monitor_measures_what_report_does():
    data = colour_data(30)
    result = monitor(Colours(), data, batch_size=8)
    assert set(result) == {
        "validation_loss",
        "validation_floor",
        "validation_positive_similarity",
        "validation_different_class_similarity",
        "validation_contaminated_similarity",
        "validation_zero_shot",
        "validation_retrieval_at_1",
    }
    full = report(Colours(), Splits(data, data))
    for ours, theirs in (
        ("validation_zero_shot", "zero_shot"),
        ("validation_retrieval_at_1", "image_to_text_R@1"),
        ("validation_positive_similarity", "positive_similarity"),
        ("validation_different_class_similarity", "different_class_similarity"),
        ("validation_contaminated_similarity", "contaminated_similarity"),
    ):
        assert result[ours] == pytest.approx(full[theirs])
    assert result == monitor(Colours(), data, batch_size=8)  # the same batches every time


def test_monitor_averages_whole_mixed_batches():
    # The data is sorted by class: unmixed batches of eight would have a floor of ln 8 each.
    result = monitor(Colours(), colour_data(30), batch_size=8)
    assert 0 < result["validation_floor"] < 0.75 * math.log(8)
    assert result["validation_loss"] >= result["validation_floor"]
    sizes = []
    method = Colours()
    loss = method.loss
    method.loss = lambda batch: sizes.append(len(batch.images)) or loss(batch)
    monitor(method, colour_data(30), batch_size=8)
    assert sizes == [8, 8, 8]


def test_monitor_leaves_training_as_it_was():
    method = Colours().train()
    method.frozen.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    monitor(method, colour_data(30), batch_size=8)
    assert method.dropout.training
    assert not method.frozen.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_monitor_refuses_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="too few for a batch of 31"):
        monitor(Colours(), colour_data(30), batch_size=31)


def test_an_untrained_cmssf_is_measured_near_chance():
    """The real model on the real scenes, end to end; nothing was learned, so nothing is known."""
    splits = digit_scenes("colour", train=300, test=200)
    torch.manual_seed(0)
    method = new_cmssf(
        VisionConfig(image_size=16, width=32, depth=1, heads=2),
        TextConfig(width=32, depth=1, heads=2),
        CMSSFConfig(dim=16, hidden=16, views=ViewsConfig(shift=0.1)),
        splits.train.captions,
    )
    result = report(method, splits)
    assert set(result) == REPORTED
    assert all(math.isfinite(value) for value in result.values())
    assert result["zero_shot"] < 0.3
    assert result["text_to_image_mAP"] < 0.3
    assert result["exact_caption_R@10"] < result["exact_caption_R@10_ceiling"]
    columns = monitor(method, splits.test, 50, prompts=class_captions(splits.train))
    assert columns["validation_zero_shot"] == pytest.approx(result["zero_shot"])
    assert columns["validation_loss"] >= columns["validation_floor"] > 0


def test_no_similarity_matrix_is_ever_whole():
    """So 50,000 × 50,000 needs the memory of a block, of which about fifteen live at once."""
    n = 2500
    z, groups = rows(0, n, 4), torch.arange(n) % 10
    assert n * n > 1.4 * neighbours.BLOCK  # or the test would show nothing
    with LargestTensor() as largest:
        knn(z, groups, z, 10, k=5)
        retrieval(z, z, groups, groups)
        exact_caption_retrieval(z, z, torch.arange(n))
        pair_similarity(z, z, groups)
    assert largest.entries <= neighbours.BLOCK

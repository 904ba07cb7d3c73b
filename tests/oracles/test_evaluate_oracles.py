"""Evaluation against lightly's kNN and scikit-learn's measures."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from cmssf_lib.data import digit_scenes
from cmssf_lib.evaluate import confusion, knn, nearest_pixels, retrieval


def rows(seed: int, n: int, dim: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5])
@pytest.mark.parametrize(("m", "k", "classes"), [(300, 1, 4), (300, 50, 4), (1000, 200, 10)])
def test_knn_is_lightlys(m, k, classes, temperature):
    benchmarking = pytest.importorskip(
        "lightly.utils.benchmarking", reason="lightly is an oracle of this test"
    )
    labels = torch.arange(m) % classes
    centres = rows(2, classes, 16)
    bank, queries = rows(0, m, 16) + centres[labels], rows(1, 100, 16) + centres[0]
    # lightly leaves the normalisation to its caller.
    expected = benchmarking.knn_predict(
        F.normalize(queries, dim=1), F.normalize(bank, dim=1).T, labels, classes, k, temperature
    )[:, 0]
    ours = knn(bank, labels, queries, classes, k, temperature)
    assert len(ours.unique()) > 1
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("ties", [False, True])
def test_mean_average_precision_is_scikit_learns(ties):
    queries, gallery = rows(0, 20, 3), rows(1, 100, 3)
    if ties:  # few directions, many copies of each
        gallery = torch.eye(3)[torch.arange(100) % 3]
    query_groups = torch.arange(20) % 4
    gallery_groups = torch.randint(4, (100,), generator=torch.Generator().manual_seed(2))
    similarity = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    expected = [
        average_precision_score((gallery_groups == group).numpy(), score.numpy())
        for group, score in zip(query_groups, similarity, strict=True)
    ]
    ours = retrieval(queries, gallery, query_groups, gallery_groups)["mAP"]
    assert ours == pytest.approx(sum(expected) / 20, abs=1e-6)


def test_nearest_pixels_is_scikit_learns_nearest_neighbour():
    train, test = digit_scenes("colour", train=400, test=150)
    classifier = KNeighborsClassifier(1).fit(train.images.flatten(1).numpy() / 255.0, train.labels)
    expected = classifier.score(test.images.flatten(1).numpy() / 255.0, test.labels.numpy())
    assert nearest_pixels(train, test) == pytest.approx(expected)


def test_confusion_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    predictions = torch.randint(5, (200,), generator=generator)
    expected = confusion_matrix(labels, predictions, labels=range(6))
    assert confusion(predictions, labels, 6).tolist() == expected.tolist()

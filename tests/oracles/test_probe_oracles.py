"""The linear probe against scikit-learn: its logistic regression and its grid search."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmssf_lib.evaluate import linear, linear_probe
from cmssf_lib.evaluate.linear import PENALTIES


def clusters(n: int, seed: int, classes: int = 5, width: int = 12):
    """Overlapping clusters, each feature at a place and a scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % classes
    x = 0.8 * centres[labels] + torch.randn(n, width, generator=generator)
    return x * torch.logspace(-2, 2, width) + 5, labels


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_probe_is_scikit_learns_logistic_regression(penalty, monkeypatch):
    monkeypatch.setattr(linear, "PENALTIES", (penalty,))
    x, y = clusters(200, seed=1)
    queries, truth = clusters(400, seed=2)
    # Far closer to the minimum than the probe goes, by another solver.
    regression = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-9, max_iter=1000)
    oracle = make_pipeline(StandardScaler(), regression).fit(x.double().numpy(), y.numpy())
    expected = torch.from_numpy(oracle.predict(queries.double().numpy()))
    ours = linear_probe(x, y, queries)
    assert 0.4 < (expected == truth).float().mean() < 0.95  # neither chance nor a trivial task
    # A query on the very border may fall to either side.
    assert (ours != expected).sum() <= 1


def test_the_choice_is_scikit_learns_grid_search():
    x, y = clusters(100, seed=3)
    mean, std = x.double().mean(dim=0), x.double().std(dim=0, correction=0)
    scaled = ((x.double() - mean) / std).numpy()
    search = GridSearchCV(
        LogisticRegression(max_iter=10_000),
        # The strongest first: of equally good ones the first is taken.
        {"C": [1 / penalty for penalty in PENALTIES]},
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    ).fit(scaled, y.numpy())
    assert linear.best_penalty(scaled, y.numpy()) == PENALTIES[search.best_index_]

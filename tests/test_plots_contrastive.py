"""Figures of contrastive learning: that they draw what they were given."""

import numpy as np
import pytest
import torch

from cmssf_lib import plots

A = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
B = torch.tensor([[1.0, 1.0], [-1.0, 2.0], [-5.0, 0.0]])
SWEEPS = {
    "temperature": {"0.1": [0.7, 0.8, 0.9], "0.2": [0.8, 0.82, 0.9], "1": [0.5, 0.4, 0.6]},
    "batch": {"32": [0.6, 0.65], "256": [0.8, 0.82]},
    "queue": {"128": [0.6]},
}


def points(panel) -> np.ndarray:
    return np.concatenate([np.asarray(found.get_offsets()) for found in panel.collections])


def test_every_view_stands_on_the_circle_in_its_direction():
    panel = plots.pairs_on_circle(A, B).axes[0]
    drawn = points(panel)
    assert np.allclose(np.linalg.norm(drawn, axis=1), 1)
    for view in torch.cat([A, B]):
        unit = (view / view.norm()).numpy()
        assert np.abs(drawn - unit).sum(axis=1).min() < 1e-6
    assert {text.get_text() for text in panel.texts} == {"1", "2", "3"}


def test_first_views_are_filled_and_second_ones_hollow():
    found = plots.pairs_on_circle(A, B).axes[0].collections
    faces = [tuple(c.get_facecolor()[0]) for c in found]
    edges = [tuple(c.get_edgecolor()[0]) for c in found]
    assert faces[::2] == edges[::2]
    assert set(faces[1::2]) == {(1, 1, 1, 1)}
    shapes = [c.get_paths()[0].vertices.tobytes() for c in found]
    assert shapes[::2] == shapes[1::2]
    assert len(set(shapes)) == 3  # a pair is not known by its colour alone


def test_the_longest_arrow_is_half_a_radius_long():
    moves = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    panel = plots.pairs_on_circle(A, B, moves).axes[0]
    (arrows,) = [c for c in panel.collections if hasattr(c, "U")]
    lengths = np.hypot(arrows.U, arrows.V)
    assert lengths.max() == pytest.approx(0.5)
    assert lengths[1] == pytest.approx(0.5 / 3)
    assert np.allclose(plots.pairs_on_circle(A, B, 0 * moves).axes[0].collections[-1].U, 0)


@pytest.mark.parametrize(
    ("a", "b", "moves", "message"),
    [
        (A, B[:2], None, r"two sets \(n, 2\)"),
        (A[:0], B[:0], None, r"two sets \(n, 2\)"),
        (torch.ones(3, 3), torch.ones(3, 3), None, r"two sets \(n, 2\)"),
        (A, B, torch.zeros(3, 2), "6 arrows"),
    ],
)
def test_pairs_that_cannot_be_drawn_are_refused(a, b, moves, message):
    with pytest.raises(ValueError, match=message):
        plots.pairs_on_circle(a, b, moves)


def test_a_point_is_a_seed_and_the_line_joins_the_means():
    figure = plots.setting_sweeps(SWEEPS, lines={"pixels": 0.2}, bottom=0.1)
    for panel, (setting, values) in zip(figure.axes, SWEEPS.items(), strict=False):
        assert panel.get_xlabel() == setting
        assert [t.get_text() for t in panel.get_xticklabels()] == list(values)
        expected = [(x, y) for x, found in enumerate(values.values()) for y in found]
        assert np.allclose(points(panel), expected)
        means = [np.mean(found) for found in values.values()]
        assert np.allclose(panel.get_lines()[0].get_ydata(), means)
        assert np.allclose(panel.get_lines()[1].get_ydata(), 0.2)
        assert panel.get_ylim() == (0.1, 1.02)
    assert not figure.axes[3].axison


def test_the_usual_value_is_framed():
    figure = plots.setting_sweeps(SWEEPS, usual={"temperature": "0.2", "queue": "128"})
    framed = [points(panel)[-1] for panel in figure.axes[:3]]
    counts = [len(points(panel)) for panel in figure.axes[:3]]
    assert counts == [10, 4, 2]
    with_frames = [panel.collections[2] for panel in figure.axes[:1]]
    assert np.allclose(with_frames[0].get_offsets(), [[1, np.mean(SWEEPS["temperature"]["0.2"])]])
    assert np.allclose(framed[2], [0, 0.6])


@pytest.mark.parametrize(
    ("sweeps", "options", "message"),
    [
        ({}, {}, "got none"),
        ({"batch": {}}, {}, "without values"),
        ({"batch": {"32": []}}, {}, "batch 32 has no accuracy"),
        (SWEEPS, {"usual": {"batch": "64"}}, "no value 64; it has 32, 256"),
    ],
)
def test_sweeps_that_cannot_be_drawn_are_refused(sweeps, options, message):
    with pytest.raises(ValueError, match=message):
        plots.setting_sweeps(sweeps, **options)

"""Drawings: that they show what they are given, and name their parts."""

import numpy as np
import pytest
import torch
from drawn import assert_page

from cmssf_lib import plots

IMAGE = ("16×16\npixels", "[CLS]\n64", "256")
TEXT = ("14\ntokens", "[CLS]\n64 ", "256 ")
A = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
B = torch.tensor([[1.0, 1.0], [-1.0, 2.0], [-5.0, 0.0]])


def written(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_both_rows_carry_their_labels_in_order():
    figure = plots.cmssf_diagram(IMAGE, TEXT)
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    for labels in (IMAGE, TEXT):
        across = [places[label][0] for label in labels]
        assert across == sorted(across)
        assert len({places[label][1] for label in labels}) == 1
    assert all(places[a][1] > places[b][1] for a, b in zip(IMAGE, TEXT, strict=True))


def test_each_part_is_there_once_a_row():
    found = written(plots.cmssf_diagram(IMAGE, TEXT))
    assert found.count("projection\nhead") == 2
    for part in ("picture", "caption", "vision\ntransformer", "text\ntransformer", "loss"):
        assert found.count(part) == 1


def test_the_drawing_fits_the_column_and_nothing_is_cut_off():
    assert_page(lambda: plots.cmssf_diagram(IMAGE, TEXT))


def test_a_row_needs_three_labels():
    with pytest.raises(ValueError, match="image has 2 labels"):
        plots.cmssf_diagram(IMAGE[:2], TEXT)
    with pytest.raises(ValueError, match="text has 4 labels"):
        plots.cmssf_diagram(IMAGE, (*TEXT, "more"))


def test_the_drawing_of_co_attention_names_its_parts():
    (axes,) = plots.co_attention_diagram().axes
    written = [text.get_text() for text in axes.texts]
    for part in ("cross-attention", "self-attention", "feed-forward", "queries"):
        assert written.count(part) == 2
    assert "keys and values" in written


def test_the_drawing_of_a_masked_autoencoder_names_its_parts():
    (axes,) = plots.masked_autoencoder_diagram().axes
    written = [text.get_text() for text in axes.texts]
    assert written.count("m") == 12
    for part in ("encoder", "decoder", "pixels"):
        assert part in written


@pytest.mark.parametrize("figure", [plots.co_attention_diagram, plots.masked_autoencoder_diagram])
def test_drawings_without_sizes_fit_the_column_and_nothing_is_cut_off(figure):
    assert_page(figure)


# --- pairs on a circle ---


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

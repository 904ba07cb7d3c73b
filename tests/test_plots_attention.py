"""Attention laid over pictures: it stands where its tokens stand."""

import numpy as np
import pytest
import torch
from drawn import assert_page

from cmssf_lib import plots
from cmssf_lib.data import digit_questions
from cmssf_lib.encoders import ConvStem
from cmssf_lib.plots.attention import DARKEST

SIZE = (16, 32)


@pytest.fixture(scope="module")
def picture():
    return digit_questions(train=2, test=2, seed=0).test.images[0]


def test_a_tokens_weight_stands_on_the_pixel_that_its_token_is_centred_on():
    for token in (0, 7, 8, 21, 31):
        weights = torch.zeros(1, 32)
        weights[0, token] = 1
        spread = plots.attention_pixels(weights, SIZE)[0]
        row, column = divmod(token, 8)
        assert spread.shape == SIZE
        assert spread[4 * row, 4 * column] == 1
        others = spread[::4, ::4].clone()
        others[row, column] = 0
        assert not others.any()


def test_the_stems_tokens_are_centred_there():
    torch.manual_seed(0)
    stem = ConvStem(16, 4, 3, 16).eval()
    for token in (9, 18):
        pixels = torch.rand(1, 3, *SIZE, requires_grad=True)
        stem(pixels)[0, token].sum().backward()
        seen = pixels.grad[0].abs().sum(dim=0) > 0
        rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
        row, column = divmod(token, 8)
        assert rows.tolist() == list(range(max(0, 4 * row - 6), min(15, 4 * row + 6) + 1))
        assert columns.tolist() == list(range(max(0, 4 * column - 6), min(31, 4 * column + 6) + 1))


def test_even_attention_stays_even():
    assert torch.allclose(
        plots.attention_pixels(torch.full((2, 32), 0.25), SIZE), torch.tensor(0.25)
    )


def test_a_map_is_bright_where_it_looks(picture):
    weights = torch.zeros(1, 32)
    weights[0, 10] = 0.5  # row 1, column 2: pixel (4, 8)
    figure = plots.attention_maps(picture, [(["seven"], weights)])
    whole, word = figure.axes
    shown = np.asarray(word.get_images()[0].get_array())
    pixels = picture.permute(1, 2, 0).numpy() / 255
    assert np.allclose(whole.get_images()[0].get_array(), pixels)
    assert np.allclose(shown[4, 8], pixels[4, 8])
    assert np.allclose(shown[15, 31], DARKEST * pixels[15, 31])
    assert word.get_title() == "seven"


def test_rows_of_different_length_fill_up_with_nothing(picture):
    figure = plots.attention_maps(
        picture, [(["a", "b", "c"], torch.rand(3, 32)), (["a"], torch.rand(1, 32))]
    )
    assert [bool(panel.axison) for panel in figure.axes] == [True] * 6 + [False] * 2


def test_a_map_of_zeros_is_dark_and_no_error(picture):
    figure = plots.attention_maps(picture, [(["missing"], torch.zeros(1, 32))])
    shown = np.asarray(figure.axes[1].get_images()[0].get_array())
    assert np.allclose(shown, DARKEST * picture.permute(1, 2, 0).numpy() / 255)


def test_maps_that_do_not_fit_are_refused(picture):
    with pytest.raises(ValueError, match="has 32 patches; got weights of 31"):
        plots.attention_pixels(torch.rand(1, 31), SIZE)
    with pytest.raises(ValueError, match=r"one title a map; got \(titles, maps\) \[\(2, 1\)\]"):
        plots.attention_maps(picture, [(["a", "b"], torch.rand(1, 32))])
    with pytest.raises(ValueError, match="expected rows"):
        plots.attention_maps(picture, [])


def test_figures_fit_the_column_and_nothing_is_cut_off(picture):
    rows = [([f"word {i}" for i in range(4)], torch.rand(4, 32))]
    for figure in (lambda: plots.attention_maps(picture, rows), plots.co_attention_diagram):
        assert_page(figure)


def test_the_drawing_names_its_parts():
    (axes,) = plots.co_attention_diagram().axes
    written = [text.get_text() for text in axes.texts]
    for part in ("cross-attention", "self-attention", "feed-forward", "queries"):
        assert written.count(part) == 2
    assert "keys and values" in written

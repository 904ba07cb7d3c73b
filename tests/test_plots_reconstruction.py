"""Reconstructions: what is hidden is covered, what was seen is framed, nothing is cut off."""

import numpy as np
import pytest
import torch
from drawn import assert_page

from cmssf_lib import plots
from cmssf_lib.plots.reconstruction import CHEQUERS


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pictures():
    return torch.rand(5, 3, 16, 16, generator=random(0))


@pytest.fixture
def hidden():
    places = torch.rand(5, 16, generator=random(1)).argsort(dim=1)
    return (places >= 4).view(5, 4, 4)


@pytest.mark.parametrize("whole", [False, True])
def test_hidden_patches_are_covered_and_the_others_are_not(pictures, hidden, whole):
    given = (255 * pictures).to(torch.uint8) if whole else pictures
    covered = plots.masked_pictures(given, hidden)
    assert covered.dtype == torch.float32
    for picture, original, mask in zip(covered, given, hidden, strict=True):
        for row in range(4):
            for column in range(4):
                place = (
                    slice(None),
                    slice(4 * row, 4 * row + 4),
                    slice(4 * column, 4 * column + 4),
                )
                if mask[row, column]:
                    shades = torch.tensor(CHEQUERS)
                    assert torch.equal(picture[place].unique(), shades)
                    assert picture[place].flatten().float().mean() == pytest.approx(shades.mean())
                else:
                    same = original[place] / 255 if whole else original[place]
                    assert torch.allclose(picture[place], same)


def test_pictures_and_patches_need_not_be_square():
    covered = plots.masked_pictures(torch.zeros(1, 3, 8, 12), torch.tensor([[[True, False]]]))
    assert (covered[0, :, :, :6] > 0).all()
    assert not covered[0, :, :, 6:].any()


def test_the_rows_are_seen_guesses_and_picture(pictures, hidden):
    figure = plots.reconstructions(pictures, hidden, {"first": 1 - pictures, "second": pictures})
    names = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert names == ["seen", "first", "second", "the picture"]
    shown = np.asarray(figure.axes[5].get_images()[0].get_array())
    assert np.allclose(shown, 1 - pictures[0].permute(1, 2, 0).numpy())
    seen = np.asarray(figure.axes[2].get_images()[0].get_array())
    expected = plots.masked_pictures(pictures, hidden)[2].permute(1, 2, 0).numpy()
    assert np.allclose(seen, expected)


def test_what_was_seen_is_framed_where_it_stands(pictures, hidden):
    figure = plots.reconstructions(pictures, hidden, {"guess": pictures})
    for i in range(5):
        assert not figure.axes[i].patches
        places = {
            (round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in figure.axes[5 + i].patches
        }
        assert places == {(4 * r, 4 * c) for r, c in (~hidden[i]).nonzero().tolist()}


@pytest.mark.parametrize("count", [1, 4, 8])
def test_figures_fit_the_column_and_nothing_is_cut_off(count):
    pictures = torch.rand(count, 3, 16, 16, generator=random(0))
    hidden = torch.rand(count, 4, 4, generator=random(1)) < 0.75
    for figure in (
        lambda: plots.reconstructions(pictures, hidden, {"the guess": pictures}),
        plots.masked_autoencoder_diagram,
    ):
        assert_page(figure)


def test_the_drawing_names_its_parts():
    (axes,) = plots.masked_autoencoder_diagram().axes
    written = [text.get_text() for text in axes.texts]
    assert written.count("m") == 12
    for part in ("encoder", "decoder", "pixels"):
        assert part in written


@pytest.mark.usefixtures("as_shipped")
def test_nonsense_is_refused(pictures, hidden):
    with pytest.raises(ValueError, match="3×4 patches do not tile pictures of 16×16"):
        plots.masked_pictures(pictures, hidden[:, :3])
    with pytest.raises(ValueError, match="expected pictures and guesses; got 5 and 0"):
        plots.reconstructions(pictures, hidden, {})
    with pytest.raises(ValueError, match="'wrong' is about 2 pictures, and there are 5"):
        plots.reconstructions(pictures, hidden, {"wrong": pictures[:2]})
    with pytest.raises(ValueError, match="'hidden' is about 3 pictures"):
        plots.reconstructions(pictures, hidden[:3], {"guess": pictures})

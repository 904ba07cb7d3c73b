"""Attention and masks laid over pictures: each stands where its tokens and patches stand."""

import numpy as np
import pytest
import torch
from drawn import assert_page

from cmssf_lib import data, plots
from cmssf_lib.encoders import ConvStem
from cmssf_lib.plots.overlays import DARKEST
from cmssf_lib.plots.pictures import CHEQUERS

SIZE = (16, 32)
PICTURES = data.digit_scenes("plain", train=10, test=4).test.images[:3]
CORNER = torch.zeros(3, 16)
CORNER[0, 0] = CORNER[1, 5] = CORNER[2, 15] = 0.5
MAPS = {"trained, head 1": CORNER, "untrained": torch.full((3, 16), 1 / 16)}


@pytest.fixture(scope="module")
def picture():
    return data.digit_questions(train=2, test=2, seed=0).test.images[0]


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
    with pytest.raises(ValueError, match=r"one title per map; got \(titles, maps\) \[\(2, 1\)\]"):
        plots.attention_maps(picture, [(["a", "b"], torch.rand(1, 32))])
    with pytest.raises(ValueError, match="expected rows"):
        plots.attention_maps(picture, [])


def test_a_map_fits_the_column_and_nothing_is_cut_off(picture):
    rows = [([f"word {i}" for i in range(4)], torch.rand(4, 32))]
    assert_page(lambda: plots.attention_maps(picture, rows))


# --- where [CLS] looks ---


def cls_grid() -> plots.Picture:
    return plots.cls_attention_grid(PICTURES, MAPS)


def test_the_pictures_stand_on_top_and_each_map_below_its_own():
    drawn = cls_grid()
    panels = np.array(drawn.axes).reshape(3, 3)
    for panel, picture in zip(panels[0], PICTURES, strict=True):
        assert np.array_equal(panel.images[0].get_array(), picture.permute(1, 2, 0).numpy())
    for panel, (y, x) in zip(panels[1], ((0, 0), (4, 4), (12, 12)), strict=True):
        seen = panel.images[0].get_array()
        assert seen.argmax() == 16 * y + x
        assert seen.max() == panel.images[0].get_clim()[1] == 0.5
        assert panel.collections  # the ink's outline
    labels = [panel.get_ylabel().replace("\n", " ") for panel in panels[:, 0]]
    assert labels == ["picture", *MAPS]


def test_an_empty_picture_has_no_outline():
    drawn = plots.cls_attention_grid(torch.zeros_like(PICTURES), MAPS)
    assert not any(panel.collections for panel in drawn.axes)


@pytest.mark.parametrize(
    ("images", "maps", "message"),
    [
        (PICTURES, {}, "got 3 and 0"),
        (PICTURES[:0], MAPS, "got 0 and 2"),
        (PICTURES, {"two": CORNER[:2]}, "'two' has 2 pictures; expected 3"),
        (PICTURES, {"nine": torch.rand(3, 9)}, "has 16 patches; got weights of 9"),
    ],
)
def test_cls_maps_that_cannot_be_drawn_say_why(images, maps, message):
    with pytest.raises(ValueError, match=message):
        plots.cls_attention_grid(images, maps)


def test_a_grid_of_cls_fits_the_column_is_whole_and_repeatable():
    assert_page(cls_grid)


# --- what was masked ---


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
def test_reconstructions_fit_the_column_and_nothing_is_cut_off(count):
    pictures = torch.rand(count, 3, 16, 16, generator=random(0))
    hidden = torch.rand(count, 4, 4, generator=random(1)) < 0.75
    assert_page(lambda: plots.reconstructions(pictures, hidden, {"the guess": pictures}))


@pytest.mark.usefixtures("as_shipped")
def test_reconstructions_of_nothing_and_of_others_are_refused(pictures, hidden):
    with pytest.raises(ValueError, match="5 masks of 3×4 patches do not fit 5 pictures of 16×16"):
        plots.masked_pictures(pictures, hidden[:, :3])
    with pytest.raises(ValueError, match="expected guesses to show; got none"):
        plots.reconstructions(pictures, hidden, {})
    with pytest.raises(ValueError, match="'wrong' has 2 pictures; expected 5"):
        plots.reconstructions(pictures, hidden, {"wrong": pictures[:2]})
    with pytest.raises(ValueError, match="3 masks of 4×4 patches do not fit 5 pictures"):
        plots.reconstructions(pictures, hidden[:3], {"guess": pictures})

"""Views: in range, one draw a picture, and equal to torchvision where it does the same."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, functional as tv

from cmssf_lib.methods import kept_patches, patch_mask
from cmssf_lib.views import (
    Views,
    ViewsConfig,
    affine,
    as_float,
    colour_jitter,
    colours as colours_module,
    erase,
    grey,
    greyscale,
    mirror,
    multi_crop,
    pixel_shift,
    solarise,
    turn_hue,
)
from cmssf_lib.views.geometry import sample

# Every change that `Views` knows, with its full strength: what can go wrong, goes wrong here.
CHANGES = {
    "crop": {"area": (0.2, 0.9), "ratio": (0.75, 4 / 3)},
    "zoom out": {"area": (0.5, 1.6)},
    "shift": {"shift": 0.25},
    "turn": {"turn": 0.5},
    "shear": {"shear": 0.4},
    "flip": {"flip": 0.5},
    "brightness": {"brightness": 0.8},
    "contrast": {"contrast": 0.8},
    "saturation": {"saturation": 0.8},
    "hue": {"hue": 0.5},
    "grey": {"grey": 0.5},
    "solarise": {"solarise": 0.5},
    "erase": {"erase": 0.5},
}
EVERYTHING = {key: value for change in CHANGES.values() for key, value in change.items()}


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 6, height: int = 8, width: int = 8, seed: int = 0) -> torch.Tensor:
    """Noise with black, white, grey and fully saturated pixels in it."""
    images = torch.rand(n, 3, height, width, generator=random(seed))
    images[:, :, 0, :4] = torch.tensor([[0.0, 1.0, 0.5, 1.0], [0, 1, 0.5, 0], [0, 1, 0.5, 0]])
    return images


def smooth(n: int = 4, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Pictures without sharp edges, for comparing two ways of resampling."""
    coarse = torch.rand(n, 3, 4, 4, generator=random(seed))
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)


# --- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
def test_a_view_is_a_picture_in_range(name):
    views = Views(ViewsConfig(**CHANGES[name]))
    images = pictures(64)
    out = views(images, random(1))
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6
    assert not torch.equal(out, images)  # it does something


@pytest.mark.parametrize("name", [*CHANGES, "everything"])
def test_equal_generators_give_equal_views(name):
    views = Views(ViewsConfig(**CHANGES.get(name, EVERYTHING)))
    images = pictures(16)
    first = views(images, random(1))
    torch.rand(1)  # the global generator has no say
    assert torch.equal(first, views(images, random(1)))
    assert not torch.equal(first, views(images, random(2)))


@pytest.mark.parametrize("name", [*CHANGES, "everything"])
def test_every_picture_draws_its_own_view(name):
    views = Views(ViewsConfig(**CHANGES.get(name, EVERYTHING)))
    same = pictures(1).expand(64, 3, 8, 8)
    out = views(same, random(1)).flatten(1)
    # One draw for the batch would give one view; "flip" has only two to offer.
    assert len(out.unique(dim=0)) >= 2
    if name not in ("flip", "grey", "solarise"):
        assert len(out.unique(dim=0)) > 10


@given(seed=st.integers(0, 1000))
def test_all_changes_together_stay_in_range(seed):
    out = Views(ViewsConfig(**EVERYTHING))(pictures(8, seed=seed), random(seed))
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6


def test_a_view_does_not_depend_on_the_neighbours():
    """Changing one picture of the batch changes its own view and no other."""
    views, images = Views(ViewsConfig(**EVERYTHING)), pictures(8)
    first = views(images, random(3))
    images[2] = 1 - images[2]
    second = views(images, random(3))
    same = (first == second).flatten(1).all(dim=1)
    assert same.tolist() == [True, True, False, True, True, True, True, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_change_asked_for_is_no_change(dtype):
    images = (pictures() * 255).to(torch.uint8)
    given_images = images if dtype == torch.uint8 else images / 255
    assert torch.equal(Views(ViewsConfig())(given_images), images / 255)


def test_the_pictures_given_are_left_as_they_are():
    images = pictures()
    before = images.clone()
    Views(ViewsConfig(**EVERYTHING))(images, random(0))
    assert torch.equal(images, before)


def test_bytes_and_floats_give_equal_views():
    images = (pictures() * 255).round().to(torch.uint8)
    views = Views(ViewsConfig(**EVERYTHING))
    assert torch.equal(views(images, random(5)), views(images.float() / 255, random(5)))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 3, 4, 4) * 255, ValueError, r"must lie in \[0, 1\].*Divide by 255"),
        (torch.rand(2, 3, 4, 4) - 0.5, ValueError, r"must lie in \[0, 1\]; these run from -0\."),
        (torch.full((2, 3, 4, 4), math.nan), ValueError, "run from nan"),
        (torch.full((2, 3, 4, 4), math.inf), ValueError, "to inf"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.bool), TypeError, "got torch.bool"),
        (torch.rand(3, 4, 4), ValueError, r"got \(3, 4, 4\)"),
        (torch.rand(2, 4, 4, 3), ValueError, r"\(batch, 3, height, width\); got \(2, 4, 4, 3\)"),
        (torch.rand(2, 1, 4, 4), ValueError, r"got \(2, 1, 4, 4\)"),
    ],
)
def test_what_is_no_picture_is_refused(images, error, message):
    with pytest.raises(error, match=message):
        as_float(images)
    with pytest.raises(error, match=message):
        Views(ViewsConfig())(images)


def test_one_bad_pixel_is_enough():
    images = pictures()
    images[3, 1, 2, 2] = math.nan
    with pytest.raises(ValueError, match="nan"):
        as_float(images)


def test_rounding_is_not_bad_input():
    assert torch.equal(as_float(torch.full((1, 3, 1, 1), 1 + 1e-6)).round(), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize(
    "change",
    [
        lambda images, p: mirror(images, p),
        lambda images, p: greyscale(images, p),
        lambda images, p: solarise(images, p),
        lambda images, p: colour_jitter(images, hue=0.1, probability=p),
        lambda images, p: affine(images, flip=p),
    ],
)
def test_a_probability_lies_between_zero_and_one(change, probability):
    with pytest.raises(ValueError, match=r"a probability must lie in \[0, 1\]"):
        change(pictures(), probability)


# --- places -----------------------------------------------------------------------------------


def test_a_flip_is_exact():
    images = pictures()
    assert torch.equal(mirror(images, 1.0), tv.hflip(images))
    assert torch.equal(mirror(images, 0.0), images)


def test_half_of_the_pictures_are_flipped():
    images = pictures(1).expand(4000, 3, 8, 8)
    flipped = (mirror(images, 0.3, random(0)) != images).flatten(1).any(dim=1)
    assert flipped.float().mean() == pytest.approx(0.3, abs=0.03)  # four standard deviations


@given(
    seed=st.integers(0, 99),
    pixels=st.integers(0, 4) | st.tuples(st.integers(0, 4), st.integers(0, 4)),
    height=st.integers(4, 7),
    width=st.integers(4, 7),
)
def test_a_shift_by_pixels_equals_a_slow_loop(seed, pixels, height, width):
    images = pictures(3, height, width)
    out = pixel_shift(images, pixels, random(seed))
    if isinstance(pixels, int):  # both ways at once, as it once was: the random numbers are those
        draw = torch.randint(2 * pixels + 1, (2, 3, 1), generator=random(seed)) - pixels
    else:
        generator = random(seed)
        draw = torch.stack(
            [torch.randint(2 * most + 1, (3, 1), generator=generator) - most for most in pixels]
        )
    expected = torch.zeros_like(images)
    for i in range(3):
        down, right = int(draw[0, i]), int(draw[1, i])
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    expected[i, :, row, column] = images[i, :, row + down, column + right]
    assert torch.equal(out, expected)


def test_all_shifts_up_to_the_largest_are_drawn():
    image = torch.zeros(1, 3, 9, 9)
    image[:, :, 4, 4] = 1
    out = pixel_shift(image.expand(2000, 3, 9, 9), 2, random(0))
    places = out[:, 0].flatten(1).argmax(dim=1)
    rows, columns = places // 9, places % 9
    for drawn in (rows, columns):
        counts = drawn.bincount(minlength=9).tolist()
        assert counts[:2] == counts[7:] == [0, 0]
        assert min(counts[2:7]) > 300  # 400 expected


@given(seed=st.integers(0, 99), side=st.floats(0, 1), height=st.integers(4, 7))
def test_an_erased_square_equals_a_slow_loop(seed, side, height):
    images = pictures(3, height, 6)
    out = erase(images, side, random(seed))
    generator, expected = random(seed), images.clone()
    tops = torch.randint(height, (3, 1), generator=generator) - round(side * height) // 2
    lefts = torch.randint(6, (3, 1), generator=generator) - round(side * 6) // 2
    for i in range(3):
        for row in range(height):
            for column in range(6):
                down, along = row - int(tops[i]), column - int(lefts[i])
                if 0 <= down < round(side * height) and 0 <= along < round(side * 6):
                    expected[i, :, row, column] = 0.5
    assert torch.equal(out, expected)


def test_any_pixel_can_be_the_middle_of_the_erased_square():
    white = torch.ones(4000, 3, 4, 4)
    grey_pixels = (erase(white, 0.25, random(0))[:, 0] == 0.5).flatten(1)
    assert (grey_pixels.sum(dim=1) == 1).all()
    counts = grey_pixels.sum(dim=0)
    assert counts.min() > 180  # 250 expected, give or take 15
    assert torch.equal(erase(white, 0.0), white)


@pytest.mark.parametrize("side", [-0.1, 1.1, math.nan])
def test_an_erased_square_is_a_part_of_the_picture(side):
    with pytest.raises(ValueError, match="side must be from 0 to 1; got"):
        erase(pictures(), side)


def test_a_config_that_shifts_moves_whole_pixels():
    """Nothing is blurred: every pixel of the view is one of the picture, or black."""
    images = pictures(16)
    out = Views(ViewsConfig(shift=0.25, flip=0.5))(images, random(0))
    for picture, view in zip(images, out, strict=True):
        known = {*picture.flatten().tolist(), 0.0}
        assert set(view.flatten().tolist()) <= known


def test_an_affine_view_of_nothing_changed_is_the_picture():
    images = pictures()
    torch.testing.assert_close(affine(images), images, atol=1e-5, rtol=0)


def test_an_affine_flip_is_a_flip():
    images = pictures()
    torch.testing.assert_close(affine(images, flip=1.0), tv.hflip(images), atol=1e-5, rtol=0)


def drawn(low: float, high: float, seed: int, position: int) -> float:
    """What one picture's affine map draws in this place: area, ratio, x, shift x, y, …."""
    generator = random(seed)
    for _ in range(position + 1):
        value = torch.rand(1, generator=generator)
    return float(low + (high - low) * value)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("seed", [1, 3, 4, 5])
def test_a_turn_is_torchvisions(size, seed):
    image = F.interpolate(smooth(1), size, mode="bilinear")
    out = affine(image, turn=0.5, generator=random(seed))
    degrees = math.degrees(drawn(-0.5, 0.5, seed, 6))
    assert abs(degrees) > 1
    expected = tv.rotate(image, degrees, InterpolationMode.BILINEAR)
    # At the picture's rim torchvision mixes in black; inside, a white picture stays white.
    white = tv.rotate(torch.ones_like(image), degrees, InterpolationMode.BILINEAR)
    inside, outside = white > 0.999, white < 0.001
    assert inside.float().mean() > 0.7
    assert outside.any()
    torch.testing.assert_close(out[inside], expected[inside], atol=1e-4, rtol=0)
    assert out[outside].max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_crop_is_torchvisions(seed):
    """The place of the crop varies, so it is found: some crop of that size must be equal."""
    side, kept = 32, 16
    image = smooth(1, side)
    out = affine(image, area=(0.25, 0.25), size=kept, generator=random(seed))
    assert out.shape == (1, 3, kept, kept)
    # From -1 to 1, a crop of half the side has its centre anywhere within ±1/2.
    x, y = (drawn(-1, 1, seed, i) * 0.5 for i in (2, 4))
    left, top = ((c + 1) / 2 * side - kept / 2 for c in (x, y))
    whole = (math.floor(left), math.floor(top))
    assert min(whole) >= 0
    assert max(left, top) <= side - kept
    across, down = left - whole[0], top - whole[1]
    corners = [
        tv.crop(image, whole[1] + dy, whole[0] + dx, kept, kept) for dy in (0, 1) for dx in (0, 1)
    ]
    weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    expected = sum(w * c for w, c in zip(weights, corners, strict=True))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@given(seed=st.integers(0, 999), low=st.floats(0.05, 1), spread=st.floats(0, 1))
def test_a_crop_lies_inside_the_picture(seed, low, spread):
    """On a white picture, no black comes in, whatever the crop's size and shape."""
    area = (low, low + (1 - low) * spread)
    white = torch.ones(16, 3, 9, 9)
    out = affine(white, area=area, ratio=(0.5, 2.0), generator=random(seed))
    assert out.min() > 1 - 1e-4


def test_a_zoom_out_brings_in_black_around():
    out = affine(torch.ones(1, 3, 16, 16), area=(4.0, 4.0))
    assert out[:, :, 5:11, 5:11].min() > 1 - 1e-5  # half the side, in the middle
    assert out.mean() == pytest.approx(0.25, abs=0.01)
    assert out[:, :, 0].max() == 0


def test_a_crop_keeps_the_part_it_says():
    """Read off a ramp: its slope is the crop's side, its middle the crop's place."""
    side = 64
    ramp = ((torch.arange(side) + 0.5) / side).view(1, 1, 1, side).expand(500, 3, side, side)
    area, ratio = (0.3, 0.6), (0.5, 2.0)
    rows = {}
    for name, image in (("wide", ramp), ("high", ramp.transpose(2, 3))):
        out = affine(image, area=area, ratio=ratio, generator=random(0))
        line = out[:, 0, side // 2] if name == "wide" else out[:, 0, :, side // 2]
        rows[name] = (line[:, 40] - line[:, 24]) * side / 16
    kept, shape = rows["wide"] * rows["high"], rows["wide"] / rows["high"]
    # A crop that would not fit is cut off at the sides, so it may keep less.
    assert kept.max() <= 0.6 + 1e-3
    assert kept.median() == pytest.approx(0.44, abs=0.03)
    assert shape.min() >= 0.5 - 1e-3
    assert shape.max() <= 2 + 1e-3
    assert shape.log().mean() == pytest.approx(0, abs=0.06)  # as often wide as high


def test_a_shear_leans_the_picture():
    """A vertical bar leans; seen from the middle row, the rows move by the slope."""
    image = torch.zeros(1, 3, 33, 33)
    image[..., 16] = 1
    x = torch.arange(33.0)
    for seed in range(3):
        out = affine(image, shear=0.4, generator=random(seed))[0, 0]
        slope = drawn(-0.4, 0.4, seed, 7)
        middle = (out * x).sum(dim=1) / out.sum(dim=1)  # where the bar stands in each row
        expected = 16 - slope * (torch.arange(33) - 16)
        torch.testing.assert_close(middle[4:-4], expected[4:-4], atol=0.05, rtol=0)


def test_shift_and_turn_have_the_range_they_say():
    """A dot near the edge tells the angle, a dot in the middle the shift."""
    n, side = 2000, 33
    y, x = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")

    def centre(out):
        mass = out[:, 0].sum(dim=(1, 2))
        return (out[:, 0] * x).sum(dim=(1, 2)) / mass, (out[:, 0] * y).sum(dim=(1, 2)) / mass

    dot = torch.exp(-(x**2 + y**2) / 4).expand(n, 3, side, side)
    for place in centre(affine(dot, shift=0.2, generator=random(0))):
        assert place.abs().max() == pytest.approx(0.2 * side, rel=0.02)
        assert place.mean() == pytest.approx(0, abs=0.3)
    dot = torch.exp(-((x - 10) ** 2 + y**2) / 4).expand(n, 3, side, side)
    across, down = centre(affine(dot, turn=0.5, generator=random(0)))
    angle = torch.atan2(down, across)
    assert angle.abs().max() == pytest.approx(0.5, rel=0.02)
    assert angle.mean() == pytest.approx(0, abs=0.03)


def extent(views: torch.Tensor) -> tuple[int, int]:
    """How far apart the brightest pixels of the views lie: down and across."""
    places = views[:, 0].flatten(1).argmax(dim=1)
    ends = [(places // views.shape[3]).aminmax(), (places % views.shape[3]).aminmax()]
    return tuple(int(high - low) for low, high in ends)


@pytest.mark.parametrize("side", [(8, 32), (32, 8), (16, 16)])
def test_a_fraction_of_a_side_is_of_that_side(side):
    """Whatever takes one: a shift by whole pixels, one that resamples, and an erased square."""
    dot = torch.zeros(3000, 3, *side)
    dot[:, :, side[0] // 2, side[1] // 2] = 1
    quarter = [n // 4 for n in side]
    whole = Views(ViewsConfig(shift=0.25))(dot, random(0))
    assert extent(whole) == tuple(2 * n for n in quarter)  # either way
    resampled = affine(dot, shift=0.25, generator=random(0))
    assert extent(resampled) == pytest.approx([2 * n for n in quarter], abs=1)
    erased = (Views(ViewsConfig(erase=0.25))(torch.ones(500, 3, *side), random(0)) == 0.5)[:, 0]
    assert [int(erased.any(dim=d).sum(dim=1).max()) for d in (2, 1)] == quarter


@given(
    seed=st.integers(0, 999),
    height=st.sampled_from([1, 2, 7, 8, 16, 32, 96]),
    width=st.sampled_from([1, 3, 8, 9, 16, 64]),
)
def test_a_place_beyond_the_edge_has_the_pixel_at_the_edge(seed, height, width):
    """Without asking for it: equal to the border padding that some devices lack."""
    images = torch.rand(3, 3, height, width, generator=random(seed))
    grid = 3 * torch.rand(3, 5, 6, 2, generator=random(seed)) - 1.5
    grid[0] = grid[0].sign()  # the very corners
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    out = sample(images, grid.clone())
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    if all(side & (side - 1) == 0 for side in (height, width)):  # powers of two: every bit
        assert torch.equal(out, expected)


def test_no_view_asks_for_border_padding(monkeypatch):
    modes = []

    def recorded(*args, padding_mode="zeros", **keywords):
        modes.append(padding_mode)
        return original(*args, padding_mode=padding_mode, **keywords)

    original = F.grid_sample
    monkeypatch.setattr(F, "grid_sample", recorded)
    for change in [*CHANGES.values(), EVERYTHING]:
        Views(ViewsConfig(**change))(pictures(), random(0))
    multi_crop(pictures(), CROP, LOCAL, local_size=4, local_crops=2)
    assert set(modes) == {"zeros"}


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*CHANGES, "everything"])
def test_pictures_of_any_precision_have_views_in_float32(name, dtype):
    views, images = Views(ViewsConfig(**CHANGES.get(name, EVERYTHING))), pictures(16).to(dtype)
    out = views(images, random(1))
    assert out.dtype == torch.float32
    assert torch.equal(out, views(images.float(), random(1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda x, g: affine(x, **CHANGES["zoom out"], turn=0.5, shear=0.2, generator=g),
        lambda x, g: affine(x, **CHANGES["crop"], flip=0.5, size=5, generator=g),
        lambda x, g: pixel_shift(x, 2, g),
        lambda x, g: mirror(x, 0.5, g),
        lambda x, g: erase(x, 0.5, g),
        lambda x, g: colour_jitter(x, brightness=0.5, generator=g),
        lambda x, g: colour_jitter(x, contrast=0.5, generator=g),
        lambda x, g: colour_jitter(x, saturation=0.5, generator=g),
        lambda x, g: colour_jitter(x, hue=0.5, probability=0.5, generator=g),
        lambda x, g: turn_hue(x, torch.rand(len(x), generator=g)),
        lambda x, g: greyscale(x, 0.5, g),
        lambda x, g: solarise(x, 0.5, g),
        lambda x, g: grey(x),
    ],
)
def test_a_change_keeps_the_precision_it_is_given(change, dtype):
    images = (pictures(16) * 255).round().div(255).to(dtype)
    images[:, :, 4:6] = images[:, :1, 4:6]  # grey ones too
    out = change(images, random(1))
    assert out.dtype == dtype
    exact = change(images.float(), random(1))
    # A hue of sixths is computed in few digits: eight times the last digit of a number near 1.
    atol = max(16 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(out.float(), exact, atol=atol, rtol=0)


def test_a_default_of_float64_changes_no_view():
    everything = [Views(ViewsConfig(**c)) for c in [*CHANGES.values(), EVERYTHING]]

    def made() -> list[torch.Tensor]:
        images = pictures(16).float()
        crops = multi_crop(images, CROP, LOCAL, local_size=4, local_crops=2, generator=random(2))
        masks = patch_mask(16, 16, 0.75, generator=random(3))
        return [v(images, random(1)) for v in everything] + crops + list(masks)

    images = pictures(16)  # the draw of the pictures themselves would change
    right = made()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "pictures", lambda *_: images)
            again = made()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(right, again, strict=True))


# --- a part of a method -----------------------------------------------------------------------


def test_views_are_a_module_that_no_state_dict_knows():
    views, calls = Views(ViewsConfig(**EVERYTHING)), []
    views.register_forward_hook(lambda *_: calls.append(1))
    views(pictures())
    method = torch.nn.Sequential(torch.nn.Linear(2, 2), views)
    assert calls == [1]
    assert list(method.state_dict()) == ["0.weight", "0.bias"]
    assert views.train().config == views.eval().config == ViewsConfig(**EVERYTHING)


def test_the_range_of_bytes_is_known_and_not_looked_up(monkeypatch):
    """To look is to wait for the GPU, in every step."""

    def looked(*_):
        raise AssertionError("looked up")

    monkeypatch.setattr(torch.Tensor, "aminmax", looked)
    images = (pictures() * 255).to(torch.uint8)
    for change in [*CHANGES.values(), EVERYTHING]:
        Views(ViewsConfig(**change))(images)
    multi_crop(images, CROP, LOCAL, local_size=4, local_crops=2)
    with pytest.raises(AssertionError, match="looked up"):  # and that of floats is, at the door
        Views(ViewsConfig())(pictures())


# --- colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_changes_are_torchvisions(name, monkeypatch):
    images = pictures(6)
    adjust = getattr(tv, f"adjust_{name}")
    monkeypatch.setattr(colours_module, "LUMA", (0.2989, 0.587, 0.114))  # torchvision's rounding
    out = colour_jitter(images, **{name: 0.6}, generator=random(3))
    draw = torch.rand(6, generator=random(3))  # the first thing drawn is the factor
    factors = 1 + 0.6 * (2 * draw - 1)
    assert factors.std() > 0.1
    for picture, view, factor in zip(images, out, factors, strict=True):
        expected = adjust(picture, float(factor))
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.01, 0.0, 0.1, 1 / 3, 0.5])
def test_a_turn_of_the_hue_is_torchvisions(turn):
    images = pictures(4)
    out = turn_hue(images, torch.full((4,), turn))
    expected = torch.stack([tv.adjust_hue(picture, turn) for picture in images])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_a_third_of_the_circle_makes_red_green():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    green = turn_hue(red, torch.tensor([1 / 3]))
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 1, 0]), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), turn=st.floats(-0.5, 0.5))
def test_a_hue_turned_and_turned_back_is_the_picture(seed, turn):
    images = pictures(2, seed=seed)
    turned = turn_hue(images, torch.full((2,), turn))
    torch.testing.assert_close(turn_hue(turned, torch.full((2,), -turn)), images, atol=1e-4, rtol=0)
    # Value and spread are what a turn leaves alone.
    torch.testing.assert_close(turned.amax(1), images.amax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.amin(1), images.amin(1), atol=1e-5, rtol=0)


def test_each_picture_turns_by_its_own_hue():
    images = pictures(3)
    turns = torch.tensor([0.1, -0.2, 0.4])
    together = turn_hue(images, turns)
    alone = torch.cat([turn_hue(images[i : i + 1], turns[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_jitter_turns_the_hue_no_further_than_it_says():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(500, 3, 1, 1)
    out = colour_jitter(red, hue=1 / 12, generator=random(0)).flatten(1)
    assert out[:, 0].min() == 1  # red stays the strongest within half a sixth
    assert out[:, 1:].max() <= 0.5 + 1e-5
    assert out[:, 1].max() > 0.45  # and both directions are used
    assert out[:, 2].max() > 0.45


def test_grey_has_torchvisions_weights():
    images = pictures()
    expected = tv.rgb_to_grayscale(images)
    torch.testing.assert_close(
        grey(images), expected, atol=1e-3, rtol=0
    )  # 0.2989 there, 0.299 here
    out = greyscale(images, 1.0)
    assert torch.equal(out, grey(images).expand_as(images))
    assert torch.equal(greyscale(images, 0.0), images)


def test_solarising_is_torchvisions():
    images = pictures()
    expected = torch.stack([tv.solarize(picture, 0.5) for picture in images])
    assert torch.equal(solarise(images, 1.0), expected)
    assert torch.equal(solarise(images, 0.0), images)


@pytest.mark.parametrize(
    "change",
    [
        lambda images, p, g: colour_jitter(images, brightness=0.9, probability=p, generator=g),
        greyscale,
        solarise,
        mirror,
    ],
)
def test_a_change_happens_as_often_as_it_says(change):
    images = pictures(1, seed=4).expand(4000, 3, 8, 8)
    changed = (change(images, 0.2, random(0)) != images).flatten(1).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.2, abs=0.026)  # four standard deviations


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_are_made_where_the_pictures_are():
    images = pictures().cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    assert Views(ViewsConfig(**EVERYTHING))(images, generator).device == images.device


# --- several views, and masks -----------------------------------------------------------------

CROP = Views(ViewsConfig(area=(0.6, 1.0), flip=0.5, brightness=0.4))
LOCAL = Views(ViewsConfig(area=(0.1, 0.5), flip=0.5))


def test_a_view_of_another_size_is_a_resampled_one():
    images = smooth(4, 32)
    out = Views(ViewsConfig())(images, size=16)
    torch.testing.assert_close(out, F.avg_pool2d(images, 2), atol=1e-5, rtol=0)
    assert torch.equal(Views(ViewsConfig())(images, size=32), images)
    assert Views(ViewsConfig(shift=0.2))(images, size=8).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("local_crops", [0, 1, 5])
def test_multi_crop_gives_two_large_views_and_the_small_ones(local_crops):
    images = pictures(6, 16, 16)
    views = multi_crop(images, CROP, LOCAL, local_size=8, local_crops=local_crops)
    assert [tuple(v.shape) for v in views] == [(6, 3, 16, 16)] * 2 + [(6, 3, 8, 8)] * local_crops
    flat = [v.flatten().tolist() for v in views]
    assert all(flat[i] != flat[j] for i in range(len(flat)) for j in range(i))


def test_each_row_of_each_view_shows_its_own_picture():
    grey_levels = torch.linspace(0.2, 0.8, 7).view(7, 1, 1, 1).expand(7, 3, 16, 16)
    place = Views(ViewsConfig(area=(0.3, 0.9), flip=0.5))
    for view in multi_crop(grey_levels, place, place, local_size=8, local_crops=3):
        torch.testing.assert_close(view.mean(dim=(1, 2, 3)), grey_levels[:, 0, 0, 0])


def test_multi_crop_draws_for_each_view_of_each_picture():
    same = pictures(1, 16, 16).expand(10, 3, 16, 16)
    views = multi_crop(same, CROP, LOCAL, local_size=8, local_crops=4, generator=random(0))
    assert len(torch.cat(views[:2]).flatten(1).unique(dim=0)) == 20
    assert len(torch.cat(views[2:]).flatten(1).unique(dim=0)) == 40


def test_equal_generators_give_equal_crops_and_masks():
    images = pictures(6, 16, 16)
    first, again, other = (
        multi_crop(images, CROP, LOCAL, local_size=8, local_crops=3, generator=random(s))
        for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    masks = [patch_mask(6, 16, 0.75, generator=random(s))[1] for s in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("change", [{"local_crops": -1}, {"local_size": 0}])
def test_a_multi_crop_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="expected local_crops >= 0 and local_size >= 1"):
        multi_crop(pictures(), CROP, LOCAL, **{"local_size": 8, "local_crops": 2} | change)


@given(
    b=st.integers(0, 5),
    patches=st.integers(2, 70),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_a_mask_hides_what_is_not_kept(b, patches, ratio, seed):
    visible = math.floor(patches * (1 - ratio) + 1e-6)
    if not 0 < visible < patches:
        with pytest.raises(ValueError, match=f"leaves {visible} of {patches} patches visible"):
            kept_patches(patches, ratio)
        return
    keep, mask = patch_mask(b, patches, ratio, generator=random(seed))
    assert keep.shape == (b, visible)
    assert mask.shape == (b, patches)
    for row, hidden in zip(keep.tolist(), mask.tolist(), strict=True):
        assert sorted(row) == [i for i, h in enumerate(hidden) if not h]
        assert len(set(row)) == visible


def test_every_patch_is_hidden_equally_often():
    mask = patch_mask(8000, 16, 0.75, generator=random(0))[1]
    assert mask.float().mean(dim=0).sub(0.75).abs().max() < 0.025  # five standard deviations
    # And independently of the others: 1820 ways to keep 4 of 16, all of them likely.
    assert len(mask.unique(dim=0)) > 1700


def test_a_ratio_is_taken_exactly():
    """In floats 10 · (1 - 0.9) is a little under 1."""
    assert kept_patches(10, 0.9) == 1
    assert kept_patches(64, 0.75) == 16
    assert kept_patches(16, 0.7) == 4


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        patch_mask(2, 16, ratio)


# --- the same augmentation as lightly's -------------------------------------------------------

# What can be read off a picture made for it, with views that change only that. Each with a
# settings a tenth off, which the comparison must notice. A crop of these areas always fits into
# the picture; of the others the last test tells.
CROPS = {"area": (0.2, 0.75), "ratio": (0.75, 4 / 3)}
LAWS = {
    "area": (CROPS, [{"area": (0.22, 0.75)}, {"area": (0.2, 0.675)}]),
    "shape": (CROPS, [{"ratio": (0.825, 4 / 3)}, {"ratio": (0.75, 1.2)}]),
    "place": (CROPS, []),
    "brightness": ({"brightness": 0.4}, [{"brightness": 0.36}, {"brightness": 0.44}]),
    "contrast": ({"contrast": 0.4}, [{"contrast": 0.36}, {"contrast": 0.44}]),
    "saturation": ({"saturation": 0.4}, [{"saturation": 0.36}, {"saturation": 0.44}]),
    "hue": ({"hue": 0.1}, [{"hue": 0.09}, {"hue": 0.11}]),
}
SHARES = {"flip": 0.5, "jitter": 0.8, "grey": 0.2}
BRIGHTEST = (0.299 * 180 + 0.587 * 120 + 0.114 * 60) / 255  # half of the picture "shares"


def probe(name: str) -> torch.Tensor:
    """A picture (3, side, side) of bytes on which the change of that name can be read."""
    if name in ("area", "shape", "place"):  # red says how far to the right, green how far down
        ramp = (torch.arange(128) + 0.5) / 128 * 255
        across, down = ramp.expand(128, 128), ramp[:, None].expand(128, 128)
        return torch.stack([across, down, torch.zeros(128, 128)]).round().to(torch.uint8)
    left, right = {
        "brightness": ((128, 128, 128), (128, 128, 128)),
        "contrast": ((77, 77, 77), (179, 179, 179)),
        "saturation": ((179, 128, 77), (179, 128, 77)),
        "hue": ((255, 0, 0), (255, 0, 0)),
        "shares": ((180, 120, 60), (120, 80, 40)),
    }[name]
    halves = torch.tensor([left] * 4 + [right] * 4, dtype=torch.uint8)  # (8, 3)
    return halves.T[:, None].expand(3, 8, 8).contiguous()


def reading(name: str, views: torch.Tensor) -> torch.Tensor:
    """What a view (n, 3, side, side) shows of its change: one number each."""
    left, right = views[:, :, 4, 2], views[:, :, 4, 5]  # (n, 3)
    match name:
        case "area" | "shape" | "place":
            wide = (views[:, 0, 8, 12] - views[:, 0, 8, 4]) * 2  # half of the columns
            high = (views[:, 1, 12, 8] - views[:, 1, 4, 8]) * 2
            middle = views[:, 0, 8, 7:9].mean(dim=1)
            return {"area": wide * high, "shape": (wide / high).log(), "place": middle}[name]
        case "brightness":
            return left[:, 0] / (128 / 255)
        case "contrast":
            return (right[:, 0] - left[:, 0]) / (102 / 255)
        case "saturation":
            return (left[:, 0] - left[:, 2]) / (102 / 255)
        case "hue":
            return (left[:, 1] - left[:, 2]) / 6
        case "flip":  # the darker side is left
            return (left.sum(dim=1) < right.sum(dim=1)).float()
        case "grey":
            return ((left[:, 0] - left[:, 2]).abs() < 1e-3).float()
        case "jitter":  # of the brightness; grey keeps how bright a picture looks
            return ((grey(views).amax(dim=(1, 2, 3)) - BRIGHTEST).abs() > 2 / 255).float()
    raise KeyError(name)


def our_views(name: str, config: ViewsConfig, n: int) -> torch.Tensor:
    picture, views, generator = probe(name), Views(config), random(0)
    size = min(picture.shape[1], 16)
    parts = [views(picture.expand(200, -1, -1, -1), generator, size) for _ in range(n // 200)]
    return torch.cat(parts)


def lightlys_views(name: str, config: ViewsConfig, n: int) -> torch.Tensor:
    pytest.importorskip("lightly", reason="lightly is the oracle of this test")
    from benchmarks.pictures import lightlys_transform  # it needs lightly

    picture = probe(name)
    view = lightlys_transform(config, min(picture.shape[1], 16)).transforms[0].transform
    if name == "hue":  # PIL rounds it to a byte; on floats the same transform does not
        view, picture = view.transforms[4], picture / 255
    else:
        picture = tv.to_pil_image(picture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.stack([view(picture) for _ in range(n)])


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far two samples lie apart at their ends and in their mean, as a part of their width."""
    ends = torch.tensor([0.02, 0.98])
    a, b = ours.quantile(ends), theirs.quantile(ends)
    means = (ours.mean() - theirs.mean()).abs()
    return float(torch.cat([(a - b).abs(), means[None]]).max() / (b[1] - b[0]))


@pytest.mark.parametrize("name", LAWS)
def test_a_change_is_drawn_as_lightly_draws_it(name):
    settings, others = LAWS[name]
    theirs = reading(name, lightlys_views(name, ViewsConfig(**settings), 2500))

    def distance(**changed: tuple[float, float] | float) -> float:
        config = ViewsConfig(**settings | changed)
        return apart(reading(name, our_views(name, config, 4000)), theirs)

    assert distance() < 0.02
    for other in others:
        assert distance(**other) > 0.02


@pytest.mark.parametrize("name", SHARES)
def test_a_change_happens_as_often_as_lightlys(name):
    config = ViewsConfig(**{name: SHARES[name]}, brightness=0.4 if name == "jitter" else 0)
    theirs = reading(name, lightlys_views("shares", config, 6000)).mean()

    def ours(share: float) -> float:
        changed = replace(config, **{name: share})
        return float(reading(name, our_views("shares", changed, 20_000)).mean())

    assert ours(SHARES[name]) == pytest.approx(float(theirs), rel=0.05)
    for other in (0.9, 1.1):
        assert ours(other * SHARES[name]) != pytest.approx(float(theirs), rel=0.05)


def test_a_crop_that_does_not_fit_is_cut_here_and_drawn_again_there():
    """The one difference: where the area may be the whole, our crops are a little larger."""
    config = ViewsConfig(area=(0.2, 1.0), ratio=(0.75, 4 / 3))
    ours = reading("area", our_views("area", config, 6000)).mean()
    theirs = reading("area", lightlys_views("area", config, 3000)).mean()
    assert float(ours) == pytest.approx(0.593, abs=0.01)
    assert float(theirs) == pytest.approx(0.538, abs=0.015)

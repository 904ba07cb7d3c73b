"""Figures: that they show what they were given, say what they must, and touch nothing else."""

import inspect
import io
import math
import subprocess
import sys
import typing
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from cmssf_lib import plots
from cmssf_lib.data import digit_scenes, tones
from cmssf_lib.data.scenes import DTMF_HERTZ
from cmssf_lib.evaluate import Comparison
from cmssf_lib.plots import curves
from cmssf_lib.runs import Run
from cmssf_lib.views import as_float, greyscale

EPOCHS = 8


def make_run(**config) -> Run:
    run = Run()
    run.config = {"train": {"batch_size": 64, "epochs": EPOCHS}, **config}
    for epoch in range(1, EPOCHS + 1):
        left = math.exp(-epoch / 3)
        run.history.append(
            {
                "epoch": float(epoch),
                "loss": 2 + 2 * left,
                "floor": 1.93,
                "positive_similarity": 0.8 - 0.5 * left,
                "negative_similarity": 0.1 * left,
                "validation_loss": 2.1 + 2 * left,
                "validation_positive_similarity": 0.7 - 0.5 * left,
                "validation_different_class_similarity": 0.02,
                "validation_contaminated_similarity": 0.09,
                "validation_retrieval_at_1": 0.9 - left,
                "validation_zero_shot": 0.85 - left,
            }
        )
    return run


@pytest.fixture(scope="module")
def scenes():
    return digit_scenes("colour", train=30, test=40, image_size=16).test


@pytest.fixture(scope="module")
def drawn(scenes) -> dict[str, tuple[plots.Picture, bytes]]:
    """Every figure, and its PNG."""
    torch.manual_seed(0)
    return {name: (f, f._repr_png_()) for name, f in every_figure(scenes).items()}


def every_figure(scenes) -> dict[str, plots.Picture]:
    """One call of each function that draws, or several: name, and what is special → figure."""

    def call(*given, **options):
        return given, options

    run, images, ranked = make_run(), scenes.images[:6], torch.arange(8).view(2, 4)
    right, grey = ranked % 2 == 0, greyscale(as_float(images), 1.0)
    seeds = {"concat": [0.8, 0.9], "tokens": [0.5]}
    hidden = torch.arange(96).view(6, 4, 4) % 3 > 0
    labels = ("16×16", "64", "256")
    calls = {
        "accuracy_over": call({"a": ((1, 10), [[0.4, 0.6]])}, "labels", lines={"chance": 0.1}),
        "accuracy_points": call({"late": seeds}, lines={"chance": 0.1}),
        "attention_maps": call(images[0], [(["a", "b"], torch.rand(2, 16))]),
        "caption_grid": call(scenes, range(8)),
        "claimed_and_measured": call({"a": seeds}, {"a": 0.7}, beside={"a": "all labels"}),
        "cls_attention_grid": call(images, {"head 1": torch.rand(6, 16)}),
        "cmssf_diagram": call(labels, labels),
        "co_attention_diagram": call(),
        "confusion_matrix": call(torch.tensor([[9, 1], [3, 7]]), ["cat", "dog"]),
        "image_grid": call(images),
        "loss_curves": call(run),
        "losses_by_batch": call({"a": {32: 1.3, 128: 2.6}}, {"a": {32: [1.4, 1.5]}}),
        "masked_autoencoder_diagram": call(),
        "pair_matrices": call({"cosines": torch.eye(3)}, ["one", "two", "one"], images=images[:3]),
        "pairs_on_circle": call(torch.eye(2), torch.eye(2).flip(0), torch.ones(4, 2)),
        "reconstructions": call(images, hidden, {"guess": grey}),
        "retrieval_curve": call(run, classes=10),
        "retrieval_gallery of texts": call(scenes.captions[:2], scenes.images, ranked, right),
        "retrieval_gallery of pictures": call(images[:2], scenes.images, ranked, right),
        "robustness_curves": call({"noise": {"late": ((0, 1), [[0.9, 0.5]])}}, columns=1),
        "run_curves": call({"a": [run]}, {"loss": "loss", "floor": "least"}, lines={"b": 2.0}),
        "setting_sweeps": call({"width": {"64": [0.7, 0.8], "128": [0.9]}}, usual={"width": "64"}),
        "similarity_curves": call(run),
        "forest": call({"one less another": Comparison(0.1, 0.05, 0.15, 0.001)}),
        "tone_panels": call(tones(torch.tensor([5, 7])), ["five", "seven"]),
        "tsne": call(torch.randn(40, 8), scenes.labels, scenes.class_names, perplexity=5),
        "views_grid": call(images, {"grey": grey}),
    }
    return {
        name: getattr(plots, name.split()[0])(*given, **options)
        for name, (given, options) in calls.items()
    }


def texts(figure) -> str:
    """Everything that is written in a figure."""
    found = figure.findobj(matplotlib.text.Text)
    return " | ".join(t.get_text() for t in found if t.get_visible() and t.get_text())


def line(figure, label: str):
    (found,) = [x for a in figure.axes for x in a.get_lines() if x.get_label() == label]
    return found


# --- all of them ---


def test_no_figure_changes_a_setting_or_is_shown(scenes, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a figure was shown"))
    before, open_before = dict(matplotlib.rcParams), plt.get_fignums()
    every_figure(scenes)["image_grid"]._repr_png_()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_before


def test_a_readers_settings_do_not_reach_a_figure(drawn):
    own = {
        "font.size": 30,
        "axes.titlesize": 40,
        "axes.facecolor": "red",
        "lines.dashed_pattern": [9],
    }
    own |= {"savefig.dpi": 300, "savefig.facecolor": "red", "axes.xmargin": 0.4, "legend.loc": 1}
    with matplotlib.rc_context(own):
        assert plots.loss_curves(make_run())._repr_png_() == drawn["loss_curves"][1]


def test_figures_are_small_fit_the_column_and_keep_legible_type(drawn):
    for name, (figure, png) in drawn.items():
        assert len(png) < 150_000, name
        with Image.open(io.BytesIO(png)) as image:
            assert image.size[0] <= plots.style.WIDTH * plots.style.DPI + 1, name
        found = figure.findobj(matplotlib.text.Text)
        sizes = [t.get_fontsize() for t in found if t.get_text()]
        assert min(sizes, default=9) >= 9, name


def test_nothing_is_cut_off_at_the_edge(drawn):
    for name, (_, png) in drawn.items():
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((side == 255).all() for side in edge), name


def test_the_same_call_gives_the_same_bytes(scenes, drawn):
    torch.manual_seed(0)
    for name, figure in every_figure(scenes).items():
        assert figure._repr_png_() == drawn[name][1], name


def test_the_style_sheet_says_nothing_that_matplotlib_does_not_know():
    lines = plots.style.SHEET.read_text(encoding="utf-8").splitlines()
    settings = [x.split(":")[0] for x in lines if x and not x.startswith("#")]
    assert sorted(plots.style.STYLE) == sorted(settings)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_text_colours_stand_out_from_the_white_ground():
    for colour in (plots.style.INK, plots.style.PALE):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def test_every_exported_figure_is_called_and_returns_a_figure(drawn):
    """A figure that nobody draws may be broken; `panels` and the pixel makers are no figures."""
    functions = {
        name
        for name, f in vars(plots).items()
        if inspect.isfunction(f) and f.__module__.startswith("cmssf_lib.plots.")
    }
    called = {name.split()[0] for name in drawn}
    assert functions - called == {"attention_pixels", "masked_pictures", "panels"}
    assert all(isinstance(figure, Figure) for figure, _ in drawn.values())
    returned = {n: typing.get_type_hints(getattr(plots, n))["return"] for n in functions}
    assert {n for n, kind in returned.items() if kind is Figure} == called


def test_importing_the_figures_changes_no_setting_of_matplotlib():
    code = (
        "import matplotlib as m; before = dict(m.rcParams); import cmssf_lib.plots, sys; "
        "assert dict(m.rcParams) == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- curves ---


def test_the_loss_is_drawn_between_guessing_and_its_floor():
    run = make_run()
    figure = plots.loss_curves(run)
    assert list(line(figure, "training").get_ydata()) == run.series("loss")
    assert list(line(figure, "validation").get_ydata()) == run.series("validation_loss")
    assert "ln 64 = 4.16" in texts(figure)
    assert "floor: equal captions (1.93)" in texts(figure)
    heights = [list(x.get_ydata()) for x in figure.axes[0].get_lines()]
    assert [1.93] * EPOCHS in heights
    assert any(np.allclose(h, math.log(64)) for h in heights)


@pytest.mark.parametrize("loss", ["masked", "excess"])
def test_a_loss_without_floor_is_not_said_to_have_one(loss):
    figure = plots.loss_curves(make_run(cmssf={"loss": loss}))
    assert "floor: equal captions" not in texts(figure)
    assert "can reach 0" in texts(figure)


def test_a_run_without_validation_has_one_curve():
    run = make_run()
    for row in run.history:
        del row["validation_loss"], row["floor"]
    figure = plots.loss_curves(run)
    assert "validation" not in texts(figure)
    assert "floor" not in texts(figure)


def test_the_contaminated_number_is_drawn_beside_the_clean_one():
    run = make_run()
    figure = plots.similarity_curves(run)
    for label, column in {
        "own caption": "positive",
        "captions of other classes": "different_class",
        "all other captions (contaminated)": "contaminated",
    }.items():
        drawn = list(line(figure, label).get_ydata())
        assert drawn == run.series(f"validation_{column}_similarity")
    for row in run.history:
        for key in [k for k in row if k.startswith("validation_")]:
            del row[key]
    figure = plots.similarity_curves(run)
    assert "training batches" in texts(figure)
    assert list(line(figure, "different captions").get_ydata()) == run.series("negative_similarity")


def test_retrieval_stands_between_chance_and_ceiling():
    run = make_run()
    figure = plots.retrieval_curve(run, classes=4)
    assert "chance: one in 4" in texts(figure)
    assert "ceiling" in texts(figure)
    heights = [x.get_ydata()[0] for x in figure.axes[0].get_lines() if len(x.get_ydata()) == 2]
    assert sorted(heights) == [0.25, 1.0]


def test_lines_differ_by_more_than_colour():
    for figure in (
        plots.loss_curves(make_run()),
        plots.similarity_curves(make_run()),
        plots.retrieval_curve(make_run(), classes=10),
    ):
        named = [x for x in figure.axes[0].get_lines() if not x.get_label().startswith("_")]
        looks = {(x.get_linestyle(), x.get_marker()) for x in named}
        assert len(looks) == len(named) >= 2


def test_runs_that_cannot_be_drawn_say_why():
    with pytest.raises(ValueError, match="no epoch is done"):
        plots.loss_curves(Run())
    run = make_run()
    run.config = {}
    with pytest.raises(ValueError, match="batch_size"):
        plots.loss_curves(run)
    for row in run.history:
        del row["validation_retrieval_at_1"]
    with pytest.raises(KeyError, match="validation_retrieval_at_1"):
        plots.retrieval_curve(run, classes=10)
    with pytest.raises(ValueError, match="every answer is right"):
        plots.retrieval_curve(make_run(), classes=1)


# --- the loss while it falls ---


def test_live_loss_does_nothing_outside_a_notebook(capsys):
    watch = plots.LiveLoss()
    watch(Run())  # would raise if it were drawn: there is no epoch yet
    assert capsys.readouterr() == ("", "")


def test_live_loss_redraws_one_figure(monkeypatch):
    shown, updated = [], []

    def display(figure, *, display_id):
        assert display_id is True
        shown.append(figure)
        return SimpleNamespace(update=updated.append)

    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    run, watch = make_run(), plots.LiveLoss()
    history, run.history = run.history, []
    for row in history:
        run.history.append(row)
        watch(run)
    assert len(shown) == 1
    assert len(updated) == EPOCHS - 1
    assert list(line(updated[-1], "training").get_ydata()) == run.series("loss")


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: object()))
    assert not curves.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not curves.in_notebook()


# --- pictures ---


def test_captions_stand_under_their_pictures(scenes):
    figure = plots.caption_grid(scenes, [3, 0, 7])
    for panel, i in zip(figure.axes, (3, 0, 7), strict=True):
        shown = np.asarray(panel.get_images()[0].get_array())
        assert (shown == scenes.images[i].permute(1, 2, 0).numpy()).all()
        assert panel.get_xlabel().replace("\n", " ") == scenes.captions[i]


def test_a_missing_picture_is_named(scenes):
    with pytest.raises(IndexError, match="index 40 is outside the 40 pictures"):
        plots.caption_grid(scenes, [0, 40])
    with pytest.raises(ValueError, match="0 in"):
        plots.image_grid(scenes.images[:0])
    with pytest.raises(ValueError, match="3 pictures but 1 titles"):
        plots.image_grid(scenes.images[:3], ["one"])


def test_views_stand_below_their_originals(scenes):
    images = scenes.images[:3]
    grey = greyscale(as_float(images), 1.0)
    figure = plots.views_grid(images, {"grey": grey})
    panels = np.array(figure.axes).reshape(2, 3)
    assert [row[0].get_ylabel() for row in panels] == ["as it is", "grey"]
    for panel, view in zip(panels[1], grey, strict=True):
        assert np.allclose(panel.get_images()[0].get_array(), view.permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="'grey' has 2 pictures; expected 3"):
        plots.views_grid(images, {"grey": grey[:2]})


def test_right_and_wrong_differ_by_symbol_and_frame(scenes):
    ranked = torch.tensor([[4, 2, 9]])
    figure = plots.retrieval_gallery(
        ["a query"], scenes.images, ranked, torch.tensor([[True, False, True]])
    )
    _, *answers = figure.axes
    assert [panel.get_title() for panel in answers] == ["✓", "✗", "✓"]
    styles = [panel.spines["left"].get_linestyle() for panel in answers]
    assert styles[0] == styles[2] != styles[1]
    shown = np.asarray(answers[0].get_images()[0].get_array())
    assert (shown == scenes.images[4].permute(1, 2, 0).numpy()).all()
    assert "a query" in texts(figure)


def test_a_gallery_that_does_not_fit_is_refused(scenes):
    ranked = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 queries"):
        plots.retrieval_gallery(["one"], scenes.images, ranked, ranked == 0)
    with pytest.raises(ValueError, match="outside the gallery of 40"):
        plots.retrieval_gallery(["a", "b"], scenes.images, ranked + 40, ranked == 0)


def test_tsne_names_its_settings_and_encodes_classes_twice():
    labels = torch.arange(60) % 10
    names = [f"class {i}" for i in range(10)]
    figure = plots.tsne(torch.randn(60, 5), labels, names, seed=3, perplexity=7)
    assert "perplexity 7" in texts(figure)
    assert "seed 3" in texts(figure)
    groups = figure.axes[0].collections
    assert [len(g.get_offsets()) for g in groups] == [6] * 10
    shapes = {g.get_paths()[0].vertices.tobytes() for g in groups}
    assert len(shapes) == 10  # a marker of its own for each class


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perplexity": 60.0}, "less than n_samples"),
        ({"labels": torch.arange(59)}, "need one label each|Expected type"),  # the shape checker
        ({"class_names": ["only"]}, "outside the 1 classes"),
    ],
)
def test_tsne_refuses_what_it_cannot_lay_out(change, message):
    given = {
        "embeddings": torch.randn(60, 5),
        "labels": torch.arange(60) % 10,
        "class_names": [str(i) for i in range(10)],
        "perplexity": 7.0,
    }
    with pytest.raises((ValueError, TypeCheckError), match=message):
        plots.tsne(**{**given, **change})


# --- sounds ---


def test_a_spectrum_peaks_at_the_keys_frequencies():
    figure = plots.tone_panels(tones(torch.tensor([0, 9]), noise=0.0), ["zero", "nine"])
    for panel, digit in ((figure.axes[1], 0), (figure.axes[3], 9)):
        curve = max(panel.get_lines(), key=lambda x: len(x.get_xdata()))
        hertz, height = map(np.asarray, (curve.get_xdata(), curve.get_ydata()))
        low = hertz[np.where(hertz < 1000, height, 0).argmax()]
        high = hertz[np.where(hertz > 1000, height, 0).argmax()]
        assert np.abs(np.array(DTMF_HERTZ[digit]) - (low, high)).max() <= 5
    with pytest.raises(ValueError, match="2 sounds and 1 titles"):
        plots.tone_panels(tones(torch.tensor([0, 9])), ["zero"])


# --- the card of a figure's runs ---


def made(root, name, seed, minutes):
    run = Run(root / "runs" / "quick" / f"{name}-s{seed}")
    run.config = {"train": {"seed": seed, "epochs": 2}}
    run.history = [{"epoch": i + 1.0, "seconds": 30.0 * minutes} for i in range(2)]
    run.environment = {"processor": "Chip <9>", "threads": 1, "device": "cpu"}
    return run


def test_a_card_has_a_row_for_each_training(tmp_path, monkeypatch):
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "runs"))
    first = [made(tmp_path, "simclr", seed, minutes) for seed, minutes in ((0, 1), (1, 4), (2, 3))]
    other = made(tmp_path, "moco", 5, 12)
    other.environment = {"device": "NVIDIA H100"}
    card = plots.RunCard({"SimCLR": first, "the best": first[1]}, [other])
    assert card.rows == [
        ("quick/simclr", "0, 1, 2", "2", "3.0", "Chip <9>, 1 thread",
         "cmssf reproduce quick/simclr-s0"),
        ("quick/moco", "5", "2", "12", "NVIDIA H100", "cmssf reproduce quick/moco-s5"),
    ]  # fmt: skip
    other.environment["earlier"] = ["Chip <9>, 2 threads"]
    assert plots.RunCard(other).rows[0][4] == "Chip <9>, 2 threads, then NVIDIA H100"
    assert card.line == "Drawn from 2 recorded trainings, 1 to 3 seeds each"
    assert plots.RunCard(other).line == "Drawn from 1 recorded training, 1 seed each"
    assert plots.RunCard(first).line == "Drawn from 1 recorded training, 3 seeds each"
    assert all(text in str(card) for row in card.rows for text in row)
    shown = card._repr_html_()
    assert "Chip &lt;9&gt;" in shown  # what a machine calls itself is no markup
    assert shown.count("<tr>") == 3


@pytest.mark.parametrize("nothing", [(), ([],), ({},), ("quick/simclr-s0",), (None,)])
def test_a_card_of_no_runs_is_refused(nothing):
    message = "^expected .* runs?; got (no runs|'quick/simclr-s0'|None)$"
    with pytest.raises(ValueError, match=message):
        plots.RunCard(*nothing)

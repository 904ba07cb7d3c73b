"""The benchmarks of `make bench`, at a size at which they say nothing but run."""

import json
import os
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightly", reason="the benchmarks compare with lightly")

from benchmarks import (
    __main__ as main,
    captions,
    chunks,
    disk,
    masked,
    overhead,
    pictures,
    step,
    views,
)
from benchmarks.alternate import Ratio, alternate, ratio
from benchmarks.examples import counting, failing
from benchmarks.report import Report, table

from cmssf_lib.presets import preset
from cmssf_lib.views import ViewsConfig


def collected(side, settings) -> list:
    """The results of a side that runs here and is never kept waiting."""
    results = []
    side(settings, results.append)
    assert results[0] is None  # it says when it is ready
    return results[1:]


# --- taking turns -----------------------------------------------------------------------------


def test_two_sides_take_turns_in_processes_of_their_own():
    first, second = alternate((counting, counting), 3, rounds=3)
    assert [asked for asked, _ in first] == [asked for asked, _ in second] == [1, 2, 3]
    processes = {process for _, process in first + second}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_side_that_fails_ends_the_benchmark(capfd):
    with pytest.raises(EOFError):
        alternate((counting, failing), 3, rounds=3)
    assert "as the test wants it" in capfd.readouterr().err


def test_a_ratio_is_taken_round_by_round():
    found = ratio([4.0, 6.0, 30.0], [2.0, 2.0, 5.0])
    assert found == Ratio((2.0, 3.0, 6.0))
    assert str(found) == "3.00× (2.00 to 6.00)"


def test_a_table_is_markdown():
    lines = table(("", "ms"), [("data", "1.5"), ("views", "12.0")])
    assert lines == ["|       |   ms |", "| :---- | ---: |", "| data  |  1.5 |", "| views | 12.0 |"]


# --- every benchmark, very small --------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_photographs(monkeypatch):
    """Sixty thousand files are not read for a test of a second."""
    monkeypatch.delenv("CMSSF_DATA", raising=False)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """The loader works without workers, which take seconds to start."""

    class WithoutWorkers(torch.utils.data.DataLoader):
        def __init__(self, *args, num_workers, persistent_workers, **settings):
            assert num_workers == 2
            assert persistent_workers
            super().__init__(*args, **settings)

    monkeypatch.setattr(torch.utils.data, "DataLoader", WithoutWorkers)


def complete(report: Report, *names: str) -> None:
    """Every row is there, every cell filled in, and what was promised is said."""
    text = str(report)
    for name in names:
        assert f"| {name}" in text
    assert "nan" not in text
    assert report.kept
    assert all(promise in text for promise in report.kept)


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_views(name):
    data, what = pictures.pictures(preset(name, "simclr"), 8)
    settings = views.Settings(data, batch_size=4, rounds=2, seconds=0)
    rates = [collected(side, settings) for side in (views.ours, views.lightlys)]
    assert all(rate > 0 for side in rates for rate in side)
    complete(views.report(what, settings, *rates), "ours", "lightly, two workers", "ratio")


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_step(name):
    settings, what = step.settings_of(name, steps=2, rounds=2)
    train = replace(settings.preset.train, batch_size=4)
    data = settings.data.subset(torch.arange(0, len(settings.data), len(settings.data) // 8)[:8])
    settings = replace(settings, preset=replace(settings.preset, train=train), data=data)
    rounds = [collected(side, settings) for side in (step.ours, step.lightlys)]
    assert [len(side) for side in rounds] == [2, 2]
    for side in rounds:
        for part in ("data", "forward", "backward", "update"):
            assert side[0].parts[part] > 0
        # The parts are apart from each other, so that they add up to the step.
        assert side[0].parts["other"] > 0
        assert sum(side[0].parts.values()) == pytest.approx(4 / side[0].rate)
    assert rounds[0][0].parts["views"] > 0  # lightly's workers make them elsewhere
    assert rounds[0][0].parts["logging"] > 0
    complete(step.report(what, settings.preset, *rounds), "images/s", "ratio")


def test_overhead():
    report = overhead.run("quick", steps=1, batch_size=16)
    complete(report, *overhead.METHODS)
    assert len(report.kept) == len(overhead.METHODS)


def test_captions():
    report = captions.run(rounds=1, batch_size=20)
    complete(report, "each caption once", "all captions")
    assert report.rows[0][-1] == report.rows[1][-1]  # the same loss


def test_chunks():
    report = chunks.run(b=256, dim=8, chunk=32, rounds=1)
    complete(report, "ours, 32 rows at a time", "open_clip, whole")
    assert report.rows[0][-1] == report.rows[1][-1]  # the same loss


def test_disk(tmp_path, capsys):
    disk.write(tmp_path, 160)
    found = {"disk": disk.train(str(tmp_path), "disk")}
    disk.main(str(tmp_path), "memory")
    found["memory"] = json.loads(capsys.readouterr().out)
    assert found["disk"]["loss"] == found["memory"]["loss"]
    report = disk.report(160, found)
    complete(report, "from disk", "from memory")
    assert len(report.kept) == 2


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_mae(name):
    complete(masked.run(name, steps=1, batch_size=8), "visible patches", "all patches")


def test_all_patches_are_seen_when_all_are_encoded():
    chosen = preset("quick", "mae")
    images = torch.rand(3, 3, 16, 16)
    method = masked.AllPatches(chosen.vision, chosen.mae, apart=True).eval()
    tokens = method.image_encoder.tokens(images, keep=None)
    assert tokens.shape[1] == 1 + len(method.positions)
    guess = method.decode(tokens, torch.zeros(3, 4, dtype=torch.int64))
    assert guess.shape[1] == len(method.positions)


# --- the two are given the same ---------------------------------------------------------------


def test_lightlys_transform_has_our_settings():
    config = replace(pictures.photo_views(), area=(0.3, 0.9), ratio=(0.5, 1.5))
    crop, flip, vertical, turn, jitter, grey, blur, _tensor = (
        pictures.lightlys_transform(config, 24).transforms[1].transform.transforms
    )
    assert (crop.scale, crop.ratio, tuple(crop.size)) == (config.area, config.ratio, (24, 24))
    assert (flip.p, grey.p, jitter.p) == (config.flip, config.grey, config.jitter)
    colours = jitter.transforms[0]
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(config, name)
        assert getattr(colours, name) == pytest.approx((1 - strength, 1 + strength))
    assert colours.hue == pytest.approx((-config.hue, config.hue))
    assert (vertical.p, blur.prob) == (0, 0)
    assert not isinstance(turn, torch.nn.Module) or turn.p == 0


def test_views_that_lightly_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no such views"):
        pictures.lightlys_transform(ViewsConfig(turn=0.3), 16)


def test_main_runs_what_is_named_and_reports_a_missed_promise(monkeypatch, capsys):
    def benchmark(kept: bool):
        return lambda: Report("A title", ("", "ms"), (("a", "1"),), {"a promise": kept})

    monkeypatch.setattr(
        main, "BENCHMARKS", {"good": (benchmark(True),), "bad": (benchmark(True), benchmark(False))}
    )
    assert main.main(["good"]) == 0
    assert "kept: a promise" in capsys.readouterr().out
    assert main.main([]) == 1
    assert "MISSED: a promise" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main(["ugly"])

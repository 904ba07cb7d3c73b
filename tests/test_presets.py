"""Presets: frozen, found in a fixed order, and whole after a trip through JSON."""

import dataclasses
import json

import pytest
import torch

from cmssf_lib.build import build, preset_of
from cmssf_lib.data import ImageTextData, batches
from cmssf_lib.presets import PRESETS, preset, start
from cmssf_lib.train import flops_per_picture
from cmssf_lib.views import ViewsConfig

SECTIONS = ("data", "vision", "text", "cmssf", "train")


@pytest.fixture
def machine(monkeypatch):
    """A machine with or without a GPU, and no preset in its environment."""
    monkeypatch.delenv("CMSSF_PRESET", raising=False)

    def make(gpu: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU 9000")

    make(gpu=False)
    return make


def test_there_are_three_and_each_knows_its_name():
    assert list(PRESETS) == ["quick", "standard", "paper"]
    assert all(name == chosen.name for name, chosen in PRESETS.items())
    assert all(chosen.minutes for chosen in PRESETS.values())


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_nothing_changes_a_preset(name):
    chosen = PRESETS[name]
    places = [chosen, *(getattr(chosen, s) for s in SECTIONS), chosen.cmssf.views]
    for place in places:
        for field in dataclasses.fields(place):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(place, field.name, None)
    assert hash(chosen)  # frozen all the way down: nothing in it can be changed in place


def test_replace_makes_a_changed_copy():
    before = PRESETS["quick"]
    changed = dataclasses.replace(before, train=dataclasses.replace(before.train, epochs=999))
    assert changed.train.epochs == 999
    assert PRESETS["quick"] is before
    assert before.train.epochs != 999


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_a_name_is_what_one_gets(machine, name):
    assert preset(name) is PRESETS[name]


def test_argument_before_environment_before_machine(machine, monkeypatch):
    assert preset().name == "quick"
    machine(gpu=True)
    assert preset().name == "standard"
    monkeypatch.setenv("CMSSF_PRESET", "paper")
    assert preset().name == "paper"
    assert preset("quick").name == "quick"
    monkeypatch.setenv("CMSSF_PRESET", "")  # set to nothing is not set
    assert preset().name == "standard"


def test_an_unknown_preset_is_refused_with_the_names(machine, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown preset 'fast'; choose .*quick, standard, paper"):
        preset("fast")
    monkeypatch.setenv("CMSSF_PRESET", "Quick")
    with pytest.raises(ValueError, match=r"unknown preset 'Quick' \(from \$CMSSF_PRESET\); choose"):
        preset()
    with pytest.raises(ValueError, match="from"):
        start("00_quickstart")


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_a_notebook_says_what_it_runs_on(machine, monkeypatch, capsys, gpu, name):
    machine(gpu)
    monkeypatch.setenv("CMSSF_PRESET", name)
    assert start("01_data") is PRESETS[name]
    printed = capsys.readouterr().out
    assert printed.startswith("01_data: ")
    assert f"preset {name}" in printed
    assert PRESETS[name].minutes in printed
    assert ("Some GPU 9000" in printed) is gpu
    assert ("running on CPU" in printed) is not gpu
    assert "CMSSF_PRESET" in printed  # how to change it
    assert all(other in printed for other in PRESETS)


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_a_chapter_of_digits_says_that_it_stays_with_them(machine, monkeypatch, capsys, name):
    machine(gpu=True)
    monkeypatch.setenv("CMSSF_PRESET", name)
    assert start("04_mae") is PRESETS[name]
    printed = capsys.readouterr().out
    assert printed.startswith("04_mae: preset quick; a training takes " + PRESETS["quick"].minutes)
    assert (f"though the preset {name} is chosen" in printed) == (name != "quick")


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_a_preset_survives_json(name):
    chosen = PRESETS[name]
    written = json.loads(json.dumps(dataclasses.asdict(chosen)))
    read = preset_of({"preset": written.pop("name"), "method": "cmssf", **written})
    assert dataclasses.replace(read, minutes=chosen.minutes) == chosen
    assert isinstance(read.cmssf.views, ViewsConfig)
    assert isinstance(read.vision.mean, tuple)  # not JSON's lists, which could be changed


def test_a_field_of_another_version_is_named():
    written = json.loads(json.dumps(dataclasses.asdict(PRESETS["quick"])))
    written["train"]["momentum"] = 0.9
    with pytest.raises(ValueError, match=r"settings of a TrainConfig: momentum: Unexpected"):
        preset_of({"preset": "quick", "method": "cmssf", **written})


def test_the_papers_preset_is_the_chapters():
    """Sections 3.3 and 3.4 of the source chapter."""
    paper = PRESETS["paper"]
    assert paper.data.name == "cifar10"
    assert paper.vision.timm_name == "vit_small_patch16_224.dino"
    assert paper.vision.image_size == 224
    assert paper.cmssf.dim == 256
    assert paper.cmssf.loss == "one_hot"
    train = paper.train
    assert (train.optimizer, train.lr, train.batch_size, train.epochs) == ("adam", 1e-4, 128, 100)


@pytest.mark.parametrize("method", ["simclr", "moco", "byol", "dino", "mae", "supervised"])
def test_the_papers_preset_without_captions_is_standard_for_longer(method):
    paper, standard = preset("paper", method), preset("standard", method)
    assert paper.train == dataclasses.replace(standard.train, epochs=200)
    assert paper.vision == standard.vision


def test_quick_needs_no_download():
    quick = PRESETS["quick"]
    assert quick.data.name == "digit_scenes"
    assert quick.vision.kind != "timm"
    assert quick.text.kind == "scratch"


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_every_preset_holds_out_what_its_choices_are_made_on(name):
    assert PRESETS[name].data.validation > 0
    data = PRESETS[name].data
    assert data.name == "cifar10" or data.train > data.validation


def test_the_standard_trainings_cost_the_same():
    """One budget for all: the operations of a step, times the pictures that are shown."""
    picture = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(64) % 10
    captions = tuple(f"a photo of a {label}" for label in labels.tolist())
    data = ImageTextData(picture, labels, captions, tuple(map(str, range(10))), "random")
    cost = {}
    for method in ("cmssf", "simclr", "moco", "byol", "dino", "mae", "supervised"):
        chosen = preset("standard", method)
        built = build(chosen, method, data)
        cost[method] = chosen.train.epochs * flops_per_picture(built, next(batches(data, 32)))
    middle = (min(cost.values()) + max(cost.values())) / 2
    assert max(abs(c / middle - 1) for c in cost.values()) < 0.03, cost


def test_long_trainings_have_slow_teachers_and_dino_small_views():
    for method in ("byol", "dino"):
        short, long = (getattr(preset(size, method), method) for size in ("standard", "paper"))
        own = {"local_crops": 4} if method == "dino" else {}
        assert short.momentum < 0.996  # both papers begin there
        assert long == dataclasses.replace(short, momentum=0.996, **own)
    assert preset("standard", "dino").dino.local_crops == 0

"""Presets: frozen, found in a fixed order, and whole after a trip through JSON."""

import dataclasses
import json
from pathlib import Path

import nbformat
import pytest
import torch

from cmssf_lib.build import build, preset_of
from cmssf_lib.data import ImageTextData, batches
from cmssf_lib.presets import PRESETS, preset, start
from cmssf_lib.presets.chapters import CHAPTERS
from cmssf_lib.train import flops_per_picture
from cmssf_lib.views import ViewsConfig

SECTIONS = ("data", "vision", "text", "cmssf", "train")


@pytest.fixture
def machine(monkeypatch):
    """A machine with or without a GPU, and no preset in its environment."""
    monkeypatch.delenv("CMSSF_PRESET", raising=False)
    monkeypatch.delenv("CMSSF_DEVICE", raising=False)

    def make(gpu: bool) -> None:
        card = torch.device("cuda")
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: card)
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
@pytest.mark.parametrize("notebook", CHAPTERS)
def test_a_notebook_says_what_it_does_here(machine, monkeypatch, capsys, gpu, name, notebook):
    machine(gpu)
    monkeypatch.setenv("CMSSF_PRESET", name)
    assert start(notebook) is PRESETS[name]
    printed = capsys.readouterr().out
    device = "Some GPU 9000" if gpu else "CPU"
    assert printed.startswith(f"{notebook} on {device}, preset {name}.\n")
    trains, quick = CHAPTERS[notebook].trains, name == "quick"
    assert ("it trains" in printed) is bool(trains and not quick and notebook > "01")
    assert ("digit scenes" in printed.lower()) is (notebook < "10")
    shown = notebook == "10_results" or bool(trains and quick and notebook > "01")
    assert ("recorded run" in printed.lower()) is shown
    assert ("CMSSF_PRESET=" in printed) is bool(trains)  # how to change it
    assert printed.count("Colab") == (bool(trains) and quick and not gpu)


@pytest.mark.parametrize("notebook", CHAPTERS)
def test_it_says_whether_the_photographs_are_there(
    machine, monkeypatch, capsys, tmp_path, notebook
):
    monkeypatch.setenv("CMSSF_DATA", str(tmp_path))
    start(notebook)
    missing = "CIFAR-10, which holds them, is not on this machine yet" in capsys.readouterr().out
    assert missing is (CHAPTERS[notebook].shows == "both")
    monkeypatch.setenv("CMSSF_PRESET", "standard")
    start(notebook)
    missing = "CIFAR-10, which holds them, is not on this machine yet" in capsys.readouterr().out
    assert missing is (CHAPTERS[notebook].shows in ("both", "preset"))
    for split in ("train", "test"):
        (tmp_path / "cifar10" / split).mkdir(parents=True)
    start(notebook)
    assert "is not on this machine" not in capsys.readouterr().out


def test_the_minutes_are_those_that_the_notebooks_took():
    """On two quiet cores; within a factor, since such machines differ."""
    notebooks = Path(__file__).parents[1] / "notebooks"
    assert list(CHAPTERS) == sorted(path.stem for path in notebooks.glob("*.ipynb"))
    for name, chapter in CHAPTERS.items():
        executed = nbformat.read(notebooks / f"{name}.ipynb", as_version=4).metadata["executed"]
        assert executed["seconds"] / 60 == pytest.approx(chapter.minutes, rel=0.5, abs=0.5), name


def test_a_gpu_that_is_not_to_be_used_is_no_gpu(machine, monkeypatch):
    machine(gpu=True)
    monkeypatch.setenv("CMSSF_DEVICE", "cpu")
    assert preset().name == "quick"


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


@pytest.mark.parametrize(
    "method", ["simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised"]
)
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
    for method in ("cmssf", "simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised"):
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

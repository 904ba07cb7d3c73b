"""`cmssf index` and `cmssf search` end to end, and what they say of mistakes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from settings import CMSSFConfig, SimCLRConfig, TextConfig, TrainConfig, VisionConfig, new_cmssf

from cmssf_lib import cli
from cmssf_lib.build import preset_of, run_config
from cmssf_lib.cli import search
from cmssf_lib.data import digit_scenes, load
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.methods import SimCLR
from cmssf_lib.presets import METHODS, QUICK
from cmssf_lib.runs import Run
from cmssf_lib.share import Calibration, Index, calibrate, from_pretrained, save_pretrained
from cmssf_lib.train import fit
from cmssf_lib.views import ViewsConfig


def save_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = new_cmssf(
        VisionConfig(image_size=12, width=16, depth=1, heads=2),
        TextConfig(width=16, depth=1, heads=2, max_length=8),
        CMSSFConfig(dim=8, hidden=16, views=ViewsConfig()),
        ["a red seven"],
    )
    save_pretrained(model, folder)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with twelve pictures, one of them twice, and a model."""
    scenes = digit_scenes("colour", train=1, test=12, image_size=12).test
    for number, image in enumerate(scenes.images):
        path = tmp_path / "pictures" / f"set {number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    shutil.copy(tmp_path / "pictures" / "set 1" / "03.png", tmp_path / "pictures" / "again.png")
    save_model(tmp_path / "model", seed=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *command: str, code: int = 0) -> tuple[list[str], str]:
    """Run a command; return the lines of its results, and what it says beside them."""
    assert cli.main(command) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out.splitlines(), said.err


def test_a_folder_is_indexed_and_searched(place, capsys):
    (summary, *copies), notes = run(capsys, "index", "pictures", "--model", "model")
    assert summary == (
        f"{place / 'pictures'}: 13 files, 13 of them new and 0 changed, 0 gone; 12 pictures "
        "encoded; 12 different ones are in runs/index"
    )
    assert copies == ["The same file more than once:", "  again.png = set 1/03.png"]
    assert notes == ""
    lines, notes = run(capsys, "search", "a red seven", "-k", "12")
    assert notes == ""
    model, index = from_pretrained("model"), Index.load("runs/index")
    hits = index.find(model, ["a red seven"], k=12)[0]
    for rank, (line, hit) in enumerate(zip(lines, hits, strict=True), start=1):
        number, similarity, path = line.split(maxsplit=2)
        assert int(number) == rank
        assert float(similarity) == pytest.approx(hit.similarity, abs=1e-3)
        also = f"  (also: {place / 'pictures' / 'set 1' / '03.png'})" * bool(hit.also)
        assert path == f"{place / 'pictures' / hit.file}{also}"
    assert run(capsys, "search", "a", "red", "seven", "-k", "12")[0] == lines  # without quotes
    lines, notes = run(capsys, "search", "seven", "-k", "50")
    assert len(lines) == 12
    assert notes == "cmssf: the index holds only 12 different pictures\n"


def test_a_picture_is_searched_for_and_a_sentence_is_excluded(place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    lines, notes = run(capsys, "search", "--like", "pictures/set 0/04.png", "-k", "3")
    assert notes == ""
    assert lines[0].split(maxsplit=2)[1:] == ["1.000", str(place / "pictures" / "set 0" / "04.png")]
    model, index = from_pretrained("model"), Index.load("runs/index")
    found = index.find(model, ["a red seven"], without=["seven"])[0]
    lines, notes = run(capsys, "search", "a red seven", "--without", "seven")
    assert [float(line.split()[1]) for line in lines] == pytest.approx(
        [hit.similarity for hit in found], abs=1e-3
    )
    assert all(hit.file in line for line, hit in zip(lines, found, strict=True))


def test_search_says_when_nothing_fits(place, capsys):
    """By the best similarity to the sentence itself, whatever is excluded."""
    run(capsys, "index", "pictures", "--model", "model")
    model, index = from_pretrained("model"), Index.load("runs/index")
    best = index.find(model, ["a red seven"])[0][0].similarity
    for threshold, words in (
        (best - 1e-4, ""),
        (best + 1e-4, "nothing fits, if the se"),
    ):
        replace(index, calibration=Calibration(threshold, 0.1, 500)).save("runs/index")
        for apart in ((), ("--without", "seven")):
            lines, notes = run(capsys, "search", "a red seven", *apart)
            assert len(lines) == 10
            assert notes.startswith(f"cmssf: {words}" if words else "")
            assert notes.count("\n") == bool(words)
        assert run(capsys, "search", "--like", "pictures/again.png")[1] == ""
    assert "500 held-out pictures say, 5% of the captions that are true of none reach" in notes
    vague = Calibration(best + 1e-4, 0.3, 500)  # most true sentences would lie below, too
    replace(index, calibration=vague).save("runs/index")
    assert run(capsys, "search", "a red seven")[1] == ""
    assert "searching will not say when nothing fits: 30%" in run(
        capsys, "index", "pictures", "--model", "model"
    )[1]  # fmt: skip


def test_indexing_again_says_what_is_new_and_what_is_gone(place, capsys):
    index = "index", "pictures", "--model", "model"
    run(capsys, *index)
    (place / "pictures" / "set 0" / "00.png").unlink()
    (place / "pictures" / "set 0" / "02.png").replace(place / "pictures" / "moved.png")
    shutil.copy("pictures/set 1/05.png", "pictures/set 1/07.png")
    (summary, *_), _ = run(capsys, *index)
    assert "11 pictures" not in summary
    assert "12 files, 1 of them new and 1 changed, 2 gone; 0 pictures encoded; 10" in summary
    save_model(place / "model", seed=1)
    (summary, *_), notes = run(capsys, *index)
    assert notes == "cmssf: runs/index was made by another model: every picture is encoded again\n"
    assert "12 files, 12 of them new and 0 changed, 0 gone; 10 pictures encoded" in summary


def test_pictures_that_are_gone_are_marked(place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    (place / "pictures" / "again.png").unlink()
    lines, notes = run(capsys, "search", "seven", "-k", "12")
    (marked,) = [line for line in lines if "(gone)" in line]
    assert "again.png  (gone)  (also: " in marked
    assert f"some of these are gone; update the index with: cmssf index {place}" in notes
    shutil.move("pictures", "elsewhere")
    _, notes = run(capsys, "search", "seven", code=2)
    assert notes == f"cmssf: the folder {place / 'pictures'} of this index is gone: " + (
        "restore it or index another folder\n"
    )


def test_an_unreadable_picture_is_named_and_can_be_left_out(place, capsys):
    (place / "pictures" / "bad.jpg").write_text("junk")
    index = "index", "pictures", "--model", "model"
    _, notes = run(capsys, *index, code=2)
    assert notes.startswith(f"cmssf: cannot read the picture {place / 'pictures' / 'bad.jpg'}: ")
    assert not (place / "runs" / "index" / "index.parquet").exists()
    (summary, *_), notes = run(capsys, *index, "--skip-unreadable")
    assert "13 files, 13 of them new and 0 changed, 0 gone; 0 pictures encoded; 12" in summary
    assert [path.name for path in (place / "runs" / "index").iterdir()] == ["index.parquet"]
    assert notes.startswith(f"cmssf: {place / 'pictures'}: 1 of 14 pictures are left out: cannot")


def test_the_home_folder_is_meant_at_every_door(place, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("USERPROFILE", str(place))
    index = "index", "~/pictures", "--model=~/model", "--to=~/index"
    assert "12 pictures encoded" in run(capsys, *index)[0][0]
    assert "0 pictures encoded" in run(capsys, *index)[0][0]
    assert len(run(capsys, "search", "seven", "--index=~/index", "--model=~/model")[0]) == 10
    assert not (place / "~").exists()


def test_paths_of_any_bytes_are_printed(place, capsys):
    shutil.copy("pictures/again.png", os.fsencode(place) + b"/pictures/\xff \xc3\xa9.png")
    lines, _ = run(capsys, "index", "pictures", "--model", "model")
    assert lines[-1] == r"  again.png = set 1/03.png = \xff é.png"


def test_a_model_is_also_a_run_with_weights(place, capsys):
    tiny = [
        f"--{setting}"
        for setting in (
            "data.train=64", "data.test=20", "data.validation=20", "data.image_size=12",
            "vision.image_size=12", "vision.width=16", "vision.depth=1", "text.width=16",
            "text.depth=1", "train.batch_size=16", "train.epochs=1",
        )
    ]  # fmt: skip
    run(capsys, "train", "cmssf", "--preset=quick", "--run=runs/tiny", *tiny)
    (summary, *_), _ = run(capsys, "index", "pictures", "--model", "runs/tiny")
    assert "12 pictures encoded" in summary
    lines, _ = run(capsys, "search", "a photo of a small red seven on a blue background")
    assert len(lines) == 10
    found = Index.load("runs/index")
    run_of = preset_of(Run.load("runs/tiny").config)
    _, held_out = load(run_of.data).train.hold_out(20, run_of.data.seed)
    model, _, _ = search.trained_model("runs/tiny")
    assert found.calibration == calibrate(model, held_out, len(found))
    recorded = Run.load("runs/tiny")
    recorded.config["data_fingerprint"] = "0" * 16
    recorded.save()
    _, notes = run(capsys, "index", "pictures", "--model", "runs/tiny", code=2)
    assert "runs/tiny was trained on other data" in notes
    recorded.config["method"] = "simclr"
    recorded.save()
    _, notes = run(capsys, "index", "pictures", "--model", "runs/tiny", code=2)
    assert "the run runs/tiny trained simclr, which cannot encode text" in notes


def write_run(folder: Path, config: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text('{"command": "cmssf train cmssf"}')


@pytest.fixture(scope="module")
def recorded() -> dict:
    """The configuration of a run of CMSSF, on data that can be had."""
    tiny = replace(QUICK, data=replace(QUICK.data, train=12, test=4, validation=2, image_size=12))
    return run_config(tiny, "cmssf", load(tiny.data).train)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cmssf"])
def test_a_run_of_another_method_is_refused(method, recorded, place, capsys):
    write_run(place / "run", {**recorded, "method": method})
    _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
    assert notes == f"cmssf: the run run trained {method}, which cannot encode text\n"


def test_a_run_of_fit_without_a_preset_is_refused(place, capsys):
    """It may have trained anything: a method of the reader's own too."""
    data = digit_scenes(train=32, test=4, image_size=12).train
    encoder = ImageEncoder(VisionConfig(image_size=12, width=16, depth=1, heads=2))
    model = SimCLR(encoder, SimCLRConfig())
    fit(model, data, TrainConfig(epochs=1, batch_size=16), run="run", progress=False)
    assert "method" not in Run.load("run").config
    _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
    assert notes.startswith("cmssf: this run was trained by `fit` without a configuration")
    assert notes.count("\n") == 1


def test_a_run_without_weights_is_refused(recorded, place, capsys):
    write_run(place / "run", recorded)
    _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
    assert notes.startswith("cmssf: the run run holds no weights; make it again with: cmssf train")
    (place / "run" / "checkpoint.safetensors").touch()
    _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
    assert notes.startswith("cmssf: the run run is not finished")


def test_a_run_with_a_damaged_configuration_is_one_sentence(recorded, place, capsys):
    """Whatever its sections hold, and whatever stands in the place of all of them."""
    sections = ("method", "preset", "data", "vision", "text", "cmssf", "train")
    damaged = [{k: v for k, v in recorded.items() if k != section} for section in sections]
    for junk in (None, "x", 3, [], {}):
        damaged += [junk, *({**recorded, section: junk} for section in sections)]
    for config in damaged:
        write_run(place / "run", config)
        _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
        assert notes.startswith("cmssf: ")
        assert notes.count("\n") == 1


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_run_with_a_damaged_file_is_one_sentence(name, recorded, place, capsys):
    for content in (b"", b"{", b'{"train": ', b"\xff\xfe\x00"):
        write_run(place / "run", recorded)
        (place / "run" / name).write_bytes(content)
        _, notes = run(capsys, "index", "pictures", "--model=run", code=2)
        assert notes.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["index", "nowhere", "--model=model"], "no folder nowhere with pictures"),
        (["index", "model", "--model=model", "--to=new"], "no picture in"),
        (["index", "model", "--model=model"], "is the index of another folder"),
        (["index", "pictures", "--model=nowhere/at/all"], "is neither a folder on this machine"),
        (["index", "pictures", "--model=pictures"], "no complete model: config.json is missing"),
        (["search", "a crimson seven"], "never seen: 'crimson'"),
        (["search", " "], "is empty"),
        (["search", "seven", "-k=0"], "k is 0"),
        (["search"], "write either a sentence or --like"),
        (["search", "seven", "--like=pictures/again.png"], "write either a sentence or --like"),
        (["search", "--like=nowhere.png"], "cannot read the picture nowhere.png: no such file"),
        (["search", "seven", "--without", "crimson"], "never seen: 'crimson'"),
        (["search", "seven", "--index=new"], "no index in new: make one with `cmssf index`"),
        (["search", "seven", "--model=other"], "made by another model"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_the_index(command, message, place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    save_model(place / "other", seed=1)
    before = (place / "runs" / "index" / "index.parquet").read_bytes()
    _, notes = run(capsys, *command, code=2)
    assert notes.startswith("cmssf: ")
    assert message in notes
    assert notes.count("\n") == 1
    assert (place / "runs" / "index" / "index.parquet").read_bytes() == before
    assert not (place / "new").exists()


def test_an_index_that_names_no_model_asks_for_one(place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    index = Index.load("runs/index")
    replace(index, model_name="").save("runs/index")
    _, notes = run(capsys, "search", "seven", code=2)
    assert notes == "cmssf: runs/index does not say where its model is: give it with --model\n"
    assert len(run(capsys, "search", "seven", "--model", "model")[0]) == 10


def test_case_and_punctuation_make_no_difference_and_special_tokens_are_text(place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    expected, _ = run(capsys, "search", "a red seven")
    for asked in ("A RED SEVEN!", "“a red seven”?", "a red, seven.", "Ａ red\u00a0seven"):
        assert run(capsys, "search", asked)[0] == expected
    for asked, strange in (("a [SEP] seven", "'[SEP]'"), ("a green seven!", "'green'")):
        _, notes = run(capsys, "search", asked, code=2)
        assert notes.startswith(f"cmssf: the caption {asked!r} holds a word that the tokenizer")
        assert f"never seen: {strange}. Use" in notes
    _, notes = run(capsys, "search", "?!", code=2)
    assert notes == "cmssf: the caption '?!' holds no word that the tokenizer knows\n"
    _, notes = run(capsys, "search", os.fsdecode(b"a red \xff"), code=2)  # bytes that are not UTF-8
    assert notes.startswith("cmssf: caption 0 holds half of a character: 'a red \\udcff'")

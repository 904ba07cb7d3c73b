"""`cmssf index` and `cmssf search` end to end, and what they say of mistakes."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from cmssf_lib import cli
from cmssf_lib.cmssf import CMSSF
from cmssf_lib.data import digit_scenes
from cmssf_lib.index import Index
from cmssf_lib.presets import CMSSFConfig, TextConfig, ViewsConfig, VisionConfig
from cmssf_lib.runs import Run


def save_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = CMSSF(
        VisionConfig(image_size=12, width=16, depth=1, heads=2),
        TextConfig(width=16, depth=1, heads=2, max_length=8),
        CMSSFConfig(dim=8, hidden=16, views=ViewsConfig()),
        ["a red seven"],
    )
    model.save_pretrained(folder)


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
    model, index = CMSSF.from_pretrained("model"), Index.load("runs/index")
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
    assert notes == "cmssf: the index holds no more than 12 different pictures\n"


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
    assert f"some of these are gone; to index what is there: cmssf index {place}" in notes
    shutil.move("pictures", "elsewhere")
    _, notes = run(capsys, "search", "seven", code=2)
    assert notes == f"cmssf: the folder {place / 'pictures'} of this index is gone: " + (
        "put it back, or index another one\n"
    )


def test_an_unreadable_picture_is_named_and_can_be_left_out(place, capsys):
    (place / "pictures" / "bad.jpg").write_text("junk")
    index = "index", "pictures", "--model", "model"
    _, notes = run(capsys, *index, code=2)
    assert notes.startswith(f"cmssf: cannot read the picture {place / 'pictures' / 'bad.jpg'}: ")
    assert not (place / "runs").exists()
    (summary, *_), notes = run(capsys, *index, "--skip-unreadable")
    assert "13 files" in summary
    assert notes.startswith(f"cmssf: {place / 'pictures'}: 1 of 14 pictures are left out: cannot")


def test_paths_of_any_bytes_are_printed(place, capsys):
    shutil.copy("pictures/again.png", os.fsencode(place) + b"/pictures/\xff \xc3\xa9.png")
    lines, _ = run(capsys, "index", "pictures", "--model", "model")
    assert lines[-1] == "  again.png = set 1/03.png = \ufffd é.png"


def test_a_model_is_also_a_run_with_weights(place, capsys):
    tiny = [
        f"--set={setting}"
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
    recorded = Run.load("runs/tiny")
    recorded.config["data_fingerprint"] = "0" * 16
    recorded.save()
    _, notes = run(capsys, "index", "pictures", "--model", "runs/tiny", code=2)
    assert "was trained on other data than are here" in notes
    recorded.config["method"] = "simclr"
    recorded.save()
    _, notes = run(capsys, "index", "pictures", "--model", "runs/tiny", code=2)
    assert "the run runs/tiny trained simclr, which has no space for words" in notes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["index", "nowhere", "--model=model"], "no folder nowhere with pictures"),
        (["index", "model", "--model=model", "--to=new"], "no picture in"),
        (["index", "model", "--model=model"], "is the index of another folder"),
        (["index", "pictures", "--model=nowhere/at/all"], "is neither a folder on this machine"),
        (["index", "pictures", "--model=pictures"], "holds no model: there is no config.json"),
        (["search", "a crimson seven"], "never seen: 'crimson'"),
        (["search", " "], "is empty"),
        (["search", "seven", "-k=0"], "k is 0"),
        (["search", "seven", "--index=new"], "no index in new: `cmssf index` makes one"),
        (["search", "seven", "--model=other"], "made by another model"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_the_index(command, message, place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    save_model(place / "other", seed=1)
    before = (place / "runs" / "index" / "index.safetensors").read_bytes()
    _, notes = run(capsys, *command, code=2)
    assert notes.startswith("cmssf: ")
    assert message in notes
    assert notes.count("\n") == 1
    assert (place / "runs" / "index" / "index.safetensors").read_bytes() == before
    assert not (place / "new").exists()


def test_an_index_that_names_no_model_asks_for_one(place, capsys):
    run(capsys, "index", "pictures", "--model", "model")
    index = Index.load("runs/index")
    Index(index.vectors, index.pictures, index.folder, index.model).save("runs/index")
    _, notes = run(capsys, "search", "seven", code=2)
    assert notes == "cmssf: runs/index does not say where its model is: name it with --model\n"
    assert len(run(capsys, "search", "seven", "--model", "model")[0]) == 10

"""Captions of a reader's own: read from a table, with the line in every complaint."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from settings import DataConfig

from cmssf_lib.captions import read_captions
from cmssf_lib.data import image_folder, load

PICTURES = tuple(
    f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "ox") for i in (0, 1)
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes with two training and two test pictures each."""
    for i, name in enumerate(PICTURES):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    return tmp_path / "pictures"


def csv_of(captions: dict[str, str]) -> str:
    return "\n".join(["file_name,text", *(f'{name},"{text}"' for name, text in captions.items())])


def jsonl_of(captions: dict[str, str]) -> str:
    rows = ({"file_name": name, "text": text, "more": 1} for name, text in captions.items())
    return "\n".join(json.dumps(row) for row in rows)


SAID = {name: f"Nº {i}, seen by me" for i, name in enumerate(PICTURES)}


@pytest.mark.parametrize(("ending", "written"), [("csv", csv_of), ("jsonl", jsonl_of)])
def test_each_picture_gets_its_own_caption(folder, ending, written):
    (folder / f"captions.{ending}").write_text(written(SAID), encoding="utf-8")
    for given in (f"captions.{ending}", folder / f"captions.{ending}"):
        train, test = image_folder(folder, captions=given)
        said = [f"Nº {i}, seen by me" for i in range(8)]
        assert [*train.captions, *test.captions] == said
        assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        assert train.labels.tolist() == [0, 0, 1, 1]


def test_columns_may_stand_in_any_order_beside_others_and_begin_with_excels_mark(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("\ufefftext,who,file_name\n a dog ,me,a.png\n\nan ox,you,b.png\n", "utf-8")
    assert read_captions(table, ["a.png", "b.png"]) == {"a.png": "a dog", "b.png": "an ox"}


@pytest.mark.parametrize(
    ("ending", "content", "complaint"),
    [
        ("csv", "", "line 1: no column file_name and no text: the first line must name"),
        ("csv", "file,text\na.png,x", "line 1: no column file_name:"),
        ("csv", "file_name,text\na.png,x\nb.png,one, two", "line 3: expected 2 columns as in line"),
        (
            "csv",
            "file_name,text\na.png,x\nb.png,",
            "line 3: 'text' must be a non-empty text; got {'",
        ),
        ("csv", "file_name,text\n ,x", "line 2: 'file_name' must be a non-empty text; got"),
        (
            "csv",
            "file_name,text\na.png,x\n\na.png,y",
            "line 4: a.png already has a caption",
        ),
        ("csv", 'file_name,text\na.png,"x', "line 2: unexpected end of data"),
        ("csv", "file_name,text\n", "no caption for a.png (2 of 2 missing)"),
        ("jsonl", "", "no caption for a.png (2 of 2 missing)"),
        ("jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name"', "line 2: "),
        ("jsonl", "[1, 2]", "line 1: expected a JSON object"),
        ("jsonl", '\n{"file_name": "a.png"}', "line 2: 'text' must be a non-empty text; got {'"),
        ("jsonl", '{"file_name": "a.png", "text": 3}', "line 1: 'text' must be a non-empty text"),
        ("jsonl", '{"file_name": "a.png", "text": "  "}', "line 1: 'text' must be a non-empty"),
    ],
)
def test_a_line_that_cannot_be_is_named(tmp_path, ending, content, complaint):
    table = tmp_path / f"table.{ending}"
    table.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=re.escape(complaint)) as raised:
        read_captions(table, ["a.png", "b.png"])
    assert str(table) in str(raised.value)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    table = tmp_path / "table.csv"
    table.write_bytes("file_name,text\na.png,Nº 1".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_captions(table, ["a.png", "b.png"])


def test_other_files_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv or \.jsonl"):
        read_captions(tmp_path / "table.xlsx", ["a.png"])
    with pytest.raises(FileNotFoundError, match=r"table\.csv does not exist"):
        read_captions(tmp_path / "table.csv", ["a.png"])


def test_a_caption_without_a_picture_is_refused_with_its_line(folder):
    (folder / "c.csv").write_text(csv_of(SAID | {"train/cat/9.png": "who?"}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"line 10: no picture train/cat/9\.png; .* as train/cat/0"
    ):
        image_folder(folder, captions="c.csv")


def test_a_picture_without_a_caption_is_refused_before_any_is_read(folder):
    (folder / "c.csv").write_text(csv_of(dict(list(SAID.items())[:6])), encoding="utf-8")
    (folder / PICTURES[0]).write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"no caption for test/ox/0\.png \(2 of 8 missing"):
        image_folder(folder, captions="c.csv")


def test_a_preset_names_the_table(folder):
    (folder / "c.jsonl").write_text(jsonl_of(SAID), encoding="utf-8")
    config = DataConfig(name="image_folder", path=str(folder), image_size=4, captions="c.jsonl")
    assert load(config).train.captions == tuple(SAID[name] for name in PICTURES[:4])
    with pytest.raises(ValueError, match="a captions table needs name='image_folder'"):
        load(DataConfig(captions="c"))

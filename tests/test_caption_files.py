"""Captions of a reader's own: read from a table, with the line in every complaint."""

import csv
import io
import json
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
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
    for place in (f"captions.{ending}", folder / f"captions.{ending}"):
        train, test = image_folder(folder, captions=place)
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
        ("csv", "file_name,text\na.png,x\n\nc.png,y", "line 4: no picture 'c.png'; expected a"),
        (
            "csv",
            "text,file_name,text\nx,a.png,y",
            "line 1: several columns are named 'text'",
        ),
        ("csv", "file_name,text,file_name\na.png,y,", "line 1: several columns are named 'file_"),
        ("csv", "file_name;text\na.png;y", "line 1: no column file_name and no text"),
        ("csv", 'file_name,text\na.png,"a "red" dog"', "line 2: ',' expected after '\"'"),
        ("csv", 'file_name,text\na.png,"x', "line 2: unexpected end of data"),
        ("csv", "file_name,text\n", "no caption for 'a.png' (2 of 2 missing)"),
        ("jsonl", "", "no caption for 'a.png' (2 of 2 missing)"),
        ("jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name"', "line 2: "),
        ("jsonl", "[1, 2]", "line 1: expected a JSON object"),
        ("jsonl", '\n{"file_name": "a.png"}', "line 2: 'text' must be a non-empty text; got {'"),
        ("jsonl", '{"file_name": "a.png", "text": 3}', "line 1: 'text' must be a non-empty text"),
        ("jsonl", '{"file_name": "a.png", "text": "  "}', "line 1: 'text' must be a non-empty"),
        ("jsonl", '{"file_name": "a.png", "text": []}', "line 1: 'text' must be a non-empty"),
        ("jsonl", '{"file_name": "a.png", "text": NaN}', "line 1: 'text' must be a non-empty"),
        ("jsonl", '{"file_name": "a.png", "text": ["x", null]}', "line 1: 'text' must be a non-"),
        ("jsonl", '{"file_name": "a.png", "text": [["x"]]}', "line 1: 'text' must be a non-empty"),
        ("jsonl", '{"file_name": "a", "text": "x", "text": "y"}', "line 1: several columns are"),
        ("jsonl", '{"file_name": "a.png", "text": "\\ud800"}', "line 1: 'utf-8' codec can't"),
        ("jsonl", '{"file_name": "a\\nb", "text": "x"}', "line 1: no picture 'a\\nb'; expected"),
        ("jsonl", "[" * 100_000, "line 1: maximum recursion depth exceeded"),
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
        ValueError, match=r"line 10: no picture 'train/cat/9\.png'; .* as 'train/cat/0"
    ):
        image_folder(folder, captions="c.csv")


def test_a_picture_without_a_caption_is_refused_before_any_is_read(folder):
    (folder / "c.csv").write_text(csv_of(dict(list(SAID.items())[:6])), encoding="utf-8")
    (folder / PICTURES[0]).write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"no caption for 'test/ox/0\.png' \(2 of 8 missing"):
        image_folder(folder, captions="c.csv")


# --- several captions a picture ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("csv", "file_name,text\na.png,one\nb.png,x\na.png,two\na.png, one\na.png,three\n"),
        (
            "jsonl",
            '{"file_name": "a.png", "text": ["one", "two "]}\n{"text": "x", "file_name": "b.png"}'
            '\n{"file_name": "a.png", "text": ["two", "three"]}',
        ),
    ],
)
def test_several_rows_or_a_list_are_several_captions(tmp_path, ending, content):
    """In the order of the table; one that is repeated counts once."""
    (table := tmp_path / f"table.{ending}").write_text(content, "utf-8")
    said = read_captions(table, ["a.png", "b.png"])
    assert said == {"a.png": ("one", "two", "three"), "b.png": "x"}


def test_a_folder_has_several_captions_a_picture(folder):
    rows = [f'{name},"{text}"' for name, text in SAID.items()]
    rows += [f"{name},once more" for name in PICTURES[::2]]
    (folder / "c.csv").write_text("\n".join(["file_name,text", *rows]), encoding="utf-8")
    train, test = image_folder(folder, captions="c.csv")
    sets = [*train.caption_sets, *test.caption_sets]
    assert sets == [
        (SAID[name], "once more") if i % 2 == 0 else (SAID[name],)
        for i, name in enumerate(PICTURES)
    ]
    (folder / "d.csv").write_text(csv_of(SAID), encoding="utf-8")
    single = image_folder(folder, captions="d.csv").train
    assert single.captions == tuple(SAID[name] for name in PICTURES[:4])
    assert single.fingerprint != train.fingerprint


# --- how a table may write a picture's name ---------------------------------------------------

PHOTOS = ("train/cat/é 1.png", "train/ox/2.png", "test/cat/3.png", "test/ox/2.png")


@pytest.mark.parametrize(
    "written",
    [
        "train/cat/é 1.png",
        "./train/cat/é 1.png",
        "train//cat/é 1.png",
        "train\\cat\\é 1.png",
        "/home/you/photos/train/cat/é 1.png",
        "C:\\photos\\train\\cat\\é 1.png",
        "photos/train/cat/é 1.png",
        "../train/cat/é 1.png",
        "cat/é 1.png",
        "é 1.png",
        "train/cat/e\u0301 1.png",  # as macOS writes it
    ],
)
def test_a_name_that_can_mean_one_picture_only_is_taken(tmp_path, written):
    rows = [json.dumps({"file_name": name, "text": name}) for name in (written, *PHOTOS[1:])]
    (table := tmp_path / "t.jsonl").write_text("\n".join(rows), "utf-8")
    assert read_captions(table, PHOTOS) == {
        name: written if name == PHOTOS[0] else name for name in PHOTOS
    }


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ox/2.png", "line 3: 'ox/2.png' may be 'train/ox/2.png' or 'test/ox/2.png': write the"),
        ("2.png", "line 3: '2.png' may be 'train/ox/2.png' or 'test/ox/2.png'"),
        ("val/cat/3.png", "line 3: no picture 'val/cat/3.png'; expected a path such as 'train/cat"),
        ("train/cat/3.png", "line 3: no picture 'train/cat/3.png'"),
        ("home/3.png", "line 3: no picture 'home/3.png'"),
        ("t/3.png", "line 3: no picture"),
        ("TEST/CAT/3.PNG", "line 3: no picture"),
        ("/", "line 3: no picture"),
        (".", "line 3: no picture"),
        ("cat", "line 3: no picture 'cat'"),
        ("a\x1b[31m.png", r"line 3: no picture 'a\x1b[31m.png'"),
    ],
)
def test_a_name_that_means_no_picture_or_several_is_refused(tmp_path, written, said):
    rows = [["file_name", "text"], ["train/cat/é 1.png", "x"], [written, "y"]]
    with (table := tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read_captions(table, PHOTOS)
    assert "\x1b" not in str(raised.value)


def test_names_with_backslashes_of_their_own_are_found(tmp_path):
    (table := tmp_path / "t.csv").write_text("file_name,text\na\\b.png,x\na/b.png,y", "utf-8")
    assert read_captions(table, ["a\\b.png", "a/b.png"]) == {"a\\b.png": "x", "a/b.png": "y"}


# --- any table gives captions or one sentence -------------------------------------------------

ENCODINGS = (*["utf-8"] * 8, "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")
CELLS = (
    *("a.png", "b/a.png", "a red dog", "two, with a comma", 'a "quoted" one', "", " ", "\x00"),
    *("Nº 1", "日本語", "שלום", "🙂", "line\nbreak", "cr\rhere", "\u2028", "\ufeff", "null", "\\"),
    *("text", "file_name", "NaN", "1", "[]", '["x", "y"]', "\x1b[31m", "/", ".."),
)
LINE_ENDS = (*["\n"] * 8, "\r\n", "\r\n", "\r", "\n\n", "\u2028", "")


def any_table(random: Random) -> tuple[str, bytes]:
    """A table as people, programs or broken disks may write it; ending and content."""
    ending, kind = random.choice(("csv", "jsonl")), random.random()
    if kind < 0.15:
        return ending, random.randbytes(random.randrange(80))
    texts = [random.choice(CELLS[2:15]) or "x" for _ in range(random.choice((1, 2, 2, 3, 5)))]
    names = [*CELLS[: random.choice((1, 2, 2, 2, 2))], *random.choices(CELLS[:2], k=4)]
    rows = [[name, text] for name, text in zip(names, texts, strict=False)]
    for row in rows:
        if random.random() < 0.1:
            row[random.randrange(2)] = random.choice(CELLS)
        if random.random() < 0.05:
            row.insert(random.randrange(3), random.choice(CELLS))
        if random.random() < 0.01:
            row[random.randrange(2)] = "x" * 140_000  # longer than a cell may be
    header = random.choice([["file_name", "text"]] * 9 + [["text", "file_name"], ["text"] * 2, []])
    end = random.choice(LINE_ENDS)
    if ending == "csv":
        quoting = random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        lines, written = io.StringIO(newline=""), [header, *rows]
        csv.writer(lines, quoting=quoting, lineterminator=end).writerows(written)
        text = lines.getvalue()
    else:
        values = [*CELLS, None, 1, float("nan"), ["x", "y"], [], [1], {"a": {}}, True, 10**400]
        objects = [
            {"file_name": row[0], "text": random.choice((*row[-1:] * 5, random.choice(values)))}
            for row in rows
        ]
        text = end.join(json.dumps(one, ensure_ascii=random.random() < 0.5) for one in objects)
    broken = bytearray(text.encode(random.choice(ENCODINGS), "replace"))
    for _ in range(random.choice((0, 0, 0, 1, 3))):
        if broken:
            broken[random.randrange(min(300, len(broken)))] = random.randrange(256)
    return ending, bytes(broken[: random.choice((None, None, None, random.randrange(99)))])


def test_any_table_gives_captions_or_one_sentence(tmp_path):
    random, read, refused = Random(23), 0, set()
    pictures = ["a.png", "b/a.png"]
    for number in range(3_000):
        ending, content = any_table(random)
        (table := tmp_path / f"t.{ending}").write_bytes(content)
        try:
            captions = read_captions(table, pictures)
        except ValueError as error:
            said = str(error)
            assert said.startswith(str(table)), (number, said)
            assert said.isprintable(), (number, said)
            assert len(said) < 600
            refused.add(re.sub(r", line \d+", "", said.removeprefix(str(table)))[:20])
        else:
            read += 1
            assert set(captions) == set(pictures)
            for text in captions.values():
                for one in (text,) if isinstance(text, str) else text:
                    assert one == one.strip() != ""
                    one.encode()
    assert read > 200  # the tables are not all broken
    assert len(refused) > 8  # and not all in one way


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
        min_size=1,
        max_size=4,
    ),
    ending=st.sampled_from(["csv", "jsonl"]),
    mark=st.booleans(),
)
def test_what_is_written_is_read(tmp_path, texts, ending, mark):
    """By Python's own writers, in the form of spreadsheets, with Excel's mark or without."""
    written = [("a.png", text) for text in texts]
    with (table := tmp_path / f"t.{ending}").open(
        "w", encoding="utf-8-sig" if mark else "utf-8", newline=""
    ) as file:
        if ending == "csv":
            csv.writer(file).writerows([("file_name", "text"), *written])
        else:
            for name, text in written:
                file.write(json.dumps({"file_name": name, "text": text}) + "\r\n")
    expected = tuple(dict.fromkeys(text.strip() for text in texts))
    assert read_captions(table, ["a.png"]) == {
        "a.png": expected if len(expected) > 1 else expected[0]
    }


def test_a_preset_names_the_table(folder):
    (folder / "c.jsonl").write_text(jsonl_of(SAID), encoding="utf-8")
    config = DataConfig(name="image_folder", path=str(folder), image_size=4, captions="c.jsonl")
    assert load(config).train.captions == tuple(SAID[name] for name in PICTURES[:4])
    with pytest.raises(ValueError, match="a captions table needs a folder of pictures"):
        load(DataConfig(captions="c"))

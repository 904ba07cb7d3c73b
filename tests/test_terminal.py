"""What commands print: in any encoding, to closed pipes, with any names, after any error."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from test_doors import write_run
from test_share_index import new_model, write

from cmssf_lib import cli
from cmssf_lib.cli.terminal import printable
from cmssf_lib.presets import METHODS, PRESETS
from cmssf_lib.runs import Run
from cmssf_lib.share import save_pretrained

COMMAND = "import sys; from cmssf_lib.cli import main; sys.exit(main())"
ESCAPE = "\x1b[31m"
ODD = f"line\nbreak {ESCAPE} é\u202e"


def run(monkeypatch, stream, *words: str) -> tuple[int, str]:
    """Run a command that prints to this stream; return its exit code, and what it says beside."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", said := io.StringIO())
        return cli.main(words), said.getvalue()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Runs, pictures and a model with names that move the cursor."""
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "é日本", ODD):
        write_run(f"runs/{name}")
        write(tmp_path / "pictures" / f"{name}.png", len(name))
        write(tmp_path / "pictures" / f"{name} copy.png", len(name))
    save_pretrained(new_model(), "model")
    return tmp_path


# --- encodings and pipes ----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_command_prints_what_it_can_in_any_encoding(encoding, place, monkeypatch):
    for words, lines in (
        (["runs", "runs"], 4),
        (["index", "pictures", "--model=model"], 5),
        (["search", "seven"], 3),
        (["--help"], None),
        (["train", "cmssf", "--help"], None),
    ):
        stream = io.TextIOWrapper(written := io.BytesIO(), encoding)
        code, said = run(monkeypatch, stream, *words)
        assert code == 0, said
        assert said in ("", "cmssf: the index holds only 3 different pictures\n")
        out = written.getvalue()
        assert ESCAPE.encode() not in out
        if lines is not None:
            assert len(out.splitlines()) == lines
            assert rb"line\nbreak \x1b[31m" in out
            assert (rb"\xe9" in out) == (encoding == "ascii")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locale and no such pipes")
def test_a_posix_locale_and_a_closed_pipe_in_a_process_of_its_own(place):
    """So that its end is seen too, when the interpreter writes what is left."""
    command = [sys.executable, "-c", COMMAND, "runs", "runs"]
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, capture_output=True, env=os.environ | posix)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 4
    with closed_pipe() as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (cli.UNREAD, b"")


@contextmanager
def closed_pipe() -> Iterator[io.TextIOWrapper]:
    read, written = os.pipe()
    os.close(read)
    with open(written, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize(
    "words", [["runs", "runs"], ["--help"], ["train", "cmssf", "--help"], ["search", "seven"]]
)
def test_a_closed_pipe_is_quiet_and_the_work_goes_on(words, place, monkeypatch):
    if words[0] == "search":
        with closed_pipe() as pipe:
            index = "index", "pictures", "--model=model"
            assert run(monkeypatch, pipe, *index) == (cli.UNREAD, "")
        assert (place / "runs" / "index" / "index.parquet").is_file()
    with closed_pipe() as pipe:
        code, said = run(monkeypatch, pipe, *words)
    assert code == cli.UNREAD == 128 + signal.SIGPIPE
    assert said in ("", "cmssf: the index holds only 3 different pictures\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_under_the_output_is_said(place, monkeypatch):
    with open("/dev/full", "w") as full:
        code, said = run(monkeypatch, full, "runs", "runs")
    assert code == cli.FAULT
    assert said.startswith("cmssf: the output could not be written: ")
    assert said.count("\n") == 1


def test_no_streams_at_all_are_no_error(place, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["runs", "runs"]) == 0
    assert cli.main(["runs", "nowhere"]) == 2


# --- names ------------------------------------------------------------------------------------


@given(st.text() | st.text(st.characters(max_codepoint=200)) | st.binary().map(os.fsdecode))
def test_a_name_is_one_line_without_commands_for_the_terminal(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not set(re.findall(r"[\x00-\x1f\x7f-\x9f]", shown))
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_odd_names_are_escaped_wherever_they_are_printed(place, capsys, monkeypatch):
    """Files, runs, classes, metrics, captions, and what the errors say of them."""
    data = place / ODD
    for number in range(8):
        for split in ("train", "test"):
            write(data / split / (ODD, "cat")[number % 2] / f"{ODD}{number}.png", number)
    odd = Run(place / "runs" / "metric")
    odd.config = {"train": {"epochs": 1}, "data_fingerprint": "\x1b\n", "preset": "\x1b\n"}
    odd.results = {ODD: 0.5}
    odd.save()
    (data / "captions.csv").write_text(f'file_name,text\n"{ODD}",x\n')
    (data / "bad.png").write_text("junk")
    train = ["train", "supervised", "--preset=quick", "--data.name=image_folder"]
    folder = ["--data.image_size=12", "--vision.image_size=12", f"--data={data}"]
    outputs = []
    for words in (
        ["runs", "runs"],
        ["runs", ODD],
        ["evaluate", f"runs/{ODD}"],
        ["reproduce", ODD, "metric"],
        ["index", ODD, f"--model={ODD}"],
        ["index", str(data), "--model=model", "--to", f"{ODD}/to"],
        ["index", str(data), "--model=model", "--to", f"{ODD}/to", "--skip-unreadable"],
        ["search", ODD, f"--index={ODD}/to"],
        ["search", "seven", f"--index={ODD}/to"],
        [*train, *folder, "--data.captions=captions.csv"],
        [*train, *folder, "--train.batch_size=2", "--data.validation=2", f"--run={ODD}/run"],
    ):
        monkeypatch.setenv("CMSSF_RUNS", str(place / "runs"))
        code = cli.main(words)
        out, error = capsys.readouterr()
        assert ESCAPE not in out + error, words
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", out + error), (words, out + error)
        if code:
            assert error.count("\n") == 1, (words, error)
        outputs.append(out + error)
    assert sum(r"\x1b[31m" in output for output in outputs) >= 9


# --- a foreign file among the runs ------------------------------------------------------------

FOREIGN = [
    {}, [], None, 3, "x", {"train": 3}, {"train": {}}, {"train": {"epochs": 3}}, {"format": "x"},
    {"train": {}, "data_fingerprint": "x"}, {"train": {"epochs": [1]}, "data_fingerprint": None},
    {"train": {"epochs": {}}, "data_fingerprint": "x", "preset": [], "method": "cmssf"},
    {"train": {"epochs": 1}, "data_fingerprint": "x", "method": []},
]  # fmt: skip


@pytest.mark.parametrize("config", FOREIGN, ids=str)
def test_a_foreign_configuration_among_the_runs_is_named_and_the_others_listed(
    config, tmp_path, capsys
):
    write_run(tmp_path / "good")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config))
    assert cli.main(["runs", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert "good" in [line.split()[0] for line in out.splitlines()]
    shown = any(line.startswith("foreign") for line in out.splitlines())
    assert shown != ("cmssf: passed over: " in error and "foreign" in error)
    assert error.count("\n") == (not shown)


@pytest.mark.parametrize("name", ["results.json", "history.csv", "environment.json"])
def test_an_odd_record_is_named_and_the_others_listed(name, tmp_path, capsys):
    write_run(tmp_path / "good")
    for number, content in enumerate((b'{"knn": "x"}', b'{"knn": []}', b"x\n1\n", b"[]", b"\xff")):
        write_run(tmp_path / f"odd{number}")
        (tmp_path / f"odd{number}" / name).write_bytes(content)
    assert cli.main(["runs", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert "good" in out
    for number in range(5):
        assert (f"odd{number}" in out) != (f"odd{number}" in error)


# --- any error --------------------------------------------------------------------------------


def unlikely(*_: object, **__: object) -> None:
    raise LookupError("of a\nkind nobody\x1b foresaw")


def test_an_error_that_nobody_foresaw_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("cmssf_lib.cli.measure.all_runs", unlikely)
    monkeypatch.delenv("CMSSF_TRACEBACK", raising=False)
    assert cli.main(["runs", "."]) == cli.FAULT == 1
    assert capsys.readouterr().err == (
        r"cmssf: LookupError: of a\nkind nobody\x1b foresaw (CMSSF_TRACEBACK=1 shows where)" + "\n"
    )
    monkeypatch.setenv("CMSSF_TRACEBACK", "1")
    with pytest.raises(LookupError):
        cli.main(["runs", "."])


WORDS = [
    *cli.COMMANDS, *METHODS, *PRESETS, "", " ", "-", "--", "---", "-h", "--help", "-k", "-k=0", "~",
    "--preset", "--preset=quick", "--run", "--run=", "--run=/proc/x", "--seeds=0", "--seeds=-3",
    "--seeds=x", "--data", "--data=nowhere", "--to=", "--to=/proc/x", "--all", "--no-fine-tuning",
    "--model", "--model=model", "--model=runs/plain", "--index=nowhere", "--skip-unreadable",
    "--train.lr=0", "--train.lr=nan", "--train.seed=100000000000000000000", "--train.epochs=1e9",
    "--train.batch_size=-1", "--vision.std", "0", "0", "0", "--vision.mean=1", "--cmssf.loss=none",
    "--data.train=1000000000", "--data.train=9999999", "--data.image_size=4096", "--vision.depth=0",
    "--vision.image_size=17", "--vision.heads=7", "--vision.weights=~", "--text.kind=pretrained",
    "--vision.kind=timm", "--cmssf.views.area", "2", "1", "--judge.fractions", "5",
    "--judge.draws=0", "pictures", "runs", "runs/plain", "model", "seven", "a red seven", "nowhere",
    ".", "\x00", "\x1b[31m", "é", "日本", "\udcff", "\U0001f600", "x" * 5000, "{}", "[1]", "None",
]  # fmt: skip


def test_no_words_make_a_traceback(place, monkeypatch, capsys):
    """400 command lines, half of them beginning with a command; whatever passes is not trained."""
    monkeypatch.delenv("CMSSF_TRACEBACK", raising=False)
    monkeypatch.setenv("CMSSF_RUNS", str(place / "runs"))
    for name in ("fit", "load_trained"):
        monkeypatch.setattr(f"cmssf_lib.cli.training.{name}", unlikely)
    for name in ("build", "trained"):
        monkeypatch.setattr(f"cmssf_lib.cli.training.{name}", unlikely)
    draw = random.Random(0)
    codes = []
    for number in range(400):
        words = draw.choices(WORDS, k=draw.randrange(6))
        if number % 2:
            command = draw.choice(list(cli.COMMANDS))
            words = [command, *[draw.choice(list(METHODS))] * (command == "train"), *words]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes.append(cli.main(words))
        out, error = capsys.readouterr()
        assert "Traceback" not in out + error, words
        assert codes[-1] in (0, 1, 2), words
        if codes[-1] == 1:
            assert "of a\\nkind nobody" in error, (words, error)  # it would have been trained
        if codes[-1] and error.startswith("cmssf: "):
            assert error.count("\n") == 1, (words, error)
    assert {0, 1, 2} == set(codes)


def test_a_stream_without_an_encoding_is_written_too(place, monkeypatch):
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), "ascii")):
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["runs", "runs"]) == 0
        stream.seek(0)
        assert len(stream.read().splitlines()) == 4

"""Every door that takes a path or writes a file: home, modes, foreign files, faults."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from settings import DataConfig, SimCLRConfig, TextConfig, TrainConfig, VisionConfig
from test_cli import TINY
from test_share_index import new_model, write

from cmssf_lib import cli, files
from cmssf_lib.build import image_encoder
from cmssf_lib.data import cifar10, digit_scenes, image_folder, load
from cmssf_lib.data.picture_files import cache_folder
from cmssf_lib.encoders import ImageEncoder, TextEncoder
from cmssf_lib.methods import SimCLR
from cmssf_lib.runs import Run, all_runs
from cmssf_lib.share import Index, from_pretrained, index_folder, save_pretrained
from cmssf_lib.train import fit

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and /proc")


def tiny_fit(path: object) -> Run:
    vision = VisionConfig(image_size=12, width=16, depth=1, heads=2)
    method = SimCLR(ImageEncoder(vision), SimCLRConfig(hidden=8, dim=4))
    data = digit_scenes(train=16, test=2, image_size=12).train
    return fit(method, data, TrainConfig(epochs=1, batch_size=8), run=path, progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A home folder with a model, a run, pictures, a table of captions and an index."""
    home = tmp_path_factory.mktemp("home")
    model = new_model(words="a photo of boat cat red seven")
    save_pretrained(model, home / "model")
    lines = []
    for number in range(12):
        file = f"{('train', 'test')[number % 2]}/{('boat', 'cat')[number // 2 % 2]}/{number}.png"
        write(home / "data" / file, number, size=(12, 12))
        lines.append(json.dumps({"file_name": file, "text": f"a {number % 3} seven"}))
    (home / "table.jsonl").write_text("\n".join(lines))
    index_folder(model, home / "data", to=home / "index", model_name=str(home / "model"))
    tiny_fit(home / "runs" / "tiny")
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch) -> Path:
    """The same, as this user's home, while working elsewhere."""
    shutil.copytree(made, tmp_path / "home")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("CMSSF_DATA", "CMSSF_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CMSSF_CACHE", "~/cache")
    return tmp_path / "home"


# --- ~ ----------------------------------------------------------------------------------------

TRAIN = ["train", "simclr", "--preset=quick", "--train.epochs=1", "--judge.per_class=2"]
FOLDER = DataConfig(name="image_folder", path="~/data", captions="~/table.jsonl", image_size=12)


def command(*words: str) -> None:
    assert cli.main(words) == 0, words


def weights_of(place: str) -> object:
    vision = VisionConfig(image_size=12, width=16, depth=1, heads=2, weights=place)
    return image_encoder(vision)


def named(variable: str, value: str, call: Callable) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        call()


READING: dict[str, Callable[[], object]] = {
    "Run": lambda: Run("~/runs/tiny").weights(),
    "Run.load": lambda: Run.load("~/runs/tiny"),
    "all_runs": lambda: all_runs("~/runs")[0],
    "from_pretrained": lambda: from_pretrained("~/model"),
    "index_folder": lambda: index_folder(from_pretrained("~/model"), "~/data"),
    "Index.load": lambda: Index.load("~/index"),
    "image_folder": lambda: image_folder("~/data", captions="~/table.jsonl"),
    "load": lambda: load(FOLDER),
    "vision.weights of a run": lambda: weights_of("~/runs/tiny"),
    "vision.weights of a file": lambda: weights_of("~/runs/tiny/model.safetensors"),
    "CMSSF_DATA": lambda: named(
        "CMSSF_DATA", "~/data", lambda: load(DataConfig(name="image_folder", image_size=12))
    ),
    "CMSSF_RUNS": lambda: named("CMSSF_RUNS", "~/runs", lambda: command("runs")),
    "cmssf runs": lambda: command("runs", "~/runs"),
    "cmssf search": lambda: command("search", "seven", "--index=~/index", "--model=~/model"),
}
WRITING: dict[str, tuple[str, Callable[[], object]]] = {
    "Run.save": ("new/config.json", lambda: write_run("~/new")),
    "fit": ("new/model.safetensors", lambda: tiny_fit("~/new")),
    "save_pretrained": ("new/README.md", lambda: save_pretrained(new_model(), "~/new")),
    "Index.save": ("new/index.parquet", lambda: Index.load("~/index").save("~/new")),
    "index_folder": (
        "new/index.parquet",
        lambda: index_folder(from_pretrained("~/model"), "~/data", to="~/new"),
    ),
    "cmssf index": (
        "new/index.parquet",
        lambda: command("index", "~/data", "--model=~/model", "--to=~/new"),
    ),
    "cmssf train": ("new/results.json", lambda: command(*TRAIN, *SMALL, "--run=~/new")),
    "CMSSF_CACHE": ("new", lambda: named("CMSSF_CACHE", "~/new", lambda: load(FOLDER))),
}
SMALL = [setting for setting in TINY if "text" not in setting]


def write_run(path: object) -> None:
    run = Run(path)
    run.config = {"train": {"epochs": 1}, "data_fingerprint": "abc"}
    run.history, run.environment = [{"epoch": 1.0, "seconds": 2.0}], {"command": "x"}
    run.results, run.outputs = {"knn": 0.5}, {"labels": np.arange(3)}
    run.save()


@pytest.mark.parametrize("door", READING)
def test_the_home_folder_is_meant_wherever_something_is_read(door, home):
    READING[door]()


@pytest.mark.parametrize("door", WRITING)
def test_the_home_folder_is_meant_wherever_something_is_written(door, home):
    file, call = WRITING[door]
    call()
    assert (home / file).exists()
    assert not list(home.parent.rglob("~"))


def test_a_pretrained_text_encoder_may_lie_at_home(home):
    with pytest.raises(FileNotFoundError, match=str(home / "bert")):
        TextEncoder(TextConfig(kind="pretrained", name="~/bert"))


def test_reproduce_evaluate_and_cifar10_mean_the_home_folder_too(home, monkeypatch, capsys):
    command(*TRAIN, *SMALL, "--run=~/records/tiny")
    command("evaluate", "~/records/tiny")
    monkeypatch.setenv("CMSSF_RUNS", "~/records")
    command("reproduce", "tiny", "--to=~/again")
    assert (home / "again" / "tiny" / "results.json").is_file()
    with pytest.raises(ValueError, match="not 2 of"):  # it was found and is not CIFAR-10
        cifar10("~/data")
    assert cache_folder() == home / "cache"
    assert not list(home.parent.rglob("~"))


def test_a_home_that_is_not_known_and_no_path_at_all_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (Run, all_runs, Index.load, from_pretrained):
        with pytest.raises(FileNotFoundError, match="home folder that is not known here"):
            call("~nobody-of-this-name/x")
        with pytest.raises(ValueError, match="the path is empty"):
            call("")
    assert list(tmp_path.iterdir()) == []


# --- modes ------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_says(mask, mode, tmp_path, home):
    with umask(mask):
        for door, (_, call) in WRITING.items():
            if door != "fit":  # as train
                call()
                found = [p for p in (home / "new").rglob("*") if p.is_file()]
                found = [p for p in found if p.name != ".lock"]
                assert found, door
                assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {mode}, door
                shutil.rmtree(home / "new")


@contextmanager
def another_user(*paths: Path) -> Iterator[None]:
    """These files may not be read, either by their mode or because another user asks."""
    before = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_that_may_not_be_read_is_told_so(made):
    """safetensors says of it that there is none."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        here = Path(name, "home")
        shutil.copytree(made, here)
        here.chmod(0o755)
        for file, read in {
            "index/index.parquet": lambda path: Index.load(path.parent),
            "model/model.safetensors": lambda path: from_pretrained(path.parent),
            "model/config.json": lambda path: from_pretrained(path.parent),
            "runs/tiny/model.safetensors": lambda path: Run(path.parent).weights(),
            "runs/tiny/config.json": lambda path: Run.load(path.parent),
        }.items():
            with another_user(here / file), pytest.raises(PermissionError) as caught:
                read(here / file)
            assert "Permission denied" in str(caught.value)
            assert file in str(caught.value)
        weights = here / "runs" / "tiny" / "model.safetensors"
        with another_user(weights), pytest.raises(PermissionError, match="Permission denied"):
            weights_of(str(weights))


# --- places where nothing can be written ------------------------------------------------------


@LINUX
@pytest.mark.parametrize("place", ["/proc/new/index", "file.txt/new", "x" * 300, "dangling/new"])
def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(
    place, home, monkeypatch, capsys
):
    Path("file.txt").touch()
    Path("dangling").symlink_to("nowhere")
    for name in ("embed_images", "read_picture"):
        monkeypatch.setattr(f"cmssf_lib.share.folder.{name}", None)  # the work
    for name in ("load", "load_trained", "build"):
        monkeypatch.setattr(f"cmssf_lib.cli.training.{name}", None)
    for words in (
        ["index", "~/data", "--model=~/model", f"--to={place}"],
        [*TRAIN, f"--run={place}"],
    ):
        assert cli.main(words) == 2, words
        said = capsys.readouterr().err
        assert said.startswith(f"cmssf: nothing can be written in {place} ("), said
        assert said.count("\n") == 1
    for call in (
        lambda: index_folder(new_model(), "~/data", to=place),
        lambda: tiny_fit(place),
        lambda: save_pretrained(new_model(), place),
    ):
        with pytest.raises(OSError, match="nothing can be written in"):
            call()


@LINUX
def test_what_cannot_be_reproduced_anywhere_is_refused_before_the_work(home, monkeypatch, capsys):
    command(*TRAIN, *SMALL, "--run=~/records/tiny")
    monkeypatch.setenv("CMSSF_RUNS", "~/records")
    monkeypatch.setattr("cmssf_lib.cli.training.load", None)
    assert cli.main(["reproduce", "tiny", "--to=/proc/new"]) == 2
    assert "nothing can be written in /proc/new/tiny (" in capsys.readouterr().err


# --- nothing is destroyed ---------------------------------------------------------------------


def everything_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


FOREIGN = [
    "config.json", "README.md", "model.safetensors", "text/mine.txt", "text/deep/tokenizer.json",
    "text", ".new/config.json", "results.json", "history.csv", "outputs.npz", "environment.json",
    "checkpoint.safetensors",
]  # fmt: skip


def save_new(folder: Path) -> None:
    save_pretrained(new_model(), folder)


@pytest.mark.parametrize("file", FOREIGN)
@pytest.mark.parametrize("save", [save_new, write_run, tiny_fit])
def test_nothing_is_replaced_or_deleted_that_was_not_written_there(file, save, tmp_path):
    """A model and a run each refuse the names that they would write, and leave all others."""
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"train": "mine"}')
    before, models = everything_in(tmp_path), file in FOREIGN[:7]
    runs = file in ("config.json", "model.safetensors", *FOREIGN[7:])
    if models if save is save_new else runs:
        with pytest.raises((ValueError, OSError), match=rf"holds {path.name}|holds text|no run at"):
            save(tmp_path)
        assert everything_in(tmp_path) == before
    else:
        save(tmp_path)
        assert before.items() <= everything_in(tmp_path).items()


def test_a_model_and_a_run_leave_each_other_alone(home):
    for folder, saves in (("runs/tiny", [save_new]), ("model", [write_run, tiny_fit])):
        before = everything_in(home / folder)
        for save in saves:
            with pytest.raises(ValueError, match="choose another folder"):
                save(home / folder)
        assert everything_in(home / folder) == before


def test_a_file_of_ones_own_beside_a_models_text_is_kept(home, tmp_path):
    (home / "model" / "text").mkdir()
    (home / "model" / "text" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds text/mine\.txt, not written by save_pretrained"):
        save_pretrained(new_model(), home / "model")
    assert (home / "model" / "text" / "mine.txt").read_text() == "mine"


def test_results_are_there_only_with_what_they_were_computed_from(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_arrays", full)
    with pytest.raises(OSError, match="No space left"):
        write_run(tmp_path)
    assert not (tmp_path / "results.json").exists()


# --- a fault at each byte ---------------------------------------------------------------------

AT_EACH_BYTE = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {tests!r})
from cmssf_lib import files
from cmssf_lib.runs import Run
from test_share_index import new_model, write
from cmssf_lib.share import Index, fingerprint, from_pretrained, index_folder, save_pretrained

root, last = Path({root!r}), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files.os.fsync = lambda number: None  # it takes most of the time and no part in this

def limited(size, call):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, last))
    try:
        call()
        return True
    except OSError as error:
        assert "untouched" in str(error), error
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (last, last))

writers = {{
    "a.json": lambda path, n: files.write_json(path, {{"x": [n] * 20}}),
    "a.csv": lambda path, n: files.write_table(path, [{{"x": n + row}} for row in range(30)]),
    "a.npz": lambda path, n: files.write_arrays(path, {{"x": np.full(9, n)}}),
    "a.safetensors": lambda path, n: files.write_tensors(
        path, {{"x": torch.full((9,), n)}}, {{"format": "x"}}),
}}
tried = 0
for name, write_file in writers.items():
    path = root / name
    write_file(path, 8)
    new = path.read_bytes()
    write_file(path, 7)
    old = path.read_bytes()
    for size in range(len(new) + 1):
        done = limited(size, lambda: write_file(path, 8))
        assert path.read_bytes() == (new if done else old), (name, size)
        assert done == (size >= len(new)), (name, size)
        assert [p.name for p in root.iterdir() if "a." in p.name or "tmp" in p.name] == [name]
        write_file(path, 7)
        tried += 1
    path.unlink()

model, other = new_model(0), new_model(1)
for number in range(3):
    write(root / "pictures" / f"{{number}}.png", number)
index = index_folder(model, root / "pictures", to=root / "index")
write(root / "pictures" / "3.png", 3)
more = index_folder(model, root / "pictures", old=index)
whole = (root / "index" / "index.parquet").stat().st_size + 400
for size in range(0, whole, 40):
    done = limited(size, lambda: more.save(root / "index"))
    assert len(Index.load(root / "index")) == (4 if done else 3)
    index.save(root / "index")
    tried += 1
save_pretrained(model, root / "model")
size = max(p.stat().st_size for p in (root / "model").iterdir())
for limit in sorted({{*np.random.default_rng(0).integers(0, size + 2, 25).tolist(), size, 0}}):
    before = sorted(p.name for p in (root / "model").iterdir())
    done = limited(limit, lambda: save_pretrained(other, root / "model"))
    assert fingerprint(from_pretrained(root / "model")) == fingerprint(other if done else model)
    assert sorted(p.name for p in (root / "model").iterdir()) == before
    save_pretrained(model, root / "model")
    tried += 1
print(json.dumps(tried))
"""


@LINUX
def test_a_write_that_fails_at_any_byte_leaves_the_old_content(tmp_path):
    """The system itself refuses to write more than so many bytes."""
    code = AT_EACH_BYTE.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    hidden = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=hidden, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.splitlines()[-1]) > 600


def test_a_command_with_bytes_that_are_no_text_can_be_recorded(tmp_path):
    files.write_json(tmp_path / "a.json", {"command": "train \udcff"})
    assert files.read_json(tmp_path / "a.json") == {"command": "train \udcff"}


def test_any_bytes_in_a_file_are_damage_and_not_a_traceback(tmp_path):
    """500 files of each kind that a run holds, cut, changed or of random bytes."""
    write_run(tmp_path / "whole")
    random = np.random.default_rng(0)
    readers = {
        "config.json": files.read_json, "history.csv": files.read_table,
        "outputs.npz": files.read_arrays,
    }  # fmt: skip
    for name, read in readers.items():
        whole = (tmp_path / "whole" / name).read_bytes()
        path = tmp_path / name
        for number in range(500):
            spoiled = bytearray(whole if number % 4 else random.bytes(80))
            for place in random.integers(0, len(spoiled), number % 5):
                spoiled[place] = random.integers(256)
            path.write_bytes(spoiled[: random.integers(len(spoiled)) if number % 3 else None])
            try:
                read(path)
            except ValueError as error:
                assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017


def test_weights_of_another_file_are_read_through_the_same_door(made, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="is damaged"):
        weights_of(str(path))

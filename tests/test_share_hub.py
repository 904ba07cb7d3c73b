"""A model in a folder: the same vectors without the data, a true card, whole or not at all."""

import ast
import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from settings import CMSSFConfig, TextConfig, VisionConfig, new_cmssf
from transformers import BertConfig, BertModel

from cmssf_lib.encoders import word_tokenizer
from cmssf_lib.methods import CMSSF
from cmssf_lib.runs import Run
from cmssf_lib.share import fingerprint, from_pretrained, push_to_hub, save_pretrained
from cmssf_lib.views import ViewsConfig

CAPTIONS = ("a photo of a red seven", "a photo of an ox, sleeping", "two  Words")
VISION = VisionConfig(image_size=16, width=32, depth=1, heads=2, mean=(0.1, 0.2, 0.3))
TEXT = TextConfig(width=24, depth=1, heads=2, max_length=16)
CONFIG = CMSSFConfig(dim=12, hidden=20, loss="excess", views=ViewsConfig(area=(0.5, 1.0), flip=0.5))


@pytest.fixture
def model() -> CMSSF:
    torch.manual_seed(0)
    model = new_cmssf(VISION, TEXT, CONFIG, CAPTIONS)
    model.image_encoder(torch.rand(8, 3, 16, 16))  # moves the running means of the batch norms
    model.log_scale.data.fill_(1.5)
    return model.eval()


@pytest.fixture
def bert(tmp_path) -> CMSSF:
    """A model whose text encoder is a pretrained one."""
    folder = tmp_path / "bert"
    tokenizer = word_tokenizer(CAPTIONS, max_length=12)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=12,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return new_cmssf(VISION, TextConfig(kind="pretrained", name=str(folder)), CONFIG).eval()


@pytest.fixture
def run() -> Run:
    run = Run("book/runs/quick/cmssf-s0")
    run.config = {
        "data": {"name": "digit_scenes"},
        "data_fingerprint": "abc123",
        "train": {"epochs": 22},
    }
    run.environment = {"processor": "A Processor", "commit": "1234567"}
    run.results = {"zero_shot": 0.98765, "knn": 0.5}
    return run


def vectors(model: CMSSF, captions=CAPTIONS) -> tuple:
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(captions), model.logit_scale


def assert_the_same(first: CMSSF, second: CMSSF) -> None:
    for a, b in zip(vectors(first), vectors(second), strict=True):
        assert torch.equal(a, b)


def test_a_saved_model_needs_no_data(model, tmp_path):
    save_pretrained(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert_the_same(model, again)
    assert not again.training
    assert (again.config, again.image_encoder.config) == (CONFIG, VISION)
    assert again.text_encoder.config == TEXT
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip


def test_a_model_that_was_read_can_be_saved_again(model, tmp_path):
    save_pretrained(model, tmp_path / "a")
    save_pretrained(from_pretrained(tmp_path / "a"), tmp_path / "b")
    assert_the_same(model, from_pretrained(tmp_path / "b"))
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_pretrained_text_encoder_travels_with_the_model(bert, tmp_path):
    save_pretrained(bert, tmp_path / "model")
    shutil.rmtree(tmp_path / "bert")
    again = from_pretrained(tmp_path / "model")
    assert_the_same(bert, again)
    with pytest.raises(ValueError, match="at most 12"):
        again.encode_text(["a " * 20])


def test_weights_that_came_from_a_file_are_in_the_folder(model, tmp_path):
    """The file that they began as may be gone, or be another."""
    model.image_encoder.config = VisionConfig(
        **(vars(VISION) | {"weights": "/nowhere.safetensors"})
    )
    save_pretrained(model, tmp_path)
    assert_the_same(model, from_pretrained(tmp_path))


# --- the model card ---------------------------------------------------------------------------


def test_the_card_tells_what_the_run_recorded(model, run, tmp_path):
    save_pretrained(model, tmp_path, run=run)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n")
    for fact in (
        "library_name: cmssf", "22 epochs on digit_scenes (fingerprint", "`abc123`", "A Processor",
        "commit `1234567`", f"`{run.command}`", "| zero_shot | 0.9877 |", "| knn | 0.5 |",
        f"knows {len(model.text_encoder.words)} words",
    ):  # fmt: skip
        assert fact in card, fact


def test_a_card_without_a_run_says_so_and_an_old_one_does_not_stay(model, run, tmp_path):
    save_pretrained(model, tmp_path, run=run)
    save_pretrained(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "written without a run" in card
    assert "22 epochs" not in card


def test_what_is_pushed_is_what_is_saved(model, run, tmp_path, monkeypatch):
    pushed = {}

    class Url:
        repo_id = "me/model"

    def upload(self, *, repo_id, folder_path, **_):
        pushed[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return "https://somewhere"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: Url())
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert push_to_hub(model, "me/model", run=run) == "https://somewhere"
    save_pretrained(model, tmp_path, run=run)
    assert pushed["me/model"] == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert b"22 epochs" in pushed["me/model"]["README.md"]


# --- a folder is written whole or not at all --------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: no handler is meant to catch it."""


class Kill:
    """Stops whatever changes files from the n-th change on, so that no clean-up happens either."""

    EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")

    def __init__(self) -> None:
        self.left: int | None = None  # changes that are still let through; None: all
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if self.left is None or event not in self.EVENTS:
            return
        if event == "open" and not set(str(arguments[1])) & set("wax+"):
            return  # it is read
        if self.left == 0:
            raise Killed
        self.left -= 1

    def after(self, changes: int, call: Callable, *arguments) -> bool:
        """Call a function that is killed after some changes; return whether it was."""
        self.left = changes
        try:
            call(*arguments)
        except Killed:
            return True
        finally:
            self.left = None
        return False


@pytest.fixture(scope="module")
def kill() -> Kill:
    return Kill()  # once: an audit hook cannot be taken away


def is_old_or_new(folder: Path, old: CMSSF, new: CMSSF) -> str:
    """Read a model; its fingerprint covers weights, words and how pictures are prepared."""
    marks = {fingerprint(old): "old", fingerprint(new): "new"}
    return marks[fingerprint(from_pretrained(folder))]


@pytest.mark.parametrize("kinds", ["words words", "words bert", "bert words", "bert bert"])
def test_wherever_saving_is_killed_there_is_a_whole_model(kinds, model, bert, tmp_path, kill):
    """The old one or the new one, weights, words and text encoder of the same; then it goes on."""
    first, second = kinds.split()
    old = {"words": model, "bert": bert}[first]
    # As many words, so that a mixture could not be told by the shapes.
    others = [text.replace("red", "black").replace("ox", "dog") for text in CAPTIONS]
    new = new_cmssf(VISION, TEXT, CONFIG, others).eval()
    if second == "bert":
        new = copy.deepcopy(bert)
        new.text_encoder.tokenizer = word_tokenizer(others, max_length=12)
        new.log_scale.data.fill_(2.0)
    save_pretrained(old, tmp_path / "old")
    save_pretrained(new, tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    read, killed = [], True
    while killed:
        folder = tmp_path / f"killed {len(read)}"
        shutil.copytree(tmp_path / "old", folder)
        killed = kill.after(len(read), save_pretrained, new, folder)
        read.append(is_old_or_new(folder, old, new))
        save_pretrained(new, folder)
        assert is_old_or_new(folder, old, new) == "new"
        left = {path.name for path in folder.iterdir() if not path.name.startswith(".new-")}
        assert left == names
        shutil.rmtree(folder)
    assert read == sorted(read, reverse=True), "once it is the new one, it stays the new one"
    assert read.count("old") > 3
    assert read.count("new") > 3


def test_a_full_disk_leaves_the_old_model_as_it_was(model, run, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path, run=run)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_, path, __):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmssf_lib.files.save_file", full)
    with pytest.raises(OSError, match="the disk is full"):
        save_pretrained(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", ['{"train": {"epochs": 3}}', "[]", '{"format": "other"}', "{"])
def test_a_folder_that_holds_something_else_is_left_alone(content, model, tmp_path):
    """A run's folder has a config.json and a model.safetensors too."""
    for name in ("config.json", "model.safetensors", "history.csv"):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"holds config\.json, model\.safetensors, not written"):
        save_pretrained(model, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == [content] * 3


def test_other_files_in_the_folder_stay(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    save_pretrained(model, tmp_path)
    save_pretrained(model, tmp_path)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_the_home_folder_is_meant_at_every_door(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_pretrained(model, "~/model")
    assert (tmp_path / "model" / "config.json").is_file()
    assert_the_same(model, from_pretrained("~/model"))


# --- what cannot be ---------------------------------------------------------------------------


def test_a_model_that_is_nowhere_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        from_pretrained("nobody/no-such-model", local_files_only=True)
    message = str(caught.value)
    assert message.startswith(
        "the model 'nobody/no-such-model' is neither a folder on this machine"
    )
    assert "\n" not in message


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no complete model: config\.json is missing"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"format": "another"}', "a CMSSF model: expected the format 'cmssf-model-1'"),
        ('{"hidden_size": 3}', "does not describe a CMSSF"),
    ],
)
def test_another_models_configuration_is_refused(tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "complaint"),
    [
        ("vision", "wings", r"wings: Unexpected"),  # of a later version
        ("cmssf", "dim", r"size mismatch"),  # the weights are others
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(model, tmp_path, section, field, complaint):
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[section][field] = 13
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError), match=complaint):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "text"])
def test_a_folder_without_one_of_its_parts_is_refused(name, bert, tmp_path):
    save_pretrained(bert, tmp_path / "model")
    part = tmp_path / "model" / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=f"{name} is missing"):
        from_pretrained(tmp_path / "model")


def damaged(content: dict, junk: object) -> Iterator[dict]:
    """Everything that comes of a dictionary if one value in it is another, or ("gone") no more."""
    for key, value in content.items():
        rest = {k: v for k, v in content.items() if k != key}
        yield rest if junk == "gone" else {**content, key: junk}
        if isinstance(value, dict):
            yield from ({**content, key: inner} for inner in damaged(value, junk))


def refusal(folder: Path) -> str | None:
    try:
        from_pretrained(folder)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("junk", ["gone", None, "x", -1, [[1]], {"x": 1}])
def test_a_damaged_configuration_is_one_sentence(junk, model, tmp_path):
    """Or a model that works all the same: many a field has a default, or takes another value."""
    save_pretrained(model, tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for content in damaged(whole, junk):
        (tmp_path / "config.json").write_text(json.dumps(content))
        said = refusal(tmp_path)
        if said is None:
            assert content.keys() | {"files"} == whole.keys()  # only a save needs those
            assert junk not in (content["format"], content["vision"], content["text"])
        else:
            assert str(tmp_path) in said, content  # so that it can be found
            assert "\n" not in said, content


def test_damaged_weights_are_refused(model, tmp_path):
    save_pretrained(model, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        from_pretrained(tmp_path)


# --- who knows of it --------------------------------------------------------------------------


def test_only_the_command_line_knows_of_this_room(repository):
    """And only this room knows of the hub: whoever reads a method meets neither."""
    library = repository / "cmssf_lib"
    for path in library.rglob("*.py"):
        room = path.relative_to(library).with_suffix("").parts[0]
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: only absolute imports are seen here"
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        if room not in ("share", "cli"):
            assert not any(f"{name}.".startswith("cmssf_lib.share.") for name in imported), path
        if room != "share":
            assert not any(name.split(".")[0] == "huggingface_hub" for name in imported), path

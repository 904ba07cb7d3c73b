"""A model in a folder: the same vectors without the data, a true card, faults named."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from cmssf_lib.captions import word_tokenizer
from cmssf_lib.cmssf import CMSSF
from cmssf_lib.presets import CMSSFConfig, TextConfig, ViewsConfig, VisionConfig
from cmssf_lib.runs import Run

CAPTIONS = ("a photo of a red seven", "a photo of an ox, sleeping", "two  Words")
VISION = VisionConfig(image_size=16, width=32, depth=1, heads=2, mean=(0.1, 0.2, 0.3))
TEXT = TextConfig(width=24, depth=1, heads=2, max_length=16)
CONFIG = CMSSFConfig(dim=12, hidden=20, loss="excess", views=ViewsConfig(area=(0.5, 1.0), flip=0.5))


@pytest.fixture
def model() -> CMSSF:
    torch.manual_seed(0)
    model = CMSSF(VISION, TEXT, CONFIG, CAPTIONS)
    model.image_encoder(torch.rand(8, 3, 16, 16))  # moves the running means of the batch norms
    model.log_scale.data.fill_(1.5)
    return model.eval()


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
    model.save_pretrained(tmp_path / "model")
    again = CMSSF.from_pretrained(tmp_path / "model")
    assert_the_same(model, again)
    assert not again.training
    assert (again.config, again.image_encoder.config) == (CONFIG, VISION)
    assert again.text_encoder.config == TEXT
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip


def test_a_model_that_was_read_can_be_saved_again(model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    CMSSF.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert_the_same(model, CMSSF.from_pretrained(tmp_path / "b"))
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_pretrained_text_encoder_travels_with_the_model(tmp_path):
    folder = tmp_path / "bert"
    tokenizer = word_tokenizer(CAPTIONS, max_length=12)
    bert = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=12,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    BertModel(bert).save_pretrained(folder)
    text = TextConfig(kind="pretrained", name=str(folder))
    model = CMSSF(VISION, text, CONFIG).eval()
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(folder)
    again = CMSSF.from_pretrained(tmp_path / "model")
    assert_the_same(model, again)
    with pytest.raises(ValueError, match="at most 12"):
        again.encode_text(["a " * 20])


def test_weights_that_came_from_a_file_are_in_the_folder(model, tmp_path):
    """The file that they began as may be gone, or be another."""
    model.image_encoder.config = VisionConfig(
        **(vars(VISION) | {"weights": "/nowhere.safetensors"})
    )
    model.save_pretrained(tmp_path)
    assert_the_same(model, CMSSF.from_pretrained(tmp_path))


# --- the model card ---------------------------------------------------------------------------


def test_the_card_tells_what_the_run_recorded(model, run, tmp_path):
    model.save_pretrained(tmp_path, run=run)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n")
    for fact in (
        "library_name: cmssf", "22 epochs on digit_scenes (fingerprint", "`abc123`", "A Processor",
        "commit `1234567`", f"`{run.command}`", "| zero_shot | 0.9877 |", "| knn | 0.5 |",
        f"knows {len(model.text_encoder.words)} words",
    ):  # fmt: skip
        assert fact in card, fact


def test_a_card_without_a_run_says_so_and_an_old_one_does_not_stay(model, run, tmp_path):
    model.save_pretrained(tmp_path, run=run)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "No run was given" in card
    assert "22 epochs" not in card


def test_what_is_pushed_is_what_is_saved(model, run, tmp_path, monkeypatch):
    pushed = {}

    class Url:
        repo_id = "me/model"

    def upload(self, *, repo_id, folder_path, **_):
        pushed[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return "https://somewhere"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.create_repo", lambda *_, **__: Url())
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.upload_folder", upload)
    assert model.push_to_hub("me/model", run=run) == "https://somewhere"
    model.save_pretrained(tmp_path, run=run)
    assert pushed["me/model"] == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    pushed.clear()
    model.save_pretrained(tmp_path / "other", run=run, push_to_hub=True, repo_id="me/model")
    assert b"22 epochs" in pushed["me/model"]["README.md"]


# --- what cannot be ---------------------------------------------------------------------------


def test_a_model_that_is_nowhere_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        CMSSF.from_pretrained("nobody/no-such-model", local_files_only=True)
    message = str(caught.value)
    assert message.startswith(
        "the model 'nobody/no-such-model' is neither a folder on this machine"
    )
    assert "\n" not in message


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model: there is no config\.json"):
        CMSSF.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"format": "another"}', "does not describe a CMSSF: expected the format 'cmssf-model-1'"),
        ('{"hidden_size": 3}', "does not describe a CMSSF"),
    ],
)
def test_another_models_configuration_is_refused(tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        CMSSF.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "complaint"),
    [
        ("vision", "wings", r"unknown field.*wings"),  # of a later version
        ("cmssf", "dim", r"size mismatch"),  # the weights are others
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(model, tmp_path, section, field, complaint):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[section][field] = 13
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError), match=complaint):
        CMSSF.from_pretrained(tmp_path)


def test_damaged_weights_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        CMSSF.from_pretrained(tmp_path)

"""Exported towers give what the model gives, in PyTorch's and in ONNX's runtime, at any size."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from settings import CMSSFConfig, TextConfig, VisionConfig, new_cmssf
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from cmssf_lib import cli, data, train
from cmssf_lib.build import build, preset_of
from cmssf_lib.captions import CIFAR10_CLUES, named_by_class
from cmssf_lib.encoders import word_tokenizer
from cmssf_lib.methods import CMSSF
from cmssf_lib.presets import preset
from cmssf_lib.runs import Run
from cmssf_lib.share import export_towers, from_pretrained, save_pretrained

QUICK = ["a photo of a small red seven on a blue background", "a photo of a large white one"]
SMALL = (
    VisionConfig(image_size=16, width=32, depth=1, heads=2),
    TextConfig(width=24, depth=1, heads=2, max_length=16),
    CMSSFConfig(dim=12, hidden=20),
)


@pytest.fixture(scope="module")
def quick() -> CMSSF:
    """The quick preset's model after a few steps."""
    chosen = preset("quick", "cmssf")
    chosen = replace(chosen, data=replace(chosen.data, train=360, test=60, validation=60))
    scenes = data.load(chosen.data).train
    model = build(chosen, "cmssf", scenes)
    train.fit(model, scenes, replace(chosen.train, epochs=2, batch_size=64), progress=False)
    return model


@pytest.fixture(scope="module")
def standard() -> CMSSF:
    """The standard preset's record; its words are those of CIFAR-10's captions."""
    run = Run.load("book/runs/standard/cmssf")
    chosen = preset_of(run.config)
    chosen = replace(chosen, vision=replace(chosen.vision, weights=""))
    classes = tuple(sorted({name for names in CIFAR10_CLUES.values() for name in names}))
    captions = named_by_class(torch.arange(10), classes)
    blank = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
    pictures = data.ImageTextData(blank, torch.arange(10), captions, classes)
    model = build(chosen, "cmssf", pictures)
    model.load_state_dict(run.weights())
    return model.eval()


@pytest.fixture
def small() -> CMSSF:
    return new_cmssf(*SMALL, ("a red seven", "a blue ox, sleeping")).eval()


def towers(folder: Path, facts: dict):
    """Both towers as functions of tensors, read without the library."""
    if (folder / "image.pt2").exists():
        return [torch.export.load(folder / f"{name}.pt2").module() for name in ("image", "text")]
    runtime = pytest.importorskip("onnxruntime")

    def read(name):
        session = runtime.InferenceSession(folder / f"{name}.onnx")
        names = [each.name for each in session.get_inputs()]

        def run(*inputs):
            given = dict(zip(names, (x.numpy() for x in inputs), strict=True))
            return torch.from_numpy(session.run(["vectors"], given)[0])

        return run

    return read("image"), read("text")


@torch.no_grad()
def assert_equal(model: CMSSF, folder: Path, captions, pixels: str) -> None:
    """To 1e-4, for one picture and several, one caption and several of different lengths."""
    facts = json.loads((folder / "export.json").read_text("utf-8"))
    image, text = towers(folder, facts)
    side = model.image_encoder.config.image_size
    assert (facts["size"], facts["pixels"], facts["dim"]) == (side, pixels, model.config.dim)
    assert facts["logit_scale"] == pytest.approx(float(model.logit_scale), rel=1e-6)
    pictures = torch.randint(256, (5, 3, side, side), generator=torch.Generator().manual_seed(0))
    pictures = pictures.to(torch.uint8)
    given = pictures if pixels == "uint8" else pictures.float() / 255
    for n in (1, 2, 5):
        found = image(given[:n])
        assert (found - model.encode_image(pictures[:n])).abs().max() < 1e-4
        assert (found.norm(dim=1) - 1).abs().max() < 1e-4
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=facts["pad_id"])
    for some in (captions[:1], captions, captions * 3):
        coded = tokenizer.encode_batch(list(some))
        ids, mask = (
            torch.tensor([getattr(c, of) for c in coded]) for of in ("ids", "attention_mask")
        )
        found = text(ids, mask)
        assert (found - model.encode_text(some)).abs().max() < 1e-4
        assert (found - model.encode_tokens(ids, mask)).abs().max() < 1e-4


@pytest.mark.parametrize(("form", "pixels"), [("torch", "float32"), ("onnx", "uint8")])
def test_the_towers_of_a_trained_quick_model(quick, form, pixels, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    export_towers(quick, tmp_path / "towers", format=form, pixels=pixels)
    assert_equal(quick, tmp_path / "towers", QUICK, pixels)


@pytest.mark.parametrize(("form", "pixels"), [("torch", "uint8"), ("onnx", "float32")])
def test_the_towers_of_the_standard_record(standard, form, pixels, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    export_towers(standard, tmp_path, format=form, pixels=pixels)  # an empty folder will do
    assert_equal(standard, tmp_path, ["a photo of a frog", "a photo of an automobile"], pixels)


@pytest.mark.parametrize(
    "vision",
    [{"kind": "plain"}, {"kind": "conv_stem_apart"}, {"halve": "pool", "norm": "group"}],
    ids=str,
)
def test_other_encoders(vision, tmp_path):
    torch.manual_seed(0)
    config = VisionConfig(**{"image_size": 16, "width": 32, "depth": 1, "heads": 2, **vision})
    model = new_cmssf(config, *SMALL[1:], ("a red seven", "an ox")).train()
    export_towers(model, tmp_path / "towers")
    assert model.training  # untouched
    assert_equal(model.eval(), tmp_path / "towers", ["a red seven", "an ox"], "uint8")


def test_a_published_text_encoder_in_half_precision(tmp_path):
    """It is stored in bfloat16, as many are; the model is float32, as its other parts."""
    words = ("a red seven", "an ox")
    tokenizer = word_tokenizer(words, max_length=12)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=12,
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "bert")
    BertModel(config).bfloat16().save_pretrained(tmp_path / "bert")
    text = TextConfig(kind="pretrained", name=str(tmp_path / "bert"))
    model = new_cmssf(SMALL[0], text, SMALL[2]).eval()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    export_towers(model, tmp_path / "towers")
    assert_equal(model, tmp_path / "towers", list(words), "uint8")


def test_half_and_double_are_exported_in_single_precision(small, tmp_path):
    for name in ("half", "double"):
        model = getattr(copy.deepcopy(small), name)()
        export_towers(model, tmp_path / name)
        assert next(model.parameters()).dtype != torch.float32  # untouched
        assert_equal(model.float(), tmp_path / name, ["a red seven", "a blue ox"], "uint8")


def test_readers_may_export_a_tower_themselves(small):
    """`as_float` looks at its pixels, which a graph cannot; it does so again afterwards."""
    pictures = torch.rand(2, 3, 16, 16)
    graph = torch.export.export(small.image_encoder, (pictures,)).module()
    with torch.no_grad():
        assert torch.equal(graph(pictures), small.image_encoder(pictures))
    with pytest.raises(ValueError, match="must lie in"):
        small.image_encoder(pictures * 255)
    with pytest.raises(ValueError, match="must lie in"):  # compiling is not exporting
        torch.compile(small.image_encoder, backend="eager")(pictures * 255)


def test_what_cannot_be_exported_is_refused_before_the_work(small, tmp_path, monkeypatch):
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("it has begun"))
    for place in (tmp_path, kept):
        with pytest.raises(FileExistsError, match="name a new folder"):
            export_towers(small, place)
    unchecked = getattr(export_towers, "__wrapped__", export_towers)  # tests also check types
    for wrong in ({"format": "tf"}, {"pixels": "int8"}):
        with pytest.raises(ValueError, match="expected 'torch' or 'onnx'"):
            unchecked(small, tmp_path / "new", **wrong)
    with monkeypatch.context() as patch:
        patch.setattr("cmssf_lib.share.export.find_spec", lambda _: None)
        with pytest.raises(RuntimeError, match="pip install onnx onnxscript"):
            export_towers(small, tmp_path / "new", format="onnx")
    with monkeypatch.context() as patch:
        patch.setattr(small.text_encoder, "tokenizer", object())
        with pytest.raises(ValueError, match="cannot be written"):
            export_towers(small, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert kept.read_text() == "mine"


def test_an_export_is_whole_or_not_there(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmssf_lib.share.export.write_json", full)
    with pytest.raises(OSError, match="No space"):
        export_towers(small, tmp_path / "towers")
    assert list(tmp_path.iterdir()) == []


def test_the_command(small, tmp_path, capsys):
    save_pretrained(small, tmp_path / "model")
    words = ["export", str(tmp_path / "model"), str(tmp_path / "new"), "--format", "torch"]
    assert cli.main(words) == 0
    assert str(tmp_path / "new") in capsys.readouterr().out
    assert_equal(small, tmp_path / "new", ["a red seven", "a blue ox"], "uint8")
    assert cli.main(words) == 2
    assert "name a new folder" in capsys.readouterr().err


def test_a_saved_model_keeps_its_precision(small, tmp_path):
    for name, dtype in {"half": torch.float16, "bfloat16": torch.bfloat16}.items():
        save_pretrained(getattr(copy.deepcopy(small), name)(), tmp_path / name)
        again = from_pretrained(tmp_path / name)
        assert {weight.dtype for weight in again.parameters()} == {dtype}
        with torch.no_grad():
            found = again.encode_text(["a red seven"]).float()
            assert torch.cosine_similarity(found, small.encode_text(["a red seven"])) > 0.999

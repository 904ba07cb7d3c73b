"""An image task beside the image–text loss, and encoders that begin with learned weights."""

from dataclasses import replace

import pytest
import torch
from settings import (
    CMSSFConfig,
    DINOConfig,
    MAEConfig,
    SimCLRConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
    new_cmssf,
)

from cmssf_lib.build import build, image_encoder, preset_of, run_config, trained
from cmssf_lib.data import batches, digit_scenes
from cmssf_lib.encoders import ConvStem, ImageEncoder
from cmssf_lib.methods import DINO, SimCLR
from cmssf_lib.presets import QUICK
from cmssf_lib.runs import Run
from cmssf_lib.share import fingerprint, from_pretrained, save_pretrained
from cmssf_lib.train import fit
from cmssf_lib.views import ViewsConfig

VISION = VisionConfig(image_size=12, width=16, depth=1, heads=2)
TEXT = TextConfig(width=16, depth=1, heads=2)
VIEWS = ViewsConfig(shift=0.2, turn=0.3)
SIMCLR = SimCLRConfig(hidden=16, dim=8, views=VIEWS)
DINO_ = DINOConfig(hidden=16, bottleneck=8, prototypes=20, local_crops=0, views=VIEWS)
TASKS = {"simclr": (SimCLR, SIMCLR), "dino": (DINO, DINO_)}
BOTH = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=96, test=20, image_size=12).train


def joint(data, name, **changes):
    torch.manual_seed(0)
    kind, config = TASKS[name]
    task = kind(ImageEncoder(VISION), config)
    cmssf = CMSSFConfig(dim=8, hidden=16, image_loss=name, **changes)
    return new_cmssf(VISION, TEXT, cmssf, data.unique_captions, image_task=task)


@BOTH
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_the_loss_is_the_weighted_sum_of_both(data, name, weight):
    method = joint(data, name, image_weight=weight).eval()
    found = method.loss(next(batches(data, 32)))
    expected = found["image_text_loss"] + weight * found["image_loss"]
    assert torch.allclose(found["loss"], expected)
    assert found["image_loss"] > 0


@BOTH
def test_one_encoder_learns_both(data, name):
    method = joint(data, name)
    assert method.image_task.image_encoder is method.image_encoder
    names = list(method.state_dict())
    assert not any(n.startswith("image_task.image_encoder.") for n in names), "saved twice"
    assert len(names) == len(set(names))
    for part in ("image_text_loss", "image_loss"):  # each loss alone reaches the encoder
        method.zero_grad()
        weight = 0.0 if part == "image_text_loss" else 1e6
        method.config = replace(method.config, image_weight=weight)
        method.loss(next(batches(data, 32)))["loss"].backward()
        gradient = method.image_encoder.backbone.cls_token.grad
        assert gradient.abs().sum() > (0 if weight == 0 else 100)


def test_the_teacher_follows_the_shared_encoder(data):
    method = joint(data, "dino")
    before = method.image_task.teacher_encoder.backbone.cls_token.clone()
    with torch.no_grad():
        method.image_encoder.backbone.cls_token += 1
    method.after_step(0.5)
    moved = method.image_task.teacher_encoder.backbone.cls_token - before
    assert moved.min() > 0
    assert method.image_task.progress == 0.5


@BOTH
def test_a_joint_run_is_written_down_built_again_and_read(data, name, tmp_path):
    preset = replace(
        QUICK,
        vision=VISION,
        text=TEXT,
        cmssf=CMSSFConfig(dim=8, hidden=16, image_loss=name, image_weight=0.5),
        train=TrainConfig(epochs=1, batch_size=32),
        simclr=SIMCLR,
        dino=DINO_,
    )
    run = Run(tmp_path / "run")
    run.config = run_config(preset, "cmssf", data)
    other = {"simclr": "dino", "dino": "simclr"}[name]
    assert name in run.config
    assert other not in run.config
    method = build(preset_of(run.config), run.config["method"], data)
    fit(method, data, preset.train, run=run, progress=False)
    assert run.series("image_loss")[0] > 0
    read = trained(Run.load(tmp_path / "run"), data).eval()
    pictures = data.images[:8]
    assert torch.equal(read.encode_image(pictures), method.eval().encode_image(pictures))
    # What is shared is the model alone: the task's heads stay behind.
    save_pretrained(method, tmp_path / "shared")
    shared = from_pretrained(tmp_path / "shared")
    assert shared.image_task is None
    assert torch.equal(shared.encode_image(pictures), method.encode_image(pictures))


def test_a_task_that_does_not_fit_is_refused(data):
    def made(config, task=None):
        return new_cmssf(VISION, TEXT, config, data.unique_captions, image_task=task)

    with pytest.raises(
        ValueError, match="image_loss: Input should be '', 'simclr' or 'dino', got 'moco'"
    ):
        made(CMSSFConfig(image_loss="moco"))
    with pytest.raises(ValueError, match="image_loss is 'dino', but image_task is 'simclr'"):
        made(CMSSFConfig(image_loss="dino"), SimCLR(ImageEncoder(VISION), SIMCLR))
    with pytest.raises(ValueError, match="image_loss is 'simclr', but image_task is None"):
        made(CMSSFConfig(image_loss="simclr"))
    with pytest.raises(ValueError, match="image_loss cannot train a frozen encoder"):
        made(
            CMSSFConfig(image_loss="simclr", freeze_image=True),
            SimCLR(ImageEncoder(VISION), SIMCLR),
        )
    for field in ("depth", "cached_views", "image_weight"):
        with pytest.raises(ValueError, match=f"{field}: .* greater than or equal to 0, got -1"):
            made(CMSSFConfig(**{field: -1}))


# Where an encoder begins --------------------------------------------------------------------


def recorded(tmp_path, data, name):
    """Train a method for an epoch in a folder, and return both."""
    preset = replace(
        QUICK,
        vision=VISION,
        simclr=SIMCLR,
        dino=DINO_,
        mae=MAEConfig(width=8, depth=1, heads=2),
        train=TrainConfig(epochs=1, batch_size=32),
    )
    run = Run(tmp_path / "book" / "runs" / "tiny" / name)
    run.config = run_config(preset, name, data)
    method = build(preset_of(run.config), run.config["method"], data)
    fit(method, data, preset.train, run=run, progress=False)
    return run.path, method


@BOTH
def test_an_encoder_goes_on_from_a_run(tmp_path, data, name):
    """With the weights whose features the method shows: of DINO the teacher's."""
    folder, method = recorded(tmp_path, data, name)
    pictures = data.images[:8]
    for path in (folder, folder / "model.safetensors"):
        begun = image_encoder(replace(VISION, weights=str(path))).eval()
        assert torch.equal(begun(pictures), method.eval().features(pictures))
    with pytest.raises(ValueError, match="not for this model"):
        image_encoder(replace(VISION, width=32, weights=str(folder)))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        image_encoder(replace(VISION, weights=str(tmp_path)))


def test_a_recorded_run_is_found_by_its_name(tmp_path, data, monkeypatch):
    folder, method = recorded(tmp_path, data, "dino")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    preset = replace(QUICK, vision=replace(VISION, weights="tiny/dino"), text=TEXT)
    config = run_config(preset, "cmssf", data)
    assert config["vision"]["weights"] == "tiny/dino", "a record names no folder of this machine"
    begun = build(preset, "cmssf", data).eval()
    pictures = data.images[:8]
    assert torch.equal(begun.features(pictures), method.eval().features(pictures))
    # A trained run brings its own weights, and is read where the start is not at hand.
    run = Run(tmp_path / "trained")
    run.config = config
    run.save()
    run.save_weights(begun)
    for file in folder.iterdir():
        file.unlink()
    again = trained(Run.load(run.path), data).eval()
    assert torch.equal(again.features(pictures), begun.features(pictures))


@pytest.fixture(scope="module")
def from_mae(tmp_path_factory, data):
    """An MAE's folder and features, and the folder and configuration of a CMSSF begun with it."""
    tmp_path = tmp_path_factory.mktemp("mae")
    folder, method = recorded(tmp_path, data, "mae")
    preset = replace(QUICK, vision=replace(VISION, weights=str(folder)), text=TEXT)
    run = Run(tmp_path / "begun")
    run.config = run_config(preset, "cmssf", data)
    run.save()
    run.save_weights(build(preset_of(run.config), run.config["method"], data))
    return folder, method.eval().features(data.images[:8]), run


def test_an_encoder_that_goes_on_from_mae_takes_patches_apart(from_mae, data):
    """As MAE's features do; the weights fit either way."""
    folder, features, _ = from_mae
    for path in (folder, folder / "model.safetensors"):
        begun = image_encoder(replace(VISION, weights=str(path))).eval()
        torch.testing.assert_close(begun(data.images[:8]), features)  # by slower convolutions
    other = image_encoder(replace(VISION, weights=str(folder))).eval()
    other.backbone.patch_embed.apart = False
    assert not torch.allclose(other(data.images[:8]), features, atol=1e-2)


def test_what_began_with_mae_is_read_as_it_was_trained(from_mae, data, tmp_path):
    """Nothing but its own folder says how: by itself, shared, and as the start of another."""
    _, features, run = from_mae
    pictures = data.images[:8]
    (moved := tmp_path / "moved").mkdir()
    for file in ("config.json", "model.safetensors"):
        (moved / file).write_bytes((run.path / file).read_bytes())
    read = Run.load(moved)
    read.config["vision"]["weights"] = "gone"
    method = trained(read, data)
    torch.testing.assert_close(method.features(pictures), features)
    save_pretrained(method, tmp_path / "shared")
    shared = from_pretrained(tmp_path / "shared")
    torch.testing.assert_close(shared.features(pictures), features)
    for start in (moved, tmp_path / "shared"):
        begun = image_encoder(replace(VISION, weights=str(start))).eval()
        torch.testing.assert_close(begun(pictures), features)
    # The same weights in an ordinary stem are another model.
    plain = new_cmssf(VISION, TEXT, method.config, data.unique_captions)
    plain.load_state_dict(method.state_dict())
    assert fingerprint(shared) == fingerprint(method) != fingerprint(plain)


@BOTH
def test_an_encoder_that_goes_on_from_another_method_does_not(tmp_path, data, name):
    folder, _ = recorded(tmp_path, data, name)
    vision = replace(VISION, weights=str(folder))
    begun = image_encoder(vision)
    assert isinstance(begun.backbone.patch_embed, ConvStem)
    assert not begun.backbone.patch_embed.apart
    assert begun.config == VISION

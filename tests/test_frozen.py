"""A frozen tower is asked once: the same training from cached features as from pictures."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from settings import CMSSFConfig, TextConfig, TrainConfig, VisionConfig, new_cmssf

from cmssf_lib import evaluate, train
from cmssf_lib.cli import main
from cmssf_lib.data import batches, digit_scenes
from cmssf_lib.runs import Run
from cmssf_lib.views import ViewsConfig

VISION = VisionConfig(image_size=12, width=16, depth=1, heads=2)  # with batch norm
TEXT = TextConfig(width=16, depth=1, heads=2)
FROZEN = CMSSFConfig(dim=8, hidden=16, freeze_image=True)
MOVING = replace(FROZEN, views=ViewsConfig(shift=0.3))


@pytest.fixture(scope="module")
def data():
    return digit_scenes(train=96, test=20, image_size=12).train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model(data, config=FROZEN, vision=VISION):
    torch.manual_seed(0)
    return new_cmssf(vision, TEXT, config, data.unique_captions)


def quiet(_):
    pass


def test_a_frozen_encoder_does_not_move_and_the_rest_does(data):
    method = model(data)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    train.fit(method, data, TrainConfig(epochs=1, batch_size=32), progress=False)
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    # A running mean of its batch norm would move in training mode.
    assert not any(name.startswith("image_encoder.") for name in moved)
    rooms = {name.split(".")[0] for name in moved}
    assert {"image_head", "text_head", "text_encoder", "log_scale"} <= rooms


def test_training_on_cached_features_is_training_on_the_pictures(data):
    """Without random views the two are the same arithmetic."""
    config = TrainConfig(epochs=2, batch_size=32, lr=1e-2)
    one, other = model(data), model(data)
    slow = train.fit(one, data, config, progress=False)
    cached = train.cache_features(other, data, say=quiet)
    fast = train.fit(other, cached, config, progress=False)
    assert fast.series("loss") == pytest.approx(slow.series("loss"), abs=1e-4)
    for name, value in one.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-4), name


def test_what_is_cached_is_what_the_encoder_says(data, monkeypatch):
    method = model(data)
    monkeypatch.setattr(train.cost, "AT_ONCE", 40)  # which does not divide 96
    cached = train.cache_features(method, data, say=quiet)
    assert cached.features.shape == (96, 1, 16)
    own = evaluate.embed_features(method, data)
    assert torch.allclose(cached.features[:, 0], own, atol=1e-5)
    assert torch.equal(evaluate.embed_features(method, cached), cached.features[:, 0])
    images = evaluate.embed_images(method, data)
    assert torch.allclose(evaluate.embed_images(method, cached), images, atol=1e-5)
    part = cached.subset([5, 3])
    assert torch.equal(part.features, cached.features[[5, 3]])
    assert cached.fingerprint == data.fingerprint


def test_each_view_is_another_and_a_seed_makes_them_again(data):
    method = model(data, MOVING)
    three = train.cache_features(method, data, views=3, say=quiet, keep=False)
    assert three.features.shape == (96, 3, 16)
    a, b, c = three.features.unbind(dim=1)
    assert not torch.allclose(a, b)
    assert not torch.allclose(b, c)
    again = train.cache_features(method, data, views=3, say=quiet, keep=False)
    assert torch.equal(three.features, again.features)
    other = train.cache_features(method, data, views=3, seed=1, say=quiet, keep=False)
    assert not torch.equal(three.features, other.features)


def test_every_step_draws_a_view_of_its_own(data):
    method = model(data, MOVING)
    cached = train.cache_features(method, data, views=2, say=quiet, keep=False)
    batch = next(batches(cached, 96))
    for view in (0, 1):  # a picture has its first view in some steps, its second in others
        alone = replace(batch, features=batch.features[:, view : view + 1])
        expected = method._image_vectors(alone, 0)
        hits = torch.zeros(96, dtype=torch.bool)
        for _ in range(20):
            hits |= (method._image_vectors(batch, 0) - expected).abs().amax(dim=1) < 1e-6
        assert hits.all()


def test_the_size_is_said_before_anything_is_written(data, cache):
    said = []

    def say(text):
        said.append((text, list(cache.glob("*")) if cache.exists() else []))

    method = model(data, MOVING)
    train.cache_features(method, data, views=4, say=say)
    ((text, files),) = said
    assert "features of 96 pictures, in 4 random views each: 0 MB, to be kept in" in text
    assert files == []
    (written,) = cache.glob("features-*.safetensors")
    assert load_file(written)["features"].shape == (96, 4, 16)


def test_the_cache_is_read_again_unless_something_changed(data, cache, monkeypatch):
    method = model(data)
    first = train.cache_features(method, data, say=quiet)

    def never(*_):
        raise AssertionError("nothing should be encoded again")

    with monkeypatch.context() as patched:
        patched.setattr(method, "features", never)
        said = []
        again = train.cache_features(method, data, say=said.append)
        assert torch.equal(again.features, first.features)
        assert "read from" in said[0]
    other = digit_scenes(train=96, test=20, image_size=12, seed=1).train
    train.cache_features(method, other, say=quiet)
    train.cache_features(method, data, views=1, say=quiet)
    with torch.no_grad():
        method.image_encoder.backbone.cls_token += 1
    train.cache_features(method, data, say=quiet)
    assert len(list(cache.glob("features-*.safetensors"))) == 4


def test_what_cannot_be_cached_is_refused(data):
    learning = model(data, replace(FROZEN, freeze_image=False))
    with pytest.raises(ValueError, match="the image encoder is not frozen"):
        train.cache_features(learning, data)
    method = model(data)
    with pytest.raises(ValueError, match="views is -1; give 0 or more"):
        train.cache_features(method, data, views=-1)


def test_a_cache_that_cannot_be_used_is_no_loss(data, cache):
    method = model(data)
    expected = train.cache_features(method, data, say=quiet).features
    (file,) = cache.glob("features-*.safetensors")
    file.write_bytes(b"junk")
    assert torch.equal(train.cache_features(method, data, say=quiet).features, expected)
    assert torch.equal(load_file(file)["features"], expected)
    file.unlink()
    cache.rmdir()
    cache.write_text("not a folder")
    with pytest.warns(UserWarning, match="cannot be kept"):
        again = train.cache_features(method, data, say=quiet)
    assert torch.equal(again.features, expected)


def test_features_are_refused_where_the_encoder_learns(data):
    cached = train.cache_features(model(data), data, say=quiet, keep=False)
    learning = model(data, replace(FROZEN, freeze_image=False))
    with pytest.raises(ValueError, match="frozen image encoder, but this encoder is trained"):
        learning.loss(next(batches(cached, 32)))
    assert evaluate.embed_features(learning, cached).shape == (96, 16)  # encoded, not the cached


@pytest.mark.usefixtures("as_shipped")
def test_features_of_other_pictures_are_refused(data):
    with pytest.raises(
        ValueError, match=r"features: expected torch.float32 of shape \(96, views, length\)"
    ):
        replace(data, features=torch.zeros(95, 1, 16))


def test_the_shell_trains_a_frozen_tower(tmp_path, capsys):
    settings = (
        "data.train=160 data.validation=64 data.test=40 data.image_size=12 vision.image_size=12 "
        "vision.width=16 vision.depth=1 vision.heads=2 text.width=16 text.depth=1 text.heads=2 "
        "train.batch_size=32 cmssf.freeze_image=True cmssf.cached_views=2"
    )
    sets = [f"--{setting}" for setting in settings.split()]
    folder = tmp_path / "run"
    arguments = ["train", "cmssf", "--preset", "quick", "--train.epochs", "2", *sets]
    assert main([*arguments, "--run", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "features of 96 pictures, in 2 random views each" in said
    assert "features of 64 pictures, as they are" in said
    assert len(Run.load(folder).history) == 2

"""A folder of one's own pictures: adapted presets, measures without labels, refused settings."""

import csv
import re
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from cmssf_lib import cli, data, evaluate
from cmssf_lib.build import build
from cmssf_lib.captions import CIFAR10_CLUES
from cmssf_lib.cli import measure
from cmssf_lib.cli.require import require_measurable
from cmssf_lib.cli.training import with_pictures
from cmssf_lib.data import ImageTextData, Splits, digit_scenes
from cmssf_lib.presets import METHODS, check_given, for_folder, idle, preset, sections
from cmssf_lib.runs import Run
from cmssf_lib.train import fit
from cmssf_lib.views import Views, ViewsConfig

SCENES = digit_scenes("colour", train=120, test=30, image_size=24, seed=5)


def write(folder, images, names):
    for image, name in zip(images, names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text"), *rows])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def classes(tmp_path):
    """Two classes, 60 pictures each for training and 15 for testing."""
    root = tmp_path / "classes"
    for split, images in (("train", SCENES.train.images), ("test", SCENES.test.images)):
        names = [f"{split}/{'even' if i % 2 == 0 else 'odd'}/{i}.png" for i in range(len(images))]
        write(root, images, names)
    return root


@pytest.fixture
def plain(tmp_path):
    """120 pictures without classes."""
    root = tmp_path / "plain"
    write(root, SCENES.train.images, [f"{i % 3}/{i}.png" for i in range(120)])
    return root


@pytest.fixture
def told(plain):
    """The same with captions."""
    rows = [(f"{i % 3}/{i}.png", text) for i, text in enumerate(SCENES.train.captions)]
    write_table(plain / "captions.csv", rows)
    return plain


def train(*words):
    assert cli.main(["train", *map(str, words)]) == 0


# --- a preset for a folder ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_folder_of_classes_decides_sizes_and_budget(method, name, classes):
    rows = [
        (f"{split}/{'even' if i % 2 == 0 else 'odd'}/{i}.png", caption)
        for split, part in (("train", SCENES.train), ("test", SCENES.test))
        for i, caption in enumerate(part.captions)
    ]
    write_table(classes / "captions.csv", rows)
    usual = preset(name, method)
    chosen, said = for_folder(classes, method, usual)
    assert (chosen.data.name, chosen.data.image_size, chosen.vision.image_size) == (
        "image_folder", 24, 24
    )  # fmt: skip
    assert chosen.data.captions == ("captions.csv" if method in ("cmssf", "fusion") else None)
    assert "120 pictures for training and 30 for testing, mostly at least 24 pixels" in said[0]
    assert "2 classes" in said[0]
    splits = data.load(chosen.data)
    learning, held_out = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    # About as many steps as the preset's, in batches that fit several times into the data.
    had = {"quick": usual.data.train, "standard": 50_000}[name] - usual.data.validation
    steps = usual.train.epochs * (had // usual.train.batch_size)
    assert chosen.train.epochs * (len(learning) // chosen.train.batch_size) == pytest.approx(
        steps, rel=0.1
    )
    assert len(learning) // chosen.train.batch_size >= 6
    require_measurable(splits, held_out, chosen, method)
    assert check_given([], chosen, method) == []
    method_built = build(chosen, method, splits.train)
    batch = next(data.batches(learning, chosen.train.batch_size))
    assert method_built.loss(batch)["loss"].isfinite()


def test_what_was_set_is_said_and_can_be_given_as_it_is_printed(classes, capsys):
    chosen, said = for_folder(classes, "cmssf", preset("quick", "cmssf"))
    printed = re.search(r": (--.*), and views", said[1])[1].split()
    asked, again = cli.read_settings(["cmssf", "--preset", "quick", "--data", str(classes)])
    assert again == chosen
    assert said[1] in capsys.readouterr().out
    _, by_hand = cli.read_settings(["cmssf", "--preset", "quick", *printed])
    for name in ("data", "vision", "text", "train", "judge"):
        assert getattr(by_hand, name) == getattr(chosen, name), name
    assert asked.pictures == str(classes)


def test_an_option_wins_over_what_the_data_say(classes):
    words = ["simclr", "--preset", "quick", "--data", str(classes), "--train.epochs", "3"]
    _, chosen = cli.read_settings(words)
    assert chosen.train.epochs == 3
    assert chosen.data.name == "image_folder"


def test_captions_with_a_side_are_never_mirrored(told):
    assert for_folder(told, "cmssf", preset("quick", "cmssf"))[0].cmssf.views.flip == 0.5
    rows = [(f"{i % 3}/{i}.png", f"a Left {i % 7}") for i in range(120)]
    write_table(told / "captions.csv", rows)
    chosen, _ = for_folder(told, "cmssf", preset("quick", "cmssf"))
    assert chosen.cmssf.views.flip == 0
    assert chosen.cmssf.views.shift > 0


def test_long_captions_lengthen_the_text_encoder(told):
    rows = [(f"{i % 3}/{i}.png", " ".join(["word"] * 40 + [str(i % 5)])) for i in range(120)]
    write_table(told / "captions.csv", rows)
    chosen, _ = for_folder(told, "cmssf", preset("quick", "cmssf"))
    assert chosen.text.max_length == 43  # [CLS], 41 words, [SEP]


def test_the_size_is_that_of_most_pictures(plain):
    big = Image.fromarray(np.zeros((90, 200, 3), np.uint8))
    big.save(plain / "wide.png")
    assert for_folder(plain, "simclr", preset("quick", "simclr"))[0].data.image_size == 24
    for name in ("standard", "quick"):
        for i in range(120):
            shape = (90, 200, 3)
            Image.fromarray(np.full(shape, i, np.uint8)).save(plain / f"{i % 3}" / f"{i}.png")
        chosen, _ = for_folder(plain, "simclr", preset(name, "simclr"))
        assert chosen.data.image_size == {"quick": 32, "standard": 64}[name]


def test_cifar10_stays_cifar10(tmp_path):
    names = sorted({name for true_of in CIFAR10_CLUES.values() for name in true_of})
    assert len(names) == 10
    for split in ("train", "test"):
        for i, name in enumerate(names):
            write(tmp_path, SCENES.train.images[i : i + 1], [f"{split}/{name}/{i}.png"])
    usual = preset("standard", "simclr")
    chosen, said = for_folder(tmp_path, "simclr", usual)
    assert (chosen, said) == (replace(usual, data=replace(usual.data, path=str(tmp_path))), [])
    with pytest.raises(ValueError, match="at least 20 and 10 are needed"):  # own data in quick
        for_folder(tmp_path, "simclr", preset("quick", "simclr"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("supervised", "supervised needs classes"),
        ("cmssf", "cmssf learns from captions: put a table captions.csv"),
        ("fusion", "fusion learns from captions"),
    ],
)
def test_what_a_method_needs_and_the_folder_lacks_is_said(method, message, plain, capsys):
    assert cli.main(["train", method, "--preset", "quick", "--data", str(plain)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_missing_halved_or_nearly_empty(tmp_path, plain, capsys):
    usual = preset("quick", "simclr")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        for_folder(tmp_path / "nowhere", "simclr", usual)
    (plain / "train").mkdir()
    with pytest.raises(ValueError, match=r"holds train/ but not the other"):
        for_folder(plain, "simclr", usual)
    write(tmp_path / "few", SCENES.train.images[:25], [f"{i}.png" for i in range(25)])
    with pytest.raises(ValueError, match=r"15 pictures for training and 10 for testing"):
        for_folder(tmp_path / "few", "simclr", usual)


def test_damaged_pictures_are_left_out_only_if_asked(plain, capsys):
    (plain / "bad.png").write_bytes(b"no picture")
    words = ["simclr", "--preset", "quick", "--data", str(plain)]
    with pytest.raises(ValueError, match=r"bad\.png"):
        cli.read_settings(words)
    with pytest.warns(UserWarning, match="1 of 121 pictures are left out"):
        _, chosen = cli.read_settings([*words, "--data.skip_unreadable", "True"])
    assert chosen.data.skip_unreadable


def test_a_folder_of_arrow_files_is_told_by_its_files(plain, tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = sorted(map(str, plain.rglob("*.png")))
    parts = {"train": pictures[:100], "test": pictures[100:]}
    kinds = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = {
        split: datasets.Dataset.from_dict(
            {"image": own, "text": [f"a number {i % 7}" for i in range(len(own))]}, kinds
        )
        for split, own in parts.items()
    }
    for split, part in made.items():  # the bytes, not the paths
        made[split] = part.map(lambda row: row, features=kinds, writer_batch_size=10)
    datasets.DatasetDict(made).save_to_disk(tmp_path / "arrow")
    chosen, said = for_folder(tmp_path / "arrow", "cmssf", preset("quick", "cmssf"))
    assert (chosen.data.name, chosen.data.image_size, chosen.data.captions) == ("arrow", 24, None)
    assert "100 pictures for training and 20 for testing" in said[0]
    assert "captions: its own" in said[0]


def test_tables_beside_pictures_do_not_make_them_arrow_files(plain):
    """An index is a Parquet file, and `cmssf index photos --to photos/index` puts it there."""
    usual = preset("quick", "simclr")
    alone = for_folder(plain, "simclr", usual)
    (plain / "index").mkdir()
    for name in ("index/index.parquet", "metadata.parquet"):
        (plain / name).write_bytes(b"PAR1")
    assert for_folder(plain, "simclr", usual) == alone


# --- training on them ---


@pytest.mark.parametrize("method", ["simclr", "moco", "byol", "dino", "vicreg", "mae"])
def test_self_supervised_methods_need_no_labels(method, plain, tmp_path):
    words = ["--preset", "quick", "--data", plain, "--train.epochs", 1, "--run", tmp_path / "run"]
    train(method, *words)
    run = Run.load(tmp_path / "run")
    assert run.results.keys() >= {"same_picture_R@1", "alignment", "uniformity", "effective_rank"}
    assert not [name for name in run.results if "knn" in name or "linear" in name]
    assert "validation_same_picture_R@1" in run.history[-1]
    assert run.results["same_picture_n"] == 12


def test_captions_without_classes_are_learned_and_searched(told, tmp_path, capsys):
    train(
        "cmssf", "--preset", "quick", "--data", told, "--train.epochs", 1, "--run", tmp_path / "r"
    )
    results = Run.load(tmp_path / "r").results
    assert results.keys() >= {"exact_caption_R@1", "image_to_text_R@1", "positive_similarity"}
    assert not [name for name in results if "zero_shot" in name or "knn" in name]
    assert "retrieval at 1" in capsys.readouterr().out


def test_features_are_measured_without_labels():
    """Views that change nothing: perfect; features of noise: chance; closed forms at both ends."""
    chosen = preset("quick", "simclr")
    scenes = digit_scenes("plain", train=64, test=50, image_size=16, seed=1)
    method = build(chosen, "simclr", scenes.train)
    same = evaluate.view_report(method, scenes.test, Views(ViewsConfig()))
    assert same["same_picture_R@1"] == 1
    assert same["alignment"] == pytest.approx(0, abs=1e-10)
    assert same["same_picture_n"] == 50
    assert same["uniformity"] < 0
    far = evaluate.view_report(method, scenes.test, Views(chosen.simclr.views))
    assert far["alignment"] > 1e-4
    again = evaluate.view_report(method, scenes.test, Views(chosen.simclr.views))
    assert far == again

    class Fixed(type(method)):
        def features(self, images):
            return torch.eye(len(images))

    other = Fixed(method.image_encoder, chosen.simclr)
    orthogonal = evaluate.view_report(other, scenes.test, Views(ViewsConfig()))
    assert orthogonal["uniformity"] == pytest.approx(-4)  # every squared distance is 2
    assert orthogonal["effective_rank"] == pytest.approx(50)


@pytest.mark.parametrize("method", ["cmssf", "simclr"])
def test_one_class_that_stands_for_none_can_be_trained_on(method):
    some = SCENES.train.subset(range(64))
    without = ImageTextData(some.images, torch.zeros(64).long(), some.captions, ("picture",), "x")
    chosen = preset("quick", method)
    chosen = replace(chosen, vision=replace(chosen.vision, image_size=24))
    budget = replace(chosen.train, epochs=1, batch_size=32)
    run = fit(build(chosen, method, without), without, budget)
    assert run.history[0]["loss"] > 0


# --- nothing given is ignored ---


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("simclr --data.path /tmp", "digit scenes are drawn"),
        ("simclr --data.sound_noise 0.5", "there is no sound"),
        ("simclr --preset standard --data.image_size 64", "CIFAR-10 have 32"),
        ("simclr --preset standard --data.flavour=plain", "only digit scenes have that"),
        ("simclr --data.image_size 64", "resized twice"),
        ("simclr --vision.image_size 32", "resized twice"),
        ("fusion --data.image_size 32", "resized twice"),
        ("fusion --data.flavour two --data.sound none", "give fusion.image_size 16 32"),
        ("simclr --data.flavour two", "only fusion reads 16x32"),
    ],
)
def test_other_data_than_those_that_are_meant_are_refused(words, why, monkeypatch):
    monkeypatch.setenv("CMSSF_PRESET", "quick")
    with pytest.raises(ValueError, match=re.escape(why)):
        cli.read_settings(words.split())


def test_two_digits_side_by_side_are_read_whole(monkeypatch):
    monkeypatch.setenv("CMSSF_PRESET", "quick")
    words = "fusion --data.flavour two --data.sound none --data.text caption"
    senses = "--fusion.modalities image text --fusion.image_size 16 32"
    _, chosen = cli.read_settings(f"{words} {senses}".split())
    drawn = data.load(replace(chosen.data, train=300, test=20)).train.images
    assert chosen.fusion.image_size == tuple(drawn.shape[2:]) == (16, 32)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("cmssf --cmssf.cached_views 3", "freeze_image is off"),
        ("cmssf --fine_tune.views.flip=0.5", "judge.fine_tune is off"),
        ("cmssf --text.name bert", "text.kind is scratch"),
        ("dino --dino.local-size 4", "local_crops is 0"),
        ("supervised --supervised.temperature 0.2", "not supcon"),
        ("fusion --fusion.rank 3", "not bilinear"),
    ],
)
def test_a_setting_that_cannot_act_is_named(words, why, monkeypatch, capsys):
    monkeypatch.setenv("CMSSF_PRESET", "quick")
    cli.read_settings(words.split())
    assert re.search(rf"would change nothing: .*{re.escape(why)}", capsys.readouterr().err)


def test_another_folder_for_scenes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="draws its own digit scenes"):
        with_pictures(preset("quick"), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        with_pictures(preset("standard"), str(tmp_path / "nowhere"))


def names_of(value, start=""):
    """Names of all fields of a section, those of its views included."""
    for field in fields(value):
        own = getattr(value, field.name)
        if is_dataclass(own):
            yield from names_of(own, f"{start}{field.name}.")
        else:
            yield f"{start}{field.name}"


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_only_settings_that_exist_are_called_idle(name, method):
    chosen = preset(name, method)
    every = [f"{s}.{f}" for s in fields_of(chosen) for f in names_of(getattr(chosen, s))]
    for start in idle(chosen, method):
        assert [f for f in every if f == start or (start[-1] == "." and f.startswith(start))], start


def fields_of(chosen):
    return [f.name for f in fields(chosen) if is_dataclass(getattr(chosen, f.name))]


# --- nothing is found late ---


def test_what_cannot_be_measured_is_refused_before_the_first_step():
    chosen = preset("quick", "cmssf")
    few = Splits(SCENES.train, SCENES.test.subset(range(5)))
    held_out = SCENES.train.subset(range(120))
    with pytest.raises(ValueError, match="R@10 needs 10"):
        require_measurable(
            few, held_out, replace(chosen, train=replace(chosen.train, epochs=0)), "cmssf"
        )
    one = SCENES.train.subset(SCENES.train.labels == 3)
    with pytest.raises(ValueError, match="one class only"):
        require_measurable(SCENES, one, preset("quick", "simclr"), "simclr")
    rest = SCENES.train.subset((SCENES.train.labels == 3) | (SCENES.train.labels == 4))
    with pytest.raises(ValueError, match="holds out all pictures of 'three'"):
        require_measurable(SCENES, rest, preset("quick", "simclr"), "simclr")


# --- every setting acts, or is refused ---


SMALL = {"train": 80, "test": 40, "validation": 32}
#: Of these only memory, time or files depend, or what lies on this machine.
ELSEWHERE = {
    "data": ("path", "captions", "skip_unreadable"),
    "cmssf": ("chunk", "micro_batch"),
    "train": ("checkpoint_minutes", "precision"),
    "vision": ("weights", "timm_name"),
    "text": ("name",),
}
COLOURS = ("views.hue", "views.saturation", "views.grey")


def others(value):
    """Values near this one; some of them may be invalid."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value, value // 2, value + 4, value + 32]
    if isinstance(value, float):
        return [1.3 * value, 0.7 * value, 0.9, 0.0] if value else [0.5, 0.1]
    if isinstance(value, tuple) and not any(isinstance(part, str) for part in value):
        pairs = [tuple(0.9 * part if isinstance(part, float) else part + 4 for part in value)]
        return [*pairs, tuple(value[:-1]), (1.0,), value[:1] + tuple(1.2 * p for p in value[1:])]
    return []


def with_field(chosen, name, value):
    """Return settings with a field, such as "simclr.views.flip", at another value."""
    first, _, rest = name.partition(".")
    inner = with_field(getattr(chosen, first), rest, value) if rest else value
    return replace(chosen, **{first: inner})


def outcome(chosen, method):
    """All that a setting can change: data, weights after two steps, results."""
    splits = data.load(chosen.data)
    learning, held_out = splits.train.hold_out(chosen.data.validation, chosen.data.seed)
    require_measurable(splits, held_out, chosen, method)
    built = build(chosen, method, splits.train)
    fit(built, learning, chosen.train)
    results, _ = measure.judge(built, splits, chosen)
    weights = torch.cat([weight.flatten().double() for weight in built.state_dict().values()])
    return splits.train.fingerprint, splits.test.fingerprint, results, weights.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_setting_acts_or_is_named(method):
    chosen = preset("quick", method)
    chosen = replace(
        chosen,
        data=replace(chosen.data, **SMALL),
        train=replace(chosen.train, epochs=1, batch_size=32),
        judge=replace(chosen.judge, per_class=2, draws=1),
        fine_tune=replace(chosen.fine_tune, steps=2, batch_size=10),
    )
    before, ignored = outcome(chosen, method), []
    # What these share with SimCLR is tried there.
    alike = method in ("moco", "byol", "dino", "supervised")
    for section in [method] if alike else sections(chosen, method):
        for name in names_of(getattr(chosen, section), f"{section}."):
            value = chosen
            for part in name.split("."):
                value = getattr(value, part)
            acts = name.partition(".")[2] in ELSEWHERE.get(section, ())
            acts |= chosen.data.flavour == "plain" and name.endswith(COLOURS)  # these are grey
            for other in others(value):
                try:
                    changed = with_field(chosen, name, other)
                    told = check_given([name], changed, method)
                    acts = acts or bool(told) or outcome(changed, method) != before
                except ValueError:  # refused: invalid, contradictory or idle
                    acts = True
                if acts:
                    break
            if not acts and others(value):
                ignored.append(name)
    assert not ignored

"""Pictures that stay on disk: the same batches, weights and measures as from memory."""

import io
import json
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from settings import DataConfig, TrainConfig
from test_speed import killed_after_an_epoch
from test_train import TINY, same_weights

from cmssf_lib import cli, evaluate
from cmssf_lib.build import build
from cmssf_lib.cli.require import require_measurable
from cmssf_lib.data import (
    ImageTextData,
    StoredPictures,
    arrow,
    arrow_folder,
    as_images,
    batches,
    digit_scenes,
    image_folder,
    load,
    noisy_pixels,
    stored,
)
from cmssf_lib.files import read_tensors
from cmssf_lib.presets import preset
from cmssf_lib.runs import Run
from cmssf_lib.train import cache_features, fit

datasets = pytest.importorskip("datasets", reason="the extra `big` is not installed")
import pyarrow.parquet as pq  # noqa: E402
from datasets import (  # noqa: E402
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Sequence,
    Value,
)

SIZE = 12
DIGITS = ClassLabel(names=[str(i) for i in range(10)])
ENCODED = {"image": datasets.Image()}
COLUMNS = {**ENCODED, "label": DIGITS, "caption": Sequence(Value("string"))}
SCENES = digit_scenes(train=96, test=40, image_size=20, seed=7)


def rows_of(data, count=None):
    """What a table says of digit scenes; every third has two captions."""
    images = [Image.fromarray(i) for i in data.images.permute(0, 2, 3, 1).numpy()][:count]
    said = [[text, "a digit"][: 1 + (i % 3 == 0)] for i, text in enumerate(data.captions)][:count]
    return {"image": images, "label": data.labels.tolist()[:count], "caption": said}


def save(folder, columns=COLUMNS, changes=(), parts=("train", "test"), count=None):
    """Write digit scenes as `datasets` does, with some columns replaced."""
    both = {}
    for split, data in zip(parts, SCENES, strict=False):
        rows = rows_of(data, count) | dict(changes)
        fewest = min(len(rows[key]) for key in columns)
        rows = {key: rows[key][: min(fewest, len(data))] for key in columns}
        both[split] = Dataset.from_dict(rows, features=Features(columns))
    DatasetDict(both).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet_bars():
    datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("arrow") / "scenes")


@pytest.fixture(scope="module")
def disk(folder):
    return arrow_folder(folder, image_size=SIZE)


@pytest.fixture(scope="module")
def memory(disk):
    """The same data, read into memory through the door of all pictures."""
    rows = [rows_of(data) for data in SCENES]
    return [
        replace(part, images=as_images(own["image"], SIZE))
        for part, own in zip(disk, rows, strict=True)
    ]


def test_nothing_is_decoded_before_it_is_needed(folder, monkeypatch):
    seen, read = [], arrow.read_picture
    monkeypatch.setattr(arrow, "read_picture", lambda f, *a: seen.append(f) or read(f, *a))
    data = arrow_folder(folder, image_size=SIZE).train
    assert seen == ["in row 0 of scenes train", "in row 0 of scenes test"]  # tried
    assert isinstance(data.images, StoredPictures)
    assert data.images.shape == (96, 3, SIZE, SIZE)
    data.to("cpu").hold_out(10, 0)[0].subset([4])
    assert data.fingerprint
    assert len(seen) == 2
    assert data.subset([40]).images[:].shape == (1, 3, SIZE, SIZE)
    assert seen[2:] == ["in row 40 of scenes train"]


def test_pictures_labels_and_captions_are_those_that_were_saved(disk, memory):
    for part, same in zip(disk, memory, strict=True):
        assert torch.equal(part.images[:], same.images)
        assert part.class_names == tuple(DIGITS.names)
        assert part.captions[0][1] == "a digit"
        assert len(part.captions[1]) == 1
    assert torch.equal(disk.train.labels, SCENES.train.labels)
    assert disk.test.name == "scenes test"


def test_indices_and_slices_are_those_of_a_tensor(disk, memory):
    images, same = disk.train.images, memory[0].images
    rows = torch.tensor([5, 3, 5, 95])
    for which in (0, -1, slice(3, 9), slice(None, None, 7), rows):
        assert torch.equal(images[which], same[which])
    assert torch.equal(images.index_select(0, rows), same[rows])
    parts = list(images.split(36))
    assert [len(part) for part in parts] == [36, 36, 24]
    assert torch.equal(torch.cat(parts), same)
    assert images.to("meta")[:2].device.type == "meta"
    with pytest.raises(IndexError):
        images[96]


def assert_same_batches(one, other, **how):
    pairs = list(zip(batches(one, 20, **how), batches(other, 20, **how), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.captions == b.captions
        for name in ("images", "labels", "caption_index", "index"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize(
    "how",
    [{"seed": 3, "epoch": 2}, {"start": 2}, {"shuffle": False, "drop_last": False}],
    ids=lambda how: " ".join(how),
)
def test_batches_are_those_of_memory(disk, memory, how):
    assert_same_batches(disk.train, memory[0], **how)


def test_parts_of_the_data_stay_on_disk_and_are_those_of_memory(disk, memory):
    for choose in (
        lambda data: data.hold_out(30, seed=5)[0],
        lambda data: data.hold_out(30, seed=5)[1].subset(range(29, -1, -1)),
        lambda data: data.subset(data.labels < 5),
    ):
        part = choose(disk.train)
        assert isinstance(part.images, StoredPictures)
        assert torch.equal(part.images[:], choose(memory[0]).images)
        assert_same_batches(part, choose(memory[0]))


# --- the fingerprint ----------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_and_not_of_the_files(folder, disk, tmp_path):
    again = datasets.load_from_disk(str(folder))
    again.save_to_disk(tmp_path / "shards", num_shards={"train": 3, "test": 2})
    for split in again:  # as on the Hub
        again[split].to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet")
    for other in ("shards", "parquet"):
        found = arrow_folder(tmp_path / other, image_size=SIZE, name="scenes")
        assert found.train.fingerprint == disk.train.fingerprint
        assert_same_batches(found.train, disk.train)
    assert disk.train.fingerprint == disk.train.subset(range(96)).fingerprint


def test_parquet_is_converted_into_the_librarys_cache(folder, tmp_path, capsys):
    for split, rows in datasets.load_from_disk(str(folder)).items():
        rows.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    before = datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()
    capsys.readouterr()
    arrow_folder(tmp_path / "parquet", image_size=SIZE)
    assert list((tmp_path / "cache" / "datasets").rglob("*.arrow"))
    assert capsys.readouterr() == ("", "")  # bars are for terminals
    assert not datasets.are_progress_bars_disabled()
    if before:
        datasets.disable_progress_bars()


def test_the_fingerprint_changes_with_whatever_training_sees(folder, disk, tmp_path):
    rows = rows_of(SCENES.train)
    pixel = [image.copy() for image in rows["image"]]
    pixel[50].putpixel((3, 4), (1, 2, 3))
    label = [*rows["label"][:-1], (rows["label"][-1] + 1) % 10]
    found = [disk.train.fingerprint, arrow_folder(folder, image_size=SIZE + 1).train.fingerprint]
    whole = [arrow_folder(folder, image_size=side).train.fingerprint for side in (20, None)]
    assert whole[0] == whole[1]
    for i, change in enumerate(({"image": pixel}, {"label": label}, {"caption": [["a"]] * 96})):
        other = save(tmp_path / str(i), changes=change)
        found.append(arrow_folder(other, image_size=SIZE).train.fingerprint)
    found += [disk.train.subset(rows).fingerprint for rows in (range(95), range(95, -1, -1))]
    assert len(set(found)) == len(found) == 7


# --- training -----------------------------------------------------------------------------------


def trained(data, run=None, name="simclr", **changes):
    config = TrainConfig(epochs=3, batch_size=32, lr=1e-3, checkpoint_minutes=0.0, **changes)
    small = replace(preset("quick", name), vision=TINY.vision, text=TINY.text, train=config)
    method = build(small, name, data)
    return method, fit(method, data, config, run=run, progress=False)


@pytest.mark.parametrize("name", ["simclr", "cmssf"])
def test_weights_are_those_of_a_training_in_memory(disk, memory, name):
    (one, run), (other, _) = trained(disk.train, name=name), trained(memory[0], name=name)
    assert same_weights(one.state_dict(), other.state_dict())
    assert 0 < run.history[0]["data_share"] < 1


def test_a_run_that_was_stopped_after_an_epoch_goes_on(disk, tmp_path, monkeypatch):
    whole, _ = trained(disk.train)
    with killed_after_an_epoch(monkeypatch):
        trained(disk.train, tmp_path / "run")
    rest, _ = trained(disk.train, tmp_path / "run")
    assert same_weights(whole.state_dict(), rest.state_dict())


def test_a_run_goes_on_only_with_the_same_pictures(disk, tmp_path, monkeypatch):
    with killed_after_an_epoch(monkeypatch):
        trained(disk.train, tmp_path)
    with pytest.raises(ValueError, match="data_fingerprint"):
        trained(disk.train.subset(range(95, -1, -1)), tmp_path)


SCRIPT = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from test_arrow import arrow_folder, SIZE, trained
    from cmssf_lib.methods import Method
    def slowly(self, progress):
        print(f"step {{progress:.4f}}", flush=True)
        time.sleep(0.3)
    Method.after_step = slowly
    trained(arrow_folder({folder!r}, image_size=SIZE).train, {run!r})
"""


def start(folder, run):
    code = textwrap.dedent(SCRIPT).format(
        tests=os.path.dirname(__file__), folder=str(folder), run=str(run)
    )
    return subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_killed_in_mid_epoch_resumes_bit_for_bit(folder, tmp_path):
    process = start(folder, tmp_path / "run")
    for _ in range(5):  # three steps are an epoch: this is the middle of the second
        assert process.stdout.readline().startswith("step")
    process.kill()
    process.wait()
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    kept = json.loads(read_tensors(tmp_path / "run" / "checkpoint.safetensors", None)[1]["state"])
    assert kept["done"] in (4, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for run in ("run", "whole"):
        trained(arrow_folder(folder, image_size=SIZE).train, tmp_path / run)
    torch.set_num_threads(threads)
    one, other = (Run.load(tmp_path / run) for run in ("run", "whole"))
    assert same_weights(one.weights(), other.weights())
    assert one.series("loss") == other.series("loss")


# --- reading ahead ------------------------------------------------------------------------------


def counted(count=40, size=4):
    """Pictures of which each has its number as its colour, and the parts read, in order."""
    seen = []

    def read(rows):
        seen.append((rows, threading.current_thread()))
        if 13 in rows:
            raise ValueError("cannot read row 13")
        shape = (len(rows), 3, size, size)
        return np.broadcast_to(np.array(rows, np.uint8)[:, None, None, None], shape).copy()

    return StoredPictures(read, lambda: "x", torch.arange(count), (size, size)), seen


def test_the_next_parts_are_decoded_in_threads_while_one_is_in_use():
    pictures, seen = counted(12)
    got = pictures.split(2)
    assert next(got)[:, 0, 0, 0].tolist() == [0, 1]
    for _ in range(500):  # without being asked for
        if len(seen) == 1 + stored.READERS:
            break
        threading.Event().wait(0.01)
    assert len(seen) == 1 + stored.READERS, "no more than that either: they would fill memory"
    assert threading.main_thread() not in {thread for _, thread in seen}
    assert [part[:, 0, 0, 0].tolist() for part in got] == [[i, i + 1] for i in range(2, 12, 2)]
    assert sorted(rows for rows, _ in seen) == [[i, i + 1] for i in range(0, 12, 2)]


def test_the_threads_end_with_the_iteration_or_with_the_interest_in_it():
    for stop in (lambda got: list(got), lambda got: next(got)):
        pictures, seen = counted(12)
        stop(pictures.split(1))
        assert not any(thread.is_alive() for _, thread in seen)


def test_what_a_thread_cannot_read_ends_the_training_with_its_row():
    pictures, _ = counted()
    got = pictures.split(5)
    assert len([next(got), next(got)]) == 2
    with pytest.raises(ValueError, match="cannot read row 13"):
        next(got)


def test_pictures_of_any_store_can_be_trained_on():
    pictures, _ = counted(13)
    data = ImageTextData(pictures, torch.arange(13) % 2, ("a",) * 13, ("x", "y"))
    for batch in batches(data, 4, seed=1):
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.index)
    with pytest.raises(ValueError, match="labels: expected"):
        ImageTextData(pictures, torch.arange(12), ("a",) * 13, ("x", "y"))
    with pytest.raises(ValueError, match="the data is empty"):
        ImageTextData(pictures.only(torch.arange(0)), torch.arange(0), (), ("x", "y"))


# --- measures -----------------------------------------------------------------------------------


def test_measures_are_those_of_memory(disk, memory):
    method, _ = trained(memory[0], name="cmssf")
    for one, other in zip(disk, memory, strict=True):
        a, b = evaluate.embed(method, one), evaluate.embed(method, other)
        assert torch.equal(a.image, b.image)
        mirrored = [
            evaluate.embed_mirrored(method, data.images, seen=a.image) for data in (one, other)
        ]
        assert torch.equal(*mirrored)
        assert torch.equal(evaluate.pixel_features(one), evaluate.pixel_features(other))
        assert torch.equal(noisy_pixels(one, 0.1, 0).images, noisy_pixels(other, 0.1, 0).images)
    assert evaluate.nearest_pixels(*disk) == evaluate.nearest_pixels(*memory)
    mirror = evaluate.embed_images(method, memory[0].images.flip(-1))
    seen = evaluate.embed_images(method, memory[0])
    twice = evaluate.embed_mirrored(method, memory[0].images, seen=seen)
    assert torch.equal(twice, torch.nn.functional.normalize(seen + mirror, dim=1))


def test_features_of_a_frozen_encoder_are_made_batch_by_batch(disk, memory):
    small = replace(preset("quick", "cmssf"), vision=TINY.vision, text=TINY.text)
    small = replace(small, cmssf=replace(small.cmssf, freeze_image=True))
    method = build(small, "cmssf", disk.train)
    one, other = (
        cache_features(method, data, views=2, say=len, keep=False, progress=False)
        for data in (disk.train, memory[0])
    )
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.hold_out(9, 0)[1].features, other.hold_out(9, 0)[1].features)


def test_fine_tuning_is_that_of_memory(disk, memory):
    method, _ = trained(memory[0])
    how = {"steps": 2, "batch_size": 16, "lr": 1e-3, "seed": 0}
    tuned = [evaluate.fine_tune(method, data, **how) for data in (disk.train, memory[0])]
    assert same_weights(tuned[0].state_dict(), tuned[1].state_dict())
    assert torch.equal(tuned[0].predict(disk.test), tuned[1].predict(memory[1]))


def test_a_figure_shows_them(disk):
    from cmssf_lib import plots

    assert len(plots.caption_grid(disk.test, [0, 3]).axes) >= 2


# --- by name, and from the shell ----------------------------------------------------------------


def test_load_opens_them(folder, disk):
    found = load(DataConfig(name="arrow", path=str(folder), image_size=SIZE))
    assert found.train.fingerprint == disk.train.fingerprint
    said = load(DataConfig(name="arrow", path=str(folder), image_size=SIZE, text="class"))
    assert said.train.captions[0].startswith("a photo of a ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "arrow needs a folder"),
        ({"pixel_noise": 0.1}, "set pixel_noise=0"),
        ({"sound": "same"}, "set sound='none'"),
        ({"captions": "a.csv"}, "needs a folder of pictures"),
        ({"skip_unreadable": True}, "needs a folder of pictures"),
    ],
)
def test_settings_that_cannot_act_are_refused(folder, changes, message, monkeypatch):
    monkeypatch.delenv("CMSSF_DATA", raising=False)
    with pytest.raises(ValueError, match=message):
        load(DataConfig(name="arrow", **{"path": str(folder), **changes}))


def test_pixels_as_a_baseline_are_refused_before_the_training(disk):
    chosen = preset("quick", "simclr")
    chosen = replace(chosen, judge=replace(chosen.judge, pixels=True))
    with pytest.raises(ValueError, match=r"set judge\.pixels=False"):
        require_measurable(disk, disk.test, chosen, "simclr")


def test_the_shell_trains_and_measures_on_them(folder, tmp_path, capsys):
    words = "train simclr --preset quick --train.epochs 1 --train.batch_size 32 --judge.per_class 2"
    words += f" --data.name arrow --data.path {folder} --data.image_size 16 --data.validation 20"
    assert cli.main([*words.split(), "--run", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    run = Run.load(tmp_path / "run")
    assert 0 <= run.results["knn"] <= 1
    assert run.config["data"]["name"] == "arrow"
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0


# --- what folders may hold ----------------------------------------------------------------------


def test_arrays_are_pictures_too(tmp_path, disk):
    arrays = {"image": list(SCENES.train.images.permute(0, 2, 3, 1).numpy())}
    columns = {"image": Array3D((20, 20, 3), "uint8"), "label": DIGITS}
    found = arrow_folder(save(tmp_path / "a", columns, arrays, count=40))
    assert torch.equal(found.train.images[:], SCENES.train.images[:40])
    shrunk = arrow_folder(tmp_path / "a", image_size=SIZE).train
    assert torch.equal(shrunk.images[:], disk.train.images[:40])
    assert len({found.train.fingerprint, shrunk.fingerprint, disk.train.fingerprint}) == 3
    columns = {"image": Array3D((20, 20, 3), "float32")}
    floats = {"image": [array / np.float32(255) for array in arrays["image"]]}
    with pytest.raises(ValueError, match="an Array3D of uint8"):
        arrow_folder(save(tmp_path / "b", columns, floats, count=3))


def test_without_labels_and_captions_all_are_pictures(tmp_path):
    found = arrow_folder(save(tmp_path / "plain", ENCODED), image_size=SIZE).train
    assert found.class_names == ("picture",)
    assert set(found.captions) == {"a photo of a picture"}
    assert found.labels.tolist() == [0] * 96


def test_an_image_folder_is_written_as_the_docstring_says(tmp_path):
    for i, image in enumerate(rows_of(SCENES.train)["image"][:20]):
        place = tmp_path / "in" / ("test" if i % 5 == 0 else "train") / ("a" if i % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i:02}.png")
    made = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "in"), cache_dir=str(tmp_path / "cache")
    )
    made.save_to_disk(tmp_path / "out")
    files = image_folder(tmp_path / "in", image_size=SIZE)
    found = arrow_folder(tmp_path / "out", image_size=SIZE)
    for split, part in zip(files, found, strict=True):
        assert split.class_names == part.class_names
        assert split.captions == part.captions
        assert torch.equal(split.images, part.images[:])


def test_anything_that_yields_pictures_is_written_as_the_docstring_says(tmp_path):
    def rows(split):
        for image in rows_of(getattr(SCENES, split))["image"][:9]:
            yield {"image": image, "label": "cat", "caption": "a cat"}

    kinds = {"image": datasets.Image(), "label": ClassLabel(names=["cat", "dog"])}
    kinds["caption"] = Value("string")
    made = {
        split: Dataset.from_generator(
            rows, Features(kinds), gen_kwargs={"split": split}, cache_dir=str(tmp_path / "c")
        )
        for split in ("train", "test")
    }
    DatasetDict(made).save_to_disk(tmp_path / "out")
    found = arrow_folder(tmp_path / "out").train
    assert torch.equal(found.images[:], SCENES.train.images[:9])
    assert (found.class_names, found.captions[0]) == (("cat", "dog"), "a cat")


@pytest.mark.parametrize(
    ("columns", "changes"),
    [
        ({"label": DIGITS}, {}),
        ({**ENCODED, "label": Value("int64")}, {}),
        ({**ENCODED, "caption": Value("string"), "text": Value("string")}, {}),
    ],
    ids=["no pictures", "no names of classes", "two captions"],
)
def test_columns_that_cannot_be_meant_are_refused(tmp_path, columns, changes):
    texts = {"caption": ["a"] * 96, "text": ["b"] * 96}
    save(tmp_path / "x", columns, {**texts, **changes})
    with pytest.raises(ValueError, match="expected the columns image"):
        arrow_folder(tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [None] * 96}, "labels run from -1"),
        ({"caption": [["a"], None] * 48}, "caption 1 is None"),
        ({"caption": [["a"], []] * 48}, "caption 1 is"),
    ],
    ids=["label", "caption", "captions"],
)
def test_what_is_missing_in_a_row_is_said(tmp_path, changes, message, as_shipped):
    with pytest.raises(ValueError, match=message):
        arrow_folder(save(tmp_path / "x", changes=changes), image_size=SIZE)


def test_splits_that_differ_are_refused(tmp_path):
    one = Dataset.from_dict(rows_of(SCENES.train), features=Features(COLUMNS))
    other = one.remove_columns("caption")
    DatasetDict(train=one, test=other).save_to_disk(tmp_path / "x")
    with pytest.raises(ValueError, match="all equal in train and test"):
        arrow_folder(tmp_path / "x")
    DatasetDict(train=one, validation=one).save_to_disk(tmp_path / "y")
    with pytest.raises(ValueError, match=r"the splits train and test .*test"):
        arrow_folder(tmp_path / "y")
    one.to_parquet(tmp_path / "w" / "train.parquet")
    one.select([]).to_parquet(tmp_path / "w" / "test.parquet")
    with pytest.raises(ValueError, match="no Arrow or Parquet files"):
        arrow_folder(tmp_path / "w")
    one.save_to_disk(tmp_path / "z")
    with pytest.raises(ValueError, match="the splits train and test"):
        arrow_folder(tmp_path / "z")


def test_a_folder_without_data_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        arrow_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no Arrow or Parquet files"):
        arrow_folder(tmp_path / "empty")
    monkeypatch.setattr(arrow, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install datasets"):
        arrow_folder(tmp_path / "empty")


def test_a_damaged_file_is_refused(tmp_path):
    for end in ("train", "test"):
        (tmp_path / f"{end}.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="no Arrow or Parquet files"):
        arrow_folder(tmp_path)


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    images = [Image.new("RGB", (20, 20 + (i == 9))) for i in range(96)]
    data = arrow_folder(save(tmp_path / "x", ENCODED, {"image": images})).train
    assert data.images[:9].shape == (9, 3, 20, 20)
    with pytest.raises(ValueError, match="set image_size"):
        data.images[8:10]
    with pytest.raises(ValueError, match="set image_size"):
        data.images[9]
    assert arrow_folder(tmp_path / "x", image_size=8).train.images[9].shape == (3, 8, 8)


def test_a_picture_that_cannot_be_read_is_named_by_its_row(tmp_path):
    whole = io.BytesIO()
    Image.new("RGB", (20, 20)).save(whole, "PNG")
    held = [{"bytes": whole.getvalue(), "path": None} for _ in range(96)]
    held[7] = {"bytes": b"junk", "path": "seven.png"}
    held[8] = None
    data = arrow_folder(save(tmp_path / "x", ENCODED, {"image": held})).train
    with pytest.raises(ValueError, match="cannot read the picture in row 7 of x train"):
        list(batches(data, 4, shuffle=False))
    with pytest.raises(ValueError, match="x train: row 8 holds no picture"):
        data.images[8]
    with pytest.raises(ValueError, match="x train: row 8 holds no picture"):
        print(data.fingerprint)  # which comes before the first step


def test_pictures_that_are_only_named_are_not_looked_for(tmp_path):
    """A path from another machine means nothing here; save_to_disk copies files of this one."""
    path = tmp_path / "one.png"
    Image.new("RGB", (20, 20)).save(path)
    named = Features({"image": datasets.Image(decode=False)})
    one = Dataset.from_dict({"image": [{"bytes": None, "path": str(path)}]}, features=named)
    (tmp_path / "p").mkdir()
    for split in ("train", "test"):
        pq.write_table(one.data.table, tmp_path / "p" / f"{split}.parquet")
    with pytest.raises(ValueError, match="p train: row 0 holds no picture, or only a path"):
        arrow_folder(tmp_path / "p")

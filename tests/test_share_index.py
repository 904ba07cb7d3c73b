"""The index: search against a slow loop, again against from scratch, and what must be refused."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from pyarrow import parquet
from settings import CMSSFConfig, SimCLRConfig, TextConfig, VisionConfig, new_cmssf
from sklearn.neighbors import NearestNeighbors
from tensor_sizes import LargestTensor
from torch import Tensor

from cmssf_lib.data import ImageTextData, picture_cache
from cmssf_lib.encoders import ImageEncoder
from cmssf_lib.evaluate import embed_images, embed_prompts, embed_texts, zero_shot
from cmssf_lib.methods import CMSSF, SimCLR
from cmssf_lib.share import (
    Calibration,
    Index,
    calibrate,
    exact,
    fingerprint,
    folder,
    from_pretrained,
    index as index_module,
    index_folder,
    nearest,
    save_pretrained,
)
from cmssf_lib.share.index import Changes
from cmssf_lib.views import ViewsConfig

SIDE = 8  # of the pictures that the encoder works at


def rows(seed: int, n: int, dim: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# --- nearest ----------------------------------------------------------------------------------


def slow(queries: Tensor, vectors: Tensor, k: int) -> tuple[list, list]:
    """Every pair by itself; then sorted by similarity, to 2⁻²⁴, and by place."""
    similarity, place = [], []
    for q in queries.tolist():
        found = []
        for i, v in enumerate(vectors.tolist()):
            dot = math.fsum(a * b for a, b in zip(q, v, strict=True))
            found.append((-round(2**24 * dot / math.hypot(*q) / math.hypot(*v)), i))
        found = sorted(found)[:k]
        similarity.append([-steps / 2**24 for steps, _ in found])
        place.append([i for _, i in found])
    return similarity, place


@given(
    queries=st.lists(st.tuples(*[st.integers(-2, 2)] * 2).filter(any), min_size=1, max_size=6),
    vectors=st.lists(st.tuples(*[st.integers(-2, 2)] * 2).filter(any), min_size=1, max_size=30),
    k=st.integers(1, 35),
    block=st.sampled_from([1, 4, 30, 2**22]),
)
def test_nearest_is_the_sorted_matrix_ties_included(queries, vectors, k, block):
    """Few directions, so that nearly everything is tied, in blocks that cut through the ties."""
    queries, vectors = torch.tensor(queries).float(), torch.tensor(vectors).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK", block)
        similarity, place = nearest(queries, vectors, k)
    expected, places = slow(queries, vectors, k)
    assert place.tolist() == places
    assert similarity.tolist() == expected


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60), k=st.integers(1, 60))
def test_nearest_is_argsort_where_nothing_is_tied(seed, n, k):
    z = torch.nn.functional.normalize(rows(seed, n + 5, 12), dim=1)
    whole = z[:5].double() @ z[5:].T.double()
    similarity, place = nearest(z[:5], z[5:], k)
    assert torch.equal(place, whole.argsort(dim=1, descending=True)[:, :k])
    torch.testing.assert_close(similarity, whole.gather(1, place).float(), atol=3e-7, rtol=0)


def test_nearest_finds_what_scikit_learn_finds():
    queries, vectors = rows(0, 40, 16), rows(1, 700, 16)
    oracle = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(vectors)
    distance, place = oracle.kneighbors(queries)
    ours = nearest(queries, vectors, 9)
    assert ours[1].tolist() == place.tolist()
    np.testing.assert_allclose(ours[0], 1 - distance, atol=1e-6)


def test_equal_vectors_are_tied_in_whichever_block_they_stand(monkeypatch):
    vectors = rows(0, 7, 128).repeat(13, 1)  # row i equals row i + 7
    queries = torch.cat([vectors[:7], rows(1, 3, 128)])
    expected = nearest(queries, vectors, 91)
    assert expected[1][0, :13].tolist() == list(range(0, 91, 7))
    assert torch.equal(expected[0][:7, :13], torch.ones(7, 13))
    for block in (1, 25, 144, 2500):
        monkeypatch.setattr(exact, "BLOCK", block)
        for found, all_at_once in zip(nearest(queries, vectors, 91), expected, strict=True):
            assert torch.equal(found, all_at_once)


def test_a_search_is_never_larger_than_a_block():
    """So 50,000 × 50,000 needs the memory of a block of doubles and its temporaries."""
    z = rows(0, 2500, 4)
    assert len(z) ** 2 > 1.4 * exact.BLOCK  # or the test would show nothing
    with LargestTensor() as largest:
        nearest(z, z, 10)
    assert largest.entries <= exact.BLOCK


@pytest.mark.parametrize(
    ("queries", "vectors", "k", "complaint"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), 0, "k is 0, but must be at least 1"),
        (torch.ones(2, 3), torch.ones(4, 2), 1, "same width"),
        (torch.ones(0, 3), torch.ones(4, 3), 1, "queries holds 0 rows"),
        (torch.ones(2, 3), torch.ones(0, 3), 1, "vectors 0; both need one"),
        (torch.tensor([[1.0], [0.0]]), torch.ones(4, 1), 1, "a query has length zero"),
        (torch.tensor([[1.0], [torch.nan]]), torch.ones(4, 1), 1, "queries holds NaN or infinity"),
        (torch.ones(2, 1), torch.tensor([[1.0], [torch.inf]]), 1, "vectors holds NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_nearest_refuses_what_has_no_answer(queries, vectors, k, complaint):
    with pytest.raises(ValueError, match=complaint):
        nearest(queries, vectors, k)


# --- a folder ---------------------------------------------------------------------------------


def new_model(seed: int = 0, words: str = "a red seven two") -> CMSSF:
    torch.manual_seed(seed)
    return new_cmssf(
        VisionConfig(image_size=SIDE, width=16, depth=1, heads=2),
        TextConfig(width=16, depth=1, heads=2, max_length=8),
        CMSSFConfig(dim=12, hidden=16, views=ViewsConfig()),
        [words],
    )


@pytest.fixture(scope="module")
def model() -> CMSSF:
    return new_model()


def picture(number: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """One picture for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write(path: Path, number: int, **kind) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, **kind).save(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Six files in three folders, two of them the same, and what is no picture."""
    root = tmp_path / "pictures"
    for number, name in enumerate(("b.png", "a.bmp", "deep/er/c.png", "deep/d.PNG", "é/f f.png")):
        write(root / name, number)
    write(root / "deep" / "copy.png", 0)
    write(root / ".hidden.png", 9)
    write(root / ".thumbnails" / "b.png", 9)
    (root / "notes.txt").write_text("no picture")
    (root / "folder.png").mkdir()
    return root


FILES = ["a.bmp", "b.png", "deep/copy.png", "deep/d.PNG", "deep/er/c.png", "é/f f.png"]


def no_reading(monkeypatch, what: str = "picture") -> None:
    def refuse(*_):
        raise AssertionError(f"a {what} was read")

    name = {"picture": "read_picture", "file": "hashlib"}[what]
    monkeypatch.setattr(folder, name, refuse)


def test_a_folder_becomes_one_vector_for_each_different_picture(model, pictures):
    index = index_folder(model, pictures, model_name="me/model")
    assert [p.file for p in index.pictures] == FILES
    assert index.files == [["a.bmp"], ["b.png", "deep/copy.png"], *[[f] for f in FILES[3:]]]
    assert len(index) == 5
    shown = [np.asarray(picture(number)) for number in (1, 0, 3, 2, 4)]
    images = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(index.vectors, model.eval().encode_image(images))
    assert (index.folder, index.model) == (pictures.resolve(), fingerprint(model))
    assert index.model_name == "me/model"
    assert index.changes == Changes(added=tuple(FILES), encoded=5)


def test_a_picture_of_another_size_is_its_central_square(model, tmp_path):
    write(tmp_path / "wide.png", 1, size=(40, 20))
    square = picture(1, size=(40, 20)).crop((10, 0, 30, 20))
    square.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(tmp_path / "square.png")
    index = index_folder(model, tmp_path)
    torch.testing.assert_close(index.vectors[0], index.vectors[1])


def test_the_model_trains_on_as_it_was(pictures):
    model = new_model().train()
    before = fingerprint(model)
    index_folder(model, pictures)
    assert model.training
    assert fingerprint(model) == before


def test_no_more_than_a_batch_of_pictures_is_in_memory(model, tmp_path, monkeypatch):
    for number in range(30):
        write(tmp_path / f"{number:02}.png", number)
    alive, most, sizes = set(), 0, []
    read, encode = folder.read_picture, folder.embed_images

    def counted(*arguments):
        nonlocal most
        pixels = np.array(read(*arguments))
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        most = max(most, len(alive))
        return pixels

    def sized(model, images):
        sizes.append(len(images))
        return encode(model, images)

    monkeypatch.setattr(folder, "read_picture", counted)
    monkeypatch.setattr(folder, "embed_images", sized)
    whole = index_folder(model, tmp_path)
    sizes.clear()
    monkeypatch.setattr(picture_cache, "AT_ONCE", 4)
    most = 0
    in_batches = index_folder(model, tmp_path)
    assert sizes == [4] * 7 + [2]
    assert most <= 5  # the last of a batch may still be held while the next one begins
    torch.testing.assert_close(in_batches.vectors, whole.vectors)


# --- again ------------------------------------------------------------------------------------


def test_an_unchanged_folder_is_not_read_again(model, pictures, monkeypatch):
    old = index_folder(model, pictures)
    no_reading(monkeypatch, "picture")
    no_reading(monkeypatch, "file")
    new = index_folder(model, pictures, old=old)
    assert torch.equal(new.vectors, old.vectors)
    assert new.pictures == old.pictures
    assert new.changes == Changes()


def test_only_what_is_new_or_changed_is_encoded(model, pictures):
    old = index_folder(model, pictures)
    write(pictures / "new.png", 100)
    write(pictures / "b.png", 101)
    (pictures / "a.bmp").unlink()
    new = index_folder(model, pictures, old=old)
    assert new.changes == Changes(("new.png",), ("b.png",), ("a.bmp",), 2)
    assert new.files[0] == ["b.png"]
    assert new.files[1] == ["deep/copy.png"]  # the first with these bytes now


def test_bytes_that_are_known_are_not_encoded_whatever_they_are_called(
    model, pictures, monkeypatch
):
    old = index_folder(model, pictures)
    no_reading(monkeypatch)
    (pictures / "b.png").rename(pictures / "z.png")
    shutil.copy(pictures / "a.bmp", pictures / "more.bmp")
    os.utime(pictures / "é" / "f f.png", ns=(1, 1))  # touched, but the same
    new = index_folder(model, pictures, old=old)
    assert new.changes == Changes(("more.bmp", "z.png"), (), ("b.png",), 0)
    assert ["deep/copy.png", "z.png"] in new.files


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "copy", "move", "remove"]),
        st.sampled_from(["1.png", "2.png", "3.png", "x/1.png", "x/2.png"]),
        st.sampled_from(["1.png", "2.png", "4.png", "x/3.png", "y/1.png"]),
        st.integers(0, 4),
    ),
    max_size=8,
)


def edit(root: Path, edits: list, seconds: int) -> None:
    for kind, first, second, number in edits:
        source, target = root / first, root / second
        if kind == "write":
            write(source, number)
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "copy" and source != target:
                shutil.copy(source, target)
            elif kind == "move":
                source.replace(target)
            elif kind == "remove":
                source.unlink()
        for touched in (source, target):  # a clock that ticks: edits follow one another quickly
            if touched.is_file() and kind != "move":
                os.utime(touched, (seconds, seconds))


@settings(max_examples=15)
@given(before=EDITS, after=EDITS)
def test_indexing_again_is_indexing_from_scratch(model, before, after):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root / "stays.png", 0)
        edit(root, before, seconds=1)
        old = index_folder(model, root)
        edit(root, after, seconds=2)
        again, fresh = index_folder(model, root, old=old), index_folder(model, root)
        assert again.pictures == fresh.pictures
        assert again.files == fresh.files
        torch.testing.assert_close(again.vectors, fresh.vectors)
        known = {p.digest for p in old.pictures}
        assert again.changes.encoded == len({p.digest for p in fresh.pictures} - known)
        files = [{p.file: p.digest for p in index.pictures} for index in (old, fresh)]
        assert set(again.changes.added) == files[1].keys() - files[0].keys()
        assert set(again.changes.gone) == files[0].keys() - files[1].keys()
        both = files[0].keys() & files[1].keys()
        assert set(again.changes.changed) == {f for f in both if files[0][f] != files[1][f]}


# --- pictures that cannot be ------------------------------------------------------------------


def damage(pictures: Path, kind: str) -> str:
    path = pictures / f"{kind}.png"
    if kind == "junk":
        path.write_text("junk")
    elif kind == "cut":
        path.write_bytes((pictures / "b.png").read_bytes()[:100])
    elif kind == "empty":
        path.touch()
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    return path.name


@pytest.mark.parametrize("kind", ["junk", "cut", "empty", "link", "pipe"])
def test_an_unreadable_picture_is_named_or_left_out_with_a_warning(model, pictures, kind):
    whole = index_folder(model, pictures)
    name = damage(pictures, kind)
    complaint = f"cannot read the picture {pictures / name}"
    with pytest.raises(ValueError, match=rf"{complaint}: .*\. Repair or delete it"):
        index_folder(model, pictures)
    for old in (None, whole):
        with pytest.warns(UserWarning, match=f"1 of 7 pictures are left out: {complaint}"):
            index = index_folder(model, pictures, old=old, skip_unreadable=True)
        assert index.pictures == whole.pictures
        torch.testing.assert_close(index.vectors, whole.vectors)


def test_a_picture_that_was_damaged_since_is_left_out(model, pictures):
    old = index_folder(model, pictures)
    (pictures / "a.bmp").write_text("junk")
    with pytest.warns(UserWarning, match="1 of 6 pictures are left out"):
        new = index_folder(model, pictures, old=old, skip_unreadable=True)
    assert [p.file for p in new.pictures] == FILES[1:]
    assert new.changes == Changes()


def test_a_folder_in_it_that_cannot_be_read_is_an_error(model, pictures, monkeypatch):
    """Else its pictures would seem to be gone."""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="deep"):
        index_folder(model, pictures)


def test_folders_without_pictures_are_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        index_folder(model, tmp_path / "nowhere")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no picture in .*empty: expected \.jpg, "):
        index_folder(model, tmp_path / "empty")
    (tmp_path / "empty" / "1.png").write_text("junk")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"none of the 1 pictures in .*empty can be read"),
    ):
        index_folder(model, tmp_path / "empty", skip_unreadable=True)


def test_an_index_goes_on_only_in_its_own_folder_with_its_own_model(model, pictures, tmp_path):
    index = index_folder(model, pictures)
    write(tmp_path / "other" / "1.png", 1)
    with pytest.raises(ValueError, match=r"is of the folder .*pictures, not of .*other"):
        index_folder(model, tmp_path / "other", old=index)
    with pytest.raises(ValueError, match=rf"made by another model \(fingerprint {index.model}"):
        index_folder(new_model(1), pictures, old=index)


def test_broken_weights_make_no_index(pictures):
    broken = new_model()
    broken.image_head.requires_grad_(False)
    next(iter(broken.image_head.parameters())).fill_(torch.nan)
    with pytest.raises(ValueError, match="the weights are broken"):
        index_folder(broken, pictures)


# --- search -----------------------------------------------------------------------------------


def test_a_picture_finds_itself_and_names_its_copies(model, pictures, monkeypatch):
    index = index_folder(model, pictures)
    monkeypatch.setattr(index_module, "embed_texts", lambda model, sentences: index.vectors)
    hits = index.find(model, ["each picture as if it were a sentence"], k=3)
    assert [row[0].file for row in hits] == [names[0] for names in index.files]
    assert all(row[0].similarity == pytest.approx(1, abs=1e-6) for row in hits)
    assert hits[1][0].also == ("deep/copy.png",)
    for row in hits:  # a copy takes no place of its own
        assert len({hit.file for hit in row}) == 3
        assert all(hit.file != "deep/copy.png" for hit in row)


def test_a_sentence_is_compared_with_every_picture(model, pictures):
    index = index_folder(model, pictures)
    sentences = ["a red seven", "two"]
    similarity = embed_texts(model, sentences) @ index.vectors.T
    for hits, row in zip(index.find(model, sentences, k=99), similarity, strict=True):
        assert [hit.file for hit in hits] == [index.files[i][0] for i in row.argsort().flip(0)]
        assert [h.similarity for h in hits] == pytest.approx(row.sort(descending=True).values)


@pytest.mark.parametrize("kind", ["tensor", "pillow", "arrays", "data"])
def test_a_picture_is_searched_as_a_sentence_is(model, pictures, kind):
    index = index_folder(model, pictures)
    numbers = (2, 0)  # c.png, and b.png with its copy
    arrays = [np.asarray(picture(number)) for number in numbers]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    asked = {
        "tensor": images,
        "pillow": [picture(number) for number in numbers],
        "arrays": arrays,
        "data": ImageTextData(images, torch.tensor([0, 0]), ("a", "b"), ("c",)),
    }[kind]
    first, second = index.find(model, asked, k=2)
    assert (first[0].file, second[0].file) == ("deep/er/c.png", "b.png")
    assert first[0].similarity == second[0].similarity == pytest.approx(1, abs=1e-6)
    assert second[0].also == ("deep/copy.png",)
    if kind == "pillow":  # one by itself is taken, too
        assert index.find(model, asked[0], k=2) == [first]


def test_what_is_excluded_lowers_the_score_by_half_its_similarity(model, pictures):
    index = index_folder(model, pictures)
    asked, apart = ["a red seven", "seven"], ["two", "a red two"]
    seen = [picture(3), picture(4)]
    for without, embed in (apart, embed_texts), (seen, embed_images), (seen[0], embed_images):
        excluded = embed(model, without)
        found = index.find(model, asked, k=9, without=without)
        for hits, query in zip(found, embed_texts(model, asked), strict=True):
            expected = {}
            for names, vector in zip(index.files, index.vectors, strict=True):
                worst = max(0.0, *(excluded @ vector).tolist())
                expected[names[0]] = float(query @ vector) - worst / 2
            assert [h.file for h in hits] == sorted(expected, key=expected.get, reverse=True)
            scores = sorted(expected.values(), reverse=True)
            assert [hit.similarity for hit in hits] == pytest.approx(scores, abs=1e-6)
    assert index.find(model, asked, without=None) == index.find(model, asked)


def test_search_refuses_other_models_unknown_words_and_no_answers(model, pictures):
    index = index_folder(model, pictures)
    with pytest.raises(ValueError, match="made by another model"):
        index.find(new_model(1), ["a red seven"])
    with pytest.raises(ValueError, match="never seen: 'blue'"):
        index.find(model, ["a blue seven"])
    with pytest.raises(ValueError, match="k is 0"):
        index.find(model, ["a red seven"], k=0)
    for nothing in ([], ()):
        with pytest.raises(ValueError, match="there is nothing to embed"):
            index.find(model, nothing)
        with pytest.raises(ValueError, match="there is nothing to embed"):
            index.find(model, ["seven"], without=nothing)
    with pytest.raises(TypeError, match="a single text: wrap it in a list"):
        index.find(model, "seven")
    with pytest.raises(ValueError, match="never seen: 'blue'"):
        index.find(model, ["seven"], without=["blue"])


# --- whether anything fits --------------------------------------------------------------------


class Known(CMSSF):
    """Vectors that are known: of a picture from its first pixel, of a caption from its number."""

    def __init__(self, image: Tensor, text: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.image, self.text = image, text

    def train(self, mode: bool = True) -> "Known":
        return torch.nn.Module.train(self, mode)

    def features(self, images: Tensor) -> Tensor:
        return self.image[images[:, 0, 0, 0].long()]

    def project(self, features: Tensor) -> Tensor:
        return features

    def encode_text(self, captions) -> Tensor:
        return self.text[[int(caption) for caption in captions]]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(3, 30))
def test_five_percent_of_what_is_true_of_none_lie_above_the_threshold(seed, n):
    random = np.random.default_rng(seed)
    image, text = (torch.nn.functional.normalize(rows(seed + i, n, 4), dim=1) for i in (0, 1))
    sets = [tuple(map(str, random.choice(n, random.integers(1, 3)))) for _ in range(n)]
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2)
    data = ImageTextData(pixels.clone(), torch.zeros(n).long(), tuple(sets), ("any",))
    found = calibrate(Known(image, text), data)
    true, none = [], []
    for caption in {c for own in sets for c in own}:
        similar = [float(text[int(caption)] @ vector) for vector in image]
        true.append(max(similar))
        none.append(max(s for s, own in zip(similar, sets, strict=True) if caption not in own))
    above = sum(s >= found.threshold - 1e-6 for s in none)
    assert above == math.ceil(len(none) / 20)
    assert found.missed == pytest.approx(sum(s < found.threshold - 1e-6 for s in true) / len(true))
    assert found.pictures == n


@pytest.mark.parametrize("size", [25, 200, 1_500])
def test_five_percent_hold_for_an_index_of_another_size(size):
    """Of sentences that are true of no picture of the index, whose pictures are like those."""
    n, above, lower = 200, [], 0
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2).clone()
    data = ImageTextData(pixels, torch.zeros(n).long(), tuple(map(str, range(n))), ("any",))
    for seed in range(10):
        image = torch.nn.functional.normalize(rows(seed, n + size, 16), dim=1)
        text = torch.nn.functional.normalize(rows(100 + seed, n + 500, 16), dim=1)
        model = Known(image[:n], text[:n])
        found = calibrate(model, data, size)
        best = (text[n:] @ image[n:].T).amax(dim=1)
        above.append(float((best >= found.threshold).float().mean()))
        lower += calibrate(model, data).threshold < found.threshold
    assert sum(above) / 10 == pytest.approx(0.05, abs=0.02)
    assert lower == (10 if size > n else 0)


def test_a_caption_of_every_picture_calibrates_nothing():
    data = ImageTextData(torch.zeros(2, 3, 2, 2).byte(), torch.zeros(2).long(), ("0", "0"), ("a",))
    found = calibrate(Known(torch.eye(2), torch.eye(2)), data)
    assert found == Calibration(2.0, 1.0, 2)
    assert not found.tells


def test_an_index_keeps_its_calibration(model, pictures, tmp_path):
    side = torch.zeros(2, 3, SIDE, SIDE).byte()
    held_out = ImageTextData(side, torch.zeros(2).long(), ("a red seven", "seven"), ("any",))
    old = index_folder(model, pictures, to=tmp_path, held_out=held_out)
    assert old.calibration == calibrate(model, held_out, len(old))
    assert Index.load(tmp_path).calibration == old.calibration
    write(pictures / "new.png", 100)
    assert index_folder(model, pictures, old=old).calibration == old.calibration
    again = index_folder(model, pictures, old=old, held_out=held_out)
    assert again.calibration == calibrate(model, held_out, len(old) + 1)
    assert index_folder(model, pictures).calibration is None


def test_an_index_can_be_classified_from_class_names(model, pictures):
    """The vectors are what `zero_shot` takes; no method of its own is needed."""
    index = index_folder(model, pictures)
    prompts, classes = embed_prompts(model, [["seven", "a red seven"], ["two", "a red two"]])
    expected = classes[(index.vectors @ prompts.T).argmax(dim=1)]
    assert torch.equal(zero_shot(index.vectors, prompts, classes), expected)


# --- which model ------------------------------------------------------------------------------


def test_a_model_keeps_its_fingerprint_when_it_is_saved(model, tmp_path):
    save_pretrained(model, tmp_path)
    assert fingerprint(from_pretrained(tmp_path)) == fingerprint(model)
    assert fingerprint(model) == fingerprint(new_model())


def test_a_task_beside_does_not_change_the_fingerprint(tmp_path):
    """It is not saved, and the same model must find its index again."""
    vision = VisionConfig(image_size=SIDE, width=16, depth=1, heads=2)
    task = SimCLR(ImageEncoder(vision), SimCLRConfig(hidden=16, dim=8))
    config = CMSSFConfig(dim=12, hidden=16, image_loss="simclr")
    text = TextConfig(width=16, depth=1, heads=2)
    joint = new_cmssf(vision, text, config, ["a red seven"], image_task=task)
    save_pretrained(joint, tmp_path)
    assert fingerprint(from_pretrained(tmp_path)) == fingerprint(joint)
    with torch.no_grad():
        joint.image_encoder.backbone.cls_token += 1  # the task's own, too
    assert fingerprint(from_pretrained(tmp_path)) != fingerprint(joint)


@pytest.mark.parametrize("change", ["weight", "statistics", "words", "pixels"])
def test_what_moves_a_vector_changes_the_fingerprint(change):
    before, model = fingerprint(new_model()), new_model()
    if change == "weight":
        model.image_head.requires_grad_(False)
        next(iter(model.image_head.parameters())).view(-1)[3] += 1e-6
    elif change == "statistics":
        model.train().image_encoder(torch.rand(4, 3, SIDE, SIDE))
    elif change == "words":  # as many, so that the weights are the same
        model = new_model(words="a blue seven two")
    else:
        vision = VisionConfig(**vars(model.image_encoder.config) | {"mean": (0.1, 0.2, 0.3)})
        model.image_encoder.config = vision
    assert fingerprint(model) != before


# --- its file ---------------------------------------------------------------------------------


def test_a_saved_index_is_the_same(model, pictures, tmp_path):
    shutil.copy(pictures / "b.png", pictures / 'line\nbreak "quoted".png')
    shutil.copy(pictures / "b.png", os.fsencode(pictures) + b"/no utf-8 \xff.png")
    index = index_folder(model, pictures, model_name="me/model")
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert torch.equal(again.vectors, index.vectors)
    for name in ("pictures", "files", "folder", "model", "model_name"):
        assert getattr(again, name) == getattr(index, name), name
    assert again.changes == Changes()
    assert again.find(model, ["two"]) == index.find(model, ["two"])
    assert index_folder(model, pictures, old=again).changes == Changes()
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["index.parquet"]


def test_a_search_needs_no_pictures(model, pictures, tmp_path):
    index = index_folder(model, pictures)
    index.save(tmp_path / "index")
    shutil.rmtree(pictures)
    assert Index.load(tmp_path / "index").find(model, ["two"]) == index.find(model, ["two"])


def test_an_index_is_there_whole_or_the_old_one_is(model, pictures, tmp_path, monkeypatch):
    index = index_folder(model, pictures)
    index.save(tmp_path / "index")
    before = (tmp_path / "index" / "index.parquet").read_bytes()

    def full(_, path, **__):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match=r"the disk is full: .* what was there before is untouched"):
        index.save(tmp_path / "index")
    assert (tmp_path / "index" / "index.parquet").read_bytes() == before
    assert len(list((tmp_path / "index").iterdir())) == 1


def test_no_index_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no index in .*: make one with `cmssf index`"):
        Index.load(tmp_path)


def rewrite(path: Path, columns: dict = {}, **facts) -> None:  # noqa: B006
    """Write the file again, with other columns and facts, as another program could."""
    table = parquet.read_table(path)
    about = json.loads(table.schema.metadata[b"cmssf"]) | facts
    columns = {name: columns.get(name, table[name]) for name in table.column_names}
    kept = {name: column for name, column in columns.items() if column is not None}
    table = pa.table(kept).replace_schema_metadata({"cmssf": json.dumps(about)})
    parquet.write_table(table, path)


def test_other_programs_can_open_it_and_find_the_same(model, pictures, tmp_path):
    """With pyarrow's reader and a product of matrices alone."""
    shutil.copy(pictures / "b.png", pictures / "back\\slash é.png")
    index = index_folder(model, pictures, to=tmp_path)
    table = parquet.read_table(tmp_path / "index.parquet")
    assert table.column_names == ["vector", "files", "times", "size", "digest"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 12)
    vectors, files = np.stack(table["vector"].to_numpy()), table["files"].to_pylist()
    assert ["b.png", "back\\\\slash é.png", "deep/copy.png"] in files  # the backslash is doubled
    similarity = vectors @ embed_texts(model, ["a red seven"])[0].numpy()
    (hits,) = index.find(model, ["a red seven"])
    order = similarity.argsort()[::-1]
    assert [files[i][0] for i in order] == [hit.file for hit in hits]
    assert similarity[order] == pytest.approx([hit.similarity for hit in hits], abs=1e-6)
    columns = (table[name].to_pylist() for name in ("digest", "size"))
    for row, digest, size in zip(files, *columns, strict=True):
        content = (pictures / row[0].replace("\\\\", "\\")).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest, size)
    facts = json.loads(table.schema.metadata[b"cmssf"])
    assert (facts["folder"], facts["model"]) == (str(index.folder), index.model)


def test_what_another_program_wrote_is_read(model, pictures, tmp_path):
    """DuckDB and polars have no lists of a fixed size, or write them otherwise."""
    index = index_folder(model, pictures, to=tmp_path)
    path = tmp_path / "index.parquet"
    vector = parquet.read_table(path)["vector"].cast(pa.list_(pa.float64()))
    rewrite(path, {"vector": vector})
    assert torch.equal(Index.load(tmp_path).vectors, index.vectors)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.binary().map(os.fsdecode))
def test_every_name_is_stored_as_unicode_and_read_back(name):
    stored = index_module._escaped(name)
    stored.encode()
    assert index_module._unescaped(stored) == name
    if "\\" not in name and name.isprintable():
        assert stored == name


FAULTS = {
    "length": {"vector": lambda v: pa.array([[2.0] * 12] * 5)},
    "twice": {"digest": lambda v: v.take([0, 0, 2, 3, 4])},
    "nan": {"vector": lambda v: pa.array([[math.nan] * 12] * 5)},
    "null": {"vector": lambda v: pa.array([None] * 5, v.type)},
    "ragged": {"vector": lambda v: pa.array([[1.0]] * 4 + [[1.0, 0.0]])},
    "no vectors": {"vector": lambda v: None},
    "no files": {"files": lambda v: None},
    "names": {"files": lambda v: pa.array([[1]] * 5)},
    "times": {"times": lambda v: pa.array([[]] * 5, v.type)},
}


@pytest.mark.parametrize(
    "fault", ["cut", "junk", "empty", "bit", "order", "foreign", "fact", *FAULTS]
)
@pytest.mark.usefixtures("as_shipped")
def test_a_damaged_index_is_refused(model, pictures, tmp_path, fault):
    index_folder(model, pictures).save(tmp_path)
    path = tmp_path / "index.parquet"
    whole, table = path.read_bytes(), parquet.read_table(path)
    if fault == "cut":
        path.write_bytes(whole[:-5])
    elif fault in ("junk", "empty"):
        path.write_bytes(b"junk" * (fault == "junk"))
    elif fault == "bit":  # in a vector: still a number
        at = whole.index(table["vector"].combine_chunks().flatten().to_numpy()[3:6].tobytes())
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif fault == "order":
        parquet.write_table(table.take([1, 0, 2, 3, 4]), path)
    elif fault == "foreign":
        parquet.write_table(table.replace_schema_metadata(None), path)
    elif fault == "fact":
        rewrite(path, format="cmssf-index-9")
    else:
        rewrite(path, {name: change(table[name]) for name, change in FAULTS[fault].items()})
    with pytest.raises(
        ValueError, match=r"index\.parquet is damaged \(.*\): delete it and index again"
    ):
        Index.load(tmp_path)


# --- work that is kept, and what was moved ----------------------------------------------------

INDEXING = """
import sys
sys.path.insert(0, {tests!r})
from test_share_index import folder, new_model, picture_cache
encode = folder.embed_images
def told(model, images):
    made = encode(model, images)
    print(len(images), flush=True)
    return made
folder.embed_images = told
picture_cache.AT_ONCE = {batch}
folder.index_folder(new_model(), {root!r}, to={to!r})
"""


def count_encoded(monkeypatch) -> list[int]:
    """The number of pictures in each batch that is encoded from now on."""
    counts, encode = [], folder.embed_images

    def counted(model, images):
        counts.append(len(images))
        return encode(model, images)

    monkeypatch.setattr(folder, "embed_images", counted)
    return counts


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kill_after", [1, 7, 30])
def test_a_process_that_is_killed_while_indexing_loses_a_twentieth(
    kill_after, model, tmp_path, monkeypatch
):
    """The proportions of 10,000 pictures in batches of 256, with 400 in batches of 10."""
    for number in range(400):
        write(tmp_path / "pictures" / f"{number:03}.png", number)
    code = INDEXING.format(
        tests=str(Path(__file__).parent),
        root=str(tmp_path / "pictures"),
        to=str(tmp_path),
        batch=10,
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(kill_after):
        assert process.stdout.readline() == "10\n"
    process.kill()
    done = 10 * (kill_after + len(process.stdout.read().split()))
    process.wait()
    assert not (tmp_path / "index.parquet").exists()
    (tmp_path / ".index.unfinished-1.parquet.1.tmp").touch()  # as if killed in the midst of writing
    monkeypatch.setattr(picture_cache, "AT_ONCE", 10)
    counts = count_encoded(monkeypatch)
    index = index_folder(model, tmp_path / "pictures", to=tmp_path)
    assert done + sum(counts) <= 400 + 400 // 20
    assert sum(counts) < 400 or kill_after == 1  # perhaps before its first piece was written
    monkeypatch.undo()
    fresh = index_folder(model, tmp_path / "pictures")
    assert index.pictures == fresh.pictures
    torch.testing.assert_close(index.vectors, fresh.vectors)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["index.parquet"]
    assert Index.load(tmp_path).pictures == fresh.pictures


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, None])
def test_what_was_encoded_before_an_error_is_kept(error, model, tmp_path, monkeypatch):
    """The error None: the last picture is damaged, and repaired afterwards."""
    for number in range(45):
        write(tmp_path / "pictures" / f"{number:02}.png", number)
    last, read = tmp_path / "pictures" / "44.png", folder.read_picture

    def fail(path, size):
        if Path(path) == last:
            raise error or ValueError(f"cannot read the picture {path}: junk")
        return read(path, size)

    monkeypatch.setattr(picture_cache, "AT_ONCE", 10)
    monkeypatch.setattr(folder, "read_picture", fail)
    with pytest.raises(error or ValueError):
        index_folder(model, tmp_path / "pictures", to=tmp_path / "index")
    monkeypatch.setattr(folder, "read_picture", read)
    counts = count_encoded(monkeypatch)
    index = index_folder(model, tmp_path / "pictures", to=tmp_path / "index")
    assert sum(counts) == (5 if error else 1)
    assert len(index) == 45
    assert index.changes.encoded == sum(counts)


def test_pieces_of_another_model_or_damaged_ones_are_no_loss(model, pictures, tmp_path):
    index_folder(new_model(1), pictures).save(tmp_path, folder.UNFINISHED.format(1))
    (tmp_path / folder.UNFINISHED.format(2)).write_text("junk")
    index = index_folder(model, pictures, to=tmp_path)
    torch.testing.assert_close(index.vectors, index_folder(model, pictures).vectors)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["index.parquet"]


@pytest.mark.parametrize("index_at", ["index", "pictures/index", "."])
def test_pictures_model_and_index_can_be_moved_together(index_at, pictures, tmp_path):
    save_pretrained(new_model(), tmp_path / "all" / "model")
    pictures.rename(tmp_path / "all" / "pictures")
    model = from_pretrained(tmp_path / "all" / "model")
    place, name = tmp_path / "all" / index_at, str(tmp_path / "all" / "model")
    before = index_folder(model, tmp_path / "all" / "pictures", to=place, model_name=name)
    (tmp_path / "all").rename(tmp_path / "moved")
    after = Index.load(tmp_path / "moved" / index_at)
    assert after.folder == tmp_path / "moved" / "pictures"
    assert after.model_name == str(tmp_path / "moved" / "model")
    assert after.pictures == before.pictures
    again = index_folder(model, after.folder, old=after, to=tmp_path / "moved" / index_at)
    assert again.changes == Changes()


def test_pictures_that_moved_without_their_index_are_found_by_content(
    model, pictures, tmp_path, monkeypatch
):
    old = index_folder(model, pictures, to=tmp_path / "index")
    moved = pictures.rename(tmp_path / "elsewhere")
    (moved / "b.png").rename(moved / "renamed.png")
    no_reading(monkeypatch)  # their digests suffice
    new = index_folder(model, moved, old=Index.load(tmp_path / "index"), to=tmp_path / "index")
    assert new.folder == moved
    assert new.changes == Changes(("renamed.png",), (), ("b.png",), 0)
    assert len(new) == len(old)
    write(tmp_path / "other" / "1.png", 1)
    shutil.rmtree(moved)  # gone, but what is there now is something else
    with pytest.raises(ValueError, match=r"is of the folder .*elsewhere, not of .*other"):
        index_folder(model, tmp_path / "other", old=new, to=tmp_path / "index")

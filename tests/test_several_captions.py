"""Several captions a picture, as in Flickr8k and COCO: held, drawn, trained on and searched."""

import itertools
import json
import math
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from settings import CMSSFConfig, DataConfig, TextConfig, TrainConfig, VisionConfig, new_cmssf
from three_pictures import GOOD
from torch import Tensor

from cmssf_lib import cli
from cmssf_lib.captions import class_caption
from cmssf_lib.data import (
    ImageTextData,
    Splits,
    batches,
    digit_scenes,
    load,
    with_class_captions,
    with_scene_parts,
)
from cmssf_lib.data.changes import mispaired
from cmssf_lib.encoders import readable, tokenize, word_tokenizer
from cmssf_lib.evaluate import (
    both_retrievals,
    class_captions,
    embed,
    exact_caption_retrieval,
    monitor,
    pair_similarity,
    report,
)
from cmssf_lib.losses import duplicate_floor
from cmssf_lib.machine import step_seed
from cmssf_lib.train import fit


def some_data(n: int) -> ImageTextData:
    """Pictures whose pixels say which one they are."""
    number = torch.arange(n)
    return ImageTextData(
        images=number.to(torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous(),
        labels=number % 3,
        captions=tuple(f"caption {i % 4}" for i in range(n)),
        class_names=("x", "y", "z"),
        attributes={"number": number},
    )


def several(n: int = 60) -> ImageTextData:
    """Pictures with one to four captions, some of them shared; each names its picture."""
    sets = [tuple(f"text {i}.{j}" for j in range(1 + i % 4)) for i in range(n)]
    sets = [(*own, f"shared {i % 5}") if i % 3 == 0 else own for i, own in enumerate(sets)]
    return replace(some_data(n), captions=tuple(own if own[1:] else own[0] for own in sets))


@pytest.mark.usefixtures("as_shipped")  # a list is taken for a tuple
def test_several_captions_are_one_entry():
    data = ImageTextData(**{**GOOD, "captions": [["a", "b", "a"], "b", ("c",)]})
    assert data.captions == (("a", "b", "a"), "b", ("c",))
    assert data.caption_sets == (("a", "b"), ("b",), ("c",))
    assert data.unique_captions == ("a", "b", "c")
    assert data.caption_pairs.tolist() == [[0, 0, 1, 2], [0, 1, 1, 2]]
    assert data.caption_index.tolist() == [0, 1, 2]  # the first of each


def test_a_single_caption_is_what_it_was():
    data = some_data(10)
    assert data.caption_sets == tuple((caption,) for caption in data.captions)
    assert data.caption_pairs.tolist() == [list(range(10)), data.caption_index.tolist()]


def test_several_captions_stay_with_their_picture():
    data = several()
    sets = data.caption_sets
    for part in (*data.hold_out(20, seed=1), data.subset([7, 0, 7]), data.to("cpu")):
        numbers = part.attributes["number"].tolist()
        assert part.caption_sets == tuple(sets[i] for i in numbers)
    wrong = mispaired(data, "text", 1.0, seed=0)
    assert sorted(wrong.caption_sets) == sorted(sets)  # a picture's captions go together
    assert all(a != b for a, b in zip(wrong.caption_sets, sets, strict=True))
    assert with_class_captions(data).caption_sets == tuple(
        (class_caption(data.class_names[label]),) for label in data.labels.tolist()
    )


@pytest.mark.usefixtures("as_shipped")
def test_the_fingerprint_sees_every_caption():
    data = several()
    fewer = replace(data, captions=tuple(own[0] for own in data.caption_sets))
    changed = [list(own) for own in data.caption_sets]
    changed[3][-1] += "."
    prints = {data.fingerprint, fewer.fingerprint, replace(data, captions=changed).fingerprint}
    assert len(prints) == 3


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6), start=st.integers(0, 6))
@settings(max_examples=50)
def test_seed_and_epoch_alone_draw_the_captions(seed, epoch, start):
    """One of its own for each picture; an interrupted epoch goes on with the same ones."""
    data = several()

    def told(**options) -> list[list[str]]:
        found = batches(data, 8, seed=seed, epoch=epoch, **options)
        return [[b.captions[i] for i in b.caption_index.tolist()] for b in found]

    whole = told()
    assert told(start=start) == whole[start:]
    order = [batch.index.tolist() for batch in batches(data, 8, seed=seed, epoch=epoch)]
    plain = batches(some_data(60), 8, seed=seed, epoch=epoch)
    assert order == [batch.index.tolist() for batch in plain]  # the draw does not move the order
    for numbers, texts in zip(order, whole, strict=True):
        assert all(text in data.caption_sets[i] for i, text in zip(numbers, texts, strict=True))


def test_each_caption_is_drawn_equally_often():
    data, epochs = several(), 2_000
    drawn = Counter(
        data.unique_captions[i]
        for epoch in range(epochs)
        for i in data.drawn_captions(torch.Generator().manual_seed(step_seed(0, epoch))).tolist()
    )
    expected = Counter()
    for own in data.caption_sets:
        expected.update(dict.fromkeys(own, epochs / len(own)))
    assert drawn.keys() == expected.keys()
    for caption, count in expected.items():
        assert abs(drawn[caption] - count) < 5 * count**0.5


def test_in_order_each_picture_brings_its_first_caption():
    data = several(9)
    (batch,) = batches(data, 9, shuffle=False)
    own = [batch.captions[i] for i in batch.caption_index.tolist()]
    assert own == [texts[0] for texts in data.caption_sets]


def test_equal_captions_of_a_batch_are_one_group_however_they_were_drawn():
    """The floor is that of the texts that the batch holds, in every part of it as well."""
    data = replace(
        some_data(8), captions=(("a", "b"), ("a", "b"), *[("a", f"c{i}") for i in range(6)])
    )
    shared = 0
    for epoch in range(20):
        (batch,) = batches(data, 8, epoch=epoch)
        texts = [batch.captions[i] for i in batch.caption_index.tolist()]
        assert len(set(batch.captions)) == len(batch.captions)
        for i, j in itertools.combinations(range(8), 2):
            assert (batch.groups[i] == batch.groups[j]) == (texts[i] == texts[j])
        copies = Counter(texts)
        floor = sum(math.log(copies[text]) for text in texts) / 8
        assert duplicate_floor(batch.groups).item() == pytest.approx(floor, abs=1e-6)
        parts = [batch.part(number, 2) for number in range(2)]
        assert torch.equal(torch.cat([part.groups for part in parts]), batch.groups)
        said = [part.captions[i] for part in parts for i in part.caption_index.tolist()]
        assert said == texts
        shared += max(copies.values()) > 1
    assert shared > 15


# --- evaluation -------------------------------------------------------------------------------


def in_space(n: int = 12, dim: int = 3) -> tuple[Tensor, Tensor, ImageTextData]:
    """Random embeddings of pictures and of the distinct captions of data with several a picture."""
    random, data = torch.Generator().manual_seed(n), several(n)
    unit = (torch.randn(m, dim, generator=random) for m in (n, len(data.unique_captions)))
    image, text = (F.normalize(x, dim=1) for x in unit)
    return image, text, data


def share_in_first(similarity: list[float], right: list[bool], k: int) -> float:
    """How often a right answer is among the first k, over all orders of tied answers."""
    ranked = sorted(zip(similarity, right, strict=True), key=lambda pair: -pair[0])
    border = ranked[k - 1][0]
    above = [ok for value, ok in ranked if value > border + 1e-6]
    tied = [ok for value, ok in ranked if abs(value - border) <= 1e-6]
    if any(above):
        return 1.0
    places = k - len(above)
    return 1 - math.comb(len(tied) - sum(tied), places) / math.comb(len(tied), places)


@pytest.mark.parametrize("n", [20, 30])
def test_retrieval_counts_any_of_a_pictures_captions_as_slow_loops_do(n):
    image, text, data = in_space(n)
    found = both_retrievals(image, text, data.caption_pairs, data.labels)
    place = {caption: i for i, caption in enumerate(data.unique_captions)}
    pairs = [(i, place[c]) for i, own in enumerate(data.caption_sets) for c in own]
    labels, copies = data.labels.tolist(), Counter(caption for _, caption in pairs)
    similar = (image @ text.T).tolist()
    assert max(copies.values()) > 1
    for k in (1, 5, 10):
        by_class, by_picture, ceiling = [], [], []
        for i in range(n):
            row = [similar[i][caption] for _, caption in pairs]
            by_class.append(share_in_first(row, [labels[p] == labels[i] for p, _ in pairs], k))
            by_picture.append(share_in_first(row, [p == i for p, _ in pairs], k))
            rarest = min(copies[caption] for p, caption in pairs if p == i)
            ceiling.append(min(1.0, k / rarest))
        to_class = []
        for caption, label in {(caption, labels[p]) for p, caption in pairs}:
            row = [similar[i][caption] for i in range(n)]
            to_class.append(share_in_first(row, [own == label for own in labels], k))
        to_picture = [
            share_in_first([similar[i][caption] for i in range(n)], [i == p for i in range(n)], k)
            for p, caption in pairs
        ]
        own = [min(1.0, k / copies[caption]) for _, caption in pairs]
        expected = {
            f"image_to_text_R@{k}": by_class,
            f"text_to_image_R@{k}": to_class,
            f"exact_caption_R@{k}": by_picture,
            f"exact_caption_R@{k}_ceiling": ceiling,
            f"exact_picture_R@{k}": to_picture,
            f"exact_picture_R@{k}_ceiling": own,
        }
        for name, values in expected.items():
            assert found[name] == pytest.approx(sum(values) / len(values), abs=1e-6), name


def test_retrieval_in_closed_form():
    """Two pictures lie at their last captions, whatever their first ones say: any counts."""
    image = torch.eye(3)
    text = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0.6, 0.8]])
    pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 2, 0, 3]])  # text 0 is said of 0 and of 1
    of = {"picture_index": pairs[0], "ks": (1, 2)}
    found = exact_caption_retrieval(image, text, pairs[1], **of)
    # 0 finds text 1. 1 finds the two copies of text 0, of which one is its own: half of the time.
    # 2 finds text 2, another's, before its own.
    assert found["R@1"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["R@2"] == pytest.approx((1 + 1 + 1) / 3)
    assert found["R@1_ceiling"] == found["R@2_ceiling"] == 1  # each has a caption of its own
    alone = exact_caption_retrieval(image, text, torch.tensor([0, 2, 3]), ks=(1,))
    assert alone["R@1"] == pytest.approx(1 / 9)  # 0 has only ties left, the others lose


def test_a_single_caption_measures_as_before():
    """To the last digit: the same numbers as from one index a picture."""
    image, text, data = in_space()
    data = replace(data, captions=tuple(own[-1] for own in data.caption_sets))
    text = text[: len(data.unique_captions)]
    found = both_retrievals(image, text, data.caption_pairs, data.labels)
    assert not any(name.startswith("exact_picture") for name in found)
    exact = exact_caption_retrieval(image, text, data.caption_index)
    assert {name: found[f"exact_caption_{name}"] for name in exact} == exact
    picture, caption = data.caption_pairs
    own = text[data.caption_index]
    assert pair_similarity(image[picture], text[caption], data.labels, picture) == (
        pair_similarity(image, own, data.labels)
    )


def test_pairs_of_a_picture_with_its_own_captions_are_all_positive():
    image, text, data = in_space()
    picture, caption = data.caption_pairs
    found = pair_similarity(image[picture], text[caption], data.labels[picture], picture)
    similar, labels = (image @ text.T).double(), data.labels.tolist()
    pairs = list(zip(picture.tolist(), caption.tolist(), strict=True))
    own, other_class, other_picture = [], [], []
    for (i, mine), (j, theirs) in itertools.product(pairs, pairs):
        if (i, mine) == (j, theirs):
            own.append(similar[i, mine].item())
        if labels[i] != labels[j]:
            other_class.append(similar[i, theirs].item())
        if i != j:
            other_picture.append(similar[i, theirs].item())
    for name, values in (
        ("positive", own),
        ("different_class", other_class),
        ("contaminated", other_picture),
    ):
        assert found[name] == pytest.approx(sum(values) / len(values), abs=1e-6), name


# --- training ---------------------------------------------------------------------------------

VISION = VisionConfig(image_size=12, width=16, depth=1, heads=2)
TEXT = TextConfig(width=16, depth=1, heads=2)


def told_twice(data: ImageTextData) -> ImageTextData:
    """Each picture with its caption and two shorter ones."""
    words = [caption.split() for caption in data.captions]  # a photo of a small red seven on a …
    sets = tuple((" ".join(w), " ".join(w[3:7]), " ".join(w[4:7])) for w in words)
    return replace(data, captions=sets)


@pytest.fixture(scope="module")
def scenes() -> Splits:
    return Splits(*map(told_twice, digit_scenes("colour", train=128, test=40, image_size=12)))


def new_model(data: ImageTextData):
    torch.manual_seed(0)
    return new_cmssf(VISION, TEXT, CMSSFConfig(dim=8, hidden=16), data.unique_captions)


def test_colour_scenes_are_told_in_parts_too():
    config = DataConfig(flavour="colour", train=60, test=20, image_size=12)
    for told, whole in zip(load(replace(config, text="parts")), load(config), strict=True):
        assert [own[0] for own in told.caption_sets] == list(whole.captions)
        assert {len(own) for own in told.caption_sets} == {24}
        for own in told.caption_sets:  # each says nothing that the whole caption does not say
            words = set(own[0].split()) | {"an"}
            assert all(set(part.split()) <= words for part in own)
        assert torch.equal(told.images, whole.images)
        assert told.name == f"{whole.name}, with parts of captions"


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("where", [{"flavour": "plain"}, {"flavour": "two"}, {"name": "cifar10"}])
def test_only_colour_scenes_are_told_in_parts(where):
    with pytest.raises(ValueError, match="only colour scenes have parts: set another text"):
        load(DataConfig(**{"flavour": "colour", **where}, text="parts"))
    plain = digit_scenes("plain", train=1, test=1).train
    with pytest.raises(ValueError, match="plain: only captions of colour scenes can be taken"):
        with_scene_parts(plain)


def test_training_draws_and_goes_on_bit_for_bit(scenes, tmp_path):
    train, config = scenes.train, TrainConfig(epochs=2, batch_size=32)
    whole, resumed = new_model(train), new_model(train)
    seen = []
    encode = whole.encode_text
    whole.encode_text = lambda captions: seen.extend(captions) or encode(captions)
    fit(whole, train, config, progress=False)
    assert {len(caption.split()) for caption in seen} == {3, 4, 11}  # all kinds were drawn
    taken, loss = [], resumed.loss

    def stopped(batch):
        taken.append(batch)
        if len(taken) == 6:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return loss(batch)

    resumed.loss = stopped
    often = replace(config, checkpoint_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, train, often, run=tmp_path / "run", progress=False)
    again = new_model(train)
    fit(again, train, often, run=tmp_path / "run", progress=False)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items()
    )


def test_a_trained_model_is_measured_with_all_captions(scenes):
    model = new_model(scenes.train).eval()
    results = report(model, scenes)
    e = embed(model, scenes.test)
    assert len(e.text) == len(scenes.test.unique_captions)
    assert results["exact_picture_R@1"] <= results["exact_picture_R@1_ceiling"] <= 1
    every = {caption for own in class_captions(scenes.train) for caption in own}
    assert every == set(scenes.train.unique_captions)
    watched = monitor(model, scenes.train, 32, prompts=class_captions(scenes.train))
    first = replace(scenes.train, captions=tuple(own[0] for own in scenes.train.caption_sets))
    alone = monitor(model, first, 32, prompts=class_captions(scenes.train))
    assert watched["validation_zero_shot"] == alone["validation_zero_shot"]
    assert watched["validation_positive_similarity"] != alone["validation_positive_similarity"]


# --- every caption is checked before the first step -------------------------------------------


def with_captions(data, captions):
    return replace(data, captions=tuple(captions))


def test_words_that_only_test_captions_have_are_left_out_and_named(scenes):
    model = new_model(scenes.train)
    assert all(readable(model, data) is data for data in scenes)
    strange = list(scenes.test.captions)
    known = strange[7][0]
    strange[7] = (*strange[7], f"{known}, of a Zebra")
    strange[9] = (f"zebra {known}",)
    with pytest.warns(UserWarning, match="2 of .* never seen.* left out: '[Zz]ebra'") as w:
        read = readable(model, with_captions(scenes.test, strange))
    assert len(w) == 1
    assert read.caption_sets[9] == (known,)
    assert "ebra" not in "".join(read.unique_captions)
    tokenize(model.text_encoder.tokenizer, read.unique_captions)


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("Zebra", "the caption 'Zebra' holds .*never seen: 'Zebra'"),
        (" ".join(["a"] * 15), ".* has 17 tokens; the text encoder accepts at most 16"),
    ],
)
def test_a_caption_that_cannot_be_read_is_named_with_its_set(scenes, caption, said):
    strange = [*scenes.test.captions[:7], caption, *scenes.test.captions[8:]]
    with pytest.raises(ValueError, match=rf"^digit scenes, colour.*: {said}"):
        readable(new_model(scenes.train), with_captions(scenes.test, strange))


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_what_is_left_of_any_caption_is_read_or_refused_in_one_sentence(model_of_words, words):
    text = " ".join(["red", *words])
    try:
        data = ImageTextData(**{**GOOD, "captions": (text, "a", "b")})
    except ValueError:
        return  # half a surrogate pair, say
    with warnings.catch_warnings(action="ignore"):
        read = readable(model_of_words, data)
    ids, _ = tokenize(model_of_words.tokenizer, read.unique_captions)
    assert not (ids == model_of_words.tokenizer.unk_token_id).any()
    assert "red" in read.unique_captions[0]


@pytest.fixture(scope="module")
def model_of_words() -> torch.nn.Module:
    module = torch.nn.Module()
    module.tokenizer = word_tokenizer(["a red B"], 99)
    return module


def own_folder(place, **told: str):
    """Two classes of pictures, and a table that calls the last test picture what is told."""
    names = [
        f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(20)
    ]
    rows = [json.dumps({"file_name": name, "text": [f"a {name[-9:-6]}", "one"]}) for name in names]
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / name)
    rows += [json.dumps({"file_name": names[-1], "text": text}) for text in told.values()]
    (place / "captions.jsonl").write_text("\n".join(rows), "utf-8")


@pytest.mark.parametrize("method", ["cmssf", "fusion"])
@pytest.mark.parametrize(
    ("told", "said"), [("zebra", "never seen: 'zebra'"), ("a " * 70, "has 72 tokens")]
)
def test_the_command_refuses_before_the_first_step(
    tmp_path, monkeypatch, capsys, method, told, said
):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "own", told=told)
    data = ["name=image_folder", "captions=captions.jsonl", "image_size=16", "validation=8"]
    settings = [f"--data.{setting}" for setting in data] + ["--train.batch_size=8"]
    settings += ["--text.max_length=16"] if method == "cmssf" else ["--fusion.max_length=16"]
    if method == "fusion":
        settings += [
            "--data.text=caption",
            "--data.sound=none",
            "--fusion.modalities",
            "image",
            "text",
        ]
    code = cli.main(["train", method, "--preset=quick", "--data=own", "--run=run", *settings])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("cmssf: own test: the caption ")
    assert said in printed.err
    assert "epoch 1/" not in printed.out
    assert not list(tmp_path.glob("run/checkpoint*"))


def test_the_command_trains_on_captions_with_words_that_only_test_captions_have(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "own", told="a zebra")
    options = ["--train.epochs=1", "--judge.fractions"]
    command = ["train", "cmssf", "--preset=quick", "--data=own", "--run=run", *options]
    assert cli.main(command) == 0
    noted = capsys.readouterr().err
    assert "own test: 1 of 6 captions hold words that the tokenizer has never seen" in noted
    assert "left out: 'zebra'" in noted
    assert cli.main(["evaluate", "run", "--data=own"]) == 0
    told = capsys.readouterr()
    assert "left out: 'zebra'" in told.err
    assert cli.main(["index", "own", "--model=run"]) == 0
    assert "left out" not in capsys.readouterr().err  # nothing is measured
    recorded = json.loads(Path("run/results.json").read_text("utf-8"))
    assert f"{recorded['exact_caption_R@1']:.4f}" in told.out


def test_what_is_trained_on_and_measured_is_what_can_be_read(tmp_path, monkeypatch):
    """A pretrained tokenizer may lack a word of a training caption, in either part."""
    monkeypatch.setenv("CMSSF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "own")
    seen = []

    def shortened(method, data):
        return with_captions(data, ["one"] * len(data))

    def stopped(method, data, *_, each_epoch, **__):
        seen.append(set(data.unique_captions))
        each_epoch(method)
        raise ValueError("seen")

    def looked(method, training, validation, batch_size):
        seen.append(set(validation.unique_captions))
        return {}

    monkeypatch.setattr(cli.training, "readable", shortened)
    monkeypatch.setattr(cli.training, "fit", stopped)
    monkeypatch.setattr(cli.measure, "each_epoch", looked)
    assert cli.main(["train", "cmssf", "--preset=quick", "--data=own", "--run=run"]) == 2
    assert seen == [{"one"}] * 2

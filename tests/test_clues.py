"""Clues: true, never the whole answer, evenly drawn."""

import pytest
import torch
from settings import DataConfig

from cmssf_lib.captions import DIGIT_WORDS, class_caption
from cmssf_lib.data import (
    CIFAR10_CLUES,
    DIGIT_CLUES,
    ImageTextData,
    digit_scenes,
    load,
    with_class_captions,
    with_clues,
)

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
LISTS = [(DIGIT_CLUES, DIGIT_WORDS), (CIFAR10_CLUES, CIFAR10_CLASSES)]


def labelled(labels: torch.Tensor, class_names: tuple[str, ...]) -> ImageTextData:
    n = len(labels)
    images = torch.arange(n).to(torch.uint8).view(n, 1, 1, 1).expand(n, 3, 1, 1).contiguous()
    return ImageTextData(images, labels, ("-",) * n, class_names, "pictures")


@pytest.mark.parametrize(("clues", "names"), LISTS)
def test_every_clue_leaves_two_classes_open_and_excludes_some(clues, names):
    for sentence, classes in clues.items():
        assert set(classes) <= set(names), sentence
        assert len(set(classes)) == len(classes), sentence
        assert 2 <= len(classes) < len(names), sentence
    assert len({frozenset(classes) for classes in clues.values()}) == len(clues)  # none twice


@pytest.mark.parametrize(("clues", "names"), LISTS)
def test_every_class_has_three_clues(clues, names):
    for name in names:
        assert sum(name in classes for classes in clues.values()) >= 3, name


def test_the_clues_about_numbers_are_true():
    """Each sentence computed."""
    truth = {
        "it is even": lambda d: d % 2 == 0,
        "it is odd": lambda d: d % 2 == 1,
        "it is less than five": lambda d: d < 5,
        "it is five or more": lambda d: d >= 5,
        "it is prime": lambda d: d > 1 and all(d % k for k in range(2, d)),
        "its name has three letters": lambda d: len(DIGIT_WORDS[d]) == 3,
        "its name has four letters": lambda d: len(DIGIT_WORDS[d]) == 4,
        "its name has five letters": lambda d: len(DIGIT_WORDS[d]) == 5,
    }
    assert truth.keys() == DIGIT_CLUES.keys()
    for sentence, holds in truth.items():
        assert DIGIT_CLUES[sentence] == tuple(DIGIT_WORDS[d] for d in range(10) if holds(d))


def test_machines_and_animals_divide_the_photographs():
    machines, animals = CIFAR10_CLUES["it is a machine"], CIFAR10_CLUES["it is an animal"]
    assert sorted(machines + animals) == sorted(CIFAR10_CLASSES)
    for sentence in ("it has fur", "it has claws", "it has hooves", "it has four legs"):
        assert set(CIFAR10_CLUES[sentence]) <= set(animals)


@pytest.mark.parametrize(("clues", "names"), LISTS)
def test_each_picture_gets_one_true_clue_and_each_clue_its_share(clues, names):
    data = with_clues(labelled(torch.arange(10).repeat(400), names), clues, seed=3)
    for label, caption in zip(data.labels.tolist(), data.captions, strict=True):
        assert names[label] in clues[caption]
    for label, name in enumerate(names):
        drawn = data.subset(data.labels == label).captions
        true = [sentence for sentence, classes in clues.items() if name in classes]
        for sentence in true:  # five standard deviations of 400 draws either way
            share = 1 / len(true)
            assert abs(drawn.count(sentence) - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5


def test_only_what_is_said_changes():
    data = digit_scenes(train=50, test=1).train
    told = with_clues(data, DIGIT_CLUES, seed=1)
    assert torch.equal(told.images, data.images)
    assert torch.equal(told.labels, data.labels)
    assert told.class_names == data.class_names
    assert told.attributes.keys() == data.attributes.keys()
    assert told.name == "digit scenes, colour, with clues"
    assert told.captions == with_clues(data, DIGIT_CLUES, seed=1).captions
    assert told.captions != with_clues(data, DIGIT_CLUES, seed=2).captions


def test_a_class_without_a_clue_is_named():
    data = labelled(torch.tensor([0, 1, 2]), ("cat", "ox", "comet"))
    with pytest.raises(ValueError, match=r"^pictures: no clue is .* class\(es\) ox, comet$"):
        with_clues(data, CIFAR10_CLUES, seed=0)


def test_a_class_caption_says_the_class_and_no_more():
    data = digit_scenes(train=200, test=10).train
    told = with_class_captions(data)
    assert len(told.unique_captions) == 10
    for label, caption in zip(data.labels.tolist(), told.captions, strict=True):
        assert caption == class_caption(data.class_names[label])
    assert told.name == "digit scenes, colour, with class captions"
    assert torch.equal(told.images, data.images)
    assert torch.equal(told.labels, data.labels)
    assert told.fingerprint != data.fingerprint
    loaded = load(DataConfig(text="class", train=200, test=10, image_size=data.images.shape[-1]))
    assert loaded.train.captions == told.captions


def test_questions_are_no_class_captions():
    with pytest.raises(ValueError, match="two digits come with a question: set text='caption'"):
        load(DataConfig(flavour="two", text="class"))

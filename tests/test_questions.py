"""Two-digit scenes: the questions have one answer, and the answer is in the picture."""

import itertools
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from cmssf_lib.captions import COLOURS, DIGIT_WORDS, GROUNDS
from cmssf_lib.data import QUESTION_KINDS, digit_questions, question_table
from cmssf_lib.data.questions import ANSWERS, ask
from cmssf_lib.data.scenes import digit_split

WORDS = tuple(COLOURS)


@pytest.fixture(scope="module")
def scenes():
    return digit_questions(train=4000, test=1000, seed=0)


def test_twelve_questions_by_hand():
    asked = ask(7, 2, "red", "cyan")
    assert asked == [
        ("what colour is the left digit", "red", "colour of left"),
        ("what colour is the right digit", "cyan", "colour of right"),
        ("which digit is on the left", "seven", "digit on left"),
        ("which digit is on the right", "two", "digit on right"),
        ("what colour is the seven", "red", "colour of digit"),
        ("what colour is the two", "cyan", "colour of digit"),
        ("which digit is red", "seven", "digit of colour"),
        ("which digit is cyan", "two", "digit of colour"),
        ("where is the seven", "left", "place of digit"),
        ("where is the two", "right", "place of digit"),
        ("where is the red digit", "left", "place of colour"),
        ("where is the cyan digit", "right", "place of colour"),
    ]


def test_no_scene_answers_a_question_twice():
    for digits in itertools.permutations(range(10), 2):
        for colours in itertools.permutations(WORDS, 2):
            asked = ask(*digits, *colours)
            assert len({question for question, _, _ in asked}) == 12
            assert {answer for _, answer, _ in asked} <= set(ANSWERS)
            kinds = [kind for _, _, kind in asked]
            assert tuple(dict.fromkeys(kinds)) == QUESTION_KINDS
            mirrored = {question: answer for question, answer, _ in ask(*digits[::-1], *colours)}
            # "what colour is the seven" has another answer when the digits change places.
            assert mirrored[f"what colour is the {DIGIT_WORDS[digits[0]]}"] == colours[1]


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ((3, 3, "red", "cyan"), r"two different digits from 0 to 9; got \(3, 3\)"),
        ((3, 10, "red", "cyan"), r"two different digits from 0 to 9; got \(3, 10\)"),
        ((3, 4, "red", "red"), r"two different colours of .* got \('red', 'red'\)"),
        ((3, 4, "red", "mauve"), r"two different colours of .* got \('red', 'mauve'\)"),
    ],
)
def test_a_scene_with_two_answers_is_refused(scene, message):
    with pytest.raises(ValueError, match=message):
        ask(*scene)


def test_every_row_is_a_question_its_scene_answers(scenes):
    for data in scenes:
        facts = {key: value.tolist() for key, value in data.attributes.items()}
        for i, (caption, label) in enumerate(zip(data.captions, data.labels.tolist(), strict=True)):
            asked = ask(
                facts["left_digit"][i],
                facts["right_digit"][i],
                WORDS[facts["left_colour"][i]],
                WORDS[facts["right_colour"][i]],
            )
            assert (caption, ANSWERS[label], QUESTION_KINDS[facts["kind"][i]]) in asked


def test_shapes_and_names(scenes):
    train, test = scenes
    assert train.images.shape == (4000, 3, 16, 32)
    assert len(test) == 1000
    assert train.class_names == ANSWERS
    assert len(ANSWERS) == 16
    larger = digit_questions(train=2, test=1, image_size=20, seed=0)
    assert larger.train.images.shape == (2, 3, 20, 40)


def test_kinds_are_equally_frequent_and_both_digits_are_asked_for(scenes):
    data = scenes.train
    assert data.attributes["kind"].bincount().tolist() == [500] * 8
    left = data.attributes["left_digit"].tolist()
    about_left = [
        DIGIT_WORDS[left[i]] in caption.split()
        for i, caption in enumerate(data.captions)
        if QUESTION_KINDS[int(data.attributes["kind"][i])] == "place of digit"
    ]
    assert 0.4 < sum(about_left) / len(about_left) < 0.6


def test_every_digit_colour_and_ground_is_drawn_evenly_on_either_side(scenes):
    facts = scenes.train.attributes
    for key, count in (("digit", 10), ("colour", 4)):
        left, right = facts[f"left_{key}"], facts[f"right_{key}"]
        assert not (left == right).any()
        pairs = Counter(zip(left.tolist(), right.tolist(), strict=True))
        expected = 4000 / (count * (count - 1))
        assert len(pairs) == count * (count - 1)
        assert all(abs(seen - expected) < 5 * expected**0.5 for seen in pairs.values())
    assert (facts["ground"].bincount(minlength=len(GROUNDS)) > 800).all()


def test_test_scenes_are_made_from_digits_never_seen_in_training(scenes):
    written = torch.from_numpy(load_digits().target)
    for data, allowed in zip(scenes, digit_split(), strict=True):
        for side in ("left", "right"):
            used = data.attributes[f"{side}_id"]
            assert torch.isin(used, allowed).all()
            assert torch.equal(written[used], data.attributes[f"{side}_digit"])


def test_the_facts_are_true_to_the_pixels(scenes):
    """In each half, the pixel furthest from the ground has the colour of that half's digit."""
    data = scenes.test
    pixels = data.images.float() / 255
    ground = torch.tensor(list(GROUNDS.values()))[data.attributes["ground"]]
    for half, side in zip(pixels.split(16, dim=3), ("left", "right"), strict=True):
        flat = half.flatten(2)
        inked = (flat - ground[:, :, None]).norm(dim=1).argmax(dim=1)
        ink = flat[torch.arange(len(data)), :, inked]
        nearest = torch.cdist(ink, torch.tensor(list(COLOURS.values()))).argmin(dim=1)
        assert (nearest == data.attributes[f"{side}_colour"]).float().mean() > 0.9
    corners = pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(dim=2).values
    nearest = torch.cdist(corners, torch.tensor(list(GROUNDS.values()))).argmin(dim=1)
    assert (nearest == data.attributes["ground"]).float().mean() > 0.9


def test_the_ground_runs_through_the_middle():
    """One ground, not two: beside the seam it is as smooth as elsewhere, and it is textured."""
    data = digit_questions(train=2000, test=1, seed=0).train
    steps = (data.images[..., 1:].float() - data.images[..., :-1].float()).abs()[:, :, [0, -1]]
    across = steps.mean(dim=(0, 1, 2))  # (31,), along the top and bottom rows
    assert 0.5 < across[15] / across[[1, 2, 28, 29]].mean() < 1.5
    assert data.images[:, :, 0].float().std(dim=2).mean() > 5


def test_every_picture_is_drawn_anew(scenes):
    """So a held-out part shares none with the rest."""
    assert len({bytes(image.numpy()) for image in scenes.train.images}) == 4000


def test_questions_follow_from_their_seed():
    first, second, other = (digit_questions(train=40, test=40, seed=seed) for seed in (5, 5, 6))
    assert [d.fingerprint for d in first] == [d.fingerprint for d in second]
    seen = {d.fingerprint for splits in (first, other) for d in splits}
    assert len(seen) == 4
    drawn = {tuple(d.attributes["left_digit"].tolist()) for s in (first, other) for d in s}
    assert len(drawn) == 4  # training and test scenes are not drawn alike either


@pytest.mark.parametrize("bad", [{"train": 0}, {"test": 0}, {"image_size": 8}])
def test_impossible_scenes_are_refused(bad):
    key, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{key}={value}"):
        digit_questions(**{"train": 2, "test": 2, "seed": 0, **bad})


# --- the table of everything that can be asked ------------------------------------------------


def test_the_table_holds_every_scene_and_question():
    joint = question_table()
    assert joint.shape == (1080, 32, 16)
    assert float(joint.sum()) == pytest.approx(1)
    assert torch.allclose(joint.sum(dim=(1, 2)), torch.full((1080,), 1 / 1080).double())
    # A scene answers twelve questions, each in one way.
    assert ((joint > 0).sum(dim=(1, 2)) == 12).all()
    assert ((joint > 0).sum(dim=2) <= 1).all()


def test_the_table_is_what_the_generator_draws(scenes):
    """Answers come as often as the table says; five standard deviations either way."""
    expected = question_table().sum(dim=(0, 1)) * 4000
    drawn = scenes.train.labels.bincount(minlength=16)
    assert ((drawn - expected).abs() < 5 * expected.sqrt()).all()

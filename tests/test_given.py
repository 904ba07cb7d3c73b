"""Lists and arrays in place of tensors and tuples: taken, or refused by name and place."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from three_pictures import GOOD

from cmssf_lib.data import ImageTextData, batches, with_clues
from cmssf_lib.evaluate import embed_prompts

pytestmark = pytest.mark.usefixtures("as_shipped")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"labels": torch.tensor([0.0, math.nan, 1.0])}, r"float32 of shape \(3,\) with NaN at 1"),
        (
            {"labels": np.array([0, math.nan, 1])},
            r"got torch.float64 of shape \(3,\) with NaN at 1",
        ),
        ({"labels": [0, None, 1]}, r"labels: expected torch.int64 of shape \(3,\).* got None at 1"),
        ({"labels": ["x", "y", "y"]}, "labels: expected .* got 'x' at 0"),
        ({"labels": None}, "labels: expected .* got None"),
        ({"labels": 1}, r"labels: expected .* got torch.int64 of shape \(\)"),
        ({"images": None}, "images: expected .* got None"),
        ({"images": ["a.png"] * 3}, "images: expected .* got 'a.png' at 0"),
        ({"images": np.zeros((3, 4, 4, 3), np.uint8)}, "put the channels first"),
        ({"sounds": [[0.5, "x"], [1, 1], [1, 1]]}, r"sounds: expected .* got \[0.5, 'x'\] at 0"),
        ({"captions": ("a", None, "b")}, "caption 1 is None, not a text"),
        ({"captions": ("a", math.nan, "b")}, "caption 1 is nan, not a text"),
        ({"captions": ("a", "b", 3)}, "caption 2 is 3, not a text"),
        ({"captions": np.array(["a", None, "b"], object)}, "caption 1 is None, not a text"),
        ({"captions": (b"a", "b", "c")}, "caption 0 is b'a', not a text"),
        ({"captions": ("a", "b", "c\ud800")}, "caption 2 holds half of a character: 'c"),
        ({"captions": "abc"}, "captions must be a list of texts; got 'abc'"),
        ({"captions": {"a", "b", "c"}}, "captions must be a list of texts; got {"),
        ({"captions": None}, "captions must be a list of texts; got None"),
        ({"captions": (("a", ""), "b", "c")}, "caption 0 is empty"),
        ({"captions": ((), "b", "c")}, r"caption 0 is \(\), not a text"),
        ({"captions": ("a", ["b", None], "c")}, "caption 1 is None, not a text"),
        ({"captions": ("a", ("b", ("c",)), "d")}, r"caption 1 is \('c',\), not a text"),
        ({"class_names": "xy"}, "class names must be a list of texts; got 'xy'"),
        ({"class_names": {"x", "y"}}, "class names must be a list of texts"),
        ({"class_names": ("x", 1)}, "class name 1 is 1, not a text"),
        ({"class_names": ("x", None)}, "class name 1 is None"),
        ({"class_names": (("x", "z"), "y")}, r"class name 0 is \('x', 'z'\), not a text"),
        ({"class_names": ("x", " ")}, "class name 1 is empty"),
        ({"attributes": {"size": ["small", "large", "small"]}}, "'size'.* got 'small' at 0"),
    ],
)
def test_what_cannot_be_taken_is_named(bad, message):
    with pytest.raises(ValueError, match=f"^three pictures: .*{message}"):
        ImageTextData(**{**GOOD, **bad})


class Column:
    """Like a column of pandas, which need not be installed."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return list(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


READ_ONLY = np.zeros((3, 3, 4, 4), np.uint8)
READ_ONLY.flags.writeable = False
GIVEN = {
    "labels": [
        [0, 1, 1],
        np.array([0, 1, 1]),
        np.array([0, 1, 1], np.int32),
        np.array([0, 1, 1], np.uint8),
        np.array([0, 1, 1], ">i2").astype("i2"),
        np.array([False, True, True]),
        np.array([1, 1, 0])[::-1],
        torch.tensor([0, 1, 1], dtype=torch.int32),
        Column([0, 1, 1]),
        [np.int64(0), np.int32(1), True],
    ],
    "captions": [["a", "b", "b"], np.array(["a", "b", "b"]), Column(["a", np.str_("b"), "b"])],
    "class_names": [["x", "y"], np.array(["x", "y"]), Column(["x", "y"])],
    "images": [np.zeros((3, 3, 4, 4), np.uint8), READ_ONLY, READ_ONLY[::-1, :, ::-1]],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("field", "wanted"), [(field, value) for field, values in GIVEN.items() for value in values]
)
def test_lists_and_arrays_are_taken_as_what_they_hold(field, wanted):
    data, plain = ImageTextData(**{**GOOD, field: wanted}), ImageTextData(**GOOD)
    assert data.fingerprint == plain.fingerprint
    assert [type(text) for text in (*data.captions, *data.class_names)] == [str] * 5
    assert data.labels.dtype == torch.int64
    for part in (data.subset([1]), data.hold_out(1, 0)[0], data.to("cpu")):
        assert len(next(batches(part, 1)).captions) == 1


def test_attributes_and_sounds_of_arrays_are_taken():
    sounds = np.zeros((3, 5), np.float32)
    data = ImageTextData(**GOOD, sounds=sounds, attributes={"size": np.array([1, 2, 3])})
    assert data.subset([2]).attributes["size"].tolist() == [3]
    assert data.to("cpu").sounds.shape == (3, 5)


@given(
    st.lists(
        st.one_of(st.text(max_size=2), st.none(), st.floats(), st.binary(max_size=1)), max_size=4
    ),
    st.lists(
        st.one_of(st.integers(-1, 3), st.none(), st.floats(), st.text(max_size=1)), max_size=4
    ),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_captions_and_labels_give_data_or_one_sentence(captions, labels):
    try:
        data = ImageTextData(**{**GOOD, "captions": captions, "labels": labels})
    except ValueError as error:
        said = str(error)
    else:
        assert data.captions == tuple(captions)
        assert data.labels.tolist() == labels
        return
    assert re.fullmatch("three pictures: .*", said)
    wrong = [i for i, text in enumerate(captions) if not (isinstance(text, str) and text.strip())]
    assert wrong or len(captions) != 3 or "labels" in said


@pytest.mark.parametrize("indices", [[0.0, 1.0], torch.tensor([0.5]), np.array([1.5])])
def test_pictures_have_whole_numbers(indices):
    with pytest.raises(ValueError, match=r"indices must be whole numbers or a mask; got torch.fl"):
        ImageTextData(**GOOD).subset(indices)


def test_a_clue_or_a_class_with_one_text_in_place_of_a_list_is_refused():
    data = ImageTextData(**GOOD)
    with pytest.raises(ValueError, match="the clue 'it is early' needs a list of classes"):
        with_clues(data, {"it is early": "xy"}, seed=0)
    with pytest.raises(ValueError, match="each class needs a list of captions; got the text 'a'"):
        embed_prompts(None, ["a", "b"])

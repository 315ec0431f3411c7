"""Class names and decoded predictions."""

import re

import keras
import numpy as np
import pytest

from resnext_keras.images.labels import (
    class_names,
    class_number,
    class_spellings,
    decode_predictions,
)


def test_imagenet_has_1000_different_names_spelled_as_in_keras_applications():
    names = class_names()
    assert names == class_names("imagenet")
    assert len(set(names)) == len(names) == 1000
    # From imagenet_class_index.json of keras.applications.
    known = {0: "tench", 2: "great_white_shark", 281: "tabby", 517: "crane"}
    known |= {607: "jack-o'-lantern", 638: "maillot", 999: "toilet_tissue"}
    assert {i: names[i] for i in known} == known
    assert not [name for name in names if re.search(r"[\s,]", name) or not name]


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'digits', 'imagenet'.*Did you mean"):
        class_names("Imagenet1k")


def test_decoding_gives_id_name_and_score_by_falling_score():
    preds = np.zeros((2, 1000), "float32")
    preds[0, [281, 2, 999]] = 0.5, 0.25, 0.125
    preds[1, 0] = 1
    decoded = decode_predictions(preds, top=3)
    assert decoded[0] == [
        ("n02123045", "tabby", 0.5),
        ("n01484850", "great_white_shark", 0.25),
        ("n15075141", "toilet_tissue", 0.125),
    ]
    assert decoded[1][0] == ("n01440764", "tench", 1.0)
    assert all(type(score) is float for row in decoded for _, _, score in row)


def test_five_classes_are_given_by_default_and_of_equal_scores_the_lower_column_first():
    preds = np.zeros((1, 1000), "float32")
    preds[0, 700] = 1
    names = class_names()
    assert [name for _, name, _ in decode_predictions(preds)[0]] == [
        names[column] for column in (700, 0, 1, 2, 3)
    ]


def test_every_wordnet_id_is_distinct_and_in_the_order_of_the_columns():
    rows = decode_predictions(np.arange(1000)[None, ::-1], top=1000)[0]
    ids = [wordnet_id for wordnet_id, _, _ in rows]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"n\d{8}", wordnet_id) for wordnet_id in ids)
    assert tuple(name for _, name, _ in rows) == class_names()


def test_a_single_column_has_the_scores_of_the_second_of_two_classes():
    names = ["cat", "dog"]
    found = decode_predictions(np.array([[0.25], [0.75]], "float32"), class_names=names)
    assert found == [
        [("0", "cat", 0.75), ("1", "dog", 0.25)],
        [("1", "dog", 0.75), ("0", "cat", 0.25)],
    ]


def test_own_class_names_are_decoded_with_the_column_as_id():
    preds = [[0.1, 0.7, 0.2], [-3.0, -2.0, -1.0]]
    decoded = decode_predictions(np.array(preds), class_names=["a", "b", "c"])
    assert decoded == [
        [("1", "b", 0.7), ("2", "c", 0.2), ("0", "a", 0.1)],
        [("2", "c", -1.0), ("1", "b", -2.0), ("0", "a", -3.0)],
    ]


def test_more_classes_than_there_are_gives_them_all():
    rows = decode_predictions(np.eye(10), top=50, class_names=class_names("digits"))
    assert [len(row) for row in rows] == [10] * 10
    assert [row[0][1] for row in rows] == list("0123456789")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32", "uint8"])
def test_tensors_of_any_dtype_decode_like_arrays(dtype):
    preds = keras.ops.convert_to_tensor([[0, 5, 5, 2]], dtype=dtype)
    decoded = decode_predictions(preds, class_names=["a", "b", "c", "d"])
    assert decoded == [[("1", "b", 5), ("2", "c", 5), ("3", "d", 2), ("0", "a", 0)]]


def test_decoding_leaves_the_predictions_as_they_are():
    preds = np.random.default_rng(0).random((2, 1000))
    before = preds.copy()
    decode_predictions(preds)
    np.testing.assert_array_equal(preds, before)
    assert decode_predictions(preds[:0]) == []


NAN = np.zeros((4, 1000))
NAN[2, 7] = NAN[3, 0] = np.nan


@pytest.mark.parametrize(
    ("preds", "options", "message"),
    [
        (np.zeros(1000), {}, "(batch, classes). Received: preds.shape=(1000,)"),
        (np.zeros((1, 1, 1000)), {}, "Received: preds.shape=(1, 1, 1000)"),
        (np.zeros((2, 999)), {}, "Received: 999 columns"),
        (np.zeros((1, 3)), {"class_names": ["a", "b"]}, "classes. Received: 2 names"),
        (np.zeros((1, 3)), {"class_names": "abc"}, "sequence of strings"),
        (np.zeros((1, 1)), {"class_names": 5}, "sequence of strings"),
        (np.ones((1, 1)) * 2, {"class_names": ["a", "b"]}, "0 to 1, as a sigmoid"),
        (np.ones((1, 1)), {"class_names": ["a", "b", "c"]}, "each of the 1 classes"),
        (np.zeros((1, 1000)), {"top": 0}, "Received: top=0"),
        (np.zeros((1, 1000)), {"top": "5"}, "Received: top='5'"),
        (NAN, {}, "NaN in 2 of 4 rows"),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray) else str(value),
)
def test_wrong_arguments_are_refused(preds, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decode_predictions(preds, **options)


def test_infinite_scores_are_sorted_too():
    preds = np.array([[0.0, -np.inf, np.inf]])
    decoded = decode_predictions(preds, class_names=["a", "b", "c"])[0]
    assert [name for _, name, _ in decoded] == ["c", "a", "b"]


@pytest.mark.parity
def test_names_are_those_of_torchvision_and_ids_those_of_timm():
    meta = pytest.importorskip("torchvision.models._meta")
    assert class_names() == tuple(
        name.replace(" ", "_") for name in meta._IMAGENET_CATEGORIES
    )
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    rows = decode_predictions(np.arange(1000)[None, ::-1], top=1000)[0]
    assert [row[0] for row in rows] == info.label_names()


NAMES = ("Crane", "crane", "great_white_shark")


@pytest.mark.parametrize(
    ("name", "number"), [("Crane", 0), ("crane", 1), ("Great White shark", 2), ("1", 1)]
)
def test_a_class_is_found_by_its_name_or_number(name, number):
    assert class_number(name, class_spellings(NAMES).values()) == number


def test_names_that_differ_only_in_case_have_to_be_exact():
    with pytest.raises(ValueError, match=r"'CRANE', .* \[0, 1\].* numbers"):
        class_number("CRANE", class_spellings(NAMES).values())

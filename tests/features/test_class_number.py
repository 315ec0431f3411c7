"""Classes that a user names are found, whatever their case."""

import pytest

from resnext_keras import load_classifier
from resnext_keras.features.explanation import class_number
from resnext_keras.images.read import ImageError

NAMES = ("Crane", "crane", "great_white_shark")


@pytest.mark.parametrize(
    ("name", "number"), [("Crane", 0), ("crane", 1), ("Great White shark", 2), ("1", 1)]
)
def test_a_class_is_found_by_its_name_or_number(name, number):
    assert class_number(name, NAMES) == number


def test_names_that_differ_only_in_case_have_to_be_exact():
    with pytest.raises(ValueError, match=r"Crane or crane\. Received: class='CRANE'"):
        class_number("CRANE", NAMES)


@pytest.mark.tensorflow
def test_a_batch_has_at_least_one_image():
    classifier = load_classifier(weights="digits")
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        next(classifier.predict_files(["one.png"], batch_size=0))


@pytest.mark.tensorflow
def test_one_path_is_one_file():
    ((path, error),) = load_classifier(weights="digits").predict_files("gone.png")
    assert path == "gone.png"
    assert isinstance(error, ImageError)

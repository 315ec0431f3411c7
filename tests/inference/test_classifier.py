"""A classifier reads files."""

import pytest

from resnext_keras import load_classifier
from resnext_keras.images.read import ImageError


@pytest.mark.tensorflow
def test_a_batch_has_at_least_one_image():
    classifier = load_classifier(weights="digits")
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        next(classifier.predict_each(["one.png"], batch_size=0))


@pytest.mark.tensorflow
def test_one_path_is_one_file():
    ((path, error),) = load_classifier(weights="digits").predict_each("gone.png")
    assert path == "gone.png"
    assert isinstance(error, ImageError)

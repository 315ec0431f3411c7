"""The network that ships is trained, and was never shown what it is tested on."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from resnext_keras import ResNeXt
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.prediction import load_classifier
from resnext_keras.weights import WEIGHT_SETS

DIGITS = WEIGHT_SETS["digits"]
HELD_OUT_FROM = 1415


@pytest.fixture(scope="module")
def found():
    """The predicted digits of the held-out pictures, and of their negatives."""
    classifier = load_classifier()
    images = as_network_sees(held_out_digits()[0], classifier.preprocessing)
    return [
        np.array([int(name) for ((_, name, _),) in classifier.predict(batch, top=1)])
        for batch in (images, 255 - images)
    ]


def test_the_held_out_pictures_are_the_last_of_scikit_learns():
    data = load_digits()
    images, labels = held_out_digits()
    expected = np.round(data.images[HELD_OUT_FROM:] * (255 / 16))
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, data.target[HELD_OUT_FROM:])


def test_none_of_them_is_among_the_pictures_of_the_training():
    data = load_digits().images
    seen = {image.tobytes() for image in data[:HELD_OUT_FROM]}
    assert not seen & {image.tobytes() for image in data[HELD_OUT_FROM:]}


def test_the_accuracy_is_the_one_that_is_published(found):
    accuracy = np.mean(found[0] == held_out_digits()[1])
    assert accuracy >= 0.98
    assert accuracy == pytest.approx(DIGITS.top1, abs=0.003)


def test_black_ink_on_white_is_read_too(found):
    assert np.mean(found[1] == held_out_digits()[1]) >= 0.97


def test_the_file_is_small():
    assert DIGITS.path.stat().st_size < 5e6


def test_the_features_of_the_bundled_network_can_be_had():
    model = ResNeXt(
        "resnext11_8x4d", include_top=False, weights="digits", pooling="avg"
    )
    full = ResNeXt("resnext11_8x4d", weights="digits", classes=10)
    kernel, bias = full.get_layer("predictions").get_weights()
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    logits = model.predict(images, verbose=0) @ kernel + bias
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(scores, full.predict(images, verbose=0), atol=1e-5)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="classes=10"):
        ResNeXt("resnext11_8x4d", weights="digits", classes=1000)

"""The bundled network is trained, and not on the images that it is tested on."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from resnext_keras import ResNeXt
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.weights.download import fetch
from resnext_keras.weights.registry import BUNDLED as DIGITS


@pytest.fixture(scope="module")
def predictions():
    """The predicted digits of the held-out images, and of their negatives."""
    classifier = load_classifier(weights="digits")
    images = as_network_sees(held_out_digits()[0], classifier.preprocessing)
    return [
        np.array([int(name) for ((_, name, _),) in classifier.predict(batch, top=1)])
        for batch in (images, 255 - images)
    ]


def test_the_held_out_images_are_those_that_the_training_script_leaves_out():
    data = load_digits()
    seen, held_out = train_test_split(
        np.arange(1797), test_size=360, stratify=data.target, random_state=0
    )
    assert not set(seen) & set(held_out)
    images, labels = held_out_digits()
    np.testing.assert_array_equal(images, np.round(data.images[held_out] * (255 / 16)))
    np.testing.assert_array_equal(labels, data.target[held_out])


def test_none_of_them_equals_an_image_of_the_training():
    images = np.round(load_digits().images * (255 / 16)).astype("uint8")
    held_out = [image.tobytes() for image in held_out_digits()[0]]
    copies = [image.tobytes() for image in images]
    assert all(copies.count(image) == 1 for image in held_out)


def test_the_accuracy_is_the_one_that_is_published(predictions):
    labels = held_out_digits()[1]
    accuracy = np.mean(predictions[0] == labels)
    assert accuracy >= 0.98
    assert accuracy == pytest.approx(DIGITS.best.top1, abs=0.003)
    assert np.mean(predictions[1] == labels) >= 0.97  # black ink on white


def test_the_file_is_small():
    assert fetch(DIGITS).stat().st_size < 5e6


def test_the_features_of_the_bundled_network_can_be_had():
    model = ResNeXt(
        "resnext11_8x4d", include_top=False, weights="digits", pooling="avg"
    )
    full = ResNeXt("resnext11_8x4d", weights="digits", classes=10)
    kernel, bias = full.get_layer("predictions").get_weights()
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    logits = np.asarray(model(images)) @ kernel + bias
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(scores, full(images), atol=1e-5)

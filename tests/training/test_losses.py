"""The loss with weights of the classes, and the weights that balance them."""

import json

import keras
import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.utils.class_weight import compute_class_weight

from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.losses import (
    build_loss,
    build_metrics,
    checked_class_weights,
    weights_of_classes,
)

NAMES = ("a", "b", "c", "d")

WEIGHTS = np.array([0.5, 3, 1, 2], "float32")


def dataset(labels):
    return ImageDataset(NAMES, np.asarray(labels), range(len(labels)), open)


@pytest.fixture
def logits():
    """Logits of six images and four classes."""
    return np.random.default_rng(0).normal(size=(6, 4)).astype("float32") * 3


def parity():
    """Also beside PyTorch's own loss."""
    return pytest.param(True, marks=pytest.mark.parity)


@pytest.mark.parametrize("with_torch", [False, parity()])
def test_weights_multiply_the_loss_of_an_image_by_that_of_its_class(logits, with_torch):
    classes = np.array([0, 1, 2, 3, 1, 0])
    one_hot = np.eye(4, dtype="float32")[classes]
    found = float(build_loss(False, WEIGHTS, 0.0)(one_hot, logits))
    exponentials = np.exp(logits.astype("float64"))
    shares = exponentials[np.arange(6), classes] / exponentials.sum(axis=1)
    assert found == pytest.approx((-np.log(shares) * WEIGHTS[classes]).mean(), rel=1e-5)
    if with_torch:
        torch = pytest.importorskip("torch")
        loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS))
        by_weight = float(loss(torch.tensor(logits), torch.tensor(classes)))
        # PyTorch divides by the sum of the weights.
        assert found == pytest.approx(by_weight * WEIGHTS[classes].mean(), rel=1e-5)


@pytest.mark.parametrize("with_torch", [False, parity()])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_loss_of_several_classes_weighs_those_that_are_there(
    logits, weights, with_torch
):
    labels = np.random.default_rng(1).integers(0, 2, (6, 4)).astype("float32")
    found = float(build_loss(True, weights, 0.0)(labels, logits))
    scores = 1 / (1 + np.exp(-logits.astype("float64")))
    there = -np.log(scores) * (1 if weights is None else weights)
    expected = np.where(labels == 1, there, -np.log(1 - scores)).mean()
    assert found == pytest.approx(expected, rel=1e-5)
    if with_torch:
        torch = pytest.importorskip("torch")
        pos_weight = None if weights is None else torch.tensor(weights)
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=pos_weight)
        torchs = float(loss(torch.tensor(logits), torch.tensor(labels)))
        assert found == pytest.approx(torchs, rel=1e-5)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_weights_of_1_change_nothing_and_labels_are_smoothed(logits, is_multi_label):
    labels = np.eye(4, dtype="float32")[[0, 1, 2, 3, 3, 0]] * 0.7 + 0.075  # mixed
    plain, weighted = (
        float(build_loss(is_multi_label, weights, 0.1)(labels, logits))
        for weights in (None, np.ones(4, "float32"))
    )
    assert weighted == pytest.approx(plain, rel=1e-5)
    unsmoothed = float(build_loss(is_multi_label, None, 0.0)(labels, logits))
    assert plain != pytest.approx(unsmoothed, rel=1e-3)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2, 3], [5, 1, 10, 4])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(
        weights_of_classes(dataset(labels), "balanced"), expected, rtol=1e-6
    )


def test_balanced_weights_of_several_classes_give_both_sides_the_same_weight():
    labels = np.arange(20)[:, None] < [5, 1, 20, 10]
    found = weights_of_classes(dataset(labels), "balanced")
    np.testing.assert_allclose(found, [3, 19, 1, 1])  # a class of all images: 1


def test_other_classes_have_the_weight_1():
    labels = [0, 1, 2, 3]
    chosen = checked_class_weights({"b": np.int64(4), "d": np.float32(0.25)})
    assert json.dumps(chosen) == '{"b": 4.0, "d": 0.25}'
    found = weights_of_classes(dataset(labels), chosen)
    assert found.tolist() == [1, 4, 1, 0.25]
    assert weights_of_classes(dataset(labels), None) is None


@pytest.mark.parametrize("shift", [0, -10, 10])
def test_the_metric_of_several_classes_ranks_rare_ones_too(shift):
    """Their scores are near 0, where Keras' thresholds do not tell them apart."""
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 3)) < 0.01).astype("float32")
    noise = rng.normal(size=labels.shape).astype("float32")
    for logits in (noise + 3 * labels, noise + 10 * labels):
        metric = build_metrics(True, 3)[0]
        for rows in np.split(np.arange(2000), 4):
            metric.update_state(labels[rows], logits[rows] + shift)
        expected = average_precision_score(labels, logits)
        assert float(metric.result()) == pytest.approx(expected, abs=0.05)


def test_a_loss_runs_in_a_model(logits):
    labels = np.eye(4, dtype="float32")[[0, 1, 2, 3, 3, 0]]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    for is_multi_label in (False, True):
        model.compile("sgd", build_loss(is_multi_label, WEIGHTS, 0.1))
        assert np.isfinite(model.train_on_batch(logits, labels))

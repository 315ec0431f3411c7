"""An evaluation scores the predictions of the network for the images it can read."""

import numpy as np
import pytest
from image_files import digit_folder
from PIL import Image

from resnext_keras.classifier import load_classifier
from resnext_keras.training.data.splits import open_split
from resnext_keras.training.evaluation import evaluate_images
from resnext_keras.weights.registry import BUNDLED as DIGITS


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The held-out digits as an image folder."""
    return digit_folder(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(weights="digits")


@pytest.fixture(scope="module")
def evaluation(digits, classifier):
    dataset = open_split(digits)
    return evaluate_images(classifier, dataset, [("a", "b")], engine="tensorflow")


def test_the_bundled_network_has_the_accuracy_that_is_published(evaluation):
    assert len(evaluation.predictions) == 360
    assert evaluation.metrics["top_1"] == pytest.approx(DIGITS.best.top1, abs=5e-5)
    assert round(evaluation.metrics["top_1"], 4) == 0.9861
    assert evaluation.skipped == [("a", "b")]


def test_predictions_are_those_of_predict(evaluation, classifier):
    some = evaluation.dataset.names[::6]
    scored, names = evaluation.predictions, evaluation.dataset.class_names
    assert evaluation.preprocessing == classifier.preprocessing
    predicted_files = classifier.predict_each(some, top=10)
    for number, (path, predictions) in zip(
        range(0, len(scored), 6), predicted_files, strict=True
    ):
        ranked = [name for _, name, _ in predictions]
        scores = {name: score for _, name, score in predictions}
        label, predicted = scored.labels[number], scored.predicted[number]
        assert f"/{names[label]}/" in path
        assert ranked[0] == names[predicted]
        assert ranked.index(names[label]) == scored.ranks[number]
        confidence = scored.confidence[number]
        assert confidence == pytest.approx(scores[ranked[0]], abs=1e-4)
        truth = np.exp(-scored.losses[number])
        assert truth == pytest.approx(scores[names[label]], abs=1e-4)


def test_neither_the_batches_nor_the_order_matter(evaluation, classifier):
    order = np.random.default_rng(0).permutation(360)[:50]
    some = evaluation.dataset.subset(order)
    again = evaluate_images(classifier, some, engine="tensorflow", batch_size=7)
    predictions, expected = again.predictions, evaluation.predictions
    for name in ("labels", "predicted", "ranks"):
        values = getattr(predictions, name)
        np.testing.assert_array_equal(values, getattr(expected, name)[order])
    np.testing.assert_allclose(predictions.losses, expected.losses[order], 1e-3, 1e-6)


def test_files_that_cannot_be_read_are_skipped_and_named(digits, classifier, tmp_path):
    for folder in digits.iterdir():
        (tmp_path / folder.name).mkdir()
        path = sorted(folder.iterdir())[0]
        (tmp_path / folder.name / path.name).symlink_to(path)
    for path in (tmp_path / "3").iterdir():  # all of a class
        path.unlink()
        path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.open(next(digits.glob("4/*"))).save(tmp_path / "4" / "a.gif")
    dataset = open_split(tmp_path)
    result = evaluate_images(classifier, dataset, engine="tensorflow", batch_size=3)
    assert [name.split("/")[-2] for name, _ in result.skipped] == ["3"]
    assert sorted(result.predictions.labels) == sorted([0, 1, 2, 4, 4, 5, 6, 7, 8, 9])
    assert len(result.dataset) == 10
    assert not any("/3/" in name for name in result.dataset.names)
    only = dataset.subset(np.flatnonzero(dataset.labels == 3))
    with pytest.raises(ValueError, match=r"can be read. Received: the first is .*/3/"):
        evaluate_images(classifier, only, engine="tensorflow")

"""Images with no class or several, and one score for two classes, from end to end."""

import csv
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import run
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)
from weight_files import SMALLEST

import resnext_keras as rk
from resnext_keras import convert_weights
from resnext_keras.classifier import Classifier
from resnext_keras.training.multi_label import MultiLabelPredictions, average_precision

pytestmark = pytest.mark.tensorflow

NAMES = ("blue", "green", "red")

OPTIONS = {
    "model": SMALLEST,
    "recipe": "cifar",
    "epochs": 10,
    "batch_size": 16,
    "learning_rate": 0.1,
    "recipe_changes": {"crop": "center"},
    "verbose": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """96 images in which up to three channels are bright, with a file for each kind."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    labels = rng.random((96, 3)) < [0.5, 0.4, 0.25]
    os.mkdir(folder / "images")
    names = []
    for number, own in enumerate(labels):
        noise = rng.integers(0, 130, (32, 32, 3))
        pixels = (noise + 120 * own[::-1]).astype("uint8")
        names.append(f"images/{number}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    cells = ["|".join(np.array(NAMES)[own]) for own in labels]
    write(folder / "labels.csv", ["image", "label"], *zip(names, cells, strict=True))
    red = labels[:, 2].astype(int)
    write(folder / "red.csv", ["image", "red"], *zip(names, red, strict=True))
    return folder


def write(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def several(data, tmp_path_factory):
    """The result of training on several classes an image."""
    return rk.train(
        data / "labels.csv", tmp_path_factory.mktemp("a") / "run", **OPTIONS
    )


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """The result of training one score for two classes."""
    options = OPTIONS | {"class_weights": "balanced"}
    return rk.train(data / "red.csv", tmp_path_factory.mktemp("b") / "run", **options)


def evaluate(data, trained, folder):
    """Evaluates a run on all images of some data, with a report in a folder."""
    options = {"weights": trained.folder, "output": folder / "report"}
    return rk.evaluate(data, **options, include_training=True)


def truth(dataset):
    return np.asarray(dataset.soft_labels(range(len(dataset))), bool)


def test_several_classes_are_learned_and_measured(several):
    evaluation = several.evaluation
    metrics = evaluation.metrics
    assert metrics["mean_average_precision"] > 0.95
    assert metrics["macro_f1"] > 0.8
    assert {"pr_auc", "val_pr_auc"} <= several.history[0].keys()
    assert several.history[-1]["loss"] < several.history[0]["loss"]
    best = max(row["val_pr_auc"] for row in several.history)
    assert best == pytest.approx(metrics["mean_average_precision"], abs=0.03)
    values = [row["average_precision"] for row in evaluation.classes]
    assert values == sorted(values)
    assert {row["class"] for row in evaluation.classes} == set(NAMES)


def test_its_report_has_every_class_and_score(several, data):
    with several.files["report.html"].with_name("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluation = several.evaluation
    assert [str(data / row["image"]) for row in rows] == list(evaluation.dataset.names)
    for row, own, scores in zip(
        rows, truth(evaluation.dataset), evaluation.predictions.scores, strict=True
    ):
        assert row["classes"] == "|".join(np.array(NAMES)[own])
        assert row["predicted"] == "|".join(np.array(NAMES)[scores >= 0.5])
        found = [float(row[name]) for name in NAMES]
        np.testing.assert_allclose(found, scores, atol=1e-6)
    page = several.files["report.html"].read_text()
    assert "average precision" in page
    assert "Confusion" not in page
    assert not several.files["report.html"].with_name("confusion.png").exists()


def test_a_run_evaluates_other_files_of_the_same_classes(several, data, tmp_path):
    """The columns in another order, some missing, one without images unknown."""
    with (data / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        (
            data / row["image"],
            int("red" in row["label"]),
            0,
            int("blue" in row["label"]),
        )
        for row in rows
        if "green" not in row["label"]
    ]
    write(tmp_path / "other.csv", ["path", "Red", "mauve", "blue"], *lines)
    evaluation = evaluate(tmp_path / "other.csv", several, tmp_path)
    assert evaluation.dataset.class_names == NAMES
    assert [row["class"] for row in evaluation.classes] != []
    assert {row["class"] for row in evaluation.classes} == {"red", "blue"}
    assert evaluation.metrics["mean_average_precision"] > 0.95


def test_images_with_one_class_each_are_evaluated_too(several, data, tmp_path):
    lines = [(data / "images" / f"{n}.png", "red") for n in range(8)]
    write(tmp_path / "one.csv", *lines)
    evaluation = evaluate(tmp_path / "one.csv", several, tmp_path)
    assert truth(evaluation.dataset).tolist() == [[False, False, True]] * 8
    options = {"weights": "digits", "output": tmp_path / "other"}
    with pytest.raises(ValueError, match=r"unknown: 'blue', 'green', 'red'"):
        rk.evaluate(data / "labels.csv", **options)
    write(tmp_path / "both.csv", ("image", "label"), (lines[0][0], "1|2"))
    with pytest.raises(ValueError, match=r"one class each.*both\.csv"):
        rk.evaluate(tmp_path / "both.csv", **options)
    assert not (tmp_path / "other").exists()


def test_predictions_are_the_scores_of_the_evaluation(several):
    names = list(several.evaluation.dataset.names)[:4]
    result = rk.predict_files(names, weights=several.folder)
    assert result.is_multi_label
    for scores, (_, predictions) in zip(
        several.evaluation.predictions.scores, result.predictions, strict=False
    ):
        by_name = {name: score for _, name, score in predictions}
        np.testing.assert_allclose([by_name[name] for name in NAMES], scores, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["several", pytest.param("single", marks=pytest.mark.long)]
)
def test_an_export_gives_the_same_scores_and_names(kind, request, tmp_path):
    trained = request.getfixturevalue(kind)
    classifier = rk.load_classifier(weights=trained.folder)
    path = tmp_path / "export"
    rk.export_saved_model(classifier.model, path, weights=trained.folder)
    served = tf.saved_model.load(path / "1").signatures["serving_default"]
    names = list(trained.evaluation.dataset.names)[:4]
    outputs = served(tf.constant([Path(name).read_bytes() for name in names]))
    predictions = [
        p for _, p in rk.predict_files(names, weights=trained.folder).predictions
    ]
    np.testing.assert_array_equal(
        outputs["classes"].numpy().astype(str),
        [[n for _, n, _ in p] for p in predictions],
    )
    np.testing.assert_allclose(
        outputs["scores"], [[s for *_, s in p] for p in predictions], atol=1e-4
    )
    card = json.loads((path / "1" / "assets" / "model.json").read_text())
    assert (card["activation"], card["threshold"]) == ("sigmoid", 0.5)
    assert tuple(card["class_names"]) == classifier.class_names


def test_an_export_counts_the_images_with_all_their_labels(
    several, tmp_path, monkeypatch
):
    predict = rk.Predictor.__call__

    def wrong_in_one_label(self, images):
        outputs = np.array(predict(self, images))
        image = outputs.max(-1).argmax()
        outputs[image, outputs[image].argmin()] = 0.5  # the highest score stays
        return outputs

    monkeypatch.setattr(rk.Predictor, "__call__", wrong_in_one_label)
    images = list(several.evaluation.dataset.names)[:4]
    report = rk.export_model(several.folder, images, output=tmp_path / "export")
    assert report.models["saved_model"].top1 == 3 / 4


@pytest.mark.long
@pytest.mark.parametrize(
    ("table", "figure"),
    [("labels.csv", "mean_average_precision"), ("red.csv", "top_1")],
)
def test_the_commands_fine_tune_and_evaluate_it_and_its_export_has_the_same_classes(
    several, data, tmp_path, table, figure
):
    folder = tmp_path / "run"
    options = ("--epochs", 4, "--batch", 16, "--learning-rate", 0.1)
    options += ("--set", "crop=center", "--weights", several.folder)
    run("finetune", data / table, "-o", folder, *options)
    evaluate = ("evaluate", data / table, "--weights", folder, "--include-training")
    figures = json.loads(run(*evaluate, "-o", tmp_path / "report", "--json").stdout)
    assert figures["images"] == 96
    assert figures[figure] > 0.9
    report = rk.export_model(folder, output=tmp_path / "export")
    assert report.models["saved_model"].top1 == 1


def test_one_score_separates_two_classes(single):
    model = rk.load_classifier(weights=single.folder).model
    assert model.output_shape == (None, 1)
    assert single.evaluation.dataset.class_names == ("not red", "red")
    assert single.evaluation.metrics["top_1"] > 0.9
    best = max(row["val_accuracy"] for row in single.history)
    assert single.evaluation.metrics["top_1"] == pytest.approx(best)


def test_both_classes_of_one_score_can_be_explained(single):
    names = np.array(single.evaluation.dataset.names)
    image = names[truth(single.evaluation.dataset)[:, 1]][0]
    explanation = rk.explain(image, weights=single.folder, top=2)
    scores = {evidence.name: evidence.score for evidence in explanation.classes}
    assert list(scores) == ["red", "not red"]
    assert sum(scores.values()) == pytest.approx(1)
    heat = {evidence.name: evidence.heat for evidence in explanation.classes}
    assert heat["red"].any()
    assert not np.array_equal(heat["red"], heat["not red"])


def check_builder(several, weights):
    """Builds a network with these weights, which scores as the classifier of a run."""
    options = {"weights": weights, "classes": 3, "input_shape": (32, 32, 3)}
    model = rk.ResNeXt(SMALLEST, classifier_activation="sigmoid", **options)
    expected = rk.load_classifier(weights=several.folder).model
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3))
    np.testing.assert_allclose(model(image), expected(image), rtol=1e-5)
    return options


def test_a_builder_takes_the_activation_that_the_weights_were_trained_with(several):
    options = check_builder(several, several.folder)
    with pytest.raises(ValueError, match=r"None or 'sigmoid' .*='softmax'"):
        rk.ResNeXt(SMALLEST, **options)
    # A new classifier for other classes may have any activation.
    options["classes"] = 2
    assert rk.ResNeXt(SMALLEST, classifier_activation="tanh", **options)


def test_every_class_that_is_present_is_given_whatever_top_is(several):
    names, labels = several.evaluation.dataset.names, several.evaluation.predictions
    number = int(labels.predicted.sum(axis=1).argmax())
    present = {NAMES[n] for n in np.flatnonzero(labels.predicted[number])}
    assert len(present) > 1
    options = {"weights": several.folder, "top": 1}
    ((_, predictions),) = rk.predict_files(names[number], **options).predictions
    assert {name for _, name, _ in predictions} == present
    command = ("predict", names[number], "--weights", several.folder)
    (row,) = json.loads(run(*command, "--json").stdout)
    marked = {p["name"] for p in row["predictions"] if p["present"]}
    assert marked == present
    assert run(*command).stdout.count("yes") == len(present)


def test_a_network_may_have_the_names_of_imagenet_and_several_classes_an_image():
    inputs = keras.Input((32, 32, 3))
    maps = keras.layers.GlobalAveragePooling2D()(inputs)
    scores = keras.layers.Dense(1000, "sigmoid", bias_initializer="ones")(maps)
    classifier = Classifier(
        keras.Model(inputs, scores),
        rk.Preprocessing(32, 32),
        rk.class_names("imagenet"),
        "mine",
        is_multi_label=True,
    )
    (predictions,) = classifier.predict(np.full((1, 32, 32, 3), 124, "uint8"), top=1)
    assert len(predictions) == 1000
    assert {len(wordnet) for wordnet, _, _ in predictions} == {9}


def test_a_table_of_one_class_evaluates_that_class(several, data, tmp_path):
    evaluation = evaluate(data / "red.csv", several, tmp_path)
    assert [row["class"] for row in evaluation.classes] == ["red"]
    assert evaluation.metrics["mean_average_precision"] > 0.9


def test_a_converted_file_says_that_it_lacks_the_activation(several, tmp_path, caplog):
    path = tmp_path / "weights.safetensors"
    convert_weights(several.folder, path)
    assert "classifier_activation='sigmoid'" in caplog.text
    check_builder(several, path)


def test_a_run_resumes_only_with_the_classes_of_its_images(data, tmp_path):
    """Or without the images whose classes are others."""
    table, run_folder = tmp_path / "red.csv", tmp_path / "run"
    rows = list(csv.reader((data / "red.csv").read_text().splitlines()))
    rows[1:] = [[str(data / image), red] for image, red in rows[1:]]
    write(table, *rows)
    options = OPTIONS | {"epochs": 1}
    rk.train(table, run_folder, **options)
    for row in rows[1:3]:
        row[1] = str(1 - int(row[1]))
    write(table, *rows)
    with pytest.raises(ValueError, match=r"2 of another class: '.*0\.png', '.*1\.png'"):
        rk.train(table, run_folder, resume=True, **options)
    result = rk.train(table, run_folder, resume=True, allow_changed=True, **options)
    assert len(result.history) == 1


def test_a_run_resumes_when_its_file_and_the_images_beside_it_were_moved(
    data, tmp_path
):
    project = tmp_path / "project"
    shutil.copytree(data, project / "data")
    table = project / "labels" / "red.csv"
    table.parent.mkdir()
    rows = list(csv.reader((data / "red.csv").read_text().splitlines()))
    rows[1:] = [[f"../data/{image}", red] for image, red in rows[1:]]
    write(table, *rows, ["../data/nothing.png", "1"])
    options = OPTIONS | {"epochs": 1}
    rk.train(table, tmp_path / "run", **options)
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert "../data/nothing.png,no such file" in skipped
    moved = project.rename(tmp_path / "moved")
    table = moved / "labels" / "red.csv"
    result = rk.train(table, tmp_path / "run", resume=True, **options)
    ((name, _),) = result.evaluation.skipped
    assert name == str(moved / "data" / "nothing.png")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"rde": 2.0}, r"Did you mean red\? Received: a weight of 'rde'"),
        (np.ones(2), "None, 'balanced', or a dict"),
        ({"red": 0}, "positive numbers"),
        ({"red": float("nan")}, "positive numbers"),
        ("even", "None, 'balanced', or a dict"),
    ],
)
def test_weights_of_unknown_classes_are_refused(data, tmp_path, weights, message):
    options = OPTIONS | {"class_weights": weights}
    with pytest.raises(ValueError, match=message):
        rk.train(data / "red.csv", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def random_predictions():
    """Scores with ties, a class that no image has and one that is never predicted."""
    rng = np.random.default_rng(1)
    labels = rng.random((50, 6)) < [0.5, 0.1, 0.9, 0.3, 0, 0.2]
    scores = np.round(rng.random((50, 6)) * 0.6 + 0.3 * labels, 1).astype("float32")
    scores[:, 5] /= 4
    return MultiLabelPredictions.from_scores(scores, labels)


def test_the_metrics_are_those_of_scikit_learn(random_predictions):
    labels, scores = random_predictions.labels, random_predictions.scores
    table, predicted = random_predictions.class_metrics(6), scores >= 0.5
    some = labels.any(axis=0)
    assert np.isnan(average_precision(labels, scores)[~some]).all()
    expected = average_precision_score(labels[:, some], scores[:, some], average=None)
    np.testing.assert_allclose(table["average_precision"][some], expected, rtol=1e-12)
    for name, function in (("f1", f1_score), ("recall", recall_score)):
        expected = function(labels, predicted, average=None, zero_division=np.nan)
        np.testing.assert_allclose(table[name][some], expected[some])
    expected = precision_score(labels, predicted, average=None, zero_division=np.nan)
    np.testing.assert_allclose(table["precision"], expected)
    metrics = random_predictions.metrics(6)
    expected = average_precision_score(labels[:, some], scores[:, some])
    assert metrics["mean_average_precision"] == pytest.approx(expected)
    expected = f1_score(labels[:, some], predicted[:, some], average="macro")
    assert metrics["macro_f1"] == pytest.approx(expected)
    expected = f1_score(labels, predicted, average="micro")
    assert metrics["micro_f1"] == pytest.approx(expected)
    expected = log_loss(labels.ravel(), scores.ravel())
    assert metrics["binary_cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"0 to 1, as a sigmoid .* -1 to 2"):
        MultiLabelPredictions.from_scores(
            np.array([[-1.0, 2.0]]), np.ones((1, 2), bool)
        )

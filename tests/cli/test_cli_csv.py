"""The shipped digits in a CSV file: trained, evaluated, exported and predicted."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from command import run
from PIL import Image

from resnext_keras.digits import HELD_OUT_FILE

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]

OPTIONS = ("--weights", "digits", "--batch", 16, "--learning-rate", 0.05)
OPTIONS += ("--set", "crop=center", "--set", "flip=False", "--epochs", 9)


@pytest.fixture(scope="module")
def digits():
    """The 360 held-out images, uint8 (360, 8, 8), and their digits."""
    with HELD_OUT_FILE.open("rb") as file, np.load(file) as data:
        images, labels = data["images"], data["labels"]
    return (images * 15.9).astype("uint8"), labels


def save(folder, images, header, labels):
    """Writes images of 32 x 32 pixels, and a CSV file with them; returns its path."""
    folder.mkdir()
    rows = [header]
    for number, (pixels, cells) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", *cells))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def served(folder, images):
    signature = tf.saved_model.load(folder / "1").signatures["serving_default"]
    outputs = signature(tf.constant([path.read_bytes() for path in images]))
    return outputs["classes"].numpy().astype(str), outputs["scores"].numpy()


def check(tmp_path, data, figure, least):
    """Trains, evaluates, exports and predicts; returns the predictions by image."""
    folder, export = tmp_path / "run", tmp_path / "export"
    printed = run("finetune", data, "-o", folder, *OPTIONS)
    assert "saved_model" not in printed.stdout
    evaluate = ("evaluate", data, "--weights", folder, "-o", tmp_path / "report")
    evaluate += ("--include-training",)
    figures = json.loads(run(*evaluate, "--json").stdout)
    assert figures["images"] == len(data.read_text().splitlines()) - 1
    assert figures[figure] > least
    run("export", folder, "-o", export)
    images = sorted(data.parent.glob("1*.png"))[:8]
    predicted = json.loads(
        run("predict", *images, "--weights", folder, "--json").stdout
    )
    names, scores = served(export, images)
    for row, own_names, own_scores in zip(predicted, names, scores, strict=True):
        assert [p["name"] for p in row["predictions"]] == own_names.tolist()
        np.testing.assert_allclose(
            [p["score"] for p in row["predictions"]], own_scores, atol=1e-4
        )
    return {
        row["file"]: {p["name"]: p["score"] for p in row["predictions"]}
        for row in predicted
    }


def test_one_digit_an_image(tmp_path, digits):
    images, labels = digits
    names = [[f"digit {label}"] for label in labels]
    data = save(tmp_path / "data", images, ("image", "label"), names)
    predictions = check(tmp_path, data, "top_1", 0.6)
    assert len(predictions) == 8


def test_several_digits_an_image(tmp_path, digits):
    """None to four of the digits 0 to 4, each in a quarter of its own."""
    images, labels = digits
    some, rng = np.flatnonzero(labels < 5), np.random.default_rng(0)
    canvases, cells = [], []
    for _ in range(360):
        canvas, own = np.zeros((16, 16), "uint8"), set()
        for place in np.flatnonzero(rng.random(4) < 0.45):
            number, (top, left) = rng.choice(some), 8 * np.array(divmod(place, 2))
            canvas[top : top + 8, left : left + 8] = images[number]
            own.add(str(labels[number]))
        canvases.append(canvas)
        cells.append(["|".join(sorted(own))])
    data = save(tmp_path / "data", canvases, ("image", "label"), cells)
    # By chance it would be 0.2 to 0.3, the share of images with a digit.
    predictions = check(tmp_path, data, "mean_average_precision", 0.5)
    assert all(set(scores) == set("01234") for scores in predictions.values())


def test_one_score_for_two_classes(tmp_path, digits):
    images, labels = digits
    cells = [[int(label == 3)] for label in labels]
    data = save(tmp_path / "data", images, ("image", "three"), cells)
    predictions = check(tmp_path, data, "top_1", 0.92)
    assert all(
        sum(scores.values()) == pytest.approx(1) for scores in predictions.values()
    )

"""The shipped digits in a CSV file: trained, evaluated, exported and predicted."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from command import run
from PIL import Image

from resnext_keras.digits import held_out_digits

OPTIONS = ("--weights", "digits", "--batch", 16, "--learning-rate", 0.05)
OPTIONS += ("--set", "crop=center", "--set", "flip=False", "--epochs", 3)


@pytest.fixture
def data(tmp_path):
    """A CSV file with 120 images beside it."""
    folder, rows = tmp_path / "data", [("image", "label")]
    folder.mkdir()
    images, labels = held_out_digits()
    for number, (pixels, label) in enumerate(zip(images[:120], labels, strict=False)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", f"digit {label}"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def served(folder, images):
    signature = tf.saved_model.load(folder / "1").signatures["serving_default"]
    outputs = signature(tf.constant([path.read_bytes() for path in images]))
    return outputs["classes"].numpy().astype(str), outputs["scores"].numpy()


@pytest.mark.long
@pytest.mark.tensorflow
def test_one_digit_an_image(tmp_path, data):
    folder, export = tmp_path / "run", tmp_path / "export"
    printed = run("finetune", data, "-o", folder, *OPTIONS)
    assert "saved_model" not in printed.stdout
    evaluate = ("evaluate", data, "--weights", folder, "-o", tmp_path / "report")
    figures = json.loads(run(*evaluate, "--include-training", "--json").stdout)
    assert figures["images"] == 120
    assert figures["top_1"] > 0.6
    run("export", folder, "-o", export)
    images = sorted(data.parent.glob("1*.png"))[:8]
    predicted = json.loads(
        run("predict", *images, "--weights", folder, "--json").stdout
    )
    assert len(predicted) == 8
    names, scores = served(export, images)
    for row, own_names, own_scores in zip(predicted, names, scores, strict=True):
        assert [p["name"] for p in row["predictions"]] == own_names.tolist()
        np.testing.assert_allclose(
            [p["score"] for p in row["predictions"]], own_scores, atol=1e-4
        )

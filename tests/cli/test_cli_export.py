"""`resnext-keras export` writes formats, tries each, and prints one table."""

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import error_of, run
from PIL import Image

import resnext_keras as rk
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.export import formats
from resnext_keras.export.formats import FORMATS
from resnext_keras.images.preprocessing import preprocess_input

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    """A folder of images, and of a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(held_out_digits()[0][:8]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("no image")
    return folder


def card_of(folder):
    return json.loads(Path(folder, "1/assets/model.json").read_text())


def rows(result):
    """The printed table: of each format its other columns."""
    lines = [line.split() for line in result.stdout.splitlines()]
    return {first: rest for first, *rest in lines[1:-1]}


def test_a_saved_model_needs_only_a_name():
    done = run("export", "digits", "--top", 2)
    size, unit, difference, top1, time, _, path = rows(done)["saved_model"]
    assert (unit, path) == ("MB", "resnext11_8x4d.digits")
    assert 4 < float(size) < 5
    assert float(difference) < 1e-5
    assert top1 == "100.0%"
    assert float(time) > 0
    assert "for a photo of a cat" in done.stdout
    card = card_of(path)
    assert card["weights"] == "resnext11_8x4d.digits"
    assert card["licence"] == "Apache-2.0"
    assert card["class_names"] == list("0123456789")
    assert card["preprocessing"]["resize"] == [8, 32]

    signatures = tf.saved_model.load(f"{path}/1").signatures
    classifier = load_classifier(weights="digits")
    digits, labels = held_out_digits()
    pixels = as_network_sees(digits[:9], classifier.preprocessing)
    found = signatures["predict_uint8"](pixels=tf.constant(pixels))
    expected = classifier.model.predict_on_batch(preprocess_input(pixels))
    np.testing.assert_allclose(found["predictions"], expected, atol=1e-5)
    Image.fromarray(digits[0]).save("digit.png")
    content = Path("digit.png").read_bytes()
    answer = signatures["serving_default"](image_bytes=tf.constant([content]))
    assert answer["classes"].shape == (1, 2)
    assert answer["classes"].numpy()[0, 0] == str(labels[0]).encode()


def test_a_backbone_of_any_size_from_a_file_where_its_runtime_is_missing(monkeypatch):
    load_classifier(weights="digits").model.save_weights("mine.weights.h5")
    os.mkdir("features")
    monkeypatch.setattr(formats, "is_installed", lambda *_: False)
    options = ("--backbone", "--any-size", "-o", "features")
    assert "not installed" in run("export", "mine.weights.h5", *options).stdout
    signatures = tf.saved_model.load("features/mine.backbone/1").signatures
    for size in (32, 48):
        images = tf.zeros((1, size, size, 3))
        assert signatures["features"](images=images)["features"].shape == (1, 1024)
    assert len(signatures["pyramid"](images=images)) == 3
    card = card_of("features/mine.backbone")
    assert (card["class_names"], card["weights"]) == (None, "mine")


def test_the_difference_from_keras_is_a_share_of_the_largest_output(monkeypatch):
    predict = rk.Predictor.__call__

    def inexact(self, images):
        outputs = predict(self, images)
        return keras.tree.map_structure(lambda array: 1.01 * array, outputs)

    monkeypatch.setattr(rk.Predictor, "__call__", inexact)
    (exported,) = rk.export_model("digits", backbone=True).models.values()
    assert exported.top1 is None
    assert exported.difference == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("classes", [10, 1])
def test_the_top1_classes_are_compared_with_those_of_keras(
    images, monkeypatch, classes
):
    """A single output is a probability: its class changes at 0.5."""
    network = rk.ResNeXt("resnext11_8x4d", weights=None, classes=classes)
    network.save_weights("own.weights.h5")
    predict = rk.Predictor.__call__

    def wrong_for_one(self, images):
        outputs = np.array(predict(self, images))
        others = np.roll(outputs[0], 1) if classes > 1 else 1 - outputs[0]
        outputs[0] = others
        return outputs

    monkeypatch.setattr(rk.Predictor, "__call__", wrong_for_one)
    (exported,) = rk.export_model("own.weights.h5", images).models.values()
    assert exported.top1 == 7 / 8


def test_all_formats_are_without_int8_where_there_are_no_images(monkeypatch):
    for name in list(FORMATS):
        if name.startswith(("onnx", "openvino")):  # which TensorFlow cannot write
            monkeypatch.delitem(FORMATS, name)
    monkeypatch.setattr(formats, "is_installed", lambda *_: False)
    report = rk.export_model("digits", formats="all")
    assert list(report.models) == ["saved_model", "litert", "litert-float16"]
    assert report.skipped == ["litert-int8: it needs images to calibrate with"]
    assert report.images is None


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # what the libraries say to each other
def test_all_formats_at_once(images):
    for package in ("onnx", "onnxruntime", "tf2onnx", "openvino", "ai_edge_litert"):
        pytest.importorskip(package)
    done = run("export", "digits", images, "-o", "digits", "--format", "all")
    table = rows(done)
    assert list(table) == list(FORMATS)
    limits = {"float16": 1e-2, "int8": 0.2}
    for name, (size, _, difference, top1, *_, path) in table.items():
        format_ = FORMATS[name]
        assert path == str(format_.path("digits"))
        assert float(difference) < limits.get(format_.precision, 1e-5)
        assert top1 == "100.0%"
        shares = {"float16": 0.52, "int8": 0.4}
        assert float(size) < 4.4 * shares.get(format_.precision, 1)
    assert "for 8 images" in done.stdout
    assert "broken.png" in done.stderr


def test_a_missing_package_is_named_before_anything_is_built(monkeypatch, no_model):
    monkeypatch.setitem(sys.modules, "openvino", None)
    arguments = ("--format", "saved_model", "--format", "openvino")
    assert "resnext-keras[fast]" in error_of("export", "digits", *arguments)
    assert os.listdir() == []


def test_an_image_of_too_many_pixels_is_not_read(monkeypatch, no_model):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored
    Image.new("RGB", (20, 20)).save("large.png")
    message = error_of("export", "digits", "large.png", "--max-pixels", "100")
    assert "400 pixels, more than the limit of 100" in message
    assert os.listdir() == ["large.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet50"], "Did you mean resnext50_32x4d"),
        (["nothing"], "`resnext-keras weights list`"),
        (["digits", "empty"], "images or folders with images. Received: 'empty'"),
        (["digits", "--format", "litert-int8"], "Expected images to calibrate int8"),
        (
            ["digits", "--int8-io"],
            "Expected litert-int8 among the formats. Received: --int8-io",
        ),
        (["digits", "-o", "no/folder"], "existing folder"),
        (
            ["digits", "-o", "full/mine", "--overwrite"],
            "contains an earlier export and nothing else",
        ),
        (["digits", "--format", "litert", "-o", "mine"], "Received: 'mine.tflite'"),
        (["digits", "--format", "openvino", "-o", "mine"], "Received: 'mine.bin'"),
        (["digits", "--format", "onnx", "-o", "mine"], "Received: 'mine.onnx'"),
    ],
)
def test_wrong_arguments_give_one_line(arguments, message, monkeypatch, no_model):
    for package in ("openvino", "onnx", "onnxruntime", "tf2onnx"):
        monkeypatch.setitem(sys.modules, package, sys)  # as if it were installed
    os.mkdir("empty")
    os.mkdir("full")
    for name in ("full/mine", "mine.bin", "mine.onnx", "mine.tflite"):
        Path(name).write_text("mine")
    assert message in error_of("export", *arguments)
    assert sorted(os.listdir()) == [
        "empty",
        "full",
        *(f"mine.{end}" for end in ("bin", "onnx", "tflite")),
    ]

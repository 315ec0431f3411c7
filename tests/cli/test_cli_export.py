"""`resnext-keras export` writes formats, tries each, and prints one table."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.export import formats
from resnext_keras.export.formats import FORMATS
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras_cli.main import group

pytestmark = pytest.mark.tensorflow

PACKAGES = ("onnx", "onnxruntime", "tf2onnx", "openvino")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    """A folder of images, and of a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, digit in enumerate(load_digits().images[:8]):
        pixels = np.round(digit * (255 / 16)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("no image")
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(group, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def rows(result):
    """The printed table: of each format its other columns."""
    lines = [line.split() for line in result.stdout.splitlines()]
    return {first: rest for first, *rest in lines[1:-1]}


def test_a_saved_model_needs_a_name_alone(tmp_path):
    done = run("digits")
    size, unit, difference, time, _, path = rows(done)["saved_model"]
    assert (unit, path) == ("MB", "resnext11_8x4d.digits")
    assert 4 < float(size) < 5
    assert float(difference) < 1e-5
    assert float(time) > 0
    assert "for a photo of a cat" in done.stdout
    loaded = tf.saved_model.load("resnext11_8x4d.digits/1")
    classifier = load_classifier(weights="digits")
    images = as_network_sees(held_out_digits()[0][:9], classifier.preprocessing)
    found = loaded.signatures["predict_uint8"](pixels=tf.constant(images))
    expected = classifier.model.predict_on_batch(preprocess_input(images))
    np.testing.assert_allclose(found["predictions"], expected, atol=1e-5)
    card = json.loads((tmp_path / path / "1/assets/model.json").read_text())
    assert card["weights"] == "resnext11_8x4d.digits"


def test_a_backbone_of_any_size_from_a_file(tmp_path):
    weights = tmp_path / "mine.weights.h5"
    load_classifier(weights="digits").model.save_weights(weights)
    (tmp_path / "features").mkdir()
    run(weights, "--backbone", "--any-size", "-o", "features")
    signatures = tf.saved_model.load("features/mine.backbone/1").signatures
    for size in (32, 48):
        images = tf.zeros((1, size, size, 3))
        assert signatures["features"](images=images)["features"].shape == (1, 1024)
    assert len(signatures["pyramid"](images=images)) == 3
    card = json.loads(
        (tmp_path / "features/mine.backbone/1/assets/model.json").read_text()
    )
    assert card["class_names"] is None
    assert card["weights"] == "mine"


def test_the_number_of_classes_is_the_users(images):
    run("digits", images / "0.png", "--top", "2")
    serve = tf.saved_model.load("resnext11_8x4d.digits/1").signatures
    content = (images / "0.png").read_bytes()
    answer = serve["serving_default"](image_bytes=tf.constant([content]))
    assert answer["classes"].numpy()[0].tolist()[:1] == [b"0"]
    assert answer["classes"].shape == (1, 2)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # what the libraries say to each other
def test_all_formats_at_once(images):
    for package in (*PACKAGES, "ai_edge_litert"):
        pytest.importorskip(package)
    done = run("digits", images, "-o", "digits", "--format", "all")
    table = rows(done)
    assert list(table) == list(FORMATS)
    limits = {"float16": 1e-2, "int8": 0.2}
    for name, (size, _, difference, *_, path) in table.items():
        format_ = FORMATS[name]
        assert path == str(format_.path("digits"))
        assert float(difference) < limits.get(format_.precision, 1e-5)
        shares = {"float16": 0.52, "int8": 0.4}
        assert float(size) < 4.4 * shares.get(format_.precision, 1)
    assert "for 8 images" in done.stdout
    assert "broken.png" in done.stderr


def test_a_runtime_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(formats, "is_installed", lambda *_: False)
    assert "not installed" in run("digits").stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_before_anything_is_built(
    package, monkeypatch, tmp_path
):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were installed
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("resnext_keras.export.formats.load_classifier", None)
    format_ = "openvino" if package == "openvino" else "onnx"
    done = run("digits", "--format", "saved_model", "--format", format_, code=1)
    assert "resnext-keras[fast]" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnext50"], "Did you mean resnext50_32x4d"),
        (["nothing"], "`resnext-keras weights list` gives the names"),
        (["digits", "empty"], "images or folders with images. Received: 'empty'"),
        (
            ["digits", "--format", "litert-int8"],
            "Expected images to calibrate int8 with",
        ),
        (["digits", "-o", "no/folder"], "existing folder"),
        (["digits", "--format", "litert", "-o", "no/"], "existing folder"),
        (
            ["digits", "-o", "full/mine", "--overwrite"],
            "contains an earlier export and nothing else",
        ),
        (
            ["digits", "--format", "litert", "-o", "mine"],
            "or --overwrite. Received: 'mine.tflite'",
        ),
    ],
)
def test_bad_arguments_give_one_line(arguments, told, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "mine.tflite").write_text("mine")
    monkeypatch.setattr("resnext_keras.export.formats.load_classifier", None)
    done = run(*arguments, code=1)
    assert told in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty",
        "full",
        "mine.tflite",
    ]
    assert (tmp_path / "mine.tflite").read_text() == "mine"


def test_weights_that_lie_beside_are_kept(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", sys)  # as if it were installed
    monkeypatch.setattr("resnext_keras.export.formats.load_classifier", None)
    (tmp_path / "mine.bin").write_text("mine")
    done = run("digits", "--format", "openvino", "-o", "mine", code=1)
    assert "or --overwrite. Received: 'mine.bin'" in done.stderr
    assert (tmp_path / "mine.bin").read_text() == "mine"

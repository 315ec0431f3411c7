"""Exported files predict what Keras predicts, in their runtimes and without Keras."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import runtimes
import tensorflow as tf
from elsewhere import randomised
from keras import layers
from random_state import draw_images
from sklearn.datasets import load_digits
from weight_files import EVERY_OPTION, TINY, build

from resnext_keras import (
    Predictor,
    ResNeXt,
    ResNeXtSpec,
    preprocess_input,
)
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.export.files import export_file
from resnext_keras.models.graph import source_of

pytestmark = pytest.mark.tensorflow

FORMATS = {
    "onnx": "onnxruntime",
    "xml": "openvino",
    "tflite": "ai_edge_litert.interpreter",
}
ENGINES = {"onnx": ("onnxruntime", "openvino"), "xml": ("openvino",)}
ENGINES |= {"tflite": ("litert",)}

# How far a precision may be from Keras.
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "int8": 0.1}
IMAGES = draw_images(4, (5, 32, 32, 3))
EVERYTHING = ResNeXtSpec("all", (1, 1), 2, 4, **EVERY_OPTION)


@pytest.fixture(scope="module")
def model():
    return randomised(build())


@pytest.fixture
def exported(tmp_path):
    """Writes a file; gives its path."""

    def write(model, ending, precision="float32", images=IMAGES, **options):
        pytest.importorskip(FORMATS[ending])
        path = tmp_path / f"model.{ending}"
        images = images if precision == "int8" else None
        export_file(model, path, precision, images, overwrite=True, **options)
        return path

    return write


def error(found, model, images):
    """Largest difference of the outputs from the model's, by their largest value."""
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    expected = keras.tree.flatten(model.predict(images, verbose=0))
    assert found.keys() == set(names)
    assert all(found[n].dtype == e.dtype for n, e in zip(names, expected, strict=True))
    assert all(found[n].shape == e.shape for n, e in zip(names, expected, strict=True))
    return max(
        np.abs(found[name] - one).max() / np.abs(one).max()
        for name, one in zip(names, expected, strict=True)
    )


@pytest.mark.filterwarnings("ignore")  # that this interpreter moves to a new package
def test_a_litert_file_is_written_with_tensorflow_alone(model, tmp_path):
    path = tmp_path / "model.tflite"
    export_file(model, path, class_names=list("vwxyz"), licence="MIT")
    assert list(tmp_path.iterdir()) == [path]
    interpreter = tf.lite.Interpreter(str(path))
    for rows in (5, 1):
        images = IMAGES[:rows]
        found = interpreter.get_signature_runner()(images=images)
        assert error(found, model, images) <= 1e-5
    with zipfile.ZipFile(path) as archive:
        card = json.loads(archive.read("model_card.json"))
    assert card["class_names"] == list("vwxyz")
    assert card["licence"] == "MIT"
    assert card["preprocessing"]["size"] == 32
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def pyramid():
    model = build(spec=EVERYTHING, include_top=False)
    names = ("conv3_block1_out", "conv2_block1_out")
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


NETWORKS = {
    "pyramid": pyramid,
    "Sequential": lambda: keras.Sequential(
        [build(include_top=False, pooling="avg"), layers.Dense(3, "sigmoid")]
    ),
    "augmented": lambda: keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.Sequential([layers.RandomFlip(), layers.RandomCrop(32, 32)]),
            layers.RandomRotation(0.5),
            build(include_top=False, pooling="avg"),
        ]
    ),
}


@pytest.mark.parity
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *(("pyramid", precision) for precision in TOLERANCES),
        ("Sequential", "float32"),
        ("augmented", "float32"),
    ],
)
def test_a_file_gives_what_keras_gives_and_predictor_runs_it(
    name, ending, precision, exported
):
    model = randomised(NETWORKS[name]())
    images = draw_images(1, (5, *model.input_shape[1:]))
    path = exported(model, ending, precision, images)
    if ending == "onnx":
        pytest.importorskip("onnx").checker.check_model(path, full_check=True)
    else:
        assert Predictor(path).engine in ENGINES[ending]
    for rows in (5, 1):
        found, card = runtimes.run(path, images[:rows])
        assert card["name"] == model.name
        difference = error(found, model, images[:rows])
        assert difference <= TOLERANCES[precision]
        assert precision == "float32" or difference > 1e-6
        expected = keras.tree.flatten(model.predict(images[:rows], verbose=0))
        for engine in ENGINES[ending]:
            predictions = Predictor(path, engine)(images[:rows])
            if isinstance(predictions, dict):  # whose order the file does not keep
                names = [source_of(output)[0].name for output in model.outputs]
                predictions = [predictions[name] for name in names]
            for one, other in zip(
                keras.tree.flatten(predictions), expected, strict=True
            ):
                assert one.shape == other.shape
                assert np.abs(one - other).max() <= 0.1 * np.abs(other).max()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("precision", "size", "correlation"),
    [("float32", 1.01, 0.999999), ("float16", 0.51, 0.99999), ("int8", 0.3, 0.999)],
)
@pytest.mark.parametrize("ending", FORMATS)
def test_the_bundled_network_stays_as_accurate(
    ending, precision, size, correlation, exported
):
    classifier = load_classifier(weights="digits")
    held_out, labels = held_out_digits()
    known = {image.tobytes() for image in held_out}
    every_digit = np.round(load_digits().images * (255 / 16)).astype("uint8")
    seen = [digit for digit in every_digit if digit.tobytes() not in known]
    images, calibration = (
        preprocess_input(as_network_sees(batch, classifier.preprocessing))
        for batch in (held_out, seen[:64])
    )
    path = exported(classifier.model, ending, precision, calibration, weights="digits")
    outputs, card = runtimes.run(path, images)
    found = outputs["predictions"]
    expected = classifier.model.predict(images, verbose=0)
    top1 = [np.mean(scores.argmax(-1) == labels) for scores in (expected, found)]
    assert top1[0] - top1[1] <= 0.005
    logarithms = [np.log(np.maximum(x, 1e-30)).ravel() for x in (found, expected)]
    assert np.corrcoef(*logarithms)[0, 1] > correlation
    assert np.abs(found.sum(-1) - 1).max() < 1e-3
    assert 0 < found.min() < 1e-4  # scores are not rounded to 8 bits
    weights = path.with_suffix(".bin") if ending == "xml" else path
    assert weights.stat().st_size < size * 4 * classifier.model.count_params()
    assert card["class_names"] == list("0123456789")
    assert card["weights"] == "resnext11_8x4d.digits"
    assert card["licence"] == "Apache-2.0"
    assert card["preprocessing"]["resize"] == [8, 32]


@pytest.mark.parity
@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_runs_without_keras_and_this_package(ending, model, exported, tmp_path):
    path = exported(model, ending, "int8", class_names=list("vwxyz"))
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [path, tmp_path / "images.npy", tmp_path / "found.npz"]
    done = subprocess.run(
        [sys.executable, runtimes.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    card = json.loads(str(found.pop("card")))
    assert card["class_names"] == list("vwxyz")
    assert error(found, model, IMAGES) <= TOLERANCES["int8"]


@pytest.mark.parity
@pytest.mark.parametrize(("precision", "limit"), [("float16", 1e-2), ("int8", 0.1)])
@pytest.mark.parametrize("ending", FORMATS)
def test_images_may_have_any_size(ending, precision, limit, exported):
    """As a network in float32 may in test_export_matrix.py."""
    images = draw_images(5, (3, 40, 40, 3))
    model = randomised(
        ResNeXt(TINY, weights=None, input_shape=(None, None, 3), classes=5)
    )
    path = exported(model, ending, precision, images)
    for some in (images, images[:1, 4:]):
        assert error(runtimes.run(path, some)[0], model, some) < limit


@pytest.mark.parity
@pytest.mark.parametrize("ending", FORMATS)
def test_outputs_with_the_same_name_are_kept_apart(ending, exported):
    image = keras.Input((32, 32, 3), name="input")
    inner = keras.Model(image, [image * 2.0, image + 1.0], name="images")
    path = exported(keras.Model(image, inner(image)), ending)
    found, _ = runtimes.run(path, IMAGES)
    assert len(found) == 2
    for name, expected in zip(sorted(found), (IMAGES * 2, IMAGES + 1), strict=True):
        assert np.abs(found[name] - expected).max() < 1e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # what the libraries say to each other
def test_input_and_outputs_of_a_litert_file_may_be_int8(tmp_path):
    pytest.importorskip("ai_edge_litert")
    classifier = load_classifier(weights="digits")
    digits, labels = held_out_digits()
    images = preprocess_input(as_network_sees(digits, classifier.preprocessing))
    found = {}
    for int8_io in (False, True):
        path = tmp_path / f"{int8_io}.tflite"
        options = {"weights": "digits", "int8_io": int8_io}
        export_file(classifier.model, path, "int8", images[:100], **options)
        found[int8_io] = Predictor(path)(images)
    with zipfile.ZipFile(path) as archive:
        quantization = json.loads(archive.read("model_card.json"))["quantization"]
    scale, zero_point = quantization["images"].values()
    values = np.clip(np.round(images / scale + zero_point), -128, 127).astype("int8")
    outputs = runtimes.run(path, values)[0]["predictions"]
    assert outputs.dtype == np.int8
    scale, zero_point = quantization["predictions"].values()
    assert scale == 1 / 256
    outputs = scale * (outputs.astype("float32") - zero_point)
    np.testing.assert_array_equal(outputs, found[True])
    # Between two classes of equal scores a step of a logit is several of the scores.
    steps = np.abs(found[True] - found[False]) / scale
    assert np.percentile(steps, 99) < 2
    assert np.mean(outputs.argmax(1) == labels) > 0.97

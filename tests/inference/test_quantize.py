"""A network in int8 predicts what it does in float32, from a quarter of the file."""

import os
import re
import sys
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from elsewhere import randomised
from helpers import GOLDEN, dtype_policy
from keras import layers
from random_state import draw_images
from sklearn.datasets import load_digits
from weight_files import EVERY_OPTION, SMALLEST, TINY, build

from resnext_keras import (
    Predictor,
    ResNeXt,
    ResNeXt50,
    ResNeXtSpec,
    preprocess_input,
    quantize,
)
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits

pytestmark = pytest.mark.tensorflow

ENGINES = ("openvino", "onnxruntime")
PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
IMAGES = draw_images(4, (5, 32, 32, 3))


@pytest.fixture(scope="module")
def model():
    return randomised(build())


@pytest.fixture(scope="module")
def digits():
    """The bundled classifier, and its file in int8, by images of its training."""
    pytest.importorskip("onnxruntime")
    classifier = load_classifier(weights="digits")
    held_out = {image.tobytes() for image in held_out_digits()[0]}
    every_digit = np.round(load_digits().images * (255 / 16)).astype("uint8")
    seen = [digit for digit in every_digit if digit.tobytes() not in held_out]
    return classifier, seen[:64]


@pytest.fixture
def quantized(tmp_path):
    """Writes a network in int8; gives the path."""
    pytest.importorskip("onnxruntime")

    def write(model, images=IMAGES):
        quantize(model, images, tmp_path / "int8.onnx", overwrite=True)
        return tmp_path / "int8.onnx"

    return write


def network_sees(classifier, images):
    return preprocess_input(as_network_sees(images, classifier.preprocessing))


# How it predicts.


@pytest.mark.parity
def test_the_bundled_network_stays_as_accurate(digits, quantized):
    pytest.importorskip("openvino")
    classifier, seen = digits
    path = quantized(classifier.model, network_sees(classifier, seen))
    held_out, labels = held_out_digits()
    images = network_sees(classifier, held_out)
    expected = classifier.model.predict(images, verbose=0)
    for engine in ENGINES:
        found = Predictor(path, engine)(images)
        top1 = [np.mean(scores.argmax(-1) == labels) for scores in (expected, found)]
        assert top1[0] - top1[1] <= 0.005, engine
        assert np.corrcoef(np.log(found).ravel(), np.log(expected).ravel())[0, 1] > 0.99
        assert np.abs(found.sum(-1) - 1).max() < 1e-5  # scores are not rounded
        assert 0 < found.min() < 1e-4
    assert path.stat().st_size < 0.3 * 4 * classifier.model.count_params()


@pytest.mark.parity
def test_resnext50_gives_torchvisions_logits(resnext50_file, photos, quantized):
    pytest.importorskip("openvino")
    model = ResNeXt50(
        weights=resnext50_file,
        input_shape=(224, 224, 3),
        classifier_activation=None,
    )
    crops = [np.array(p.crop((x, 99, x + 224, 323))) for p in photos for x in (0, 400)]
    seen = [preprocess_input(np.stack(crops)), draw_images(1, (4, 224, 224, 3))]
    path = quantized(model, np.concatenate(seen))
    golden = np.load(GOLDEN / "resnext50_224x224.npz")["logits"]
    for engine in ENGINES:
        found = Predictor(path, engine)(draw_images(224, (2, 224, 224, 3)))
        for one, other in zip(found, golden, strict=True):
            assert np.corrcoef(one, other)[0, 1] >= 0.99, engine
    assert path.stat().st_size < 0.26 * 4 * model.count_params()


EVERYTHING = ResNeXtSpec("all", (1, 1), 2, 4, **EVERY_OPTION)


def pyramid():
    model = build(spec=EVERYTHING)
    return keras.Model(
        model.input,
        [model.get_layer("conv2_block1_out").output, model.output],
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    "network",
    [
        lambda: build(spec=EVERYTHING, classifier_activation=None),
        lambda: build(include_top=False, pooling="max"),
        lambda: keras.Sequential(
            [build(include_top=False, pooling="avg"), layers.Dense(3, "sigmoid")]
        ),
        pyramid,
    ],
    ids=["logits", "max", "sigmoid", "pyramid"],
)
def test_any_network_of_the_family_is_taken(network, quantized):
    pytest.importorskip("openvino")
    model = randomised(network())
    path = quantized(model)
    expected = keras.tree.flatten(model.predict(IMAGES, verbose=0))
    for engine in ENGINES:
        predict = Predictor(path, engine)
        for rows in (5, 1, 2, 0):  # a batch may have any length
            found = keras.tree.flatten(predict(IMAGES[:rows]))
            for one, other in zip(found, expected, strict=True):
                assert one.shape == (rows, *other.shape[1:])
                largest = np.abs(other).max()
                assert np.abs(one - other[:rows]).max(initial=0) <= 0.1 * largest


@pytest.mark.parity
def test_images_may_have_any_type_and_one_is_enough(model, quantized):
    pytest.importorskip("openvino")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), "uint8")
    image = keras.Input((None, None, 3), dtype="uint8")
    body = ResNeXt(TINY, weights=None, input_shape=(None, None, 3), classes=5)
    network = randomised(
        keras.Model(image, body(layers.Rescaling(1 / 99, dtype="float32")(image)))
    )
    path = quantized(network, pixels[:1])
    expected = network.predict(pixels, verbose=0)
    for engine in ENGINES:
        assert np.abs(Predictor(path, engine)(pixels) - expected).max() < 0.05


@pytest.mark.parity
def test_convolutions_but_the_first_are_int8_with_a_scale_for_each_filter(
    model, quantized, tmp_path
):
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    path = quantized(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # that such a file is made for this machine
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    first, *others = [node.op_type for node in nodes if "Conv" in node.op_type]
    assert first != "QLinearConv"
    assert others == ["QLinearConv"] * 8

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kernels = {}
    for node in graph.node:
        kernel = stored.get(node.input[0])
        if node.op_type == "DequantizeLinear" and kernel and len(kernel.dims) == 4:
            kernels[kernel.name] = kernel.dims[0], list(stored[node.input[1]].dims)
            assert kernel.data_type == onnx.TensorProto.INT8
            assert {a.name: a.i for a in node.attribute}["axis"] == 0
    assert len(kernels) == 8
    assert all([filters] == scales for filters, scales in kernels.values())


# What is refused; nothing is then written.


@pytest.fixture
def refused(tmp_path):
    def check(message, model, images=IMAGES, name="int8.onnx", error=ValueError):
        before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
        with pytest.raises(error, match=message):
            quantize(model, images, tmp_path / name)
        assert before == {path: path.read_bytes() for path in tmp_path.glob("*.*")}

    return check


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_the_extra(
    package, model, refused, monkeypatch
):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were installed
    monkeypatch.setitem(sys.modules, package, None)
    refused(rf"{package} .*resnext-keras\[fast\]", model, error=ImportError)


def test_wrong_images_are_refused(model, refused):
    for images in (IMAGES[:0], IMAGES[0], IMAGES[:, :30], IMAGES[..., :1]):
        received = re.escape(f"images.shape={images.shape}")
        refused(rf"\(batch, 32, 32, 3\)\. Received: {received}", model, images)
    refused("NaN or infinity", model, IMAGES * np.nan)
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    whole = keras.Model(pixels, model(layers.Rescaling(1 / 255)(pixels)))
    refused("type, uint8. Received: images.dtype=float32", whole, IMAGES)


def test_a_path_that_cannot_be_written_is_refused(
    model, refused, tmp_path, monkeypatch
):
    for name in ("int8.pb", "int8"):
        refused(f"ends in .onnx.*{name}", model, name=name)
    refused("existing folder.*no/int8.onnx", model, name="no/int8.onnx")
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    refused("overwrite=True", model, name="mine.onnx")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to any
    refused("writable folder", model)


def test_models_that_onnx_cannot_hold_are_refused(model, refused, monkeypatch):
    with dtype_policy("mixed_bfloat16"):
        refused("bfloat16", build(spec=SMALLEST))
    left, right = keras.Input((3,)), keras.Input((3,))
    refused("2 inputs", keras.Model([left, right], layers.Add()([left, right])))
    refused("functional", None)
    image = keras.Input(batch_shape=(2, 32, 32, 3))
    refused("batches of 2", keras.Model(image, model(image)))
    monkeypatch.setattr(keras.Model, "count_params", lambda self: 2**29)
    refused(r"less than 2 GB.* of 2\.15 GB", model)


@pytest.mark.parity
def test_nothing_is_left_of_what_fails(model, refused, monkeypatch):
    pytest.importorskip("onnxruntime")
    from onnxruntime import quantization

    for error in (OSError("No space left"), KeyboardInterrupt("Ctrl-C")):
        fails = Mock(side_effect=error)
        monkeypatch.setattr(quantization, "quantize_static", fails)
        refused(str(error), model, error=type(error))

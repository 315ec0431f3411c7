"""A predictor in bfloat16 or int8 gives nearly what it gives in float32."""

import logging
import sys

import keras
import numpy as np
import pytest
from elsewhere import randomised
from helpers import dtype_policy
from keras import layers
from random_state import draw_images
from weight_files import EVERY_OPTION, TINY, build

import resnext_keras as rk
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.inference import predictor
from resnext_keras.models.runtime import has_fast_bfloat16

pytestmark = pytest.mark.tensorflow

IMAGES = draw_images(4, (5, 32, 32, 3))
EVERYTHING = rk.ResNeXtSpec("all", (1, 1), 2, 4, **EVERY_OPTION)
ENGINES = ["tensorflow", pytest.param("openvino", marks=pytest.mark.parity)]


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Any processor computes in bfloat16 as if it were fast."""
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: True)


@pytest.fixture
def slow_bfloat16(monkeypatch, fast_bfloat16):
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: False)


@pytest.fixture(scope="module")
def model():
    return randomised(build())


@pytest.fixture(scope="module")
def digits():
    """The held-out digits as the bundled network sees them."""
    preprocessing = rk.load_classifier(weights="digits").preprocessing
    return rk.preprocess_input(as_network_sees(held_out_digits()[0], preprocessing))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_bundled_network_agrees_in_bfloat16(digits, engine):
    pytest.importorskip(engine)
    model = rk.ResNeXt(
        "resnext11_8x4d", weights="digits", classes=10, classifier_activation=None
    )
    expected = model.predict(digits, verbose=0)
    predict = rk.Predictor(model, engine, precision="bfloat16")
    assert (predict.engine, predict.precision) == (engine, "bfloat16")
    found = predict(digits)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.9999
    # One digit is a 6 or a 4 to within a hundredth of a logit.
    best = np.sort(expected)
    is_clear = best[:, -1] - best[:, -2] > 0.01
    assert np.sum(~is_clear) == 1
    assert np.array_equal(found.argmax(-1)[is_clear], expected.argmax(-1)[is_clear])


@pytest.mark.parametrize("engine", ENGINES)
def test_features_agree_in_bfloat16(digits, engine):
    pytest.importorskip(engine)
    model = rk.ResNeXt("resnext11_8x4d", False, "digits", pooling="avg")
    expected = model.predict(digits, verbose=0)
    found = rk.Predictor(model, engine, precision="bfloat16")(digits)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert np.min(np.sum(found * expected, axis=1) / lengths) >= 0.999


def pyramid():
    model = build(spec=EVERYTHING)
    return keras.Model(
        model.input,
        {"map": model.get_layer("conv2_block1_out").output, "scores": model.output},
    )


def with_pixels():
    """A network within another, which takes pixels."""
    image = keras.Input((32, 32, 3), dtype="uint8")
    body = build(include_top=False, pooling="avg")
    x = layers.Rescaling(1 / 127.5, -1, dtype="float32")(image)
    return keras.Model(image, layers.Dense(5, "sigmoid")(body(x)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "network",
    [
        lambda: build(spec=EVERYTHING),
        lambda: build(include_top=False),
        lambda: build(include_top=False, pooling="max"),
        pyramid,
        with_pixels,
    ],
    ids=["scores", "maps", "max", "pyramid", "pixels"],
)
def test_any_network_of_the_family_is_taken(network, engine):
    pytest.importorskip(engine)
    model = randomised(network())
    images = IMAGES
    if model.input.dtype == "uint8":
        images = np.random.default_rng(0).integers(0, 256, images.shape, "uint8")
    predict = rk.Predictor(model, engine, batch_size=2, precision="bfloat16")
    expected = keras.tree.map_structure(np.asarray, model(images))
    for rows in (5, 1, 0):
        found = predict(images[:rows])
        keras.tree.assert_same_structure(found, expected)
        for one, other in zip(*map(keras.tree.flatten, (found, expected)), strict=True):
            assert one.dtype == other.dtype
            assert one.shape == (rows, *other.shape[1:])
            error = np.abs(one - other[:rows]).max(initial=0)
            assert error <= 0.03 * np.abs(other).max()


def test_layers_before_the_first_convolution_and_vectors_are_not_rounded(model):
    """In bfloat16 1000.5 would be 1000, and 1.001 would be 1."""
    image = keras.Input((32, 32, 3))
    shifted = layers.Rescaling(1, -1000)(image)
    scores = layers.Rescaling(1.001)(model(shifted))
    network = keras.Model(image, [shifted, scores])
    predict = rk.Predictor(network, "tensorflow", precision="bfloat16")
    images, scores = predict(np.full((1, 32, 32, 3), 1000.5, "float32"))
    assert np.all(images == 0.5)
    assert scores.sum() == pytest.approx(1.001, abs=1e-6)


@pytest.mark.usefixtures("slow_bfloat16")
def test_float32_is_taken_in_one_line_where_bfloat16_is_slow(model, caplog):
    predict = rk.Predictor(model, "tensorflow", precision="bfloat16")
    assert predict.precision == "float32"
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "the network runs in float32" in record.getMessage()
    assert np.array_equal(predict(IMAGES), rk.Predictor(model, "tensorflow")(IMAGES))
    assert rk.Predictor(model, "tensorflow", precision="auto").precision == "float32"


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_auto_keeps_what_took_less_time(model, monkeypatch, faster):
    expected = rk.Predictor(model, "tensorflow", batch_size=3)(IMAGES)
    seconds, batches = iter([1, 2] if faster == "float32" else [2, 1]), []

    def timed(run, images):
        batches.append(run(images).shape)
        return next(seconds)

    monkeypatch.setattr(predictor, "seconds_per_image", timed)
    predict = rk.Predictor(model, "tensorflow", batch_size=3, precision="auto")
    assert predict.precision == faster
    assert batches == [(3, 5)] * 2
    is_same = np.array_equal(predict(IMAGES), expected)
    assert is_same == (faster == "float32")


@pytest.mark.parity
def test_auto_takes_an_engine_that_has_only_float32(model):
    pytest.importorskip("onnxruntime")
    predict = rk.Predictor(model, "onnxruntime", precision="auto")
    assert (predict.engine, predict.precision) == ("onnxruntime", "float32")


@pytest.mark.parity
def test_a_processor_with_fast_bfloat16_is_one_that_openvino_knows():
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    if has_fast_bfloat16():
        assert "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
def test_int8_is_that_of_the_file_from_quantize(model, tmp_path):
    pytest.importorskip("openvino")
    rk.quantize(model, IMAGES, tmp_path / "int8.onnx")
    expected = rk.Predictor(tmp_path / "int8.onnx", "openvino")(IMAGES)
    predict = rk.Predictor(model, precision="int8", calibration=IMAGES)
    assert (predict.engine, predict.precision) == ("openvino", "int8")
    assert np.array_equal(predict(IMAGES), expected)
    with pytest.raises(ValueError, match=r"shape \(batch, 32, 32, 3\)"):
        rk.Predictor(model, precision="int8", calibration=IMAGES[0])
    with pytest.raises(ValueError, match="is in int8 and needs none"):
        rk.Predictor(tmp_path / "int8.onnx", precision="int8", calibration=IMAGES)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
def test_an_exported_network_is_run_in_bfloat16_by_openvino(model, tmp_path):
    pytest.importorskip("openvino")
    model(IMAGES)  # before which Keras does not export it
    model.export(tmp_path / "model.onnx", "onnx", verbose=False)
    model.export(tmp_path / "folder", verbose=False)
    expected = rk.Predictor(model, "openvino", precision="bfloat16")(IMAGES)
    for name in ("model.onnx", "folder"):
        predict = rk.Predictor(tmp_path / name, precision="bfloat16")
        assert (predict.engine, predict.precision) == ("openvino", "bfloat16")
        assert np.abs(predict(IMAGES) - expected).max() < 0.01
        with pytest.raises(ValueError, match="in bfloat16: openvino"):
            rk.Predictor(tmp_path / name, "tensorflow", precision="bfloat16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "'auto' or one of float32, bfloat16, int8. Rec"),
        ({"precision": "int8"}, "Expected images for `calibration`"),
        ({"calibration": IMAGES}, "`calibration` only with precision='int8'"),
        (
            {"precision": "bfloat16", "engine": "onnxruntime"},
            "in bfloat16: openvino, tensorflow. Received: engine='onnxruntime'",
        ),
        (
            {"precision": "int8", "engine": "tensorflow", "calibration": IMAGES},
            "in int8: openvino, onnxruntime. Received: engine='tensorflow'",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_built(
    options, message, monkeypatch
):
    for name in ("onnx", "onnxruntime", "tf2onnx"):
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were installed
    with pytest.raises(ValueError, match=message):
        rk.Predictor(None, **options)


def test_a_model_of_another_dtype_keeps_it():
    with dtype_policy("mixed_float16"):
        model = build(spec=TINY)
    with pytest.raises(ValueError, match="in bfloat16: none can"):
        rk.Predictor(model, precision="bfloat16")

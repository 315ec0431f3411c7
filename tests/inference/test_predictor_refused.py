"""A file that is broken or that no engine can run is refused in one line."""

import re

import keras
import pytest
import tensorflow as tf
from keras import layers
from weight_files import build

from resnext_keras import Predictor
from resnext_keras.inference.errors import errors_in_one_line, first_line

pytestmark = pytest.mark.tensorflow

JUNK = (b"", b"neither this\nnor that\n" * 20)


def assert_refused(path, message, engine="auto"):
    message = rf"^Expected a whole .*\. Received: {re.escape(str(path))}; {message}"
    with pytest.raises(ValueError, match=message) as caught:
        Predictor(path, engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", JUNK, ids=["empty", "junk"])
def test_a_broken_keras_file_is_refused(content, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert_refused(path, "Keras reports: It is not a zip archive")


def test_half_a_keras_file_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    build().save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert_refused(path, "Keras reports: ")


@pytest.mark.parametrize("content", JUNK, ids=["empty", "junk"])
def test_a_broken_saved_model_is_refused(content, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(content)
    assert_refused(tmp_path, "tensorflow reports: ", "tensorflow")


def test_a_saved_model_without_weights_is_refused(tmp_path):
    build().export(tmp_path, verbose=False)
    for file in (tmp_path / "variables").iterdir():
        file.unlink()
    assert_refused(tmp_path, "tensorflow reports: .*find any", "tensorflow")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("model.onnx", "openvino"),
        ("model.onnx", "onnxruntime"),
        ("model.xml", "openvino"),
        ("model.tflite", "litert"),
        ("saved_model.pb", "openvino"),
    ],
)
@pytest.mark.parametrize("content", JUNK, ids=["empty", "junk"])
def test_broken_files_of_other_formats_are_refused(name, engine, content, tmp_path):
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine))
    path = tmp_path / name
    path.write_bytes(content)
    path = tmp_path if name.endswith(".pb") else path
    assert_refused(path, f"{engine} reports: ", engine)
    assert_refused(path, "[a-z]+ reports: ")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_that_lacks_an_operation_is_not_taken(engine):
    pytest.importorskip(engine)
    model = build()
    bessel = layers.Lambda(tf.math.bessel_i0e, output_shape=(5,))
    model = keras.Model(model.input, bessel(model.output), name="wavy")
    message = f"{engine} can run. Received: model='wavy'; .*: No .*BesselI0e"
    with pytest.raises(ValueError, match=message):
        Predictor(model, engine)
    assert Predictor(model).engine == "tensorflow"


# What engines and converters have said.

OPENVINO = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- Cast with a message:
Check 'is_valid_type_idx(type_idx)' failed at src/core/element_type.cpp:115:
Unsupported element type: DT_COMPLEX64

-- FFT2D with a message:
"""
LITERT = (
    'Could not translate MLIR to FlatBuffer.<unknown>:0: error: loc(callsite("a" at '
    "fused[\"b\"])): 'tf.FFT2D' op is neither a custom op nor a flex op\n<unknown>:0: "
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (OPENVINO, "Cast with a message: Unsupported element type: DT_COMPLEX64"),
        (
            LITERT,
            "Could not translate MLIR to FlatBuffer. 'tf.FFT2D' op is neither a custom "
            "op nor a flex op",
        ),
        ("\n one\ntwo", "one"),
        ("", "RuntimeError"),
    ],
)
def test_the_first_line_is_one_that_says_something(message, expected):
    assert first_line(RuntimeError(message)) == expected


@pytest.mark.parametrize("kind", [ImportError, MemoryError, OSError, KeyboardInterrupt])
def test_what_tells_nothing_of_a_network_is_raised_as_it_is(kind):
    with (
        pytest.raises(kind, match=r"^mine$"),
        errors_in_one_line("it", "a", "b", OSError),
    ):
        raise kind("mine")

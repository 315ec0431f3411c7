"""What cannot be exported is refused, and no half file is left."""

import os
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import dtype_policy
from keras import layers
from random_state import draw_images
from weight_files import build

from resnext_keras.export.files import export_file
from resnext_keras.images.preprocessing import IMAGENET
from resnext_keras.io import atomic_write

pytestmark = pytest.mark.tensorflow

ENDINGS = ("onnx", "xml", "tflite")
IMAGES = draw_images(4, (5, 32, 32, 3))


@pytest.fixture(scope="module")
def model():
    return build()


def of_pixels():
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    return keras.Model(pixels, build()(layers.Rescaling(1 / 255)(pixels)))


@pytest.fixture
def all_installed(monkeypatch):
    """No package is missing, even where it is; none is to be used."""
    for package in ("onnx", "onnxruntime", "openvino", "tf2onnx"):
        monkeypatch.setitem(sys.modules, package, sys)


@pytest.fixture
def refused(tmp_path):
    def check(message, model, name="model.tflite", *arguments, kind=ValueError, **opts):
        before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
        with pytest.raises(kind, match=message):
            export_file(model, tmp_path / name, *arguments, **opts)
        assert before == {path: path.read_bytes() for path in tmp_path.glob("*.*")}

    return check


def test_a_wrong_path_or_precision_is_refused(model, refused):
    for name in ("model.pb", ".onnx", "model.ONNX"):
        refused(rf"ends in .onnx or .xml or .tflite.*{name}", model, name)
    refused("existing folder.*no/folder/m.onnx", model, "no/folder/m.onnx")
    for precision in ("bfloat16", "INT8"):
        message = f"float32, float16, int8. Received: precision={precision!r}"
        refused(message, model, "model.tflite", precision)


def test_a_file_that_exists_is_kept(model, refused, tmp_path):
    for name in ("m.onnx", "m.xml", "m.bin", "m.tflite"):
        (tmp_path / name).write_bytes(b"mine")
        message = rf"overwrite=True.*{re.escape(name)}"
        refused(message, model, name.replace("bin", "xml"))
        (tmp_path / name).unlink()


@pytest.mark.usefixtures("all_installed")
def test_images_are_for_int8_only_and_must_be_preprocessed(model, refused):
    pixels = np.tile(np.float32([0, 9, 255]), (1, 32, 32, 1))
    for message, precision, images in (
        ("`images` if .*Received: precision='int8'", "int8", None),
        ("Received: precision='float16'", "float16", IMAGES),
        ("at least one", "int8", IMAGES[:0]),
        ("NaN or infinity", "int8", IMAGES * np.nan),
        ("numbers from 0 to 255", "int8", pixels),
    ):
        refused(message, model, "model.tflite", precision, images)


def test_what_does_not_fit_the_model_is_refused(model, refused):
    refused("5 classes", model, class_names=["one"])
    refused("size, 32 pixels", model, preprocessing=IMAGENET)
    refused("nothing", model, weights="nothing")
    refused("5 outputs and resnext11_8x4d.digits has 10", model, weights="digits")


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize("ending", ENDINGS)
def test_models_that_files_cannot_hold_are_refused(ending, model, refused, monkeypatch):
    name = f"model.{ending}"
    with dtype_policy("mixed_bfloat16"):
        half = build()
    refused("model in float32.*Received: model='.*' in bfloat16", half, name)
    left, right = keras.Input((3,)), keras.Input((3,))
    two = keras.Model([left, right], layers.Add()([left, right]))
    refused(r"\(None, 3\) and float32 \(None, 3\)", two, name)
    refused("Received: a model for uint8", of_pixels(), name)
    monkeypatch.setattr(keras.Model, "count_params", lambda self: 2**29)
    if ending != "xml":
        refused(r"less than 2 GB.* of 2\.15 GB", model, name)
    refused(r"less than 2 GB.* of 2\.15 GB", model, name, "int8", IMAGES)


@pytest.mark.usefixtures("all_installed")
def test_a_missing_package_is_named_with_the_extra(model, refused, monkeypatch):
    for package, name, images in (
        ("onnx", "m.onnx", None),
        ("tf2onnx", "m.onnx", None),
        ("openvino", "m.xml", None),
        ("onnxruntime", "m.xml", IMAGES),
    ):
        precision = "float32" if images is None else "int8"
        message = rf"{package} .*resnext-keras\[fast\]"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            refused(message, model, name, precision, images, kind=ImportError)


@pytest.mark.filterwarnings("ignore")  # the converters'
@pytest.mark.parametrize(
    ("ending", "precision"),
    [
        ("tflite", "float32"),
        ("tflite", "int8"),
        *(
            pytest.param(ending, precision, marks=pytest.mark.parity)
            for ending in ("onnx", "xml")
            for precision in ("float32", "int8")
        ),
    ],
)
def test_an_operation_that_a_format_lacks_is_named(
    ending, precision, refused, tmp_path
):
    if ending != "tflite":
        pytest.importorskip("openvino")
        pytest.importorskip("tf2onnx")
    image = keras.Input((32, 32, 3))
    bessel = layers.Lambda(tf.math.bessel_i0e, output_shape=(32, 32, 3))
    model = keras.Model(image, build()(bessel(image)), name="wavy")
    (tmp_path / f"model.{ending}").write_bytes(b"mine")
    refused(
        rf"^Expected .* \.{ending} .* Received: model='wavy'; .*BesselI0e[^\n]*$",
        model,
        f"model.{ending}",
        precision,
        IMAGES if precision == "int8" else None,
        overwrite=True,
    )


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_nothing_is_left_of_what_fails(kind, model, refused, monkeypatch, tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"mine")
    fails = Mock(side_effect=kind("No space left"))
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", fails)
    refused("No space left", model, kind=kind, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


def test_two_files_are_there_both_or_not_at_all(tmp_path, monkeypatch):
    target, part = tmp_path / "model.xml", tmp_path / "model.bin"

    def write(content):
        with atomic_write(target, part) as written:
            written.write_text(content)
            written.with_suffix(".bin").write_text(content)
            if content == "bad":
                raise OSError("No space left")

    def found():
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    with pytest.raises(OSError, match="No space left"):
        write("bad")
    assert found() == {}
    write("one")
    with pytest.raises(OSError, match="No space left"):
        write("bad")
    assert found() == {"model.xml": "one", "model.bin": "one"}
    write("two")
    assert found() == {"model.xml": "two", "model.bin": "two"}
    # Killed between the two: never a file beside another's part.
    replace = Mock(side_effect=[None, KeyboardInterrupt])
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write("three")
    assert found() == {"model.bin": "two"}
    assert Path(replace.call_args_list[0].args[1]) == part


def test_int8_inputs_are_for_litert_in_int8_alone(model, refused):
    for name, *precision in (("m.onnx", "int8", IMAGES), ("m.tflite",)):
        refused(
            "Expected a .tflite file in int8", model, name, *precision, int8_io=True
        )

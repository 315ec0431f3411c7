"""Saved and exported models give the same scores where they are loaded."""

import dataclasses

import keras
import numpy as np
import pytest
from elsewhere import (
    LOAD_KERAS_FILE,
    LOAD_SAVED_MODEL,
    randomised,
    scores_elsewhere,
)
from weight_files import EVERY_OPTION

from resnext_keras import GroupedConv2D, ResNeXt, ResNeXt50, ResNeXtSpec

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")


@pytest.fixture(scope="module", params=[{}, EVERY_OPTION], ids=["plain", "all"])
def model(request):
    """A network with random weights and statistics, from 32 x 32 images to logits."""
    spec = dataclasses.replace(TINY, stem="imagenet", **request.param)
    return randomised(
        ResNeXt(
            spec,
            weights=None,
            input_shape=(32, 32, 3),
            classes=5,
            classifier_activation=None,
        )
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype("float32")


def test_a_keras_file_loads_in_a_fresh_process(model, images, tmp_path, relative_error):
    model.save(tmp_path / "model.keras")
    found = scores_elsewhere(
        LOAD_KERAS_FILE, tmp_path / "model.keras", images, tmp_path
    )
    assert relative_error(found, model.predict(images, verbose=0)) <= 1e-5


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_a_saved_model_runs_without_this_package(
    model, images, tmp_path, relative_error, onednn
):
    model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    graph = (tmp_path / "exported" / "saved_model.pb").read_bytes()
    assert b"Conv2D" in graph
    assert b"_XlaMustCompile" not in graph
    found = scores_elsewhere(
        LOAD_SAVED_MODEL,
        tmp_path / "exported",
        images,
        tmp_path,
        TF_ENABLE_ONEDNN_OPTS=onednn,
    )
    assert relative_error(found, model.predict(images, verbose=0)) <= 1e-5


def run_onnx(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def run_openvino(path, images):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    # Without it OpenVINO computes in bfloat16 on processors that have it.
    return core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[
        0
    ]


def run_litert(path, images):
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(path)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    (scores,) = runner(**{name: images}).values()
    return scores


@pytest.mark.parity
@pytest.mark.parametrize(
    ("format_", "file", "run"),
    [
        ("onnx", "model.onnx", run_onnx),
        ("openvino", "model.xml", run_openvino),
        ("litert", "model.tflite", run_litert),
    ],
)
@pytest.mark.parametrize("size", ["tiny", "resnext50"])
@pytest.mark.filterwarnings("ignore")  # the converters'
def test_other_formats_run_in_their_own_runtimes(
    model, images, tmp_path, relative_error, format_, file, run, size
):
    if size == "resnext50":
        model = randomised(
            ResNeXt50(weights=None, input_shape=(64, 64, 3), classifier_activation=None)
        )
        images = np.random.default_rng(2).normal(size=(2, 64, 64, 3)).astype("float32")
    path = str(tmp_path / file)
    expected = model.predict(images, verbose=0)
    model.export(path, format=format_, verbose=False)
    assert relative_error(run(path, images), expected) <= 1e-5


@pytest.mark.parametrize(
    "again",
    [
        keras.models.clone_model,
        lambda model: keras.Model.from_config(model.get_config()),
    ],
)
def test_a_clone_and_a_config_build_the_same_network(
    model, images, relative_error, again
):
    copy = again(model)
    assert type(copy.get_layer("conv2_block1_2_conv")) is GroupedConv2D
    copy.set_weights(model.get_weights())
    assert relative_error(copy(images), model(images)) <= 1e-6

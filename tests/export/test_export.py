"""Saved and exported models give the same scores where they are loaded."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import randomised, scores_elsewhere
from weight_files import EVERY_OPTION

from resnext_keras import (
    GroupedConv2D,
    Predictor,
    ResNeXt,
    ResNeXtSpec,
    fold_batch_norm,
)

pytestmark = pytest.mark.tensorflow

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")

# A program for `scores_elsewhere`: the scores of all images, and then of the first
# alone. SavedModels run without this package, and .keras files with it.
LOAD = """
import sys, numpy as np, tensorflow as tf
images, scores, *paths = sys.argv[1:]
images, found = np.load(images), {}
for path in sorted(paths, key=lambda path: path.endswith(".keras")):
    if path.endswith(".keras"):
        import keras, resnext_keras
        model = keras.models.load_model(path)
        grouped = model.get_layer("conv2_block1_2_conv")
        assert type(grouped) is resnext_keras.GroupedConv2D
        predict = model.predict
    else:
        assert "resnext_keras" not in sys.modules
        model = tf.saved_model.load(path)
        predict = model.serve
    batches = [predict(batch) for batch in (images, images[:1])]
    found[path.rpartition("/")[2]] = np.concatenate(batches)
np.savez(scores, **found)
"""


@pytest.fixture(scope="module")
def models():
    """Networks with random weights and statistics, from 32 x 32 images to logits."""
    model = ResNeXt(
        dataclasses.replace(TINY, stem="imagenet", **EVERY_OPTION),
        weights=None,
        input_shape=(32, 32, 3),
        classes=5,
        classifier_activation=None,
    )
    # TensorFlow fuses convolution, bias and ReLU to what without oneDNN has no groups.
    return {"all": randomised(model), "folded": fold_batch_norm(model)}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def scores(models, images):
    """Of each model the scores of all images, and then of the first alone."""
    expected = {
        name: model.predict(images, verbose=0) for name, model in models.items()
    }
    return {name: np.concatenate([all_, all_[:1]]) for name, all_ in expected.items()}


@pytest.mark.long
def test_saved_and_exported_models_load_in_a_fresh_process_with_other_kernels(
    models, images, scores, tmp_path, relative_error
):
    saved = {tmp_path / f"{name}.keras": name for name in models}
    exported = {tmp_path / name: name for name in models}
    for path, name in saved.items():
        models[name].save(path)
    for path, name in exported.items():
        models[name].export(path, format="tf_saved_model", verbose=False)
        graph = (path / "saved_model.pb").read_bytes()
        assert b"Conv2D" in graph
        assert b"_XlaMustCompile" not in graph
    found = scores_elsewhere(LOAD, [*saved, *exported], images, tmp_path)
    for path, name in (saved | exported).items():
        assert relative_error(found[path.name], scores[name]) <= 1e-5
    for path, name in saved.items():
        here = keras.models.load_model(path).predict(images, verbose=0)
        assert relative_error(here, scores[name][:-1]) <= 1e-5
    for path, name in exported.items():
        model = tf.saved_model.load(path)
        for batch, rows in ((images, slice(3)), (images[:1], slice(3, 4))):
            assert relative_error(model.serve(batch), scores[name][rows]) <= 1e-5


def is_grouped(images, kernel):
    return images.shape[-1] != kernel.shape[2]


@pytest.fixture
def grouped(monkeypatch):
    """Kernels of the grouped convolutions that are asked of TensorFlow while slow."""
    asked, conv2d = [], tf.nn.conv2d

    def record(images, kernel, *args, **kwargs):
        if is_grouped(images, kernel):
            asked.append(kernel)
        return conv2d(images, kernel, *args, **kwargs)

    monkeypatch.setattr(tf.nn, "conv2d", record)
    monkeypatch.setattr("resnext_keras.models.layers.has_fast_kernels", lambda: False)
    return asked


def test_predictions_do_without_slow_grouped_convolutions(
    models, images, scores, relative_error, grouped
):
    model = keras.models.clone_model(models["all"])  # has no traced function yet
    model.set_weights(models["all"].get_weights())
    for predict in (
        model,
        lambda images: model.predict(images, verbose=0),
        tf.function(model),
        Predictor(model, engine="tensorflow"),
    ):
        assert relative_error(predict(images), scores["all"][:-1]) <= 1e-5
    assert not grouped


@pytest.mark.long
def test_an_export_has_one_grouped_convolution_a_block_all_the_same(
    models, grouped, tmp_path
):
    model = models["all"]
    frozen = keras.Model(model.inputs, model(model.inputs[0], training=False))
    model.export(tmp_path / "exported", verbose=False)
    frozen.export(tmp_path / "frozen", verbose=False)
    tf.saved_model.save(keras.models.clone_model(model), tmp_path / "saved")
    for name in ("exported", "frozen", "saved"):
        loaded = tf.saved_model.load(tmp_path / name)
        serve = loaded.signatures["serving_default"]
        while calls := [o for o in serve.graph.get_operations() if "Call" in o.type]:
            serve = serve.graph._get_function(calls[0].get_attr("f").name)
        found = [o for o in serve.graph.get_operations() if o.type == "Conv2D"]
        assert sum(is_grouped(*operation.inputs) for operation in found) == sum(
            TINY.depths
        )
        assert len(found) == sum(
            isinstance(x, keras.layers.Conv2D) for x in model.layers
        )


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
def test_keras_export_to_onnx_runs_in_onnxruntime(
    models, images, scores, tmp_path, relative_error
):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    models["all"].predict(images, verbose=0)  # Keras' ONNX export needs a call
    models["all"].export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    assert relative_error(found, scores["all"][:-1]) <= 1e-5


def test_a_clone_and_a_config_build_the_same_network(models, images, relative_error):
    model = models["all"]
    for copy in (
        keras.models.clone_model(model),
        keras.Model.from_config(model.get_config()),
    ):
        assert type(copy.get_layer("conv2_block1_2_conv")) is GroupedConv2D
        copy.set_weights(model.get_weights())
        assert relative_error(copy(images), model(images)) <= 1e-6

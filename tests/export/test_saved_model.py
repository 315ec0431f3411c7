"""A SavedModel takes image files, names classes, and needs nothing but TensorFlow."""

import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import OTHER_KERNELS
from exported_network import IMAGES, NAMES, READING, SIGNATURES, SPEC, build
from helpers import dtype_policy
from keras import layers
from PIL import Image

from resnext_keras import (
    Predictor,
    decode_predictions,
    export_saved_model,
    preprocess_input,
    read_image,
)

pytestmark = pytest.mark.tensorflow

# A program whose arguments are the SavedModel's folder, a file of images, an image file
# and a file for what the signatures give. It ends with TensorFlow's own scan for
# operations that a server should not run.
CALL_SIGNATURES = """
import runpy, sys, numpy as np, tensorflow as tf
from pathlib import Path
folder, images, image, found = sys.argv[1:]
signatures = tf.saved_model.load(folder).signatures
outputs = {}
for name, signature in signatures.items():
    (spec,) = signature.structured_input_signature[1].values()
    if spec.dtype == tf.string:
        batch = tf.constant([Path(image).read_bytes(), b"no image"])
    else:
        batch = tf.cast(np.load(images), spec.dtype)
    for key, value in signature(**{spec.name: batch}).items():
        outputs[f"{name}/{key}"] = value.numpy()
np.savez(found, **outputs)
assert "resnext_keras" not in sys.modules
sys.argv[1:] = ["scan", "--dir", folder, "--tag_set", "serve"]
runpy.run_module("tensorflow.python.tools.saved_model_cli", run_name="__main__")
"""


@pytest.fixture(scope="module")
def classifier():
    return build(spec=SPEC)


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    """The folder of an exported classifier, in TF Serving's layout."""
    folder = tmp_path_factory.mktemp("exported") / "trees"
    export_saved_model(
        classifier,
        folder,
        preprocessing=READING,
        class_names=NAMES,
        licence="MIT",
    )
    return folder


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported / "1")


@pytest.fixture(scope="module")
def images(photos):
    """Contents of image files, the last one grey and very wide."""
    contents = []
    wide = Image.new("L", (300, 20), 128)
    for image, format_ in zip((*photos, wide), ("JPEG", "PNG", "PNG"), strict=True):
        contents.append(io.BytesIO())
        image.save(contents[-1], format_)
    return [file.getvalue() for file in contents]


def test_images_get_the_names_and_scores_of_keras_and_broken_ones_none(
    loaded, classifier, images, tmp_path, relative_error
):
    pixels = []
    for number, content in enumerate(images):
        path = tmp_path / str(number)
        path.write_bytes(content)
        pixels.append(read_image(path, READING))
    scores = classifier.predict_on_batch(preprocess_input(np.stack(pixels)))
    batch = [b"", images[0], b"no image", images[1][:5000], *images[1:]]
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(batch))
    answer = {name: values.numpy() for name, values in answer.items()}
    good = np.array([False, True, False, False, True, True])
    np.testing.assert_array_equal(answer["valid"], good)
    assert (answer["classes"][~good] == b"").all()
    assert (answer["indices"][~good] == -1).all()
    assert (answer["scores"][~good] == 0).all()
    expected = decode_predictions(scores, len(NAMES), class_names=NAMES)
    for row, predictions in zip(np.flatnonzero(good), expected, strict=True):
        names = [name.decode() for name in answer["classes"][row]]
        assert names == [name for _, name, _ in predictions]
        assert [NAMES[n] for n in answer["indices"][row]] == names
        expected_scores = [score for *_, score in predictions]
        assert relative_error(answer["scores"][row], expected_scores) <= 1e-2


def test_tensors_give_what_keras_gives(loaded, classifier, relative_error):
    def call(signature, **tensors):
        (value,) = loaded.signatures[signature](**tensors).values()
        return value

    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), "uint8")
    features = keras.Model(classifier.input, classifier.get_layer("avg_pool").output)
    images = tf.constant(IMAGES)
    assert relative_error(call("predict", images=images), classifier(IMAGES)) <= 1e-5
    assert relative_error(call("features", images=images), features(IMAGES)) <= 1e-5
    assert relative_error(loaded.serve(images), classifier(IMAGES)) <= 1e-5
    found = call("predict_uint8", pixels=tf.constant(pixels))
    assert relative_error(found, classifier(preprocess_input(pixels))) <= 1e-5
    assert len(call("predict", images=images[:1])) == 1
    assert set(loaded.signatures) == SIGNATURES


def test_half_precision_answers_in_float32(reloaded):
    with dtype_policy("mixed_bfloat16"):
        model = build()
    signatures = reloaded(model).signatures
    for signature in ("predict", "features"):
        (found,) = signatures[signature](images=tf.constant(IMAGES)).values()
        assert found.dtype == tf.float32


def test_the_model_card_has_classes_licence_and_preprocessing(exported):
    card = json.loads((exported / "1" / "assets" / "model.json").read_text())
    assert card["class_names"] == list(NAMES)
    assert card["licence"] == "MIT"
    assert card["preprocessing"] == {
        "size": 32,
        "resize": 40,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_the_callers_facts_go_before_those_of_the_weights(reloaded, tmp_path):
    model = build(classes=10)
    reloaded(model, weights="digits", licence="MIT", preprocessing=READING)
    card = json.loads((tmp_path / "model" / "1" / "assets" / "model.json").read_text())
    assert card["weights"] == "resnext11_8x4d.digits"
    assert card["licence"] == "MIT"
    assert card["preprocessing"]["resize"] == READING.resize
    assert card["class_names"] == list("0123456789")
    shape = "(batch, height, width, 3)"
    assert card["reading"][-1] == f"The model takes float32 of shape {shape}."


def test_it_is_folded_and_runs_without_this_package_and_with_other_kernels(
    exported, loaded, images, tmp_path, relative_error
):
    graph = (exported / "1" / "saved_model.pb").read_bytes()
    for operation in (b"FusedBatchNorm", b"Rsqrt", b"_XlaMustCompile", b"PyFunc"):
        assert operation not in graph
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "image").write_bytes(images[0])
    files = (tmp_path / name for name in ("images.npy", "image", "found.npz"))
    done = subprocess.run(
        [sys.executable, "-c", CALL_SIGNATURES, str(exported / "1"), *map(str, files)],
        env=os.environ | OTHER_KERNELS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "does not contain the default denylisted ops" in done.stdout
    found = np.load(tmp_path / "found.npz")
    image = tf.constant(images[:1])
    here = loaded.signatures["serving_default"](image_bytes=image)
    assert (found["serving_default/indices"][:1] == here["indices"].numpy()).all()
    assert found["serving_default/valid"].tolist() == [True, False]
    for name in ("predict/predictions", "features/features"):
        signature, output = name.split("/")
        here = loaded.signatures[signature](images=tf.constant(IMAGES))[output]
        assert relative_error(found[name], here) <= 1e-5


def test_a_session_runs_it_as_tensorflow_serving_does(
    exported, loaded, images, relative_error
):
    pixels = np.random.default_rng(4).integers(0, 256, (2, 32, 32, 3), "uint8")
    batches = {"predict": IMAGES, "features": IMAGES, "predict_uint8": pixels}
    batches["serving_default"] = [*images, b"no image"]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported / "1"))
        found = {}
        for name, batch in batches.items():
            signature = graph.signature_def[name]
            (image,) = signature.inputs.values()
            outputs = {key: output.name for key, output in signature.outputs.items()}
            found[name] = session.run(outputs, {image.name: batch})
    for name, batch in batches.items():
        signature = loaded.signatures[name]
        (key,) = signature.structured_input_signature[1]
        expected = signature(**{key: tf.constant(batch)})
        assert found[name].keys() == expected.keys()
        for output, values in expected.items():
            if values.dtype == tf.float32:
                assert relative_error(found[name][output], values) <= 1e-5
            else:
                assert found[name][output].tolist() == values.numpy().tolist()


def test_predictor_takes_the_folder(exported, classifier, relative_error):
    for path in (exported, exported / "1"):
        predict = Predictor(path)
        assert predict.engine == "tensorflow"
        assert relative_error(predict(IMAGES), classifier(IMAGES)) <= 1e-5


@pytest.mark.long
def test_a_head_on_an_exported_backbone_trains_as_in_keras(tmp_path):
    backbone = build(include_top=False, pooling="avg")
    backbone.trainable = False
    export_saved_model(backbone, tmp_path / "backbone")
    exported = layers.TFSMLayer(tmp_path / "backbone" / "1", call_endpoint="serve")
    losses = []
    for features in (exported, backbone):
        head = layers.Dense(2, "softmax", kernel_initializer="zeros")
        model = keras.Sequential([features, head])
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        history = model.fit(IMAGES, np.array([0, 1, 1]), epochs=5, verbose=0).history
        losses.append(history["loss"])
        assert len(model.trainable_weights) == 2
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][0] != losses[0][-1]

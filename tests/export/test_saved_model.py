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
from exported_network import IMAGES, NAMES, READING, SIGNATURES, build
from helpers import dtype_policy
from keras import layers
from PIL import Image

from resnext_keras import (
    Predictor,
    ResNeXt,
    decode_predictions,
    export_saved_model,
    preprocess_input,
    read_image,
)
from resnext_keras.images.read import SAMPLE_PHOTO

pytestmark = pytest.mark.tensorflow

# Program of the arguments: the SavedModel's folder, a file of images, an image file
# and a file for what the signatures give.
CALL_SIGNATURES = """
import sys, numpy as np, tensorflow as tf
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
assert not {"resnext_keras", "resnext_keras_cli"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def classifier():
    return build()


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
        top=3,
    )
    return folder


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported / "1")


@pytest.fixture(scope="module")
def images(photos):
    """Contents of image files."""
    contents = []
    for photo, format_ in zip(photos, ("JPEG", "PNG"), strict=True):
        contents.append(io.BytesIO())
        photo.save(contents[-1], format_)
    return [file.getvalue() for file in contents]


def test_images_are_named_as_in_keras(
    loaded, classifier, images, tmp_path, relative_error
):
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
    pixels = []
    for number, content in enumerate(images):
        path = tmp_path / str(number)
        path.write_bytes(content)
        pixels.append(read_image(path, READING))
    scores = classifier.predict_on_batch(preprocess_input(np.stack(pixels)))
    for row, expected in enumerate(decode_predictions(scores, 3, class_names=NAMES)):
        names = [name.decode() for name in answer["classes"].numpy()[row]]
        assert names == [name for _, name, _ in expected]
        assert [NAMES[n] for n in answer["indices"].numpy()[row]] == names
        found = answer["scores"].numpy()[row]
        assert relative_error(found, [score for *_, score in expected]) <= 1e-2
    assert answer["valid"].numpy().all()


def test_a_broken_image_spoils_its_own_row_alone(loaded, images):
    serve = loaded.signatures["serving_default"]
    whole = serve(image_bytes=tf.constant(images))
    broken = [b"", images[0], b"no image", images[1][:5000], images[1]]
    answer = serve(image_bytes=tf.constant(broken))
    assert answer["valid"].numpy().tolist() == [False, True, False, False, True]
    for row in (0, 2, 3):
        assert answer["classes"].numpy()[row].tolist() == [b"", b"", b""]
        assert answer["indices"].numpy()[row].tolist() == [-1, -1, -1]
        assert answer["scores"].numpy()[row].tolist() == [0, 0, 0]
    for name, values in whole.items():
        found = answer[name].numpy()[[1, 4]]
        if name == "scores":
            np.testing.assert_allclose(found, values, rtol=1e-5)
        else:
            assert (found == values.numpy()).all()


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


def test_the_card_tells_how_to_use_the_model(exported):
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


def test_a_weight_set_tells_images_classes_and_licence(tmp_path):
    model = ResNeXt("resnext11_8x4d", weights="digits", classes=10)
    export_saved_model(model, tmp_path / "digits", weights="digits")
    card = json.loads((tmp_path / "digits/1/assets/model.json").read_text())
    assert card["weights"] == "resnext11_8x4d.digits"
    assert card["licence"] == "Apache-2.0"
    assert card["class_names"] == list("0123456789")
    assert card["preprocessing"]["resize"] == [8, 32]


def test_the_graph_is_folded_and_free_of_files_and_foreign_code(exported):
    graph = (exported / "1" / "saved_model.pb").read_bytes()
    for operation in (b"FusedBatchNorm", b"Rsqrt", b"_XlaMustCompile", b"PyFunc"):
        assert operation not in graph
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "scan"),
            *("--dir", str(exported / "1"), "--tag_set", "serve"),
        ],
        capture_output=True,
        text=True,
    )
    assert "does not contain the default denylisted ops" in done.stdout, done.stderr


def test_it_runs_without_this_package_and_with_other_kernels(
    exported, loaded, images, tmp_path, relative_error
):
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
    found = np.load(tmp_path / "found.npz")
    image = tf.constant(images[:1])
    here = loaded.signatures["serving_default"](image_bytes=image)
    assert (found["serving_default/indices"][:1] == here["indices"].numpy()).all()
    assert found["serving_default/valid"].tolist() == [True, False]
    for name in ("predict/predictions", "features/features"):
        signature, output = name.split("/")
        here = loaded.signatures[signature](images=tf.constant(IMAGES))[output]
        assert relative_error(found[name], here) <= 1e-5


def test_predictor_takes_the_folder(exported, classifier, relative_error):
    for path in (exported, exported / "1"):
        predict = Predictor(path)
        assert predict.engine == "tensorflow"
        assert relative_error(predict(IMAGES), classifier(IMAGES)) <= 1e-5


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


def test_names_may_have_any_letters(reloaded, classifier):
    names = ("bouleau", "ель", "木", 'a "b"', "c\nd")
    serve = reloaded(classifier, class_names=names).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([SAMPLE_PHOTO.read_bytes()]))
    found = {name.decode() for name in answer["classes"].numpy()[0]}
    assert found == set(names)


def test_a_image_may_be_of_any_shape(loaded):
    content = io.BytesIO()
    Image.new("L", (300, 20), 128).save(content, "PNG")
    answer = loaded.signatures["serving_default"](
        image_bytes=tf.constant([content.getvalue()])
    )
    assert answer["valid"].numpy().all()

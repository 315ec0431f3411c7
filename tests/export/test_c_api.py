"""An exported network runs in programs that have only TensorFlow's C library."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import OTHER_KERNELS
from helpers import SUPPORT
from tensorflow.core.protobuf import saved_model_pb2
from weight_files import drawn_model

from resnext_keras import preprocess_input

pytestmark = pytest.mark.tensorflow

PROGRAM = SUPPORT / "c_api_program.py"


def tensor_names(folder, signature):
    """The names of a signature's tensors, as `c_api_program.py` wants them."""
    saved = saved_model_pb2.SavedModel.FromString(
        (folder / "saved_model.pb").read_bytes()
    )
    found = saved.meta_graphs[0].signature_def[signature]
    (image,) = found.inputs.values()
    return json.dumps(
        {
            "input": image.name,
            "outputs": {key: tensor.name for key, tensor in found.outputs.items()},
        }
    )


def through_c_api(folder, signature, inputs, tmp_path, environment=None):
    """The outputs of a signature, by key."""
    results = tmp_path / "results.npz"
    names = tensor_names(folder, signature)
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, names, results, *inputs],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(results))


@pytest.mark.parametrize(
    ("signature", "environment"),
    [("predict", OTHER_KERNELS), ("predict_uint8", {}), ("features", {})],
)
def test_arrays_give_what_the_keras_model_gives(
    served, signature, environment, tmp_path, relative_error
):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    images = preprocess_input(pixels)
    np.save(tmp_path / "batch.npy", pixels if signature == "predict_uint8" else images)
    (found,) = through_c_api(
        served, signature, [tmp_path / "batch.npy"], tmp_path, environment
    ).values()
    model = drawn_model()
    if signature == "features":
        model = keras.Model(model.input, model.get_layer("avg_pool").output)
    assert relative_error(found, model(images)) <= 1e-5


def test_images_give_what_they_give_in_python(served, images, tmp_path):
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    found = through_c_api(
        served, "serving_default", [tmp_path / name for name in images], tmp_path
    )
    run = tf.saved_model.load(served).signatures["serving_default"]
    expected = run(image_bytes=tf.constant(list(images.values())))
    assert set(found) == {"classes", "indices", "scores", "valid"} == set(expected)
    good = np.array(["broken" not in name for name in images])
    np.testing.assert_array_equal(found["valid"], good)
    np.testing.assert_array_equal(expected["valid"], good)
    np.testing.assert_array_equal(
        found["indices"][good], expected["indices"].numpy()[good]
    )
    classes = np.char.decode(expected["classes"].numpy().astype("S"))
    np.testing.assert_array_equal(found["classes"][good], classes[good])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)

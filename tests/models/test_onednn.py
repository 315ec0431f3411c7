"""TensorFlow's oneDNN kernels are on, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

from resnext_keras.models.runtime import VARIABLE

pytestmark = pytest.mark.tensorflow

IS_ON = """
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
print(IsMklEnabled())
"""
# As on a processor where TensorFlow leaves them off by itself.
TENSORFLOW_FIRST = """
import os
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
import tensorflow
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
assert not IsMklEnabled()
del os.environ["TF_ENABLE_ONEDNN_OPTS"]
import numpy as np
import resnext_keras
spec = resnext_keras.ResNeXtSpec("tiny", (1,), 2, 4, stem="cifar")
for _ in range(2):
    model = resnext_keras.ResNeXt(spec, weights=None, classes=2)
    model.predict(np.zeros((1, 32, 32, 3)), verbose=0)
"""


@pytest.mark.parametrize(
    ("program", "setting", "is_on", "messages"),
    [
        pytest.param("import resnext_keras", {}, True, 0, marks=pytest.mark.long),
        pytest.param(
            "import resnext_keras", {VARIABLE: "0"}, False, 0, marks=pytest.mark.long
        ),
        (TENSORFLOW_FIRST, {}, False, 1),
    ],
    ids=["by default", "the user's setting", "after TensorFlow"],
)
def test_importing_the_package_turns_them_on(program, setting, is_on, messages):
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | setting
    done = subprocess.run(
        [sys.executable, "-c", program + IS_ON],
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(is_on)
    assert done.stderr.count("set TF_ENABLE_ONEDNN_OPTS=1") == messages


EMPTY = """
import os
import keras
import numpy as np
import tensorflow as tf
import resnext_keras as rk

spec = rk.ResNeXtSpec(
    "tiny", (1, 1), 2, 4, stem="cifar", squeeze_excite=True, pooled_shortcut=True
)
model = rk.ResNeXt(spec, weights=None, classes=3, input_shape=(32, 32, 3))
backbone = rk.ResNeXt(spec, weights=None, include_top=False)
empty = np.zeros((0, 32, 32, 3), "float32")
none, size = tf.TensorSpec((None, 32, 32, 3)), tf.TensorSpec((None, None, None, 3))


@tf.function(input_signature=[none])
def gradients(images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True))
    return tape.gradient(loss, model.trainable_variables)


for network in (model, rk.fold_batch_norm(model)):
    assert network(empty).shape == (0, 3)
    assert tf.function(network)(empty).shape == (0, 3)
    assert tf.function(network, input_signature=[none])(empty).shape == (0, 3)
maps = tf.function(backbone, input_signature=[size])(empty)
assert maps.shape == (0, 16, 16, 512), maps.shape
before = model.get_weights()
for gradient in gradients(empty):
    assert not np.any(gradient)
for mode in ({}, {"run_eagerly": True}, {"jit_compile": True}):
    model.compile("sgd", "sparse_categorical_crossentropy", **mode)
    assert model.train_on_batch(empty, np.zeros(0, "int32")) == 0
for a, b in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
if os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1":
    keras.config.set_image_data_format("channels_first")
    first = rk.ResNeXt(spec, weights=None, classes=3, input_shape=(3, 32, 48))
    assert first(np.zeros((0, 3, 32, 48), "float32")).shape == (0, 3)
"""


@pytest.mark.parametrize("setting", ["1", pytest.param("0", marks=pytest.mark.long)])
def test_an_empty_batch_gives_empty_outputs_and_changes_no_weights(setting):
    done = subprocess.run(
        [sys.executable, "-c", EMPTY],
        env=os.environ | {VARIABLE: setting, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

"""Networks with random weights, and their scores in fresh processes."""

import os
import subprocess
import sys

import numpy as np

LOAD_KERAS_FILE = """
import sys, numpy as np
import resnext_keras, keras
model = keras.models.load_model(sys.argv[1])
assert type(model.get_layer("conv2_block1_2_conv")) is resnext_keras.GroupedConv2D
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""
LOAD_SAVED_MODEL = """
import sys, numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[3], model.serve(np.load(sys.argv[2])).numpy())
assert "resnext_keras" not in sys.modules
"""


def randomised(model):
    """The model, its batch statistics, scales and biases now random."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" not in variable.path:
            low, high = (0.5, 2.0) if "variance" in variable.path else (-0.3, 1.0)
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def scores_elsewhere(program, path, images, tmp_path, **environment):
    """The scores that a fresh process gives."""
    np.save(tmp_path / "images.npy", images)
    arguments = [path, tmp_path / "images.npy", tmp_path / "scores.npy"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(tmp_path / "scores.npy")

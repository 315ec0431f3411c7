"""Networks with random weights, and their scores in fresh processes."""

import os
import subprocess
import sys

import numpy as np

from resnext_keras.models.runtime import has_onednn

# Programs of the arguments: file of images, file for the scores, files of models.
# The scores are those of all images, and then of the first alone.
LOAD_KERAS_FILES = """
import sys, numpy as np
from pathlib import Path
import resnext_keras, keras
images, scores, *paths = sys.argv[1:]
images, found = np.load(images), {}
for path in paths:
    model = keras.models.load_model(path)
    grouped = model.get_layer("conv2_block1_2_conv")
    assert type(grouped) is resnext_keras.GroupedConv2D
    batches = [model.predict(batch, verbose=0) for batch in (images, images[:1])]
    found[Path(path).name] = np.concatenate(batches)
np.savez(scores, **found)
"""
LOAD_SAVED_MODELS = """
import sys, numpy as np, tensorflow as tf
from pathlib import Path
images, scores, *paths = sys.argv[1:]
images, found = np.load(images), {}
for path in paths:
    model = tf.saved_model.load(path)
    batches = [model.serve(batch) for batch in (images, images[:1])]
    found[Path(path).name] = np.concatenate(batches)
np.savez(scores, **found)
assert "resnext_keras" not in sys.modules
"""

# Programs of the arguments: two that do not matter, a model's file, files to export.
EXPORT_FILES = """
import sys, keras, numpy as np
from resnext_keras.export.files import export_file
_, scores, model, *paths = sys.argv[1:]
for path in paths:
    export_file(keras.models.load_model(model), path)
np.savez(scores)
"""

# The environment of a process with oneDNN's kernels where this one has none, and
# without where it has.
OTHER_KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "0" if has_onednn() else "1"}


def randomised(model):
    """The model, its batch statistics, scales and biases now random."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" not in variable.path:
            low, high = (0.5, 2.0) if "variance" in variable.path else (-0.3, 1.0)
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def scores_elsewhere(program, paths, images, tmp_path):
    """The scores, by name of the file, in a fresh process with `OTHER_KERNELS`."""
    np.save(tmp_path / "images.npy", images)
    arguments = [tmp_path / "images.npy", tmp_path / "scores.npz", *paths]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | OTHER_KERNELS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(tmp_path / "scores.npz")

"""Networks with random weights, and what fresh processes make of them."""

import os
import subprocess
import sys

import numpy as np

from resnext_keras.models.runtime import has_onednn

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
    """What a program saves, in a fresh process with `OTHER_KERNELS`.

    Its arguments are a file of the images, the .npz file to write, and the paths.
    """
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

"""The same numbers in every layout and on every backend of Keras."""

import os
import subprocess
import sys

import numpy as np
import pytest
from weight_files import EVERY_OPTION

from resnext_keras import ResNeXt, ResNeXtSpec

SPECS = {
    "plain": ResNeXtSpec("tiny", (1, 2), 4, 4),
    "every option": ResNeXtSpec("tiny", (1, 2), 4, 4, **EVERY_OPTION),
}

# Scores of a network in a fresh process, since a backend is chosen at import.
SCORES = """
import sys
import keras, numpy as np
from resnext_keras import ResNeXt, ResNeXtSpec, fold_batch_norm
folder, backend, layout, spec = sys.argv[1:]
assert keras.config.backend() == backend
keras.config.set_image_data_format(layout)
images = np.load(folder + "/images.npy")
shape = (40, 49, 3)
if layout == "channels_first":
    images, shape = np.moveaxis(images, -1, 1), (3, 40, 49)
model = ResNeXt(
    eval(spec),
    weights=folder + "/tiny.weights.h5",
    input_shape=shape,
    classes=5,
    classifier_activation=None,
)
np.save(folder + "/scores.npy", model.predict(images, verbose=0))
folded = fold_batch_norm(model).predict(images, verbose=0)
np.save(folder + "/folded.npy", folded)
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
loss = model.train_on_batch(images, np.array([0, 1, 2]))
np.save(folder + "/loss.npy", float(loss))
"""


@pytest.fixture(scope="module", params=SPECS)
def reference(request, tmp_path_factory):
    """A spec, images, and a network's scores of them and loss on TensorFlow."""
    folder = tmp_path_factory.mktemp("backends")
    images = np.random.default_rng(0).normal(size=(3, 40, 49, 3)).astype("float32")
    spec = SPECS[request.param]
    model = ResNeXt(
        spec,
        weights=None,
        input_shape=(40, 49, 3),
        classes=5,
        classifier_activation=None,
    )
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if "kernel" not in variable.path:
            low, high = (0.5, 2.0) if "variance" in variable.path else (-0.3, 1.0)
            variable.assign(rng.uniform(low, high, variable.shape))
    model.save_weights(folder / "tiny.weights.h5")
    np.save(folder / "images.npy", images)
    scores = model.predict(images, verbose=0)
    logits = np.asarray(model(images, training=True))  # moves the statistics
    loss = np.mean(np.log(np.exp(logits).sum(-1)) - logits[range(3), range(3)])
    return folder, spec, scores, loss


def check(reference, relative_error, backend, layout):
    folder, spec, scores, loss = reference
    done = subprocess.run(
        [sys.executable, "-c", SCORES, str(folder), backend, layout, repr(spec)],
        # TensorFlow convolves channels_first on a CPU only with oneDNN.
        env=os.environ | {"KERAS_BACKEND": backend, "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert relative_error(np.load(folder / "scores.npy"), scores) <= 1e-5
    assert relative_error(np.load(folder / "folded.npy"), scores) <= 1e-5
    assert np.load(folder / "loss.npy") == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_both_layouts_give_the_same(reference, relative_error, layout):
    check(reference, relative_error, "tensorflow", layout)


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_give_the_same(reference, relative_error, backend, layout):
    pytest.importorskip(backend)
    check(reference, relative_error, backend, layout)

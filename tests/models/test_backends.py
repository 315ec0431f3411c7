"""The same numbers in both data formats and on every backend of Keras."""

import os
import subprocess
import sys

import numpy as np
import pytest
from elsewhere import randomised
from weight_files import EVERY_OPTION

from resnext_keras import ResNeXt, ResNeXtSpec

SPECS = {
    "plain": ResNeXtSpec("tiny", (1, 1), 4, 4),
    "every option": ResNeXtSpec("tiny", (1, 1), 4, 4, **EVERY_OPTION),
}

# Scores of networks in a fresh process, since a backend is chosen at import.
SCORES = """
import sys
import keras, numpy as np
from resnext_keras import ResNeXt, ResNeXtSpec, fold_batch_norm
folder, backend, data_format, specs = sys.argv[1:]
assert keras.config.backend() == backend
keras.config.set_image_data_format(data_format)
images = np.load(folder + "/images.npy")
shape = (40, 49, 3)
if data_format == "channels_first":
    images, shape = np.moveaxis(images, -1, 1), (3, 40, 49)
for name, spec in eval(specs).items():
    model = ResNeXt(
        spec,
        weights=f"{folder}/{name}.weights.h5",
        input_shape=shape,
        classes=5,
        classifier_activation=None,
    )
    scores = model.predict(images, verbose=0)
    folded = fold_batch_norm(model).predict(images, verbose=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.train_on_batch(images, np.array([0, 1, 2]))
    np.savez(f"{folder}/{name}.npz", scores=scores, folded=folded, loss=float(loss))
"""


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """A folder of images and weights; the scores and losses on TensorFlow."""
    folder = tmp_path_factory.mktemp("backends")
    images = np.random.default_rng(0).normal(size=(3, 40, 49, 3)).astype("float32")
    np.save(folder / "images.npy", images)
    expected = {}
    for name, spec in SPECS.items():
        model = randomised(
            ResNeXt(
                spec,
                weights=None,
                input_shape=(40, 49, 3),
                classes=5,
                classifier_activation=None,
            )
        )
        model.save_weights(folder / f"{name}.weights.h5")
        scores = model.predict(images, verbose=0)
        logits = np.asarray(model(images, training=True))  # moves the statistics
        loss = np.mean(np.log(np.exp(logits).sum(-1)) - logits[range(3), range(3)])
        expected[name] = scores, loss
    return folder, expected


@pytest.mark.parametrize(
    ("backend", "data_format"),
    [
        ("tensorflow", "channels_first"),
        *(
            pytest.param(backend, f"channels_{place}", marks=pytest.mark.parity)
            for backend in ("torch", "jax")
            for place in ("first", "last")
        ),
    ],
)
def test_scores_and_losses_are_the_same(
    references, relative_error, backend, data_format
):
    pytest.importorskip(backend)
    folder, expected = references
    done = subprocess.run(
        [sys.executable, "-c", SCORES, str(folder), backend, data_format, repr(SPECS)],
        # TensorFlow convolves channels_first on a CPU only with oneDNN.
        env=os.environ | {"KERAS_BACKEND": backend, "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (scores, loss) in expected.items():
        found = np.load(folder / f"{name}.npz")
        assert relative_error(found["scores"], scores) <= 1e-5
        assert relative_error(found["folded"], scores) <= 1e-5
        assert found["loss"] == pytest.approx(loss, rel=1e-4)

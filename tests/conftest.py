"""What several tests share."""

import contextlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

from resnext_keras.preprocessing import Preprocessing

# triton, which torch imports where it finds it, and TensorFlow bring an LLVM
# each; both in one process crash it.
sys.modules.setdefault("triton", None)

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

SMALL = Preprocessing(size=8, resize=10)


def save(image, path, **options):
    """Writes a picture; gives its path."""
    image.save(path, **options)
    return path


@pytest.fixture(scope="session")
def photos():
    """Two photos of 640 x 427 pixels, china.jpg and flower.jpg."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@contextlib.contextmanager
def dtype_policy(name):
    """Builds what is within under a policy for all layers."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def resnext50_state():
    """The state of torchvision's ResNeXt-50 that the goldens were made with."""
    from random_state import draw_state

    return draw_state(json.loads((GOLDEN / "resnext50_state_shapes.json").read_text()))


@pytest.fixture(scope="session")
def resnext50_file(resnext50_state, tmp_path_factory):
    """That state as a safetensors file, as torch users save it."""
    path = tmp_path_factory.mktemp("weights") / "resnext50.safetensors"
    save_file(resnext50_state, path)
    return path


@pytest.fixture
def relative_error():
    """Largest difference of two arrays, by the largest value of the second."""

    def error(found, expected):
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape
        return np.abs(found - expected).max() / np.abs(expected).max()

    return error

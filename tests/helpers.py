"""What several tests call; fixtures are in conftest.py."""

import contextlib
from pathlib import Path

import keras

from resnext_keras.preprocessing import Preprocessing

GOLDEN = Path(__file__).parent / "golden"

SMALL = Preprocessing(size=8, resize=10)


def save(image, path, **options):
    """Writes a picture; gives its path."""
    image.save(path, **options)
    return path


@contextlib.contextmanager
def dtype_policy(name):
    """Builds what is within under a policy for all layers."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

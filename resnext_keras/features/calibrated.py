"""The calibrated network of an int8 run, which is kept beside its file of features."""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from resnext_keras.features.extractor import pooled_network
from resnext_keras.images.listing import list_images
from resnext_keras.inference.prediction import sample_images
from resnext_keras.inference.quantization import quantize
from resnext_keras.io import atomic_write
from resnext_keras.weights.checkpoint import Checkpoint

CALIBRATION = 256
"""Number of images, the first of a collection, that calibrate its network."""


def calibrated_file(output: str | os.PathLike) -> Path:
    """The file of the calibrated network of a run."""
    return Path(f"{os.fspath(output)}.int8.onnx")


@contextlib.contextmanager
def calibrated_network(checkpoint: Checkpoint, paths) -> Iterator[Path]:
    """Context manager: calibrates a network with images, in a temporary file."""
    listed = (path for path, reason in list_images(paths) if reason is None)
    files = list(itertools.islice(listed, CALIBRATION))
    images, _ = sample_images(files, checkpoint.preprocessing, CALIBRATION)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "int8.onnx")
        quantize(pooled_network(checkpoint), images, path)
        yield path


def keep_network(network: Path, output: Path) -> None:
    """Keeps a calibrated network beside the file of features."""
    with atomic_write(calibrated_file(output)) as path:
        shutil.copyfile(network, path)

"""One model in any of the formats, and how it does in the format's own runtime."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras.export.files import checked_files, export_file
from resnext_keras.export.saved_model import EARLIER, export_saved_model
from resnext_keras.inference.comparison import largest_difference, seconds_an_image
from resnext_keras.inference.engines import is_installed
from resnext_keras.inference.predictor import Predictor
from resnext_keras.io import output_directory


@dataclass(frozen=True)
class Format:
    """What a format's files are called, and what runs them.

    Attributes:
        ending: What follows the name of the model; of a folder nothing.
        precision: As `export_file` takes it.
        engine: As `Predictor` takes it.
    """

    ending: str
    precision: str
    engine: str

    def path(self, base: str | os.PathLike) -> Path:
        """The file or folder of a model that is called `base`."""
        return self.paths(base)[0]

    def paths(self, base: str | os.PathLike) -> list[Path]:
        """The same, and the file of weights that lies beside OpenVINO's."""
        path = Path(f"{os.fspath(base)}{self.ending}").expanduser()
        return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


FORMATS = {
    "saved_model": Format("", "float32", "tensorflow"),
    "onnx": Format(".onnx", "float32", "onnxruntime"),
    "onnx-float16": Format(".float16.onnx", "float16", "onnxruntime"),
    "onnx-int8": Format(".int8.onnx", "int8", "onnxruntime"),
    "openvino": Format(".xml", "float32", "openvino"),
    "openvino-float16": Format(".float16.xml", "float16", "openvino"),
    "openvino-int8": Format(".int8.xml", "int8", "openvino"),
    "litert": Format(".tflite", "float32", "litert"),
    "litert-float16": Format(".float16.tflite", "float16", "litert"),
    "litert-int8": Format(".int8.tflite", "int8", "litert"),
}


@dataclass(frozen=True)
class Trial:
    """How an exported model does beside the one in Keras.

    Attributes:
        size_bytes: Size of all its files.
        difference: Largest difference of an output, by the largest output; None
            where the format's runtime is not installed.
        seconds: Time of an image in a batch of up to 8, likewise.
    """

    size_bytes: int
    difference: float | None = None
    seconds: float | None = None


def check_formats(formats: Iterable[Format], base: str | os.PathLike) -> None:
    """Looks for all that keeps a model from being written, even with `overwrite`.

    Args:
        formats: Some of `FORMATS`.
        base: What the files are called, but for their endings.

    Raises:
        ImportError: A package is missing.
        ValueError: A file cannot be written, or what is there is no earlier export.
    """
    for format_ in formats:
        path = format_.path(base)
        if format_.ending:
            checked_files(path, format_.precision, overwrite=True)
        else:
            output_directory(path, overwrite=True, earlier=EARLIER)


def export_as(
    format_: Format,
    model: keras.Model,
    base: str | os.PathLike,
    images: np.ndarray | None,
    top: int,
    overwrite: bool,
    **about,
) -> Path:
    """Writes a model in one of the formats.

    Args:
        format_: One of `FORMATS`.
        model: As `export_file` and `export_saved_model` take it.
        base: What the files are called, but for their endings.
        images: For int8, as `quantize` takes them.
        top: Number of classes that a SavedModel gives for an image.
        overwrite: Whether an earlier export may be replaced.
        about: What `model_card` takes besides the model.

    Returns:
        The path that `Predictor` takes.
    """
    path = format_.path(base)
    if not format_.ending:
        export_saved_model(model, path, top=top, overwrite=overwrite, **about)
    else:
        images = images if format_.precision == "int8" else None
        export_file(
            model, path, format_.precision, images, overwrite=overwrite, **about
        )
    return path


def try_out(
    format_: Format, base: str | os.PathLike, images: np.ndarray, expected
) -> Trial:
    """Runs an exported model on images, where its runtime is installed.

    Args:
        format_: One of `FORMATS`.
        base: What the files are called, but for their endings.
        images: A batch as the model takes it.
        expected: What Keras predicts for them.

    Returns:
        The `Trial`.
    """
    path, *beside = format_.paths(base)
    files = path.rglob("*") if path.is_dir() else (path, *beside)
    size = sum(file.stat().st_size for file in files if file.is_file())
    if not is_installed(format_.engine, path):
        return Trial(size)
    predict = Predictor(path, format_.engine)
    return Trial(
        size,
        largest_difference(predict(images), expected),
        seconds_an_image(predict, images),
    )

"""Quantizes networks to int8: a quarter of the file size, and faster on CPUs."""

import os

import keras
import numpy as np

from resnext_keras.inference.calibration import (
    check_converter,
    checked_images,
    quantize_file,
)
from resnext_keras.inference.engines import (
    check_fits,
    exported,
    only_input,
    writing_errors,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.runtime import check_backend

SUFFIXES = (".onnx",)


def quantize(
    model: keras.Model,
    images: np.ndarray,
    path: str | os.PathLike,
    overwrite: bool = False,
) -> None:
    """Writes a network in int8 to an `.onnx` file, which `Predictor` runs.

    ```python
    quantize(model, preprocess_input(images), "flowers.int8.onnx")
    predict = Predictor("flowers.int8.onnx")
    ```

    `export_file` and `export_model` also write a model card into such a file.

    Batch norm is folded. Weights are rounded to 8 bits with a scale for each filter,
    activations with a scale for each tensor, computed from the images. The first
    convolution and everything after the last layer with weights stay in float32.

    Args:
        model: A functional or `Sequential` model with one input, in float32, under
            2 GB, for batches of any length. It is not changed.
        images: A batch for the model, usually float32 (batch, height, width, 3) from
            `preprocess_input`, at least one image. About a hundred images or more that
            resemble those in later use are enough.
        path: The file; its name ends in `.onnx`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: An argument is not as described, the file exists, or ONNX does
            not support an operation of the model. Nothing is written then.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles
    and Empirical Evaluation", 2020: a scale for each filter, and ranges of
    activations without the most extreme values.
    """
    check_backend()
    path = output_file(path, SUFFIXES, overwrite)
    folded = fold_batch_norm(model)
    images = checked_images(images, only_input(folded.inputs))
    check_fits(folded, "onnxruntime")
    check_converter()
    expected, received = "a model that ONNX supports", f"model={model.name!r}"
    with (
        errors_in_one_line("the converter", expected, received, *writing_errors()),
        atomic_write(path) as written,
        exported(folded, "onnxruntime") as float32,
    ):
        quantize_file(float32, images, written)

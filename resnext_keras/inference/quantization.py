"""Quantizes networks to int8: a quarter of the file size, and faster on CPUs."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from resnext_keras.inference.engines import (
    check_fits,
    check_shape,
    exported,
    only_input,
    optional,
    writing_errors,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.runtime import check_backend
from resnext_keras.progress import Progress

SUFFIXES = (".onnx",)

WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


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


@contextlib.contextmanager
def quantized(model: keras.Model, images: np.ndarray) -> Iterator[Path]:
    """Context manager: writes a folded model in int8 to a temporary ONNX file.

    The images are from `checked_images`.
    """
    with exported(model, "onnxruntime") as float32:
        int8 = float32.with_name("int8.onnx")
        quantize_file(float32, images, int8)
        yield int8


def quantize_file(float32: Path, images: np.ndarray, target: Path) -> None:
    """Quantizes an ONNX file, with images from `checked_images`."""
    quantization = optional("onnxruntime.quantization")
    # Infers the shapes of all tensors. The symbolic step would need sympy, and finds
    # no more shapes.
    optional("onnxruntime.quantization.shape_inference").quant_pre_process(
        float32, target, skip_symbolic_shape=True
    )
    graph = optional("onnx").load(target).graph
    with (
        contextlib.redirect_stdout(io.StringIO()),  # It prints its progress.
        Progress("calibrating", len(images)) as progress,
    ):
        quantization.quantize_static(
            target,
            target,
            _CalibrationReader(graph.input[0].name, images, progress),
            per_channel=True,
            # The fast types on x86: with int8 activations it takes 2.4 times as long.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(_float32_nodes(graph)),
            # On our networks at least as accurate as minimum and maximum, and a single
            # unusual image does not stretch all scales.
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": 99.999,
                # Keeps the activations of one image in memory, not of all.
                "CalibStridedMinMax": 1,
                # Only the inputs of operations are rounded, not their outputs too.
                "OpTypesToExcludeOutputQuantization": [n.op_type for n in graph.node],
            },
        )


class _CalibrationReader:
    """The images one by one, in the interface of ONNX Runtime's calibration reader."""

    def __init__(self, name: str, images: np.ndarray, progress: Progress):
        self._name, self._images, self._progress = name, images, progress
        self._feeds = iter(())

    def __len__(self):
        return len(self._images)

    def set_range(self, start_index: int, end_index: int):
        self._feeds = (
            {self._name: self._images[index : index + 1]}
            for index in range(start_index, end_index)
        )

    def get_next(self):
        feed = next(self._feeds, None)
        self._progress.update(feed is not None)
        return feed


def _float32_nodes(graph) -> Iterator[str]:
    """Names of the nodes that stay in float32.

    The first is the first convolution, 3 % of ResNeXt-50's work. Its inputs are pixels,
    which are mostly large numbers. Processors without VNNI add two products of 8-bit
    numbers in 16 bits, which then saturates: with this convolution in int8 the top-1 of
    the bundled network falls from 99 to 77 % on an emulated Haswell. After a ReLU few
    numbers are large, and nothing is lost.

    The others are those after the last layer with weights: in 8 bits all scores below
    0.2 % would be 0.
    """
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    yield from convolutions[:1]
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        gives_output = not outputs.isdisjoint(node.output)
        if node.op_type == "Softmax" or (
            gives_output and node.op_type not in WITH_WEIGHTS
        ):
            yield node.name


def check_converter() -> None:
    """Raises an `ImportError` with the name of the extra if a package is missing."""
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        optional(package)


def checked_images(images, expected) -> np.ndarray:
    """Images for calibration in the dtype of a network's input, or a `ValueError`."""
    length = expected.shape[0]
    if length not in (None, 1):  # Calibration runs the images one by one.
        raise ValueError(
            "Expected a model for batches of any length. "
            f"Received: a model for batches of {length}"
        )
    images = np.asarray(images)
    check_shape(images, expected.shape, least=1)
    if not np.can_cast(images.dtype, expected.dtype, "same_kind"):
        raise ValueError(
            f"Expected images of the model's type, {expected.dtype}. "
            f"Received: images.dtype={images.dtype}"
        )
    images = np.ascontiguousarray(images, expected.dtype)
    if not np.isfinite(images).all():
        raise ValueError(
            "Expected images of finite numbers. Received: images with NaN or infinity"
        )
    return images

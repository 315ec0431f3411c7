"""Networks in int8: a file a quarter of the size, for processors."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from resnext_keras.inference.engines import (
    check_backend,
    check_fits,
    exported,
    only_input,
    optional,
    writing_errors,
)
from resnext_keras.inference.errors import told_briefly
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.io import atomic_write, output_file

SUFFIXES = (".onnx",)

PACKAGES = ("onnx", "onnxruntime", "tf2onnx")

WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


def quantize(
    model: keras.Model,
    images: np.ndarray,
    path: str | os.PathLike,
    overwrite: bool = False,
) -> None:
    """Writes a network in int8 into an `.onnx` file, which `Predictor` runs.

    ```python
    quantize(model, preprocess_input(images), "flowers.int8.onnx")
    predict = Predictor("flowers.int8.onnx")
    ```

    Batch norm is folded and weights are rounded to 8 bits, with a scale for each
    filter; so are the activations, with a scale for each tensor that the images
    tell. The first convolution stays in float32, and so does what follows the
    last weights.

    Args:
        model: A functional or `Sequential` model of one input, in float32, of
            less than 2 GB and for batches of any length. It stays as it is.
        images: A batch as the model takes it, mostly (batch, H, W, channels) from
            `preprocess_input`, of images like those to come; some hundred are
            enough.
        path: The file to be written, whose name ends in `.onnx`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ImportError: A package of the extra `fast` is not installed.
        ValueError: An argument is none of the above, the file exists, or ONNX lacks
            an operation of the model. Nothing has then been written.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference:
    Principles and Empirical Evaluation", 2020: a scale for each filter, and ranges
    of activations that leave out the outermost numbers.
    """
    check_backend()
    path = output_file(path, SUFFIXES, overwrite)
    folded = fold_batch_norm(model)
    images = checked_images(images, only_input(folded.inputs))
    check_fits(folded, "onnxruntime")
    check_packages()
    expected, received = "a model that ONNX can hold", f"model={model.name!r}"
    with (
        told_briefly("the converter", expected, received, *writing_errors()),
        atomic_write(path) as written,
        exported(folded, "onnxruntime") as float32,
    ):
        quantize_file(float32, images, written)


def quantize_file(float32: Path, images: np.ndarray, target: Path) -> None:
    """Quantizes an ONNX file by images that are checked."""
    quantization = optional("onnxruntime.quantization")
    # Shapes of all tensors; the other step, for which sympy is needed, adds nothing.
    optional("onnxruntime.quantization.shape_inference").quant_pre_process(
        float32, target, skip_symbolic_shape=True
    )
    graph = optional("onnx").load(target).graph
    with (
        contextlib.redirect_stdout(io.StringIO()),  # It prints what it does.
        tqdm(
            desc="calibrating",
            total=len(images),
            unit=" images",
            disable=None,
            leave=False,
        ) as bar,
    ):
        quantization.quantize_static(
            target,
            target,
            _Calibration(graph.input[0].name, images, bar),
            per_channel=True,
            # On x86 the fast ones: int8 activations take 2.4 times as long.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(_float32_nodes(graph)),
            # As good as the extremes on our networks, or better, and one odd
            # image does not stretch all scales.
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": 99.999,
                # All activations of one image at a time, or else of all images.
                "CalibStridedMinMax": 1,
                # What an operation takes is rounded, and nothing that only comes out.
                "OpTypesToExcludeOutputQuantization": [n.op_type for n in graph.node],
            },
        )


class _Calibration:
    """The images one by one, as ONNX Runtime wants to read them."""

    def __init__(self, name: str, images: np.ndarray, bar: tqdm):
        self._name, self._images, self._bar = name, images, bar
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
        self._bar.update(feed is not None)
        return feed


def _float32_nodes(graph) -> Iterator[str]:
    """Names of the nodes that are not rounded.

    The first convolution, 3 % of ResNeXt-50's work, sees pixels, all far from 0.
    Processors without VNNI add two products of 8-bit numbers in 16 bits, and cut
    the sums there: in int8 the bundled network falls from 99 to 77 % top-1 on an
    emulated Haswell. Behind a ReLU, where few numbers are large, it lost nothing.

    Scores in 8 bits would be 0 for all that is less probable than 0.2 %.
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


def check_packages() -> None:
    """Raises an `ImportError` that names the extra, where `quantize` cannot work."""
    for package in PACKAGES:
        optional(package)


def checked_images(images, expected) -> np.ndarray:
    """The images that tell a network's ranges, in the type of its input."""
    length, *sizes = expected.shape
    if length not in (None, 1):  # The images are taken one by one.
        raise ValueError(
            "Expected a model for batches of any length. "
            f"Received: a model for batches of {length}"
        )
    images = np.asarray(images)
    shape = (None, *sizes)
    if (
        images.ndim != len(shape)
        or not len(images)
        or any(n not in (None, m) for n, m in zip(shape, images.shape, strict=True))
    ):
        rest = ", ".join(str(size or "any") for size in sizes)
        raise ValueError(
            f"Expected one image or more, of shape (batch, {rest}). "
            f"Received: images.shape={images.shape}"
        )
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

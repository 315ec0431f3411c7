"""Networks in int8: a quarter of the file size, and faster on processors."""

import contextlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from resnext_keras.classifier import load_classifier
from resnext_keras.inference.engines import (
    check_backend,
    check_fits,
    exported,
    only_input,
    optional,
    writing_errors,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.inference.prediction import sample_images
from resnext_keras.inference.predictor import Predictor
from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import resolve

SUFFIXES = (".onnx",)

PACKAGES = ("onnx", "onnxruntime", "tf2onnx")

WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")

TIMED_BATCH = 8
TIMED_CALLS = 5


@dataclass(frozen=True)
class Comparison:
    """Predictions of two networks for the same images.

    Attributes:
        top1: Share of the images with the same best class, 0 to 1.
        correlation: Correlation of the logits over all images and classes. Softmax
            scores are turned back into logits first.
        seconds: Time for one image in a batch of up to 8, for each network.
    """

    top1: float
    correlation: float
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Quantization:
    """An int8 network and how it compares with float32.

    Attributes:
        path: The `.onnx` file.
        weights: Name of the weight set, or path of the weight file.
        images: Number of images for calibration and comparison.
        engine: The engine that ran both for the comparison.
        size_bytes: Size of the weights in float32, and of the file.
        comparison: The predictions in float32 and in int8.
        skipped: A message for each file that could not be read.
    """

    path: Path
    weights: str
    images: int
    engine: str
    size_bytes: tuple[int, int]
    comparison: Comparison
    skipped: list[str]


def quantize_model(
    model: ResNeXtSpec | str | os.PathLike,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Quantization:
    """Writes a network with trained weights in int8, and compares it with float32.

    For a network and images of your own there is `quantize`.

    Args:
        model: Architecture, whose default weights are taken; or weights, as
            `ResNeXt` takes them.
        images: Image files and folders like those to come, best some hundred. They
            set the ranges of the numbers in the network.
        output: The `.onnx` file; None for a name after the weights, in the current
            folder.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The file and the comparison.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: The network is unknown, no image can be read, or the file cannot
            be written. All of this is checked before weights are downloaded.
    """
    check_packages()
    check_backend()
    checkpoint = resolve(model)
    name = checkpoint.short_name
    target = output_file(output or f"{name}.int8.onnx", SUFFIXES, overwrite)
    images, skipped = sample_images(images, checkpoint.preprocessing)
    classifier = load_classifier(weights=checkpoint)
    quantize(classifier.model, images, target, overwrite)
    int8 = Predictor(target)
    float32 = Predictor(classifier.model, int8.engine)
    return Quantization(
        target,
        classifier.weights,
        len(images),
        int8.engine,
        (4 * classifier.model.count_params(), target.stat().st_size),
        compare_predictions(float32, int8, images),
        skipped,
    )


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

    Batch norm is folded. Weights are rounded to 8 bits with a scale for each filter,
    activations with a scale for each tensor, taken from the images. The first
    convolution and everything behind the last layer with weights stay in float32.

    Args:
        model: A functional or `Sequential` model of one input, in float32, under
            2 GB, for batches of any length. It is not changed.
        images: A batch as the model takes it, mostly float32 (batch, height, width,
            3) from `preprocess_input`, at least one image. Some hundred that
            resemble those to come are enough.
        path: The file; its name ends in `.onnx`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: An argument is not as described, the file exists, or ONNX does
            not support an operation of the model. Nothing is written then.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles
    and Empirical Evaluation", 2020: a scale for each filter, and ranges of
    activations without their outermost values.
    """
    check_backend()
    path = output_file(path, SUFFIXES, overwrite)
    folded = fold_batch_norm(model)
    images = checked_images(images, only_input(folded.inputs))
    check_fits(folded, "onnxruntime")
    check_packages()
    expected, received = "a model that ONNX supports", f"model={model.name!r}"
    with (
        errors_in_one_line("the converter", expected, received, *writing_errors()),
        atomic_write(path) as written,
        exported(folded, "onnxruntime") as float32,
    ):
        quantize_file(float32, images, written)


def quantize_file(float32: Path, images: np.ndarray, target: Path) -> None:
    """Quantizes an ONNX file, with images that `checked_images` gave."""
    quantization = optional("onnxruntime.quantization")
    # Finds the shapes of all tensors. The symbolic step needs sympy and adds nothing.
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
            # The fast types on x86: int8 activations take 2.4 times as long.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(_float32_nodes(graph)),
            # At least as accurate as the extremes on our networks, and one odd image
            # does not stretch all scales.
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": 99.999,
                # Keeps the activations of one image in memory, not of all.
                "CalibStridedMinMax": 1,
                # Inputs of operations are rounded, and not their outputs once more.
                "OpTypesToExcludeOutputQuantization": [n.op_type for n in graph.node],
            },
        )


class _Calibration:
    """The images one by one, in the interface of ONNX Runtime's calibration reader."""

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
    """Names of the nodes that stay in float32.

    The first convolution, 3 % of ResNeXt-50's work, sees pixels, all far from 0.
    Processors without VNNI add two products of 8-bit numbers in 16 bits and saturate
    there: with it in int8 the bundled network falls from 99 to 77 % top-1 on an
    emulated Haswell. Behind a ReLU, where few numbers are large, nothing is lost.

    Scores in 8 bits would be 0 for everything below 0.2 %.
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
    """Raises an `ImportError` that names the extra if a package is missing."""
    for package in PACKAGES:
        optional(package)


def checked_images(images, expected) -> np.ndarray:
    """Images for calibration, in the dtype of the network's input.

    Args:
        images: The images.
        expected: The network's input, a symbolic tensor.

    Raises:
        ValueError: Their shape or dtype does not fit, one is not finite, or the
            network takes batches of one fixed length only.
    """
    length, *sizes = expected.shape
    if length not in (None, 1):  # Calibration runs the images one by one.
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


def compare_predictions(
    first: Predictor, second: Predictor, images: np.ndarray
) -> Comparison:
    """Compares the predictions of two classifiers, and times them.

    Args:
        first: A classifier with one output, (batch, classes).
        second: Another one.
        images: A batch as both take it, at least one image.

    Returns:
        The `Comparison`.
    """
    scores = [predict(images) for predict in (first, second)]
    best = [score.argmax(-1) for score in scores]
    logits = [_logits(score).ravel() for score in scores]
    return Comparison(
        float(np.mean(best[0] == best[1])),
        float(np.corrcoef(*logits)[0, 1]),
        (seconds_per_image(first, images), seconds_per_image(second, images)),
    )


def seconds_per_image(predict: Predictor, images: np.ndarray) -> float:
    """Median time for one image in a batch of up to 8.

    Two models are timed one after the other and not in turns, because the threads of
    ONNX Runtime spin while they wait.
    """
    batch = images[:TIMED_BATCH]
    predict(batch)
    durations = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        predict(batch)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations)) / len(batch)


def _logits(scores: np.ndarray) -> np.ndarray:
    """Logits; of softmax scores up to a constant for each image."""
    scores = scores.astype("float64")
    if scores.min() < 0 or not np.allclose(scores.sum(-1), 1, atol=1e-3):
        return scores
    logits = np.log(np.maximum(scores, np.finfo("float32").tiny))
    return logits - logits.mean(-1, keepdims=True)

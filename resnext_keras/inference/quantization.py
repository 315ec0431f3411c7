"""Quantizes networks to int8: a quarter of the file size, and faster on CPUs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras.classifier import load_classifier
from resnext_keras.images.labels import THRESHOLD
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
from resnext_keras.inference.prediction import sample_images
from resnext_keras.inference.predictor import Predictor, seconds_per_image
from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.runtime import check_backend
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import resolve

SUFFIXES = (".onnx",)


@dataclass(frozen=True)
class Comparison:
    """Predictions of two networks for the same images.

    Attributes:
        top1: Share of the images with the same top-1 class, 0 to 1; of sigmoid scores
            with the same classes at the threshold 0.5.
        correlation: Correlation of the logits over all images and classes. Softmax
            scores are converted back into logits first.
        seconds: Time for one image in a batch of up to 8, for each network.
    """

    top1: float
    correlation: float
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Quantization:
    """An int8 network, compared with the same network in float32.

    Attributes:
        path: The `.onnx` file.
        weights: Name of the weight set, path of the weight file or folder of the run.
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
    weights: ResNeXtSpec | str | os.PathLike,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Quantization:
    """Writes a network with trained weights in int8, and compares it with float32.

    For a Keras model of your own, use `quantize`.

    Args:
        weights: Name of a weight set, path of a file, folder of a training run, or an
            architecture for its default weights.
        images: Image files and folders for the calibration, which sets the ranges of
            the numbers in the network. About a hundred images that resemble those in
            later use are best. At most 128 are used, evenly spaced.
        output: The `.onnx` file; None for a file in the current folder that is named
            after the weights.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The `Quantization`, with the file and the comparison.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: The network is unknown, no image can be read, or the file cannot
            be written. All of this is checked before weights are downloaded.
    """
    check_converter()
    check_backend()
    checkpoint = resolve(weights)
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


def compare_predictions(
    first: Predictor, second: Predictor, images: np.ndarray
) -> Comparison:
    """Compares the predictions of two classifiers, (batch, classes), and times them."""
    scores = [predict(images) for predict in (first, second)]
    best = [_predicted(score) for score in scores]
    logits = [_logits(score).ravel() for score in scores]
    return Comparison(
        float(np.mean((best[0] == best[1]).all(-1))),
        float(np.corrcoef(*logits)[0, 1]),
        (seconds_per_image(first, images), seconds_per_image(second, images)),
    )


def _are_sigmoids(scores: np.ndarray) -> bool:
    """Whether scores are of sigmoids, and neither of a softmax nor logits."""
    add_up = scores.shape[1] > 1 and np.allclose(scores.sum(-1), 1, atol=1e-3)
    return scores.min() >= 0 and scores.max() <= 1 and not add_up


def _predicted(scores: np.ndarray) -> np.ndarray:
    """The class of each image, (n, 1); of sigmoids which it has, (n, classes)."""
    if _are_sigmoids(scores):
        return scores >= THRESHOLD
    return scores.argmax(-1, keepdims=True)


def _logits(scores: np.ndarray) -> np.ndarray:
    """Logits; computed from softmax scores, up to a constant for each image."""
    scores, least = scores.astype("float64"), np.finfo("float32").tiny
    if _are_sigmoids(scores):
        return np.log(np.maximum(scores, least)) - np.log(np.maximum(1 - scores, least))
    if scores.min() < 0 or not np.allclose(scores.sum(-1), 1, atol=1e-3):
        return scores
    logits = np.log(np.maximum(scores, least))
    return logits - logits.mean(-1, keepdims=True)

"""Exports a network with trained weights in any format, and tests each export."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.classifier import Classifier, load_classifier
from resnext_keras.export.files import (
    check_writer,
    export_file,
    files_beside,
    output_model,
)
from resnext_keras.export.saved_model import EARLIER, export_saved_model
from resnext_keras.images.labels import THRESHOLD
from resnext_keras.images.read import SAMPLE_PHOTO
from resnext_keras.inference.engines import is_installed
from resnext_keras.inference.prediction import sample_images
from resnext_keras.inference.predictor import Predictor, seconds_per_image
from resnext_keras.io import output_directory
from resnext_keras.models.runtime import check_backend
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.progress import logger
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.run_folder import run_images


@dataclass(frozen=True)
class Format:
    """How the files of a format are named, written and run.

    Attributes:
        ending: Ending of the file name, after the name of the model; "" for a folder.
        precision: As `export_file` takes it.
        engine: As `Predictor` takes it.
    """

    ending: str
    precision: str
    engine: str

    def path(self, base: str | os.PathLike) -> Path:
        """The file or folder of a model with the name `base`."""
        return Path(f"{os.fspath(base)}{self.ending}").expanduser()


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
class ExportedModel:
    """An exported file or folder, compared with the Keras model.

    Attributes:
        path: The file or folder, for `Predictor`.
        size_bytes: Size of all its files.
        difference: Largest difference of an output from Keras, divided by the
            largest output; None if the format's runtime is not installed.
        seconds: Time for one image in a batch of up to 8; None likewise.
        top1: Share of the images with the top-1 class of the Keras model, 0 to 1; for
            several labels an image, with the same labels. None likewise, and without a
            classifier.
    """

    path: Path
    size_bytes: int
    difference: float | None = None
    seconds: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class ExportReport:
    """The exported files of a network.

    Attributes:
        models: The `ExportedModel` of each format, by the format's name.
        images: Number of images for the comparison; None for the bundled photo of a
            cat.
        skipped: A message for each image file that could not be read, and for each
            format that was left out.
    """

    models: dict[str, ExportedModel]
    images: int | None
    skipped: list[str]


def export_model(
    weights: ResNeXtSpec | str | os.PathLike,
    images: str | os.PathLike | Iterable[str | os.PathLike] = (),
    *,
    formats: Iterable[str] = ("saved_model",),
    output: str | os.PathLike | None = None,
    backbone: bool = False,
    any_size: bool = False,
    top: int = 5,
    int8_io: bool = False,
    overwrite: bool = False,
) -> ExportReport:
    """Exports a network with trained weights in one or more formats, and tests each.

    ```python
    rk.export_model("resnext50_32x4d", ["photos"], formats=["onnx", "onnx-int8"])
    ```

    For a Keras model of your own, use `export_saved_model` and `export_file`.

    Args:
        weights: Name of a weight set, path of a file, folder of a training run, or an
            architecture for its default weights.
        images: Image files and folders, to compare each format with Keras and to
            calibrate int8, for which about a hundred images that resemble those in
            later use are best. At most 128 are used, evenly spaced. By default the
            validation images of a training run, if they are still there; without any
            the comparison uses a bundled photo, and int8 is not possible.
        formats: `"saved_model"`, `"onnx"`, `"openvino"` or `"litert"`; all but the
            first also with `-float16` or `-int8`, as in `"onnx-int8"`. Or `"all"`,
            without int8 if there are no images.
        output: Path of the files without their endings; for a saved_model this is its
            folder. Or an existing folder to write into. None for the name of the
            weights, in the current folder; for the folder of a run or of timm's files
            `FOLDER.export`, beside it.
        backbone: Whether to leave out the classifier.
        any_size: Whether the network takes images of any size, not only of the size
            that the weights were made for.
        top: Number of classes that a saved_model gives for each image, at least 1.
        int8_io: Whether the input and outputs of litert-int8 are int8; see
            `export_file`.
        overwrite: Whether earlier exports may be replaced. With `output=None`, those
            in `FOLDER.export` always are.

    Returns:
        The `ExportReport`, with the files and their comparison with Keras.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: The network or a format is unknown, no image can be read, or a
            file cannot be written. All of this is checked before weights are
            downloaded.
    """
    check_backend()
    top = positive_integer("top", top)
    formats = [formats] if isinstance(formats, str) else list(formats)
    chosen = _formats(formats)
    if int8_io and "litert-int8" not in chosen:
        raise ValueError(
            "Expected litert-int8 among the formats. "
            f"Received: int8_io=True, formats={formats!r}"
        )
    for name, format_ in chosen.items():
        with_int8_io = int8_io and name == "litert-int8"
        check_writer(format_.path("model").suffix, format_.precision, with_int8_io)
    checkpoint = resolve(weights)
    name = checkpoint.short_name
    images = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    if not images and checkpoint.run_folder:
        paths = run_images(checkpoint.run_folder, "validation")
        images = [path for path in paths if os.path.isfile(path)]
    int8 = [name for name, format_ in chosen.items() if format_.precision == "int8"]
    if int8 and not images and "all" not in formats:
        raise ValueError("Expected images to calibrate int8 with. Received: images=()")
    left_out = [] if images else int8
    chosen = {name: chosen[name] for name in chosen if name not in left_out}
    if checkpoint.folder:
        # Beside the folder, which has the name itself.
        name = f"{checkpoint.folder}.export"
        overwrite = overwrite or output is None  # exports of the same weights
    base = _base(output, f"{name}.backbone" if backbone else name, chosen.values())
    for format_ in chosen.values():
        if format_.ending:
            output_model(format_.path(base), format_.precision, overwrite)
        else:
            output_directory(format_.path(base), overwrite, EARLIER)
    samples, skipped = sample_images(images or [SAMPLE_PHOTO], checkpoint.preprocessing)
    classifier = load_classifier(
        weights=checkpoint, include_top=not backbone, any_size=any_size
    )
    network = classifier.model
    expected = network.predict(samples, batch_size=32, verbose=0)
    models, common = {}, {"weights": checkpoint, "overwrite": overwrite}
    for number, (name, format_) in enumerate(chosen.items(), 1):
        logger.info(f"writing {name}, {number} of {len(chosen)}")
        start = time.monotonic()
        path = format_.path(base)
        if format_.ending:
            precision = format_.precision
            calibration = samples if precision == "int8" else None
            options = common | {"int8_io": int8_io and name == "litert-int8"}
            export_file(network, path, precision, calibration, **options)
        else:
            export_saved_model(network, path, top=top, **common)
        models[name] = _compared(format_, path, samples, expected, classifier)
        seconds = time.monotonic() - start
        logger.info(f"{name} written and compared in {seconds:.1f} s")
    skipped += [f"{name}: it needs images to calibrate with" for name in left_out]
    return ExportReport(models, len(samples) if images else None, skipped)


def _formats(names: list[str]) -> dict[str, Format]:
    unknown = [name for name in names if name not in (*FORMATS, "all")]
    if unknown or not names:
        raise ValueError(
            f"Expected `formats` to be some of {', '.join(FORMATS)}, or all. "
            f"Received: {', '.join(map(repr, unknown)) or 'none'}"
        )
    names = FORMATS if "all" in names else dict.fromkeys(names)
    return {name: FORMATS[name] for name in names}


def _base(output, name: str, formats: Iterable[Format]) -> str | Path:
    """The path of all files without their endings."""
    if output is None:
        return name
    folder = Path(output).expanduser()
    if folder.is_dir() and not (folder / EARLIER).is_file():
        return folder / os.path.basename(name)
    base = os.fspath(output)
    for format_ in sorted(formats, key=lambda format_: -len(format_.ending)):
        base = base.removesuffix(format_.ending)
    return base


def _compared(
    format_: Format, path: Path, images: np.ndarray, expected, classifier: Classifier
) -> ExportedModel:
    """Runs an exported model if its runtime is installed, and compares the outputs."""
    files = path.rglob("*") if path.is_dir() else (path, *files_beside(path))
    size = sum(file.stat().st_size for file in files if file.is_file())
    if not is_installed(format_.engine, path):
        return ExportedModel(path, size)
    predict = Predictor(path, format_.engine)
    outputs = predict(images)
    difference, top1 = _largest_difference(outputs, expected), None
    if classifier.class_names:
        classes = [_classes(s, classifier.is_multi_label) for s in (outputs, expected)]
        top1 = float((classes[0] == classes[1]).all(-1).mean())
    seconds = seconds_per_image(predict, images)
    return ExportedModel(path, size, difference, seconds, top1)


def _classes(scores: np.ndarray, is_multi_label: bool) -> np.ndarray:
    """The class of each image, (n, 1); of sigmoids which it has, (n, classes)."""
    if is_multi_label or scores.shape[-1] == 1:
        return scores >= THRESHOLD
    return scores.argmax(-1, keepdims=True)


def _largest_difference(outputs, expected) -> float:
    """Largest difference of two models' outputs, relative to the largest expected."""
    pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True)
    return max(
        float(np.abs(np.subtract(a, b, dtype="float64")).max() / np.abs(b).max())
        for a, b in pairs
    )

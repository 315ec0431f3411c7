"""Predicts the classes of image files, and reads sample images."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnext_keras.arguments import few, positive_integer
from resnext_keras.classifier import ClassScores, load_classifier
from resnext_keras.images.listing import list_images, readable
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, read_image
from resnext_keras.inference.predictor import Predictor, check_precision
from resnext_keras.io import output_file, write_csv
from resnext_keras.models.data_format import to_data_format
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.progress import Progress, tracked
from resnext_keras.weights.checkpoint import Checkpoint

MAX_IMAGES = 128
"""Largest number of images that `sample_images` reads. More do not improve the
calibration, and each takes a third of a second."""


@dataclass(frozen=True)
class FilePredictions:
    """The predictions for image files.

    Attributes:
        weights: Name of the weight set, path of the weight file or folder of the run.
        predictions: Path and predictions of each image, in the order of `images`. The
            predictions are tuples `(id, name, score)`, highest score first, as from
            `decode_predictions`.
        skipped: The errors of files that are not images. Each message names its file.
        file: The CSV file that was written, or None.
        is_multi_label: Whether an image may have no class or several: all those with
            a score of 0.5 or more.
    """

    weights: str
    predictions: list[tuple[str | os.PathLike, ClassScores]]
    skipped: list[ImageError]
    is_multi_label: bool = False
    file: Path | None = None


def predict_files(
    images: str | os.PathLike | Iterable[str | os.PathLike],
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    *,
    top: int = 5,
    batch_size: int = 32,
    precision: str = "float32",
    calibration: str | os.PathLike | Iterable[str | os.PathLike] | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> FilePredictions:
    """Predicts the classes of image files.

    ```python
    result = rk.predict_files(["cat.jpg", "dogs/"], "resnext50_32x4d")
    ```

    Args:
        images: Path of an image file or of a folder, or several paths. In a folder all
            images are taken, at any depth, see `train`.
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: Name of a weight set, path of a weight file or folder of a training
            run. None for the default weights of the architecture.
        top: Number of classes for each image, at least 1.
        batch_size: Number of images in memory at once, at least 1.
        precision: As `Predictor` takes it. In another precision than float32 a
            `Predictor` runs the network.
        calibration: Image files and folders to calibrate an int8 network with, of
            which at most 128 are used. None for `images`.
        output: A .csv file to write, with a line for each class of an image: `image`,
            `rank`, `class` and `score`. None for no file.
        overwrite: Whether to replace an existing file.

    Returns:
        The predictions, and the errors of files that are not images.

    Raises:
        ValueError: None of the files exists, an argument is out of range, the output
            exists, or the model or the weights are unknown or do not fit each other.

    Examples:
        >>> files = ["digit.png"]
        >>> for path, found in rk.predict_files(files, weights="digits").predictions:
        ...     print(path, found[0][1])
        digit.png 7
    """
    paths = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    top = positive_integer("top", top)
    positive_integer("batch_size", batch_size)
    check_precision(precision, calibration)
    if output is not None:
        output = output_file(output, (".csv",), overwrite)
    images, skipped = [], []
    for path in paths:
        listed = list_images([path]) if os.path.isdir(path) else [(path, None)]
        for file, reason in listed:
            if reason is None:
                images.append(file)
            else:
                skipped.append(ImageError(reason, file))
    # A typo or an empty folder, found before any download.
    if not any(map(os.path.lexists, images)):
        raise ValueError(
            "Expected image files that exist, or folders with images. "
            f"Received: {few(map(readable, paths)) or 'no paths'}"
        )
    classifier = load_classifier(model, weights)
    if precision != "float32":
        seen = None
        if precision == "int8":
            seen, _ = sample_images(calibration or images, classifier.preprocessing)
        run = Predictor(
            classifier.model,
            batch_size=batch_size,
            precision=precision,
            calibration=seen,
        )
        classifier = replace(classifier, run=run)
    predictions = []
    with Progress("predicting", len(images)) as progress:
        for path, result in classifier.predict_each(images, top, batch_size):
            if isinstance(result, ImageError):
                skipped.append(result)
            else:
                predictions.append((path, result))
            progress.update()
    if output is not None:
        rows = (
            (readable(image), rank, name, f"{score:.6f}")
            for image, classes in predictions
            for rank, (_, name, score) in enumerate(classes, 1)
        )
        write_csv(output, ("image", "rank", "class", "score"), rows)
    return FilePredictions(
        classifier.weights, predictions, skipped, classifier.is_multi_label, output
    )


def sample_images(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    preprocessing: Preprocessing,
    most: int = MAX_IMAGES,
) -> tuple[np.ndarray, list[str]]:
    """Reads images to calibrate a network with, or to compare two.

    Args:
        paths: Image files, and folders that are searched with their subfolders. Of
            more than `most` images an evenly spaced selection is read.
        preprocessing: How the images are read.
        most: Largest number of images.

    Returns:
        A batch from `preprocess_input`, float32, (images, size, size, 3) or channels
        first; and a message for each file that was skipped.

    Raises:
        ValueError: There are no images, or none can be read.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files, skipped = [], []
    for path, reason in list_images(paths):
        if reason is None:
            files.append(path)
        else:
            skipped.append(f"{readable(path)}: {reason}")
    if not files:
        reason = f"; {skipped[0]}" if skipped else ""
        raise ValueError(
            "Expected images or folders with images. Received: "
            f"{few(map(readable, paths)) or 'no paths'}{reason}"
        )
    count = min(len(files), most)
    files = [files[number * len(files) // count] for number in range(count)]
    images = []
    for path in tracked(files, "reading"):
        try:
            images.append(read_image(path, preprocessing))
        except ImageError as error:
            skipped.append(str(error))
    if not images:
        raise ValueError(f"None of the images can be read. {skipped[-1]}")
    pixels = to_data_format(np.stack(images))
    return preprocess_input(pixels, preprocessing=preprocessing), skipped

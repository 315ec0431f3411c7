"""Evaluation of a classifier on the images of a data set."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path

import keras
import numpy as np

from resnext_keras.arguments import few, positive_integer
from resnext_keras.classifier import Classifier, load_classifier
from resnext_keras.images.labels import scores_by_class
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, resize_and_crop
from resnext_keras.images.threads import AHEAD, in_threads
from resnext_keras.inference.engines import check_installed
from resnext_keras.inference.prediction import MAX_IMAGES, sample_images
from resnext_keras.inference.predictor import (
    Predictor,
    check_engine,
    check_precision,
)
from resnext_keras.io import atomic_directory, check_outside, output_directory
from resnext_keras.models.data_format import to_data_format
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.progress import Progress
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.data.label_mapping import flat_images, is_flat, map_labels
from resnext_keras.training.data.splits import open_split
from resnext_keras.training.metrics import Predictions, concatenate
from resnext_keras.training.multi_label import MultiLabelPredictions
from resnext_keras.training.report import (
    FILES,
    REPORT,
    check_packages,
    report_title,
    write_report,
)
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.run_folder import run_images


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        predictions: The prediction for each image; `MultiLabelPredictions` if an image
            may have no class or several.
        dataset: The images that could be read, with the classes of the network.
        preprocessing: How they were read.
        skipped: Name of each file that could not be read, and the reason.
        weights: Name of the weight set, path of the file or folder of the run.
        label_mapping: How the images were matched with the network's classes, such as
            `"by names"`.
        report: Path of `report.html`; None if there is no report.
        trained_on: Number of images that were left out, since the run of the weights
            was trained on them.
        precision: `"float32"`, `"bfloat16"` or `"int8"`, in which the network was run.
    """

    predictions: Predictions | MultiLabelPredictions
    dataset: ImageDataset
    preprocessing: Preprocessing
    skipped: list[tuple[str, str]]
    weights: str
    label_mapping: str = ""
    report: Path | None = None
    trained_on: int = 0
    precision: str = "float32"

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, `top_1`, `top_5` (if there are more than five classes),
        `cross_entropy` and `calibration_error`. Accuracies are 0 to 1.

        For multi-label data `mean_average_precision`; `macro_f1`, the mean of the
        classes, and `micro_f1`, of all decisions together, at the threshold 0.5; and
        `binary_cross_entropy`.
        """
        return self.predictions.metrics(len(self.dataset.class_names))

    @property
    def classes(self) -> list[dict]:
        """A dict for each class with images, the worst first.

        It has `class`, the name; `images`, the number of images; `recall`, 0 to 1, by
        which they are sorted; and `precision`, 0 to 1, or None for a class that was
        never predicted. For multi-label data there are also `average_precision`, by
        which they are sorted, and `f1`.
        """
        names = self.dataset.class_names
        columns = self.predictions.class_metrics(len(names))
        images = columns.pop("images")
        rows = [
            {"class": name, "images": int(images[number])}
            | {column: _or_none(values[number]) for column, values in columns.items()}
            for number, name in enumerate(names)
            if images[number]
        ]
        return sorted(rows, key=lambda row: row[next(iter(columns))])

    def images(self, numbers) -> np.ndarray:
        """Pixels of some images as the network sees them, uint8 (n, size, size, 3)."""
        some = self.dataset.subset(numbers)
        return np.stack(list(_images(some, self.preprocessing, 1)))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def evaluate(
    data: str | os.PathLike,
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    *,
    labels: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    batch_size: int = 32,
    engine: str = "auto",
    precision: str = "float32",
    calibration: str | os.PathLike | Iterable[str | os.PathLike] | None = None,
    include_training: bool = False,
    overwrite: bool = False,
) -> Evaluation:
    """Evaluates a network on the images of a data set, and writes a report.

    Args:
        data: A data set, see `train`; its validation split is used, or all images if
            it has none. Or images in one folder, with `labels` or with the file names
            of ILSVRC2012's validation set.
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: Name of a weight set, path of a weight file or folder of a training
            run. None for the default weights of the architecture.
        labels: A CSV file; each line has the name of an image and its class.
        output: The folder to create for the report; None for one in the current folder
            that is named after the weights.
        batch_size: Number of images that are run at once, at least 1.
        engine: The engine that runs the network, as `Predictor` takes it.
        precision: As `Predictor` takes it.
        calibration: Image files and folders to calibrate an int8 network with, of
            which at most 128 are used. None for those of the data set.
        include_training: Whether to evaluate also on the images that the run of the
            weights was trained on, which overstates the accuracy.
        overwrite: Whether to replace an earlier report.

    Returns:
        The `Evaluation`, with the path of the report.

    Raises:
        ValueError: An argument or the data are not as expected, or no image can be
            read; nothing is written then.
        ImportError: The extra `train` is not installed.
    """
    check_packages()
    positive_integer("batch_size", batch_size)
    if keras.config.backend() == "tensorflow":  # otherwise Keras runs the network
        check_engine(engine)
        check_installed(engine)
    check_precision(precision, calibration, engine)
    checkpoint = resolve(weights, model)
    name = checkpoint.short_name
    folder = output_directory(
        f"{name}.evaluation" if output is None else output,
        overwrite,
        Path(REPORT),
        FILES,
        "report",
    )
    check_outside(folder, data)
    dataset, label_mapping = _open(
        data, checkpoint.class_names, labels, checkpoint.is_multi_label
    )
    trained_on = 0
    if checkpoint.run_folder and not include_training:
        count = len(dataset)
        trained = run_images(checkpoint.run_folder, "training", moved_to=data)
        dataset = _without(dataset, trained)
        trained_on = count - len(dataset)
    classifier = load_classifier(weights=checkpoint)
    evaluation = evaluate_images(
        classifier,
        dataset,
        engine=engine,
        batch_size=batch_size,
        precision=precision,
        calibration=calibration,
    )
    with atomic_directory(folder, overwrite) as written:
        write_report(written, evaluation, title=report_title(name, data), data=data)
    return replace(
        evaluation,
        label_mapping=label_mapping,
        report=folder / REPORT,
        trained_on=trained_on,
    )


def _without(dataset: ImageDataset, trained: list[str]) -> ImageDataset:
    """The images that a run was not trained on, or a `ValueError` if there are none."""
    trained = set(map(realpath, trained))
    kept = [n for n, name in enumerate(dataset.names) if realpath(name) not in trained]
    if not kept:
        raise ValueError(
            "Expected images that the run was not trained on, or "
            f"include_training=True. Received: {len(dataset)} images of its training "
            f"split, {few(dataset.names)}"
        )
    return dataset if len(kept) == len(dataset) else dataset.subset(np.array(kept))


def _open(
    data: str | os.PathLike,
    names: tuple[str, ...],
    labels: str | os.PathLike | None,
    is_multi_label: bool,
) -> tuple[ImageDataset, str]:
    """Images with the classes of a network, and how they were matched with these."""
    if not names:
        raise ValueError("Expected the weights of a classifier. Received: no classes")
    if labels is not None or (Path(data).is_dir() and is_flat(data)):
        dataset, how = flat_images(data, labels, names)
    else:
        dataset = open_split(data)
        # A single score may be for one of several classes.
        dataset = dataset.as_multi_label if is_multi_label else dataset
        dataset, how = map_labels(dataset, names)
    if dataset.is_multi_label and not is_multi_label:
        raise ValueError(
            "Expected images with one class each, as the network gives one for each "
            f"image. Received: {readable(data)!r}, where an image may have several"
        )
    return dataset.as_multi_label if is_multi_label else dataset, how


def evaluate_images(
    classifier: Classifier,
    dataset: ImageDataset,
    skipped: Sequence[tuple[str, str]] = (),
    *,
    engine: str = "auto",
    batch_size: int = 32,
    precision: str = "float32",
    calibration: str | os.PathLike | Iterable[str | os.PathLike] | None = None,
) -> Evaluation:
    """Evaluates a classifier on a data set, without writing a report.

    Args:
        classifier: The network, and how it reads images.
        dataset: The images, with the network's classes.
        skipped: Name and reason of files that were skipped earlier, for the report.
        engine: See `Predictor`. On JAX and torch, Keras runs the network.
        batch_size: Number of images that are run at once.
        precision: See `evaluate`.
        calibration: See `evaluate`.

    Raises:
        ValueError: No image can be read.
    """
    predict = classifier.model.predict_on_batch
    preprocessing, skipped = classifier.preprocessing, list(skipped)
    if keras.config.backend() == "tensorflow":
        seen = None
        if precision == "int8":
            seen = _calibration_images(calibration, dataset, preprocessing)
        predict = Predictor(
            classifier.model,
            engine,
            batch_size,
            precision=precision,
            calibration=seen,
        )
        precision = predict.precision
    kind = MultiLabelPredictions if dataset.is_multi_label else Predictions
    images = enumerate(_images(dataset, preprocessing, batch_size))
    numbers, batches = [], []
    with Progress("evaluating", len(dataset)) as progress:
        while batch := list(itertools.islice(images, batch_size)):
            read = {n: image for n, image in batch if not isinstance(image, ImageError)}
            skipped += [
                (dataset.names[number], readable(str(error)))
                for number, error in batch
                if number not in read
            ]
            if read:
                pixels = to_data_format(np.stack(list(read.values())))
                labels = dataset.labels[list(read)]
                pixels = preprocess_input(pixels, preprocessing=preprocessing)
                scores = np.asarray(predict(pixels))
                scores = scores_by_class(scores, classifier.class_names)
                numbers += read
                batches.append(kind.from_scores(scores, labels))
            progress.update(len(batch))
    if not batches:
        name, reason = skipped[0]
        raise ValueError(
            "Expected images that can be read. Received: the first is "
            f"{name!r}: {reason}"
        )
    return Evaluation(
        concatenate(batches),
        dataset.subset(numbers),
        preprocessing,
        list(dict(skipped).items()),  # some may have been unreadable before
        classifier.weights,
        precision=precision,
    )


def _calibration_images(paths, dataset: ImageDataset, preprocessing: Preprocessing):
    """A batch for the network, of files or of images evenly spaced in a data set."""
    if paths is not None:
        return sample_images(paths, preprocessing)[0]
    count = min(len(dataset), MAX_IMAGES)
    some = dataset.subset(np.arange(count) * len(dataset) // count)
    images = _images(some, preprocessing, count)
    pixels = np.stack([i for i in images if not isinstance(i, ImageError)])
    return preprocess_input(to_data_format(pixels), preprocessing=preprocessing)


def _images(
    dataset: ImageDataset, preprocessing: Preprocessing, batch_size: int
) -> Iterator[np.ndarray | ImageError]:
    """Pixels of each image, or the error of reading it."""

    def read(number):
        try:
            return resize_and_crop(dataset.image(number), preprocessing)
        except ImageError as error:
            return error

    return in_threads(read, range(len(dataset)), AHEAD * batch_size)

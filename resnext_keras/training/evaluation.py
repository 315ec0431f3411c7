"""A classifier's predictions for a data set, beside the truth."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from resnext_keras.arguments import positive_integer
from resnext_keras.classifier import Classifier
from resnext_keras.features.loader import AHEAD, in_threads
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, decode_rgb, resize_and_crop
from resnext_keras.inference.predictor import Predictor
from resnext_keras.models.data_format import to_data_format
from resnext_keras.training.data.dataset import open_split
from resnext_keras.training.data.dataset_types import ImageDataset
from resnext_keras.training.data.label_mapping import flat_images, is_flat, relabelled
from resnext_keras.training.metrics import Outcomes, join, judge


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        outcomes: Of each image.
        dataset: Those that were read, their classes those of the network.
        preprocessing: How they were read.
        skipped: Name of each file that is no image, and why.
    """

    outcomes: Outcomes
    dataset: ImageDataset
    preprocessing: Preprocessing
    skipped: list[tuple[str, str]]

    def images(self, numbers):
        """Pixels of some images as the network saw them, uint8 (n, size, size, 3)."""
        some = self.dataset.subset(numbers)
        return np.stack(list(_images(some, self.preprocessing, 1)))


def open_evaluation(
    data: str | os.PathLike,
    names: tuple[str, ...],
    labels: str | os.PathLike | None = None,
) -> tuple[ImageDataset, str]:
    """The images of a data set, with the classes of a network.

    Args:
        data: As `open_dataset` takes it, of which the validation split counts; or a
            folder of images without class folders, for a file of labels, or named
            as ILSVRC2012's validation set is.
        names: Of the network's classes.
        labels: A file of ground truth, as `flat_images` takes it.

    Returns:
        The images, and in a few words how their classes were found.

    Raises:
        ValueError: There are no images, or their classes are not the network's.
    """
    if not names:
        raise ValueError("Expected the weights of a classifier. Received: no classes")
    if labels is not None:
        return flat_images(data, labels, names), f"by {os.fspath(labels)}"
    if Path(data).is_dir() and is_flat(data):
        return flat_images(data, None, names), "by the names of ILSVRC2012"
    return relabelled(open_split(data), names)


def evaluate(
    classifier: Classifier,
    dataset: ImageDataset,
    skipped: Sequence[tuple[str, str]] = (),
    *,
    engine: str = "auto",
    batch_size: int = 32,
) -> Evaluation:
    """Has a classifier look at images, and compares what it says with the truth.

    Args:
        classifier: The network, and how it reads images.
        dataset: Whose classes are those of the network, from `open_evaluation`.
        skipped: What was left out before, for the report.
        engine: What runs the network, as `Predictor` takes it; Keras does where it
            runs on another backend than TensorFlow.
        batch_size: Number of images that are run at once.

    Returns:
        What came of the images that can be read, and the names of the others.

    Raises:
        ValueError: None of them can be read.
    """
    predict = _predictor(classifier.model, engine, batch_size)
    reading, skipped = classifier.preprocessing, list(skipped)
    images = enumerate(_images(dataset, reading, batch_size))
    numbers, parts = [], []
    bar = tqdm(desc="evaluating", total=len(dataset), unit=" images", disable=None)
    with bar:
        while batch := list(itertools.islice(images, batch_size)):
            read = {n: image for n, image in batch if not isinstance(image, ImageError)}
            skipped += [
                (dataset.names[number], readable(str(error)))
                for number, error in batch
                if number not in read
            ]
            if read:
                pixels = preprocess_input(to_data_format(np.stack(list(read.values()))))
                numbers += read
                parts.append(judge(predict(pixels), dataset.labels[list(read)]))
            bar.update(len(batch))
    if not parts:
        told = f"the first is {skipped[0][0]!r}: {skipped[0][1]}" if skipped else "none"
        raise ValueError(f"Expected images that can be read. Received: {told}")
    return Evaluation(join(parts), dataset.subset(numbers), reading, skipped)


def _predictor(model, engine: str, batch_size: int) -> Callable:
    positive_integer("batch_size", batch_size)
    if keras.config.backend() == "tensorflow":
        return Predictor(model, engine, batch_size)
    return model.predict_on_batch


def _images(
    dataset: ImageDataset, preprocessing: Preprocessing, batch_size: int
) -> Iterator[np.ndarray | ImageError]:
    """Pixels of each image, or why there are none.

    Read by Pillow, as the libraries read images that publish weights: the resizing of
    `evaluation_batches` rounds some pixels otherwise, and of a thousand images with
    it some that the network is unsure of.
    """

    def read(number):
        try:
            contents = dataset.read(tf.constant(number, tf.int64)).numpy()
            return resize_and_crop(decode_rgb(contents), preprocessing)
        except ImageError as error:
            return error
        except tf.errors.OpError as error:  # no such file, or no permission
            return ImageError(error.message)

    return in_threads(read, range(len(dataset)), AHEAD * batch_size)

"""A classifier's predictions for a data set, beside the truth."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
from tqdm import tqdm

from resnext_keras.deploy import Predictor
from resnext_keras.layout import in_layout
from resnext_keras.prediction import Classifier
from resnext_keras.preprocessing import Preprocessing, preprocess_input
from resnext_keras.training.ground_truth import flat_pictures, is_flat, relabelled
from resnext_keras.training.metrics import Outcomes, join, judge
from resnext_keras.training.picture_set import Pictures
from resnext_keras.training.pictures import open_split
from resnext_keras.training.pipeline import evaluation_batches


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        outcomes: Of each picture.
        pictures: Those that were read, their classes those of the network.
        preprocessing: How they were read.
        skipped: Name of each file that is no picture, and why.
    """

    outcomes: Outcomes
    pictures: Pictures
    preprocessing: Preprocessing
    skipped: list[tuple[str, str]]

    def images(self, numbers):
        """Pixels of some pictures as the network saw them, uint8 (n, size, size, 3)."""
        some = self.pictures.subset(numbers)
        ((pixels, _),) = evaluation_batches(some, self.preprocessing, len(numbers))
        return pixels.numpy()


def open_evaluation(
    data: str | os.PathLike,
    names: tuple[str, ...],
    labels: str | os.PathLike | None = None,
) -> tuple[Pictures, str]:
    """The pictures of a data set, with the classes of a network.

    Args:
        data: As `open_pictures` takes it, of which the validation split counts; or a
            folder of pictures without class folders, for a file of labels, or named
            as ILSVRC2012's validation set is.
        names: Of the network's classes.
        labels: A file of ground truth, as `flat_pictures` takes it.

    Returns:
        The pictures, and in a few words how their classes were found.

    Raises:
        ValueError: There are no pictures, or their classes are not the network's.
    """
    if not names:
        raise ValueError("Expected the weights of a classifier. Received: no classes")
    if labels is not None:
        return flat_pictures(data, labels, names), f"by {os.fspath(labels)}"
    if Path(data).is_dir() and is_flat(data):
        return flat_pictures(data, None, names), "by the names of ILSVRC2012"
    return relabelled(open_split(data), names)


def evaluate(
    classifier: Classifier,
    pictures: Pictures,
    skipped: Sequence[tuple[str, str]] = (),
    *,
    engine: str = "auto",
    batch_size: int = 32,
) -> Evaluation:
    """Has a classifier look at pictures, and compares what it says with the truth.

    Args:
        classifier: The network, and how it reads pictures.
        pictures: Whose classes are those of the network, from `open_evaluation`; all
            can be decoded, as `decodable` leaves them.
        skipped: What `decodable` left out, for the report.
        engine: What runs the network, as `Predictor` takes it; Keras does where it
            runs on another backend than TensorFlow.
        batch_size: Number of pictures that are run at once.
    """
    if keras.config.backend() == "tensorflow":
        predict = Predictor(classifier.model, engine, batch_size)
    else:
        predict = classifier.model.predict_on_batch
    batches = evaluation_batches(pictures, classifier.preprocessing, batch_size)
    parts = []
    bar = tqdm(desc="evaluating", total=len(pictures), unit=" pictures", disable=None)
    with bar:
        for pixels, labels in batches:
            images = preprocess_input(in_layout(pixels.numpy()))
            parts.append(judge(predict(images), labels.numpy()))
            bar.update(len(labels))
    reading = classifier.preprocessing
    return Evaluation(join(parts), pictures, reading, list(skipped))

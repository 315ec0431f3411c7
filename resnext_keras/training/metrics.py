"""Accuracy, confusion and calibration of a classifier.

`Predictions` has a few numbers for each image instead of all scores, which would take
200 MB for 50,000 images and 1000 classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

SUM_TOLERANCE = 0.02  # of the scores of an image, since float16 rounds them


@dataclass(frozen=True)
class Predictions:
    """The prediction for each image, beside its label.

    Attributes:
        labels: int32 (n,), the true classes.
        predicted: int32 (n,), the classes with the highest scores.
        confidence: float64 (n,), those scores, 0 to 1.
        ranks: int32 (n,), number of classes that rank before the true class.
        losses: float64 (n,), cross-entropy: minus the logarithm of the true class's
            score.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def accuracy(self, top: int = 1) -> float:
        """Top-k accuracy: share of the images with the true class among the `top` best.

        Of equal scores the lower class number ranks first, as in `decode_predictions`.
        """
        return float(np.mean(self.ranks < top))

    def worst(self, count: int) -> np.ndarray:
        """Numbers of the images with the highest losses, highest first."""
        return np.argsort(-self.losses, kind="stable")[:count]


def score_predictions(scores: np.ndarray, labels: np.ndarray) -> Predictions:
    """Compares scores with the true classes.

    Args:
        scores: (n, classes), the output of a softmax.
        labels: (n,), the true classes, integers from 0 to classes - 1.

    Returns:
        The `Predictions`.

    Raises:
        ValueError: The scores of an image are not probabilities: NaN, or the logits of
            a network without softmax.
    """
    scores = np.asarray(scores).astype("float64")
    sums, least = scores.sum(axis=1), scores.min(axis=1)
    with np.errstate(invalid="ignore"):
        are_probabilities = (np.abs(sums - 1) <= SUM_TOLERANCE) & (least >= 0)
    if not are_probabilities.all():
        first = int(are_probabilities.argmin())
        raise ValueError(
            "Expected scores from 0 to 1 that add up to 1, as a softmax gives them. "
            f"Received: a sum of {sums[first]:.4g} and a least score of "
            f"{least[first]:.4g} in row {first}"
        )
    predicted = scores.argmax(axis=1)
    rows = np.arange(len(labels))
    true_scores = scores[rows, labels]
    is_earlier = np.arange(scores.shape[1]) < labels[:, None]
    true = true_scores[:, None]
    is_better = (scores > true) | ((scores == true) & is_earlier)
    return Predictions(
        labels.astype("int32"),
        predicted.astype("int32"),
        scores[rows, predicted],
        is_better.sum(axis=1).astype("int32"),
        -np.log(np.maximum(true_scores, np.finfo("float32").tiny)),
    )


def concatenate(parts: Sequence[Any]) -> Any:
    """Joins the predictions of several batches, all of one class."""
    kind = type(parts[0])
    return kind(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(kind)
        )
    )


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """Counts images by true and predicted class.

    Returns:
        int64 (classes, classes): a row for each true class, a column for each
        predicted class.
    """
    pairs = predictions.labels.astype("int64") * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassTable:
    """Precision and recall of each class.

    Attributes:
        counts: int64 (classes,), number of images of the class.
        precision: float64 (classes,), correct share of the predictions of the class;
            NaN without predictions.
        recall: float64 (classes,), correctly predicted share of the images of the
            class; NaN without images.
    """

    counts: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def class_table(confusion: np.ndarray) -> ClassTable:
    """Precision and recall of each class of a confusion matrix."""
    right = confusion.diagonal()
    counts, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return ClassTable(counts, right / predicted, right / counts)


@dataclass(frozen=True)
class Calibration:
    """Calibration: predictions of confidence 0.8 should be right in 8 of 10 cases.

    Attributes:
        error: The expected calibration error, 0 to 1: the difference between accuracy
            and confidence of a bin, on average over the images.
        counts: int64 (bins,), number of images with a confidence in the bin.
        confidence: float64 (bins,), mean confidence in the bin; NaN if it is empty.
        accuracy: float64 (bins,), top-1 accuracy in the bin; NaN if it is empty.
    """

    error: float
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """The expected calibration error, and the bins of a reliability diagram.

    Args:
        predictions: Predictions for at least one image.
        bins: Number of intervals of confidence. All have the same length, and each
            includes its upper end.

    Returns:
        The `Calibration`.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    equations 2 and 3; 15 bins as in its section 5.
    """
    edges = np.linspace(0, 1, bins + 1)
    numbers = np.searchsorted(edges[1:-1], predictions.confidence)
    counts = np.bincount(numbers, minlength=bins)
    right = predictions.predicted == predictions.labels
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        confidence = np.bincount(numbers, predictions.confidence, bins) / counts
        accuracy = np.bincount(numbers, right, bins) / counts
    differences = np.nan_to_num(np.abs(accuracy - confidence))
    error = float(differences @ counts / len(predictions))
    return Calibration(error, counts, confidence, accuracy)

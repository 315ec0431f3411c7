"""Accuracy, confusion and calibration of a classifier.

`Predictions` has a few numbers for each image instead of all scores, which would take
200 MB for 50,000 images and 1000 classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from resnext_keras.arguments import positive_integer

SUM_TOLERANCE = 0.02
"""Largest difference from 1 of the sum of an image's scores: float16 rounds them."""


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
        return float(np.mean(self.ranks < positive_integer("top", top)))

    def worst(self, most: int) -> np.ndarray:
        """Numbers of the images with the highest losses, highest first."""
        return np.argsort(-self.losses, kind="stable")[:most]


def score_predictions(scores: np.ndarray, labels: np.ndarray) -> Predictions:
    """Compares scores with the true classes.

    Args:
        scores: (n, classes), the output of a softmax.
        labels: (n,), the true classes, integers from 0 to classes - 1.

    Raises:
        ValueError: The shapes do not fit, a label is out of range, or the scores of an
            image are not probabilities: NaN, or the logits of a network without
            softmax.
    """
    scores = np.asarray(scores).astype("float64")
    labels = np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            "Expected `scores` of shape (n, classes) and `labels` of shape (n,). "
            f"Received: scores.shape={scores.shape}, labels.shape={labels.shape}"
        )
    classes = scores.shape[1]
    if not np.issubdtype(labels.dtype, np.integer) or (
        len(labels) and not 0 <= labels.min() <= labels.max() < classes
    ):
        raise ValueError(
            f"Expected `labels` to be integers from 0 to {classes - 1}. "
            f"Received: labels={labels!r}"
        )
    sums = scores.sum(axis=1)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(sums - 1) <= SUM_TOLERANCE) & (scores.min(1, initial=0) >= 0))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            "Expected scores from 0 to 1 that add up to 1, as a softmax gives them. "
            f"Received: a sum of {sums[first]:.4g} and a least score of "
            f"{scores[first].min():.4g} in row {first}"
        )
    predicted = scores.argmax(axis=1)
    rows = np.arange(len(labels))
    true_scores = scores[rows, labels]
    better = (scores > true_scores[:, None]) | (
        (scores == true_scores[:, None]) & (np.arange(classes) < labels[:, None])
    )
    return Predictions(
        labels.astype("int32"),
        predicted.astype("int32"),
        scores[rows, predicted],
        better.sum(axis=1).astype("int32"),
        -np.log(np.maximum(true_scores, np.finfo("float32").tiny)),
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins the predictions of several batches."""
    return Predictions(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Predictions)
        )
    )


def confusion_matrix(predictions: Predictions, classes: int) -> np.ndarray:
    """Counts how often each class was predicted as each.

    Returns:
        int64 (classes, classes), of true class (row) and predicted class (column).
    """
    pairs = predictions.labels.astype("int64") * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassTable:
    """Precision and recall of each class.

    Attributes:
        counts: int64 (classes,), images of the class.
        precision: float64 (classes,), share of the images predicted as the class
            that are of it; NaN where there are none.
        recall: float64 (classes,), share of the images of the class that were
            predicted as it; NaN where there are none.
    """

    counts: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def class_table(confusion: np.ndarray) -> ClassTable:
    """Precision and recall of each class of a confusion matrix."""
    right = confusion.diagonal()
    counts, taken = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 of 0 is NaN
        return ClassTable(counts, right / taken, right / counts)


@dataclass(frozen=True)
class Calibration:
    """Whether a prediction of confidence 0.8 is right in 8 of 10 cases.

    Attributes:
        error: The expected calibration error, 0 to 1: how far accuracy and confidence
            of a bin are apart, on average over the images.
        counts: int64 (bins,), images whose confidence lies in the bin.
        confidence: float64 (bins,), the mean in the bin; NaN in an empty one.
        accuracy: float64 (bins,), the same of top-1.
    """

    error: float
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """The expected calibration error and what a reliability diagram shows.

    Args:
        predictions: Predictions for at least one image.
        bins: Number of intervals of confidence, all of the same length, each without
            its lower end.

    Returns:
        The `Calibration`.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    equations 2 and 3; 15 bins as in its section 5.
    """
    edges = np.linspace(0, 1, positive_integer("bins", bins) + 1)
    place = np.searchsorted(edges[1:-1], predictions.confidence)
    counts = np.bincount(place, minlength=bins)
    right = predictions.predicted == predictions.labels
    with np.errstate(invalid="ignore"):  # 0 of 0 is NaN
        confidence = np.bincount(place, predictions.confidence, bins) / counts
        accuracy = np.bincount(place, right, bins) / counts
    apart = np.nan_to_num(np.abs(accuracy - confidence))
    error = float(apart @ counts / len(predictions))
    return Calibration(error, counts, confidence, accuracy)

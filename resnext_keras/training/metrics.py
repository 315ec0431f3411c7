"""Accuracy, confusion and calibration of a classifier.

`Predictions` has a few numbers for each image instead of all scores, which would take
200 MB for 50,000 images and 1000 classes.
"""

from collections.abc import Iterator, Sequence
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

    @classmethod
    def from_scores(cls, scores: np.ndarray, labels: np.ndarray) -> "Predictions":
        """Compares scores with the true classes.

        Args:
            scores: (n, classes), the output of a softmax.
            labels: (n,), the true classes, integers from 0 to classes - 1.

        Raises:
            ValueError: The scores of an image are not probabilities: NaN, or the logits
                of a network without softmax.
        """
        scores = np.asarray(scores).astype("float64")
        sums, least = scores.sum(axis=1), scores.min(axis=1)
        with np.errstate(invalid="ignore"):
            are_probabilities = (np.abs(sums - 1) <= SUM_TOLERANCE) & (least >= 0)
        if not are_probabilities.all():
            first = int(are_probabilities.argmin())
            raise ValueError(
                "Expected scores from 0 to 1 that add up to 1, as a softmax gives "
                f"them. Received: a sum of {sums[first]:.4g} and a lowest score of "
                f"{least[first]:.4g} in row {first}"
            )
        predicted = scores.argmax(axis=1)
        rows = np.arange(len(labels))
        true_scores = scores[rows, labels]
        is_earlier = np.arange(scores.shape[1]) < labels[:, None]
        true = true_scores[:, None]
        is_better = (scores > true) | ((scores == true) & is_earlier)
        return cls(
            labels.astype("int32"),
            predicted.astype("int32"),
            scores[rows, predicted],
            is_better.sum(axis=1).astype("int32"),
            -np.log(np.maximum(true_scores, np.finfo("float32").tiny)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def accuracy(self, top: int = 1) -> float:
        """Top-k accuracy: share of the images with the true class among the `top` best.

        Of equal scores the lower class number ranks first, as in `decode_predictions`.
        """
        return float(np.mean(self.ranks < top))

    def metrics(self, classes: int) -> dict[str, float]:
        """The metrics of all images, see `Evaluation.metrics`."""
        return {
            "top_1": self.accuracy(),
            **({"top_5": self.accuracy(5)} if classes > 5 else {}),
            "cross_entropy": float(self.losses.mean()),
            "calibration_error": calibration(self).error,
        }

    def class_metrics(self, classes: int) -> dict[str, np.ndarray]:
        """The metrics of each class by name, each of shape (classes,).

        `images` is the number of its images; `recall` the correctly predicted share of
        them, NaN without images; `precision` the correct share of the predictions of
        the class, NaN without predictions.
        """
        confusion = confusion_matrix(self, classes)
        right, images = confusion.diagonal(), confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            precision = right / confusion.sum(axis=0)
            return {"images": images, "recall": right / images, "precision": precision}

    def caption(self, number: int, names: Sequence[str]) -> dict[str, str]:
        """The `label` of an image, its `score` and a `verdict` as text."""
        predicted = names[self.predicted[number]]
        verdict = f"predicted as {predicted}: {self.confidence[number]:.3f}"
        return {
            "label": names[self.labels[number]],
            "score": f"{np.exp(-self.losses[number]):.3f}",
            "verdict": verdict if self.ranks[number] else "correct",
        }

    def rows(self, names: Sequence[str]) -> Iterator[tuple]:
        """The heads of a table of all images, then the row of each image."""
        yield "class", "predicted", "score", "rank_of_class"
        columns = (self.labels, self.predicted, self.confidence, self.ranks)
        for label, predicted, confidence, rank in zip(*columns, strict=True):
            yield names[label], names[predicted], f"{confidence:.6f}", rank + 1


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

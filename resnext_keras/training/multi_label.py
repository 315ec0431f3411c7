"""Metrics of a classifier whose images may have no class or several."""

from dataclasses import dataclass

import numpy as np

from resnext_keras.images.labels import THRESHOLD


@dataclass(frozen=True)
class MultiLabelPredictions:
    """The scores of all classes for each image, beside its labels.

    Attributes:
        labels: bool (n, classes), whether each image has each class.
        scores: float32 (n, classes), 0 to 1, the outputs of sigmoids.
    """

    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        if not ((self.scores >= 0) & (self.scores <= 1)).all():  # NaN is neither
            raise ValueError(
                "Expected scores from 0 to 1, as a sigmoid gives them. Received: "
                f"{self.scores.min():.4g} to {self.scores.max():.4g}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """Whether the score reaches 0.5, bool (n, classes)."""
        return self.scores >= THRESHOLD

    @property
    def losses(self) -> np.ndarray:
        """Binary cross-entropy of each image, mean over the classes, float64 (n,)."""
        scores = np.where(self.labels, self.scores, 1 - self.scores.astype("float64"))
        return -np.log(np.maximum(scores, np.finfo("float32").tiny)).mean(axis=1)

    def worst(self, count: int) -> np.ndarray:
        """Numbers of the images with the highest losses, highest first."""
        return np.argsort(-self.losses, kind="stable")[:count]


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each class: the area under its precision-recall curve.

    Args:
        labels: bool (n, classes).
        scores: (n, classes).

    Returns:
        float64 (classes,), the sum of precision times the rise of recall over all
        thresholds, without interpolation, as scikit-learn computes it; NaN for a class
        without images.
    """
    values = np.full(labels.shape[1], np.nan)
    for number in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-scores[:, number], kind="stable")
        sorted_scores, found = scores[order, number], labels[order, number].cumsum()
        # Images with equal scores are below the same threshold.
        last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
        precision = found[last] / (last + 1)
        values[number] = precision @ np.diff(found[last], prepend=0) / found[-1]
    return values


@dataclass(frozen=True)
class LabelTable:
    """The metrics of each class.

    Attributes:
        counts: int64 (classes,), number of images that have the class.
        average_precision: float64 (classes,), see `average_precision`.
        f1: float64 (classes,), harmonic mean of precision and recall at the threshold
            0.5; NaN for a class that no image has and that is never predicted.
        precision: float64 (classes,); NaN for a class that is never predicted.
        recall: float64 (classes,); NaN for a class without images.
    """

    counts: np.ndarray
    average_precision: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def label_table(predictions: MultiLabelPredictions) -> LabelTable:
    """Computes the metrics of each class."""
    labels, predicted = predictions.labels, predictions.predicted
    right = (labels & predicted).sum(axis=0)
    counts, found = labels.sum(axis=0), predicted.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return LabelTable(
            counts,
            average_precision(labels, predictions.scores),
            2 * right / (counts + found),
            right / found,
            right / counts,
        )


def multi_label_figures(predictions: MultiLabelPredictions) -> dict[str, float]:
    """The metrics of all classes together, see `Evaluation.figures`.

    Classes without images are left out of the means.
    """
    table = label_table(predictions)
    has_images = table.counts > 0
    labels, predicted = predictions.labels, predictions.predicted
    found = labels.sum() + predicted.sum()
    return {
        "mean_average_precision": float(table.average_precision[has_images].mean()),
        "macro_f1": float(table.f1[has_images].mean()),
        "micro_f1": float(2 * (labels & predicted).sum() / found) if found else 0.0,
        "binary_cross_entropy": float(predictions.losses.mean()),
    }

"""Metrics of a classifier whose images may have no class or several."""

from collections.abc import Iterator, Sequence
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

    @classmethod
    def from_scores(
        cls, scores: np.ndarray, labels: np.ndarray
    ) -> "MultiLabelPredictions":
        """Checks scores, (n, classes), and puts them beside labels, bool (n, classes).

        Raises:
            ValueError: A score is NaN or not within 0 to 1.
        """
        if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
            raise ValueError(
                "Expected scores from 0 to 1, as a sigmoid gives them. Received: "
                f"{scores.min():.4g} to {scores.max():.4g}"
            )
        return cls(labels, scores.astype("float32"))

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

    def metrics(self, classes: int) -> dict[str, float]:
        """The metrics of all images, see `Evaluation.metrics`.

        Classes without images are left out of the means.
        """
        table = self.class_metrics(classes)
        has_images = table["images"] > 0
        found = self.labels.sum() + self.predicted.sum()
        right = (self.labels & self.predicted).sum()
        return {
            "mean_average_precision": float(
                table["average_precision"][has_images].mean()
            ),
            "macro_f1": float(table["f1"][has_images].mean()),
            "micro_f1": float(2 * right / found) if found else 0.0,
            "binary_cross_entropy": float(self.losses.mean()),
        }

    def class_metrics(self, classes: int) -> dict[str, np.ndarray]:
        """The metrics of each class by name, each of shape (classes,).

        `images` is the number of its images; `average_precision` see the function; `f1`
        the harmonic mean of precision and recall at the threshold 0.5, NaN for a class
        that no image has and that is never predicted; `recall` NaN without images;
        `precision` NaN for a class that is never predicted.
        """
        right = (self.labels & self.predicted).sum(axis=0)
        images, found = self.labels.sum(axis=0), self.predicted.sum(axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            return {
                "images": images,
                "average_precision": average_precision(self.labels, self.scores),
                "f1": 2 * right / (images + found),
                "recall": right / images,
                "precision": right / found,
            }

    def caption(self, number: int, names: Sequence[str]) -> dict[str, str]:
        """The `label` of an image, its `score` and a `verdict` as text."""
        labels, predicted = self.labels[number], self.predicted[number]
        differences = {"missed": labels & ~predicted, "wrong": predicted & ~labels}
        verdicts = [
            f"{verdict} "
            + ", ".join(
                f"{names[n]} {self.scores[number, n]:.3f}" for n in np.flatnonzero(some)
            )
            for verdict, some in differences.items()
            if some.any()
        ]
        return {
            "label": _joined(names, labels) or "none",
            "score": f"loss {self.losses[number]:.3f}",
            "verdict": "; ".join(verdicts) or "correct",
        }

    def rows(self, names: Sequence[str]) -> Iterator[tuple]:
        """The heads of a table of all images, then the row of each image."""
        yield "classes", "predicted", *names
        columns = (self.labels, self.predicted, self.scores)
        for labels, predicted, scores in zip(*columns, strict=True):
            texts = (f"{score:.6f}" for score in scores)
            yield _joined(names, labels), _joined(names, predicted), *texts


def _joined(names: Sequence[str], selected: np.ndarray) -> str:
    return "|".join(names[number] for number in np.flatnonzero(selected))


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

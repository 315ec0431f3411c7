"""How alike the predictions of two networks are, and how fast."""

import time
from dataclasses import dataclass

import keras
import numpy as np

from resnext_keras.inference.predictor import Predictor

BATCH = 8  # images, whose predictions are timed
CALLS = 5


@dataclass(frozen=True)
class Comparison:
    """Predictions of one network beside another's for the same images.

    Attributes:
        top1: Share of the images for which both have the same best class.
        correlation: Of the logits, over all images and classes. Scores of a
            softmax are taken for the logits that they come from.
        seconds: Time of an image in a batch of up to 8, of each network.
    """

    top1: float
    correlation: float
    seconds: tuple[float, float]


def compare_predictions(
    first: Predictor, second: Predictor, images: np.ndarray
) -> Comparison:
    """Predicts with two classifiers, and times them.

    Args:
        first: One classifier, of one output (batch, classes).
        second: The other.
        images: A batch as both take it; one image or more.

    Returns:
        The `Comparison`.
    """
    scores = [predict(images) for predict in (first, second)]
    best = [score.argmax(-1) for score in scores]
    logits = [_logits(score).ravel() for score in scores]
    return Comparison(
        float(np.mean(best[0] == best[1])),
        float(np.corrcoef(*logits)[0, 1]),
        tuple(seconds_an_image(predict, images) for predict in (first, second)),
    )


def largest_difference(found, expected) -> float:
    """Largest difference of two models' outputs, by the largest of the second.

    Args:
        found: Outputs of one model, an array or several.
        expected: Those of the other, whose order counts and not their names.
    """
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)
    return max(
        float(np.abs(np.subtract(a, b, dtype="float64")).max() / np.abs(b).max())
        for a, b in pairs
    )


def seconds_an_image(predict: Predictor, images: np.ndarray) -> float:
    """Median time of an image in a batch of up to 8.

    Models are not timed in turn, since threads of ONNX Runtime wait busily.
    """
    batch = images[:BATCH]
    predict(batch)
    durations = []
    for _ in range(CALLS):
        start = time.perf_counter()
        predict(batch)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations)) / len(batch)


def _logits(scores: np.ndarray) -> np.ndarray:
    """The logits of scores, but for a constant of each image where a softmax was."""
    scores = scores.astype("float64")
    if scores.min() < 0 or not np.allclose(scores.sum(-1), 1, atol=1e-3):
        return scores
    logits = np.log(np.maximum(scores, np.finfo("float32").tiny))
    return logits - logits.mean(-1, keepdims=True)

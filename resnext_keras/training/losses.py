"""The loss and the metrics of a run, and the weights of its classes."""

import math
import numbers
from collections.abc import Mapping

import keras
import numpy as np

from resnext_keras.arguments import did_you_mean
from resnext_keras.training.data.dataset import ImageDataset

BALANCED = "balanced"

ClassWeights = Mapping[str, float] | str | None


def checked_class_weights(class_weights: ClassWeights) -> ClassWeights:
    """The weights as JSON holds them, or a `ValueError`; `train` describes them."""
    if class_weights is None or isinstance(class_weights, str):
        is_valid = class_weights in (None, BALANCED)
    else:
        is_valid = isinstance(class_weights, Mapping) and all(
            isinstance(weight, numbers.Real) and 0 < weight < math.inf
            for weight in class_weights.values()
        )
    if not is_valid:
        raise ValueError(
            f"Expected `class_weights` to be None, {BALANCED!r}, or a dict of positive "
            f"numbers by class name. Received: class_weights={class_weights!r}"
        )
    if isinstance(class_weights, Mapping):
        return {name: float(weight) for name, weight in class_weights.items()}
    return class_weights


def weights_of_classes(
    dataset: ImageDataset, class_weights: ClassWeights
) -> np.ndarray | None:
    """The weight of each class in the loss, for the `class_weights` of `train`.

    Returns:
        float32 (classes,), or None if all weights are 1.

    Raises:
        ValueError: The data set has no such class.

    Source: balanced weights are those of scikit-learn, after King and Zeng, "Logistic
    Regression in Rare Events Data", 2001. With several labels an image, the weight of a
    class that n of N images have is (N - n) / n, as for the `pos_weight` of PyTorch's
    `BCEWithLogitsLoss`.
    """
    if class_weights is None:
        return None
    names = dataset.class_names
    if class_weights == BALANCED:
        counts = dataset.class_counts().astype("float32")
        with np.errstate(divide="ignore"):
            if dataset.is_multi_label:
                weights = (len(dataset) - counts) / counts
            else:
                weights = len(dataset) / (np.count_nonzero(counts) * counts)
        # A class of all images or of none cannot be balanced.
        can_be_balanced = np.isfinite(weights) & (weights > 0)
        return np.where(can_be_balanced, weights, 1).astype("float32")
    for name in class_weights:
        if name not in names:
            raise ValueError(
                "Expected the weights of classes of the data set."
                f"{did_you_mean(str(name), names)} Received: a weight of {name!r}"
            )
    return np.array([class_weights.get(name, 1) for name in names], "float32")


class WeightedLoss(keras.losses.Loss):
    """A cross-entropy of logits, (batch, classes), with weights of the classes.

    Args:
        weights: float32 (classes,), the weights.
        label_smoothing: As for Keras' own losses.
    """

    def __init__(self, weights: np.ndarray, label_smoothing: float):
        super().__init__()
        self.weights, self.label_smoothing = weights, label_smoothing


class WeightedCategoricalCrossentropy(WeightedLoss):
    """Categorical cross-entropy, times the weight of an image's class.

    Mixed images have the weights of their classes in proportion. As in Keras, the sum
    is divided by the number of images; PyTorch divides by the sum of their weights.
    """

    def call(self, y_true, y_pred):
        """Losses of the images, (batch,)."""
        losses = keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )
        weights = keras.ops.convert_to_tensor(self.weights)
        return losses * keras.ops.sum(y_true * weights, axis=-1)


class WeightedBinaryCrossentropy(WeightedLoss):
    """Binary cross-entropy, the mean over the classes.

    The weight of a class multiplies the loss of the images that have it, as PyTorch's
    `pos_weight` does.
    """

    def call(self, y_true, y_pred):
        """Losses of the images, (batch,)."""
        y_true = y_true * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = keras.ops.convert_to_tensor(self.weights)
        present = weights * y_true * keras.ops.softplus(-y_pred)
        absent = (1 - y_true) * keras.ops.softplus(y_pred)
        return keras.ops.mean(present + absent, axis=-1)


class MeanPRAUC(keras.metrics.AUC):
    """Area under the precision-recall curve of each class's logits, averaged.

    Keras compares scores with 200 evenly spaced thresholds, between which the scores of
    rare classes, all below 0.005, would not differ. The curve depends only on the order
    of the scores, so the logits are compressed first.

    Args:
        classes: Number of classes.
        name: Name of the metric.
    """

    def __init__(self, classes: int, name: str = "pr_auc"):
        super().__init__(curve="PR", multi_label=True, num_labels=classes, name=name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch of labels and logits, (batch, classes)."""
        scores = keras.ops.sigmoid(y_pred / 8)  # logits of -30 to 30 stay apart
        return super().update_state(y_true, scores, sample_weight)


def build_loss(
    is_multi_label: bool, weights: np.ndarray | None, label_smoothing: float
) -> keras.losses.Loss:
    """Builds the loss of logits, (batch, classes), and labels of the same shape."""
    if weights is not None and is_multi_label:
        return WeightedBinaryCrossentropy(weights, label_smoothing)
    if weights is not None:
        return WeightedCategoricalCrossentropy(weights, label_smoothing)
    options = {"from_logits": True, "label_smoothing": label_smoothing}
    if is_multi_label:
        return keras.losses.BinaryCrossentropy(**options)
    return keras.losses.CategoricalCrossentropy(**options)


def build_metrics(is_multi_label: bool, classes: int) -> list[keras.metrics.Metric]:
    """Builds the metrics of a run; the first one decides which weights are the best.

    With several labels an image this is the area under the precision-recall curve,
    averaged over the classes.
    """
    if is_multi_label:
        return [MeanPRAUC(classes)]
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    return metrics

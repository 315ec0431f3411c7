"""Verifies weight sets and weight files, and tries them on a photo."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.images.read import SAMPLE_PHOTO, read_image
from resnext_keras.models.data_format import image_shape, to_data_format
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import Checkpoint, resolve


@dataclass(frozen=True)
class Verification:
    """Weights with a correct hash, and correct names, shapes and numbers.

    Attributes:
        checkpoint: The weights.
        path: The file.
        parameters: Number of parameters, batch-norm statistics included.
        outputs: Output of the network for the bundled photo of a cat: logits,
            (1, classes), or feature maps without a classifier.
        top1: Name of the class with the highest logit; empty without a classifier.
    """

    checkpoint: Checkpoint
    path: Path
    parameters: int
    outputs: np.ndarray
    top1: str = ""


def verify_weights(
    weights: str | os.PathLike | Checkpoint, model: ResNeXtSpec | str | None = None
) -> Verification:
    """Verifies weights, and tries them on the bundled photo of a cat.

    A weight set is downloaded if it is missing, and its hash is checked. Every name
    and shape is checked, and that all numbers are finite. `tools/verify_published.py`
    also compares the logits with those of torchvision and timm.

    Args:
        weights: Name of a weight set, path of a file or folder of a training run.
        model: The architecture; None for that of the weights.

    Returns:
        The `Verification`.

    Raises:
        ValueError: The architecture is unknown.
        WeightsError: There are no such weights, they cannot be downloaded, or a check
            fails.
    """
    checkpoint = resolve(weights, model)
    checkpoint.check_rgb()
    path = checkpoint.fetch()
    size = checkpoint.preprocessing.size
    classes = checkpoint.classes
    network = ResNeXt(
        checkpoint.spec,
        include_top=classes is not None,
        weights=checkpoint,
        input_shape=image_shape(size, size),
        classes=classes or 1,
        classifier_activation=None,
    )
    images = photo_batch(checkpoint)
    outputs = network.predict(to_data_format(images), verbose=0)
    # A single logit is that of the second of two classes.
    number = int(outputs.item() > 0) if classes == 1 else outputs.argmax()
    top1 = checkpoint.class_names[number] if classes else ""
    return Verification(checkpoint, path, network.count_params(), outputs, top1)


def photo_batch(checkpoint: Checkpoint) -> np.ndarray:
    """The bundled photo, read and preprocessed for weights, (1, size, size, 3)."""
    with resources.as_file(SAMPLE_PHOTO) as photo:
        image = read_image(photo, checkpoint.preprocessing)
    return preprocess_input(
        image[np.newaxis], "channels_last", checkpoint.preprocessing
    )

"""Checks that weights are what their name says, and tries them on a photo."""

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
from resnext_keras.weights.tensors import WeightsError


@dataclass(frozen=True)
class Verification:
    """Weights whose hash, names, shapes and numbers are right.

    Attributes:
        checkpoint: The weights.
        path: The file.
        parameters: Number of parameters, batch-norm statistics included.
        outputs: What the network gives for the bundled photo of a cat: logits,
            (1, classes), or without a classifier feature maps.
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
    """Checks weights, and tries them on the bundled photo of a cat.

    A weight set is downloaded where it is missing. Checked are its hash, every name
    and shape, and that all numbers are finite. `tools/verify_published.py` compares
    the logits with torchvision's and timm's too.

    Args:
        weights: Name of a weight set, path of a file or folder of a training run.
        model: The architecture; None for that of the weights.

    Returns:
        The `Verification`.

    Raises:
        WeightsError: There are no such weights, they cannot be downloaded, or
            something about them is wrong.
    """
    checkpoint = resolve(weights, model)
    path = checkpoint.fetch()
    if checkpoint.channels != 3:
        raise WeightsError(
            f"Expected weights for RGB images in {path}, found "
            f"{checkpoint.channels} channels."
        )
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
    top1 = checkpoint.class_names[int(outputs.argmax())] if classes else ""
    return Verification(checkpoint, path, network.count_params(), outputs, top1)


def photo_batch(checkpoint: Checkpoint) -> np.ndarray:
    """The bundled photo as the weights want it, (1, size, size, 3), preprocessed."""
    with resources.as_file(SAMPLE_PHOTO) as photo:
        image = read_image(photo, checkpoint.preprocessing)
    return preprocess_input(image[np.newaxis], "channels_last")

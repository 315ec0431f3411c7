"""The model card in an exported model: preprocessing, class names, licence."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras

from resnext_keras.images.labels import THRESHOLD, checked_names
from resnext_keras.images.labels import class_names as packaged_names
from resnext_keras.images.preprocessing import Preprocessing, default_preprocessing
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import classifier_head, head_activation
from resnext_keras.weights.checkpoint import (
    Checkpoint,
    resolve,
    weights_preprocessing,
)

READING = (
    "Decode the image, of an animation the first frame.",
    "Turn it upright as its EXIF orientation says.",
    "Scale grey values of more than 8 bits to 0 to 255, and round them: of 16 bits by "
    "255 / 65535, floats from 0 to 1 by 255.",
    "Put transparent pixels on white: alpha * colour + (1 - alpha) * 255.",
    "Convert it to RGB.",
    "Resize its short side to `resize` pixels by `interpolation` with antialiasing, "
    "the long side in proportion, rounded down; if that is a list, to each in turn.",
    "Crop the square of `size` pixels in the centre.",
    "Divide the values by 255, subtract `mean` and divide by `std`, each for red, "
    "green and blue.",
    "The model takes float32 of shape (batch, {axes}).",
)
"""Steps of `read_image` and `preprocess_input`, for programs without this package."""


@dataclass(frozen=True)
class ModelCard:
    """Facts about an exported model, readable without this package.

    Attributes:
        name: Name of the model.
        preprocessing: How images are read for the model.
        class_names: Name of each class; None for a backbone. With one output, it is the
            probability of the second of two classes.
        activation: `"softmax"`, `"sigmoid"` or another activation of the classifier,
            `"linear"` for logits; None for a backbone.
        weights: Name of the weight set, the file or the training run; None if it is
            not known.
        licence: SPDX identifier of the weights' licence; None if it is not known.
    """

    name: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    activation: str | None = None
    weights: str | None = None
    licence: str | None = None

    def as_json(self) -> dict:
        """The card for `json.dumps`, with instructions for reading images."""
        axes = "3, height, width" if channels_first() else "height, width, 3"
        return asdict(self) | {
            "preprocessing": self.preprocessing.as_json(),
            "reading": [step.format(axes=axes) for step in READING],
            # An image has each class, or the second of two, whose score reaches it.
            **({"threshold": THRESHOLD} if self.activation == "sigmoid" else {}),
        }


def make_model_card(
    model: keras.Model,
    weights: str | os.PathLike | Checkpoint | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
) -> ModelCard:
    """Makes the card of a functional model.

    The arguments are those of `export_saved_model`. It is not checked that the model
    has these weights.

    Raises:
        ValueError: The model does not take square RGB images in batches of any length;
            the weights are unknown, were not evaluated at the model's size or have
            other classes; or the size or the number of names does not fit.
    """
    checkpoint = None if weights is None else resolve(weights)
    size = _size(model)
    if preprocessing is None and checkpoint is not None:
        preprocessing = weights_preprocessing(checkpoint, size)
    elif preprocessing is None:
        preprocessing = default_preprocessing(size)
    elif not isinstance(preprocessing, Preprocessing) or size not in (
        None,
        preprocessing.size,
    ):
        raise ValueError(
            f"Expected a `Preprocessing` for the model's size, {size or 'any'} pixels. "
            f"Received: preprocessing={preprocessing!r}"
        )
    names = _class_names(model, class_names, checkpoint)
    activation = None if names is None else head_activation(model)
    is_single = names is not None and len(names) > model.outputs[0].shape[1]
    if is_single and activation != "sigmoid":
        raise ValueError(
            "Expected a model that ends in a sigmoid, for the two `class_names` of its "
            f"single output. Received: the activation {activation!r}"
        )
    return ModelCard(
        model.name,
        preprocessing,
        names,
        activation,
        checkpoint and checkpoint.short_name,
        licence or (checkpoint and checkpoint.licence),
    )


def _size(model) -> int | None:
    """Height and width of a model's images; None for any size."""
    shapes = [tuple(image.shape) for image in model.inputs]
    if len(shapes) == 1:
        length, *shape = shapes[0]
        channels = shape[0 if channels_first() else -1]
        sides = shape[1:] if channels_first() else shape[:-1]
        if (
            (length, len(shape), channels, len({*sides})) == (None, 3, 3, 1)
            # `preprocess_input` gives floats.
            and keras.backend.is_float_dtype(model.inputs[0].dtype)
        ):
            return sides[0]
    inputs = [f"{image.dtype} {tuple(image.shape)}" for image in model.inputs]
    raise ValueError(
        "Expected a model for square RGB images from `preprocess_input`, in batches "
        f"of any length. Received: a model for {' and '.join(inputs)}"
    )


def _class_names(model, names, checkpoint: Checkpoint | None) -> tuple[str, ...] | None:
    head = classifier_head(model)
    if names is not None:
        shape = model.outputs[0].shape
        is_classifier = len(model.outputs) == 1 and len(shape) == 2
        return checked_names(names, shape[1] if is_classifier else 0)
    if head is None:
        return None
    classes = head[0].units
    if checkpoint is None or checkpoint.classes is None:
        if checkpoint is None and classes == 1000:
            return packaged_names("imagenet")
        return tuple(map(str, range(classes)))
    if checkpoint.classes != classes:
        raise ValueError(
            f"Expected `class_names`, since the model has {classes} outputs and "
            f"{checkpoint.name} has {checkpoint.classes}. Received: class_names=None"
        )
    return checkpoint.class_names

"""What an exported model tells about itself: its images, its classes, its licence."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras

from resnext_keras.images.labels import checked_names
from resnext_keras.images.labels import class_names as packaged_names
from resnext_keras.images.preprocessing import IMAGENET, MEAN, STD, Preprocessing
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import classifier_head
from resnext_keras.weights.checkpoint import (
    Checkpoint,
    resolve,
    weights_preprocessing,
)

READING = (
    "Read the image as RGB and turn it upright as its EXIF data says. Resize its short "
    "side to `resize` pixels with antialiasing (if that is a list, to each in turn). "
    "Cut out the square of `size` pixels in the centre. Divide the values (0 to 255) "
    "by 255, subtract `mean` and divide by `std`, for red, green and blue each. The "
    "model takes float32 of shape (batch, {axes})."
)
"""What `read_image` and `preprocess_input` do, in words."""


@dataclass(frozen=True)
class ModelCard:
    """What a user of an exported model has to know, in a file without this package.

    Attributes:
        name: Name of the model.
        preprocessing: How images are read for it.
        class_names: Name of each class; None for a backbone, which has none.
        weights: Name of the weight set, or of the file or the training run; None if
            it is not known.
        licence: SPDX identifier of the weights' licence, None where not known.
    """

    name: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    weights: str | None = None
    licence: str | None = None

    def as_json(self) -> dict:
        """The same for `json.dumps`, and how to read images without this package."""
        axes = "3, height, width" if channels_first() else "height, width, 3"
        return asdict(self) | {
            "preprocessing": self.preprocessing.as_json() | {"mean": MEAN, "std": STD},
            "reading": READING.format(axes=axes),
        }


def make_model_card(
    model: keras.Model,
    weights: str | os.PathLike | Checkpoint | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
) -> ModelCard:
    """Gathers what is known of a model.

    Args:
        model: A functional model of what `preprocess_input` gives: square RGB
            images, in batches of any length.
        weights: The weights that the model was built with, as `resolve` takes them;
            they give the defaults of the rest. None for other weights. It is not
            checked that the model has these weights.
        preprocessing: How images are read; None for that of the weights at the
            model's size, or without weights for `IMAGENET`, and for models of
            another size the whole short side in their size.
        class_names: Name of each class; None for those of the weights, or without
            weights for ImageNet's if there are 1000 classes, else their numbers.
        licence: SPDX identifier; None for that of the weights.

    Raises:
        ValueError: The model is none of these, there is no such weight set, it was
            not evaluated at the model's size or has other classes, or the sizes or
            the number of names do not fit.
    """
    checkpoint = None if weights is None else resolve(weights)
    size = _size(model)
    if preprocessing is None:
        preprocessing = _preprocessing(checkpoint, size)
    elif not isinstance(preprocessing, Preprocessing) or size not in (
        None,
        preprocessing.size,
    ):
        raise ValueError(
            f"Expected a `Preprocessing` for the model's size, {size or 'any'} pixels. "
            f"Received: preprocessing={preprocessing!r}"
        )
    if not isinstance(licence, (str, type(None))):
        raise ValueError(f"Expected a string. Received: licence={licence!r}")
    return ModelCard(
        model.name,
        preprocessing,
        _class_names(model, class_names, checkpoint),
        checkpoint and checkpoint.short_name,
        licence or (checkpoint and checkpoint.licence),
    )


def _size(model) -> int | None:
    """Height and width of a model's images, None for those of any size."""
    shapes = [tuple(image.shape) for image in model.inputs]
    if len(shapes) == 1:
        length, *shape = shapes[0]
        channels = shape[0 if channels_first() else -1]
        sides = shape[1:] if channels_first() else shape[:-1]
        if (
            (length, len(shape), channels, len({*sides})) == (None, 3, 3, 1)
            # Into integers what `preprocess_input` gives does not go.
            and keras.backend.is_float_dtype(model.inputs[0].dtype)
        ):
            return sides[0]
    found = [f"{image.dtype} {tuple(image.shape)}" for image in model.inputs]
    raise ValueError(
        "Expected a model of square RGB images as `preprocess_input` gives them, in "
        f"batches of any length. Received: a model of {' and '.join(found)}"
    )


def _preprocessing(checkpoint: Checkpoint | None, size: int | None) -> Preprocessing:
    if checkpoint is not None:
        return weights_preprocessing(checkpoint, size)
    if size in (None, IMAGENET.size):
        return IMAGENET
    return Preprocessing(size=size, resize=size)


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
            f"Expected `class_names`, since the model has {classes} classes and "
            f"{checkpoint.name} has {checkpoint.classes}. Received: class_names=None"
        )
    return checkpoint.class_names

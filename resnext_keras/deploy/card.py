"""What an exported model tells about itself: its pictures, its classes, its licence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras

from resnext_keras.labels import class_names as packaged_names
from resnext_keras.layout import channels_first
from resnext_keras.preprocessing import IMAGENET, MEAN, STD, Preprocessing
from resnext_keras.weights import WeightSet, find_set, weights_preprocessing

CARD = "model.json"
"""Name of the file of a model's card, where its format has files for that."""


@dataclass(frozen=True)
class ModelCard:
    """What a user of an exported model has to know, in a file without this package.

    Attributes:
        name: Name of the model.
        preprocessing: How pictures are read for it.
        class_names: Name of each class; None for a backbone, which has none.
        weights: Name of the weight set, None for weights of one's own.
        licence: SPDX identifier of the weights' licence, None where not known.
    """

    name: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    weights: str | None = None
    licence: str | None = None

    def as_json(self) -> dict:
        """The same for `json.dumps`, with mean and deviation of `preprocess_input`."""
        return asdict(self) | {
            "preprocessing": asdict(self.preprocessing) | {"mean": MEAN, "std": STD}
        }


def model_card(
    model: keras.Model,
    weights: str | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
) -> ModelCard:
    """Gathers what is known of a model.

    Args:
        model: A functional or built `Sequential` model of RGB pictures.
        weights: Name of the weight set it was built with, which tells the rest;
            None for weights of one's own.
        preprocessing: How pictures are read; None for what the weight set wants
            at the model's size; without one for `IMAGENET`, or for models of
            another size the whole short side in their size.
        class_names: Name of each class; None for those of the weight set, or
            ImageNet's for 1000 classes, or else the numbers of the classes.
        licence: SPDX identifier; None for that of the weight set.

    Raises:
        ValueError: There is no such weight set, it was not evaluated at the
            model's size, or the sizes or the number of names do not fit.
    """
    found = None if weights is None else find_set(weights)
    size = _size(model)
    if preprocessing is None:
        preprocessing = _preprocessing(found, size)
    elif size not in (None, preprocessing.size):
        raise ValueError(
            f"Expected pictures of the model's size, {size} pixels. "
            f"Received: preprocessing={preprocessing!r}"
        )
    return ModelCard(
        model.name,
        preprocessing,
        _class_names(model, class_names, found),
        found and found.name,
        licence or (found and found.licence),
    )


def classes_of(model: keras.Model) -> int | None:
    """Number of classes of a classifier, None for any other model.

    A classifier has one output, of a dense layer and its activation.
    """
    logits = logits_layer(model)
    return None if logits is None else logits.units


def logits_layer(model: keras.Model) -> keras.layers.Dense | None:
    """The dense layer that gives the logits of a classifier."""
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        return None
    tensor = model.outputs[0]
    while True:
        layer = tensor._keras_history.operation
        if isinstance(layer, keras.layers.Dense):
            return layer
        if isinstance(layer, keras.Model):
            return logits_layer(layer)
        if not isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)):
            return None
        tensor = layer.input


def _size(model) -> int | None:
    """Height and width of a model's images, None for those of any size."""
    shapes = [tuple(image.shape) for image in model.inputs]
    for length, *shape in shapes if len(shapes) == 1 else ():
        channels = shape[0 if channels_first() else -1]
        sides = shape[1:] if channels_first() else shape[:-1]
        if len(shape) == 3 and length is None and channels == 3 and len({*sides}) == 1:
            return sides[0]
    raise ValueError(
        "Expected a model of square RGB images, in batches of any length. "
        f"Received: a model of {' and '.join(map(str, shapes))}"
    )


def _preprocessing(found: WeightSet | None, size: int | None) -> Preprocessing:
    if found is not None:
        return weights_preprocessing(found.name, size)
    if size in (None, IMAGENET.size):
        return IMAGENET
    return Preprocessing(size=size, resize=size)


def _class_names(model, names, found: WeightSet | None) -> tuple[str, ...] | None:
    classes = classes_of(model)
    if names is None:
        if classes is None:
            return None
        if found is not None and found.labels and found.classes == classes:
            return packaged_names(found.labels)
        if found is None and classes == 1000:
            return packaged_names("imagenet")
        return tuple(map(str, range(classes)))
    if isinstance(names, str) or len(names) != classes:
        raise ValueError(
            f"Expected `class_names` to name the model's {classes or 'no'} classes. "
            f"Received: class_names={names!r}"
        )
    return tuple(map(str, names))

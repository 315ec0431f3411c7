"""What in an image speaks for classes, drawn on a sheet and on a page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnext_keras.arguments import positive_integer
from resnext_keras.classifier import Classifier
from resnext_keras.features.class_activation import grad_cam, layer_with_maps
from resnext_keras.html import data_uri, render
from resnext_keras.images.draw import HEAT_COLOURS, contact_sheet, overlay
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.images.read import read_image
from resnext_keras.models.data_format import to_data_format

SIDE = 256
"""Pixels that an image is drawn at, at least: one of 32 would be a stamp."""


@dataclass(frozen=True)
class Reason:
    """What speaks for one class.

    Attributes:
        name: Name of the class.
        score: What the network gives it, 0 to 1.
        heat: What `grad_cam` gives, (h, w).
    """

    name: str
    score: float
    heat: np.ndarray

    @property
    def found(self) -> bool:
        """Whether anything in the image speaks for the class."""
        return bool(self.heat.any())

    @property
    def caption(self) -> str:
        """Name and score."""
        return f"{self.name}: {self.score:.1%}"


@dataclass(frozen=True)
class Explanation:
    """What in an image speaks for classes.

    Attributes:
        path: The image's file.
        image: What the network sees of it, RGB, uint8, (size, size, 3).
        weights: Name of the weight set, or path of the file.
        layer: Name of the layer whose maps were taken.
        reasons: A `Reason` for each class.
    """

    path: str | os.PathLike
    image: np.ndarray
    weights: str
    layer: str
    reasons: tuple[Reason, ...]

    def overlays(self) -> list[Image.Image]:
        """The image under the heat map of each class."""
        size = max(SIDE, len(self.image))
        return [overlay(self.image, reason.heat, size) for reason in self.reasons]

    def sheet(self) -> Image.Image:
        """The image, and beside it the overlays with names and scores."""
        return contact_sheet(
            [_enlarged(self.image), *self.overlays()],
            ["what the network sees", *(reason.caption for reason in self.reasons)],
            size=max(SIDE, len(self.image)),
            columns=4,
        )

    def page(self) -> str:
        """An HTML page of all this, with the images in it."""
        drawn = zip(self.reasons, self.overlays(), strict=True)
        return render(
            "explanation.html",
            name=readable(self.path),
            image=data_uri(_enlarged(self.image)),
            side=len(self.image),
            weights=readable(self.weights),
            layer=self.layer,
            heat_colours=HEAT_COLOURS,
            reasons=[(reason, data_uri(overlaid)) for reason, overlaid in drawn],
        )


def _enlarged(image: np.ndarray) -> Image.Image:
    """An image at the size of the overlays."""
    return overlay(image, np.zeros((1, 1)), max(SIDE, len(image)))


def explain(
    classifier: Classifier,
    path: str | os.PathLike,
    classes: Sequence[int] | None = None,
    layer: str | None = None,
    top: int = 1,
) -> Explanation:
    """Shows which places of an image speak for classes, with Grad-CAM.

    Args:
        classifier: A network, as `load_classifier` gives it.
        path: The image, a file as `read_image` takes it.
        classes: Numbers of the classes; None for those that the network ranks
            highest.
        layer: Name of the layer whose maps are taken; None for the last.
        top: How many classes where `classes` is None.

    Raises:
        ImageError: The file is no image.
        ValueError: A class or the layer is none that `grad_cam` takes.
    """
    top = positive_integer("top", top)
    layer = layer_with_maps(classifier.model, layer).name
    image = read_image(path, classifier.preprocessing)
    images = preprocess_input(to_data_format(image[np.newaxis]))
    scores = np.asarray(classifier.model.predict_on_batch(images))[0]
    if classes is None:
        classes = np.argsort(-scores, kind="stable")[:top]
    repeated = np.repeat(images, len(classes), axis=0)
    heats = grad_cam(classifier.model, repeated, classes, layer)
    reasons = (
        Reason(classifier.class_names[number], float(scores[number]), heat)
        for number, heat in zip(classes, heats, strict=True)
    )
    return Explanation(path, image, classifier.weights, layer, tuple(reasons))

"""Explains predictions: which places of an image are evidence for a class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resnext_keras.arguments import did_you_mean, positive_integer
from resnext_keras.classifier import load_classifier
from resnext_keras.features.class_activation import grad_cam, layer_with_maps
from resnext_keras.html import checked_outputs, data_uri, render, write_outputs
from resnext_keras.images.draw import HEAT_COLOURS, contact_sheet, overlay
from resnext_keras.images.labels import (
    class_number,
    class_spellings,
    scores_by_class,
)
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.images.read import read_rgb, resize_and_crop
from resnext_keras.models.data_format import to_data_format
from resnext_keras.models.runtime import check_backend
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import Checkpoint, resolve

SIDE = 256
"""Smallest side of a drawn image, in pixels; smaller images are enlarged."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for one class.

    Attributes:
        name: Name of the class.
        score: Score of the class, 0 to 1.
        heat: Heat map from `grad_cam`, (h, w).
    """

    name: str
    score: float
    heat: np.ndarray

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the image is evidence for the class."""
        return not self.heat.any()

    @property
    def caption(self) -> str:
        """Name and score."""
        return f"{self.name}: {self.score:.1%}"


@dataclass(frozen=True)
class Explanation:
    """An image, and the evidence in it for classes.

    Attributes:
        image: Path of the image.
        pixels: The image as the network sees it, RGB, uint8, (size, size, 3).
        weights: Name of the weight set, path of the file or folder of the run.
        layer: Name of the layer that the feature maps are from.
        classes: The `Evidence` for each class.
        files: The files that were written.
    """

    image: str | os.PathLike
    pixels: np.ndarray
    weights: str
    layer: str
    classes: tuple[Evidence, ...]
    files: tuple[Path, ...] = ()

    def overlays(self) -> list[Image.Image]:
        """The image under the heat map of each class."""
        return [self._overlay(evidence.heat) for evidence in self.classes]

    def sheet(self) -> Image.Image:
        """Draws the image and the overlays side by side, with names and scores."""
        plain = self._overlay(np.zeros((1, 1)))
        return contact_sheet(
            [plain, *self.overlays()],
            ["what the network sees", *(e.caption for e in self.classes)],
            size=max(SIDE, len(self.pixels)),
            columns=4,
        )

    def page(self) -> str:
        """Draws the same as an HTML page, and returns the HTML."""
        drawn = zip(self.classes, self.overlays(), strict=True)
        return render(
            "explanation.html",
            name=readable(self.image),
            image=data_uri(self._overlay(np.zeros((1, 1)))),
            side=len(self.pixels),
            weights=readable(self.weights),
            layer=self.layer,
            heat_colours=HEAT_COLOURS,
            classes=[(evidence, data_uri(overlaid)) for evidence, overlaid in drawn],
        )

    def _overlay(self, heat: np.ndarray) -> Image.Image:
        return overlay(self.pixels, heat, max(SIDE, len(self.pixels)))


def explain(
    image: str | os.PathLike,
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    *,
    classes: Sequence[int | str] | int | str | None = None,
    top: int = 1,
    layer: str | None = None,
    output: str | os.PathLike | None = None,
    html: bool = False,
    overwrite: bool = False,
) -> Explanation:
    """Shows which places of an image are evidence for a class, by Grad-CAM.

    Args:
        image: Path of the image.
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: Name of a weight set, path of a weight file or folder of a training
            run. None for the default weights of the architecture.
        classes: Names or numbers of classes, or WordNet ids of ImageNet's; None for the
            classes with the highest scores. Names may be in any case, unless two differ
            only in that, and may have spaces for underscores.
        top: Number of classes if `classes` is None.
        layer: Name of a layer that outputs feature maps, such as
            `"conv4_block6_out"`; None for the last. Maps of earlier layers are finer,
            but less specific to the class.
        output: A .png file to draw the image and the overlays into; None for no file.
        html: Whether to also write an .html page with the same name.
        overwrite: Whether to replace existing files.

    Returns:
        The `Explanation`, with the `Evidence` for each of its `classes`.

    Raises:
        ImageError: The file is not an image.
        ValueError: A class, the layer, the architecture or the weights are unknown, or
            an output cannot be written.
        ImportError: `html` is set, and the extra `train` is not installed.
    """
    check_backend()
    top = positive_integer("top", top)
    files = checked_outputs(output, html, overwrite)
    rgb = read_rgb(image)  # before weights are downloaded
    checkpoint = resolve(weights, model)
    names = checkpoint.class_names
    if isinstance(classes, (int, np.integer, str)):
        classes = [classes]
    numbers = _numbers_of(classes or (), names) if names else []
    classifier = load_classifier(weights=checkpoint)

    network = classifier.model
    layer = layer_with_maps(network, layer).name
    preprocessing = classifier.preprocessing
    pixels = resize_and_crop(rgb, preprocessing)
    images = preprocess_input(
        to_data_format(pixels[np.newaxis]), preprocessing=preprocessing
    )
    (scores,) = scores_by_class(
        np.asarray(network.predict_on_batch(images)), classifier.class_names
    )
    numbers = numbers or np.argsort(-scores, kind="stable")[:top]
    heats = grad_cam(network, np.repeat(images, len(numbers), axis=0), numbers, layer)
    evidence = tuple(
        Evidence(classifier.class_names[number], float(scores[number]), heat)
        for number, heat in zip(numbers, heats, strict=True)
    )
    explanation = Explanation(
        image, pixels, classifier.weights, layer, evidence, tuple(files)
    )
    write_outputs(explanation, files)
    return explanation


def _numbers_of(classes: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """The numbers of the classes that a user named; a `ValueError` for others."""
    spellings = class_spellings(names)
    numbers = []
    for name in classes:
        # A number as text may also be the name of a class.
        kinds = spellings.values() if isinstance(name, str) else [spellings["numbers"]]
        number = class_number(str(name), kinds)
        if number is None:
            text = "_".join(str(name).lower().split())
            parts = [known for known in names if text in known.lower()]
            hint = did_you_mean(text, parts or names, 0 if parts else 0.6)
            raise ValueError(
                f"Expected the name of a class, or a number from 0 to {len(names) - 1}."
                f"{hint} Received: class={name!r}"
            )
        numbers.append(number)
    return numbers

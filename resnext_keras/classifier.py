"""A network together with its preprocessing and class names."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.images.labels import (
    THRESHOLD,
    class_names,
    decode_predictions,
)
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, read_image
from resnext_keras.models.data_format import image_shape, to_data_format
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import Checkpoint, resolve

ClassScores = list[tuple[str, str, float]]


@dataclass(frozen=True)
class Classifier:
    """A network with the preprocessing and the class names of its weights.

    Attributes:
        model: A `keras.Model` that takes preprocessed images and gives scores, or
            feature maps without a classifier.
        preprocessing: How images are read for the model.
        class_names: Name of each class; empty for a network without classifier. A
            network with one output has two names: it gives the score of the second.
        weights: Name of the weight set, path of the file, or folder of the
            training run.
        is_multi_label: Whether an image may have no class or several: all those with
            a score of 0.5 or more.
        run: Function that runs the model on a batch, as a `Predictor`; None for the
            model itself.
    """

    model: keras.Model
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    weights: str
    is_multi_label: bool = False
    run: Callable[[np.ndarray], np.ndarray] | None = None

    def predict(self, images: np.ndarray, top: int = 5) -> list[ClassScores]:
        """Predicts the most probable classes of images.

        Args:
            images: RGB, 0 to 255, (batch, size, size, 3), as from `read_image`.
            top: Number of classes for each image, at least 1.

        Returns:
            For each image a list of `(id, name, score)`, highest score first, as
            from `decode_predictions`; of a multi-label network all classes with a score
            of 0.5 or more, even if they are more than `top`.

        Raises:
            ValueError: The network has no classifier, or `top` is out of range.
        """
        images = preprocess_input(
            to_data_format(images), preprocessing=self.preprocessing
        )
        scores = (self.run or self.model.predict_on_batch)(images)
        imagenet = self.class_names == class_names("imagenet")
        names = None if imagenet else self.class_names
        if not self.is_multi_label:
            return decode_predictions(scores, top, class_names=names)
        top = positive_integer("top", top)
        return [
            [item for n, item in enumerate(row) if n < top or item[-1] >= THRESHOLD]
            for row in decode_predictions(
                scores, len(self.class_names), class_names=names
            )
        ]

    def predict_each(
        self,
        paths: str | os.PathLike | Iterable[str | os.PathLike],
        top: int = 5,
        batch_size: int = 32,
    ) -> Iterator[tuple[str | os.PathLike, ClassScores | ImageError]]:
        """Predicts the most probable classes of image files, a batch at a time.

        Args:
            paths: The files, or one.
            top: Number of classes for each image, at least 1.
            batch_size: Number of images in memory at once, at least 1.

        Yields:
            Each path, in order, with its predictions, or with the `ImageError` if
            the file is not an image.

        Raises:
            ValueError: See `predict`, or `batch_size` is below 1.
        """
        batch_size = positive_integer("batch_size", batch_size)
        paths = iter([paths] if isinstance(paths, (str, os.PathLike)) else paths)
        while batch := list(itertools.islice(paths, batch_size)):
            read = [self.read(path) for path in batch]
            images = [image for image in read if not isinstance(image, ImageError)]
            predictions = iter(self.predict(np.stack(images), top) if images else [])
            for path, image in zip(batch, read, strict=True):
                is_error = isinstance(image, ImageError)
                yield path, image if is_error else next(predictions)

    def read(self, path: str | os.PathLike) -> np.ndarray | ImageError:
        """Reads an image file for `predict`, or returns the `ImageError`."""
        try:
            return read_image(path, self.preprocessing)
        except ImageError as error:
            return error


def load_classifier(
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    include_top: bool = True,
    any_size: bool = False,
) -> Classifier:
    """Builds a network with trained weights, their preprocessing and class names.

    Args:
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: Name of a weight set, path of a weight file, folder of a training run,
            or a `Checkpoint`; `"hf://OWNER/NAME"` or `"hf://OWNER/NAME@REVISION"`, a
            network of timm's on the Hugging Face hub, or the folder of such files
            (`config.json` and `model.safetensors`). None for the default weights of the
            architecture.
        include_top: Whether to add the classifier; without it the model gives the
            last feature maps.
        any_size: Whether the model takes images of any size, not only of the size
            that the weights were made for.

    Returns:
        The `Classifier`. For a weight set, a training run or a network of timm's it has
        their class names and preprocessing. For another file the class names are those
        of ImageNet if there are 1000 classes, otherwise the numbers of the classes.

    Raises:
        ValueError: The architecture or the weights are unknown, they do not fit each
            other, or the weights have no classifier, are not for RGB images or cannot
            be downloaded.

    Examples:
        >>> classifier = rk.load_classifier(weights="digits")
        >>> image = rk.read_image("digit.png", classifier.preprocessing)
        >>> classifier.predict(image[None], top=1)[0][0][1]
        '7'
    """
    checkpoint = resolve(weights, model)
    checkpoint.check_rgb()
    size = None if any_size else checkpoint.preprocessing.size
    network = ResNeXt(
        checkpoint.spec,
        include_top,
        checkpoint,
        input_shape=image_shape(size, size),
        classes=checkpoint.classes or 1,
        classifier_activation=checkpoint.activation
        or ("sigmoid" if checkpoint.classes == 1 else "softmax"),
    )
    return Classifier(
        network,
        checkpoint.preprocessing,
        checkpoint.class_names if include_top else (),
        checkpoint.name,
        include_top and checkpoint.is_multi_label,
    )

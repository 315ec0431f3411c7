"""From image files to named classes: a network with all that belongs to it."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras.images.labels import class_names, decode_predictions
from resnext_keras.images.preprocessing import IMAGENET, Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, read_image
from resnext_keras.models.data_format import image_shape, to_data_format
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.weights.files import identify
from resnext_keras.weights.lookup import find_weights
from resnext_keras.weights.registry import BUNDLED, WeightSet
from resnext_keras.weights.runs import trained

Predictions = list[tuple[str, str, float]]


@dataclass(frozen=True)
class Classifier:
    """A network with the reading of images and the class names that fit it.

    Attributes:
        model: A `keras.Model`, from preprocessed images to scores.
        preprocessing: How images are read for it.
        class_names: Name of each class; none for a network without its top.
        weights: Name of the weight set, or path of the file.
    """

    model: keras.Model
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    weights: str

    def predict(self, images: np.ndarray, top: int = 5) -> list[Predictions]:
        """Names the most probable classes of images.

        Args:
            images: RGB, 0 to 255, (batch, size, size, 3), as `read_image` gives.
            top: Number of classes to name for each image.

        Returns:
            For each image a list of `(id, name, score)` by falling score, as
            `decode_predictions` gives it.
        """
        scores = self.model.predict_on_batch(preprocess_input(to_data_format(images)))
        imagenet = self.class_names == class_names("imagenet")
        names = None if imagenet else self.class_names
        return decode_predictions(scores, top, class_names=names)

    def predict_files(
        self, paths: Iterable[str | os.PathLike], top: int = 5, batch_size: int = 32
    ) -> Iterator[tuple[str | os.PathLike, Predictions | ImageError]]:
        """Names the most probable classes of image files, a batch at a time.

        Args:
            paths: The files.
            top: Number of classes to name for each image.
            batch_size: Number of images in memory at a time.

        Yields:
            In the order of `paths` each path with its predictions, or with
            the `ImageError` of a file that is no image.
        """
        paths = iter(paths)
        while batch := list(itertools.islice(paths, batch_size)):
            read = [self.read(path) for path in batch]
            images = [image for image in read if not isinstance(image, ImageError)]
            found = iter(self.predict(np.stack(images), top) if images else [])
            for path, image in zip(batch, read, strict=True):
                yield path, image if isinstance(image, ImageError) else next(found)

    def read(self, path: str | os.PathLike) -> np.ndarray | ImageError:
        """The pixels of an image as the network sees it, or why there are none."""
        try:
            return read_image(path, self.preprocessing)
        except ImageError as error:
            return error


def load_classifier(
    spec_or_name: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
    include_top: bool = True,
    any_size: bool = False,
) -> Classifier:
    """Builds a network with trained weights and what belongs to them.

    Args:
        spec_or_name: The architecture; None for that of the weights.
        weights: Name of a weight set, path of a file or of the folder of a
            run, as `ResNeXt` takes it; None for the set that ships with the
            package, or with another architecture for its `"imagenet"`.
        include_top: Whether the classifier stands at the end; without it the
            model gives the last feature maps.
        any_size: Whether the model takes images of any size, not only of the
            one that the weights were made for.

    Returns:
        The `Classifier`. Those of a run get its class names and preprocessing;
        weights from another file the class names of ImageNet if they have 1000
        classes, otherwise the numbers of the classes.

    Raises:
        ValueError: The architecture or the weights are unknown, do not fit
            each other, have no classifier, or expect other than RGB images.
    """
    spec, found = _find(spec_or_name, weights)
    load = _from_set if isinstance(found, WeightSet) else _from_file
    return load(found, spec, include_top, any_size)


def find_class_names(
    spec_or_name: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
) -> tuple[str, ...]:
    """The class names that `load_classifier` will give, before anything is built.

    Args:
        spec_or_name: As of `load_classifier`.
        weights: As of `load_classifier`.

    Returns:
        Name of each class; none where the weights have no classifier.

    Raises:
        ValueError: The architecture or the weights are unknown.
    """
    spec, found = _find(spec_or_name, weights)
    if isinstance(found, WeightSet):
        return _names_of_set(found)
    if run := trained(found):
        return run.class_names
    _, _, classes = identify(found, [spec] if spec else ARCHITECTURES.values())
    return _names_of_file(classes)


def find_preprocessing(
    spec_or_name: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
) -> Preprocessing:
    """How images are read for what `load_classifier` will give, before it is built.

    Args:
        spec_or_name: As of `load_classifier`.
        weights: As of `load_classifier`.

    Raises:
        ValueError: The architecture or the weights are unknown.
    """
    spec, found = _find(spec_or_name, weights)
    if isinstance(found, WeightSet):
        return found.preprocessing
    if run := trained(found):
        return run.preprocessing
    spec, _, _ = identify(found, [spec] if spec else ARCHITECTURES.values())
    return default_preprocessing(spec)


def _find(spec_or_name, weights) -> tuple[ResNeXtSpec | None, WeightSet | Path]:
    spec = None if spec_or_name is None else get_spec(spec_or_name)
    if weights is None:
        ships = spec is None or spec.name == BUNDLED.architecture
        weights = BUNDLED.name if ships else "imagenet"
    return spec, find_weights(weights, spec and spec.name)


def _names_of_set(found: WeightSet) -> tuple[str, ...]:
    return class_names(found.labels) if found.labels else _numbers(found.classes or 0)


def _names_of_file(classes: int | None) -> tuple[str, ...]:
    return class_names("imagenet") if classes == 1000 else _numbers(classes or 0)


def _from_set(found: WeightSet, _, include_top: bool, any_size: bool) -> Classifier:
    if found.classes is None and include_top:
        raise ValueError(
            f"Expected weights of a classifier; the set {found.name} has no classes. "
            f"Received: weights={found.name!r}"
        )
    size = None if any_size else found.preprocessing.size
    model = ResNeXt(
        found.architecture,
        include_top,
        found.name,
        input_shape=image_shape(size, size),
        classes=found.classes or 1,
    )
    names = _names_of_set(found) if include_top else ()
    return Classifier(model, found.preprocessing, names, found.name)


def _from_file(
    path: Path, spec: ResNeXtSpec | None, include_top: bool, any_size: bool
) -> Classifier:
    run = trained(path)
    known = [run.spec] if run else ARCHITECTURES.values()
    spec, channels, classes = identify(path, [spec] if spec else known)
    if (classes is None and include_top) or channels != 3:
        raise ValueError(
            "Expected weights of a classifier of RGB images; the file has "
            f"{channels} input channels and {classes or 'no'} classes. Received: {path}"
        )
    preprocessing = run.preprocessing if run else default_preprocessing(spec)
    names = run.class_names if run else _names_of_file(classes)
    size = None if any_size else preprocessing.size
    return Classifier(
        ResNeXt(
            spec,
            include_top,
            path,
            input_shape=image_shape(size, size),
            classes=classes or 1,
        ),
        preprocessing,
        names if include_top else (),
        str(path),
    )


def default_preprocessing(spec: ResNeXtSpec) -> Preprocessing:
    """How images are read for weights of which nothing else is known."""
    size = spec.image_size
    return IMAGENET if size == IMAGENET.size else Preprocessing(size=size, resize=size)


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))

"""A network that turns images into vectors, and what its vectors came from."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np

from resnext_keras.classifier import load_classifier
from resnext_keras.features.loader import ImageFile, read_batches
from resnext_keras.features.parquet import Provenance
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.inference.predictor import Predictor
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.lookup import find_weights

Batch = tuple[list[ImageFile], np.ndarray]
"""Files, and the features of those that are images."""


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network without its classifier, with all that belongs to it.

    Attributes:
        predictor: From images of `preprocess_input` to features.
        preprocessing: How images are read for it.
        source: What is kept beside its features.
    """

    predictor: Predictor
    preprocessing: Preprocessing
    source: Provenance

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of images.

        Args:
            images: A batch as `preprocess_input` gives it.

        Returns:
            (batch, length), in the type that the source names.

        Raises:
            ValueError: They are no numbers of that type.
        """
        if not len(images):
            return np.empty((0, self.source.length), self.source.dtype)
        with np.errstate(over="ignore"):  # found below
            features = self.predictor(images).astype(self.source.dtype)
        if not np.isfinite(features).all():
            raise ValueError(
                f"Expected weights whose features are numbers of {self.source.dtype}; "
                "float32 holds larger ones than float16. "
                f"Received: NaN or infinity of weights={self.source.weights!r}"
            )
        return features

    def read(
        self, paths: Iterable[bytes], threads: int | None = None
    ) -> Iterator[Batch]:
        """Features of files, batch by batch, as `read_batches` reads them."""
        size = self.predictor.batch_size
        batches = read_batches(paths, self.preprocessing, size, threads)
        with contextlib.closing(batches):
            for files, images in batches:
                yield files, self.features(images)


def load_network(
    spec_or_name: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
    dtype: str = "float32",
    engine: str = "auto",
    batch_size: int = 32,
) -> FeatureNetwork:
    """Builds a network that gives the mean of its last maps.

    Args:
        spec_or_name: The architecture; None for that of the weights.
        weights: Name of a weight set or path of a file, as `load_classifier`
            takes it.
        dtype: `"float32"` or `"float16"`, what the features are rounded to.
        engine: What runs it, as `Predictor` takes it.
        batch_size: Number of images that are run at once.

    Raises:
        ValueError: As of `load_classifier` and `Predictor`.
        ImportError: The engine asked for is not installed.
    """
    classifier = load_classifier(spec_or_name, weights, include_top=False)
    model = classifier.model
    pooled = keras.layers.GlobalAveragePooling2D(name="avg_pool")(model.output)
    model = keras.Model(model.input, pooled, name=model.name)
    file = find_weights(classifier.weights, model.name)
    is_file = isinstance(file, Path)
    source = Provenance(
        architecture=model.name,
        weights=os.path.abspath(file) if is_file else classifier.weights,
        weights_sha256=_sha256(file) if is_file else None,
        preprocessing=classifier.preprocessing.as_json(),
        pooling="avg",
        length=int(pooled.shape[-1]),
        dtype=dtype,
        version=_version(),
    )
    predictor = Predictor(model, engine, batch_size)
    return FeatureNetwork(predictor, classifier.preprocessing, source)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _version() -> str:
    try:
        return importlib.metadata.version("resnext-keras")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"

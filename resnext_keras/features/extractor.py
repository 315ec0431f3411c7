"""A network that turns images into feature vectors, with its provenance."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pooch

from resnext_keras.classifier import load_classifier
from resnext_keras.features.loader import ImageFile, read_batches
from resnext_keras.features.parquet import Provenance
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.inference.predictor import Predictor
from resnext_keras.models.data_format import to_data_format
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import Checkpoint, resolve

Batch = tuple[list[ImageFile], np.ndarray]
"""Files, and the features of the files that are images."""


class Extractor:
    """A network without its classifier; it outputs the mean of its last feature maps.

    The arguments are those of `extract`; `calibrated` is the network in int8.

    Attributes:
        predictor: A `Predictor` for images from `preprocess_input`.
        preprocessing: How images are read for the network.
        provenance: The `Provenance` of the features.
    """

    def __init__(
        self,
        model: ResNeXtSpec | str | None = None,
        weights: str | os.PathLike | Checkpoint | None = None,
        *,
        dtype: str = "float32",
        engine: str = "auto",
        batch_size: int = 32,
        precision: str = "float32",
        calibrated: Path | None = None,
    ):
        checkpoint = resolve(weights, model)
        self.provenance = provenance_of(checkpoint, dtype, precision, calibrated)
        self.preprocessing = checkpoint.preprocessing
        if calibrated:
            self.predictor = Predictor(calibrated, engine, batch_size)
            return
        network = pooled_network(checkpoint)
        self.predictor = Predictor(network, engine, batch_size, precision=precision)
        if self.predictor.precision != precision:  # a worker on another machine
            raise ValueError(
                f"Expected fast {precision} on all machines. "
                f"Received: {self.predictor.precision} on {platform.node()!r}"
            )

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features, (batch, length), of images as from `read_image`, in the `dtype`.

        Raises:
            ValueError: A feature is NaN or infinite.
        """
        images = to_data_format(images)
        return self._features(
            preprocess_input(images, preprocessing=self.preprocessing)
        )

    def read(
        self, paths: Iterable[bytes], threads: int | None = None
    ) -> Iterator[Batch]:
        """Computes the features of files, a batch at a time, read by `threads`.

        Features in float32 are of the pixels of `read_image`. In other precisions large
        JPEGs are decoded with fewer pixels, as `read_rgb` does.

        Yields:
            The files of each batch, and the features of the files that are images.
        """
        size = self.predictor.batch_size
        exact = self.provenance.precision == "float32"
        batches = read_batches(paths, self.preprocessing, size, threads, exact)
        with contextlib.closing(batches):
            for files, images in batches:
                # TensorFlow rounds differently in a batch of one image. A row must not
                # depend on the images that are computed with it.
                rows = len(images)
                if 0 < rows < size:
                    padding = [(0, size - rows)] + [(0, 0)] * 3
                    images = np.pad(images, padding, mode="edge")
                yield files, self._features(images)[:rows]

    def _features(self, images: np.ndarray) -> np.ndarray:
        """Features of a batch from `preprocess_input`, which may be empty."""
        dtype = self.provenance.dtype
        if not len(images):
            return np.empty((0, self.provenance.length), dtype)
        with np.errstate(over="ignore"):  # becomes infinity, which is refused below
            features = self.predictor(images).astype(dtype)
        if not np.isfinite(features).all():
            wider = " (float32 has a wider range)" if dtype == "float16" else ""
            raise ValueError(
                f"Expected finite features in {dtype}{wider}. Received: NaN or "
                f"infinity from weights={self.provenance.weights!r}"
            )
        return features


def pooled_network(checkpoint: Checkpoint) -> keras.Model:
    """The network in float32, with the mean of its last feature maps."""
    maps = load_classifier(weights=checkpoint, include_top=False).model
    pooled = keras.layers.GlobalAveragePooling2D(name="avg_pool")(maps.output)
    return keras.Model(maps.input, pooled, name=maps.name)


def provenance_of(
    checkpoint: Checkpoint, dtype: str, precision: str, calibrated: Path | None = None
) -> Provenance:
    """The provenance of features of these weights, which are not downloaded."""
    file = None if checkpoint.weight_set else checkpoint.fetch()
    spec = checkpoint.spec
    return Provenance(
        architecture=spec.name,
        weights=os.path.abspath(file) if file else checkpoint.name,
        weights_sha256=pooch.file_hash(file, "sha256") if file else None,
        preprocessing=checkpoint.preprocessing.as_json(),
        pooling="avg",
        length=spec.widths(spec.stages[-1])[1],
        dtype=dtype,
        version=_version(),
        precision=precision,
        calibrated_sha256=calibrated and pooch.file_hash(calibrated, "sha256"),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("resnext-keras")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"

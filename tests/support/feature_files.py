"""Files of features for the tests of what reads them."""

import dataclasses

import numpy as np

from resnext_keras import preprocess_input
from resnext_keras.classifier import load_classifier
from resnext_keras.features.loader import ImageFile
from resnext_keras.features.parquet import Provenance, table_of, write_tables

DIGITS = Provenance(
    architecture="resnext11_8x4d",
    weights="resnext11_8x4d.digits",
    weights_sha256=None,
    preprocessing={
        "size": 32,
        "resize": [8, 32],
        "interpolation": "bilinear",
    },
    pooling="avg",
    length=1024,
    dtype="float32",
    version="0",
)


def write_features(path, features, paths=None, provenance=DIGITS):
    """Writes a file of vectors; returns its path."""
    features = np.asarray(features)
    count, length = features.shape
    paths = [f"{n}.png" for n in range(count)] if paths is None else list(paths)
    files = [ImageFile(str(path), "0" * 64, 8, 8, "") for path in paths]
    dtype = str(features.dtype)
    provenance = dataclasses.replace(provenance, length=length, dtype=dtype)
    # Two row groups, as of a file from two chunks.
    table = table_of(files, features, provenance)
    half = count // 2
    write_tables(path, provenance, [table.slice(0, half), table.slice(half)])
    return path


def pooled_features(files, weights="digits"):
    """The vectors of images, as Keras alone computes them."""
    network = load_classifier(weights=weights, include_top=False)
    images = np.stack([network.read(file) for file in files])
    maps = network.model.predict(preprocess_input(images), verbose=0)
    return maps.mean(axis=(1, 2))

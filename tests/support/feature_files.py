"""Files of features for the tests of what reads them."""

import dataclasses

import numpy as np

from resnext_keras import preprocess_input
from resnext_keras.classifier import load_classifier
from resnext_keras.features.parquet import Provenance, Rows, table_of, write_tables

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


def write_features(path, features, paths=None, source=DIGITS):
    """A file of vectors; gives its path."""
    features = np.asarray(features)
    count, length = features.shape
    paths = [f"{n}.png" for n in range(count)] if paths is None else list(paths)
    rows = Rows(
        list(map(str, paths)), ["0" * 64] * count, [8] * count, [8] * count, features
    )
    source = dataclasses.replace(source, length=length, dtype=str(features.dtype))
    # Two groups of rows, as of a file that was written in parts.
    table = table_of(rows, source)
    half = count // 2
    write_tables(path, source, [table.slice(0, half), table.slice(half)])
    return path


def pooled_features(files, weights=None):
    """The vectors of images, as Keras alone gives them."""
    network = load_classifier(weights=weights, include_top=False)
    images = np.stack([network.read(file) for file in files])
    maps = network.model.predict(preprocess_input(images), verbose=0)
    return maps.mean(axis=(1, 2))

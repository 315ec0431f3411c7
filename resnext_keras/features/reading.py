"""Picture files read in parallel, a batch ahead of the network."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnext_keras.features.listing import readable
from resnext_keras.layout import image_shape, in_layout
from resnext_keras.preprocessing import (
    ImageError,
    Preprocessing,
    preprocess_input,
    read_rgb,
    resize_and_crop,
)


@dataclass(frozen=True)
class PictureFile:
    """What is kept of a file beside its features.

    Attributes:
        path: Readable whatever the bytes of the name.
        sha256: Of the file's bytes, in hexadecimal.
        width: In pixels, of the upright picture.
        height: In pixels.
        reason: Why it is no picture; empty for one that is.
    """

    path: str
    sha256: str
    width: int
    height: int
    reason: str


def read_batches(
    paths: Iterable[bytes], preprocessing: Preprocessing, batch_size: int
) -> Iterator[tuple[list[PictureFile], np.ndarray]]:
    """Reads files on all cores, and some batches ahead of who takes them.

    Args:
        paths: The files, which may be more than memory could hold.
        preprocessing: How they are read.
        batch_size: Number of files of a batch; the last may be shorter.

    Yields:
        In the order of `paths` the files of a batch, and the images of those that
        are pictures, as `preprocess_input` gives them.
    """
    shape = image_shape(preprocessing.size, preprocessing.size)
    nothing = np.zeros(shape, "float32")

    def read(path):
        try:
            digest = hashlib.sha256()
            rgb = read_rgb(os.fsdecode(path), digest)
            pixels = resize_and_crop(rgb, preprocessing)
            image = preprocess_input(in_layout(pixels[np.newaxis]))[0]
            return image, digest.hexdigest(), *map(np.int32, rgb.size), ""
        except ImageError as error:
            found = error.__cause__  # the path has a column of its own
            own = isinstance(found, ImageError)
            reason = str(found) if own else f"{type(found).__name__}: {found}"
            reason = reason.encode("utf-8", "backslashreplace")
            return nothing, "", np.int32(0), np.int32(0), reason

    def read_in_graph(path):
        types = (tf.float32, tf.string, tf.int32, tf.int32, tf.string)
        image, *rest = tf.numpy_function(read, [path], types, stateful=False)
        return path, tf.ensure_shape(image, shape), *rest

    options = tf.data.Options()
    options.autotune.enabled = False  # which would let buffers grow
    batches = (
        tf.data.Dataset.from_generator(
            lambda: iter(paths), output_signature=tf.TensorSpec((), tf.string)
        )
        .map(read_in_graph, num_parallel_calls=os.cpu_count(), deterministic=True)
        .batch(batch_size)
        .prefetch(2)
        .with_options(options)
    )
    for names, images, *columns in batches.as_numpy_iterator():
        files = [
            PictureFile(
                readable(name), sha256.decode(), int(width), int(height), why.decode()
            )
            for name, sha256, width, height, why in zip(names, *columns, strict=True)
        ]
        good = [not file.reason for file in files]
        yield files, images if all(good) else images[good]

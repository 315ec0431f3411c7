"""Reads image files in threads, some batches ahead of the network."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import (
    ImageError,
    check_machine,
    read_rgb,
    resize_and_crop,
)
from resnext_keras.images.threads import AHEAD, in_threads
from resnext_keras.models.data_format import to_data_format


@dataclass(frozen=True)
class ImageFile:
    """A file that was read.

    Attributes:
        path: Path as text; bytes that are not UTF-8 are in hexadecimal.
        sha256: SHA-256 of the file, in hexadecimal.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        reason: Why the file could not be read as an image; empty for an image.
    """

    path: str
    sha256: str
    width: int
    height: int
    reason: str


def read_batches(
    paths: Iterable[bytes],
    preprocessing: Preprocessing,
    batch_size: int,
    threads: int | None = None,
    exact: bool = True,
) -> Iterator[tuple[list[ImageFile], np.ndarray]]:
    """Reads files in threads (None: one per core), some batches ahead of the consumer.

    The threads run in parallel, since Pillow, hashlib and NumPy release the GIL.
    `tf.data` would be 3 to 4 % slower, since it copies tensors in and out. The paths do
    not have to fit into memory. With `exact=False` large JPEGs are decoded with fewer
    pixels, as `read_rgb` does.

    Yields:
        The files of each batch, in the order of `paths`, and an array from
        `preprocess_input` of the files that are images.

    Raises:
        OSError: A disk, a network or the machine fails.
    """

    def read(path):
        return _read(path, preprocessing, exact)

    results = in_threads(read, paths, AHEAD * batch_size, threads)
    with contextlib.closing(results):
        while batch := list(itertools.islice(results, batch_size)):
            images = [image for _, image in batch if image is not None]
            shape = len(images), preprocessing.size, preprocessing.size, 3
            pixels = to_data_format(np.array(images, "uint8").reshape(shape))
            yield (
                [file for file, _ in batch],
                preprocess_input(pixels, preprocessing=preprocessing),
            )


def _read(
    path: bytes, preprocessing: Preprocessing, exact: bool
) -> tuple[ImageFile, np.ndarray | None]:
    digest, name = hashlib.sha256(), readable(path)
    short = None if exact else preprocessing.short_sides[0]
    try:
        rgb = read_rgb(os.fsdecode(path), digest, short)
    except ImageError as error:
        check_machine(error.__cause__, name, "continue with resume=True")
        return ImageFile(name, "", 0, 0, readable(error.reason)), None
    pixels = resize_and_crop(rgb, preprocessing)
    width, height = (side * rgb.info.get("divisor", 1) for side in rgb.size)
    return ImageFile(name, digest.hexdigest(), width, height, ""), pixels

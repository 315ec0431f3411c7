"""Image files read in parallel, some batches ahead of the network."""

import contextlib
import errno
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, read_rgb, resize_and_crop
from resnext_keras.models.data_format import to_data_format

AHEAD = 3  # batches that are read or being read, before they are asked for

OWN = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR),
        *(errno.EACCES, errno.EPERM, errno.ENXIO),
        *(errno.EINVAL, errno.EOVERFLOW),  # a place outside of all files
    )
)
"""What an `OSError` has as its `errno` where the fault is the file's own. With any
other a disk, a network or the machine fails, and would fail the next files too."""


@dataclass(frozen=True)
class ImageFile:
    """What is kept of a file beside its features.

    Attributes:
        path: Readable whatever the bytes of the name.
        sha256: Of the file's bytes, in hexadecimal.
        width: In pixels, of the upright image.
        height: In pixels.
        reason: Why it is no image, or may not be read; empty for one that is.
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
) -> Iterator[tuple[list[ImageFile], np.ndarray]]:
    """Reads files in parallel, and some batches ahead of who takes them.

    Threads do: Pillow, hashlib and NumPy let others work meanwhile. `tf.data`, whose
    tensors are copied in and out, costs the network 3 to 4 % of its speed more.

    Args:
        paths: The files, which may be more than memory could hold.
        preprocessing: How they are read.
        batch_size: Number of files of a batch; the last may be shorter.
        threads: Number of files that are read at once; None for that of the cores.

    Yields:
        In the order of `paths` the files of a batch, and the images of those that
        are images, as `preprocess_input` gives them.

    Raises:
        OSError: A file could not be read, by no fault of its own.
    """

    def read(path):
        return _read(path, preprocessing)

    results = in_threads(read, paths, AHEAD * batch_size, threads)
    with contextlib.closing(results):
        while batch := list(itertools.islice(results, batch_size)):
            images = [image for _, image in batch if image is not None]
            yield [file for file, _ in batch], np.stack(images) if images else _NONE


def in_threads(
    function: Callable, items: Iterable, ahead: int, threads: int | None = None
) -> Iterator:
    """The results of a function, some of them before they are asked for.

    Args:
        function: Of one item.
        items: Which may be more than memory could hold.
        ahead: Number of results that are there, or are being made.
        threads: That make them; None for the number of cores.

    Yields:
        The results in the order of the items.
    """
    items = iter(items)
    pool = ThreadPoolExecutor(threads or os.cpu_count(), "reading")
    try:
        waiting = deque(
            pool.submit(function, item) for item in itertools.islice(items, ahead)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting += (
                pool.submit(function, item) for item in itertools.islice(items, 1)
            )
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


_NONE = np.empty((0, 0, 0, 0), "float32")


def _read(
    path: bytes, preprocessing: Preprocessing
) -> tuple[ImageFile, np.ndarray | None]:
    digest, name = hashlib.sha256(), readable(path)
    try:
        rgb = read_rgb(os.fsdecode(path), digest)
    except ImageError as error:
        found = error.__cause__  # without the path, which has a column of its own
        own = isinstance(found, ImageError)
        reason = str(found) if own else f"{type(found).__name__}: {found}"
        if getattr(found, "errno", None) not in (None, *OWN):
            raise OSError(
                f"Expected that {name!r} can be read, or else is removed. "
                f"Found: {readable(reason)}. What is finished stays for resume=True."
            ) from error
        return ImageFile(name, "", 0, 0, readable(reason)), None
    pixels = resize_and_crop(rgb, preprocessing)
    image = preprocess_input(to_data_format(pixels[np.newaxis]))[0]
    return ImageFile(name, digest.hexdigest(), *rgb.size, ""), image

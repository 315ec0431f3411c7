"""The images of a data set and their classes, wherever they lie."""

import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from resnext_keras.images.decode import decode_image
from resnext_keras.images.listing import SUFFIXES, readable
from resnext_keras.training.data.dataset_types import (
    TRAINING,
    VALIDATION,
    ImageDataset,
    Layout,
    few,
)
from resnext_keras.training.data.image_folder import class_folders
from resnext_keras.training.data.tfds import prepared
from resnext_keras.training.data.tfrecord_files import record_files

NO_FORMAT = "no JPEG, PNG, BMP or WebP, or one of too many pixels or an absurd aspect"


def open_dataset(
    path: str | os.PathLike,
    validation_share: float = 0.2,
    seed: int = 0,
    keep: Callable[[ImageDataset], ImageDataset] = lambda dataset: dataset,
) -> tuple[ImageDataset, ImageDataset]:
    """The images of a data set to train on, and those to validate with.

    Args:
        path: A folder of class folders, each with its images, however deep in it; or
            of `train` and `val`, `validation` or `test` which are such. A directory
            prepared by TensorFlow Datasets. A folder of TFRecord files of
            `tf.train.Example` with `image/encoded` and `image/class/label`, or `image`
            and `label`, whose names tell the split; or one such file.
        validation_share: Between 0 and 1, the share of each class that is held out,
            at least one image, of a data set without a validation split.
        seed: Decides which images are held out, 0 to 2**32 - 1.
        keep: Takes out what is not to be used, before any is held out.

    Returns:
        The images of training and those of validation, of the same classes.

    Raises:
        ValueError: There is nothing to train on or to validate with there, an image
            is in no class, the splits have different classes, or a file is broken.
    """
    if not 0 < validation_share < 1:
        raise ValueError(
            "Expected `validation_share` to be between 0 and 1. "
            f"Received: validation_share={validation_share!r}"
        )
    if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
        raise ValueError(
            "Expected `seed` to be an integer from 0 to 2**32 - 1. "
            f"Received: seed={seed!r}"
        )
    layout = _find(path)
    training, validation = _first(layout, TRAINING), _first(layout, VALIDATION)
    if training is None and "" not in layout.splits:
        raise ValueError(
            f"Expected a split to train on ({' or '.join(TRAINING)}). Received: "
            f"{readable(layout.path)!r} with {few(layout.splits)}"
        )
    if validation is None:
        (whole,) = _opened(layout, training or "")
        _check(whole, layout.path)
        return _split(keep(whole), validation_share, seed)
    opened = _opened(layout, training, validation)
    _check(opened[0], layout.path)
    return keep(opened[0]), keep(opened[1])


def open_split(path: str | os.PathLike) -> ImageDataset:
    """The images of a data set to evaluate with.

    Args:
        path: As `open_dataset` takes it.

    Returns:
        The images of its validation split, and of a data set without one all.

    Raises:
        ValueError: There are none there, an image is in no class, or a file is broken.
    """
    layout = _find(path)
    split = _first(layout, VALIDATION) or _first(layout, TRAINING) or ""
    (dataset,) = _opened(layout, split)
    return dataset


def class_counts(dataset: ImageDataset) -> np.ndarray:
    """How many images each class has, int64 (classes,)."""
    # Not by name: two classes of ImageNet are called "crane".
    return np.bincount(dataset.labels, minlength=len(dataset.class_names))


def decodable(dataset: ImageDataset) -> tuple[ImageDataset, list[tuple[str, str]]]:
    """The images that can be decoded, after one pass over all that shows progress.

    Args:
        dataset: What may hold broken files.

    Returns:
        Those that can be decoded; and of each of the others name and reason.

    Raises:
        ValueError: None can be decoded, or none of a class that had some.
    """
    numbers = np.fromiter(_decoded(dataset), "int64")
    left_out = np.setdiff1d(np.arange(len(dataset)), numbers)
    if not len(left_out):
        return dataset, []
    reasons = [(dataset.names[n], _reason(dataset, n)) for n in left_out.tolist()]
    kept = dataset.subset(numbers)
    lost = (class_counts(dataset) > 0) & (class_counts(kept) == 0)
    if lost.any():
        raise ValueError(
            "Expected images that can be decoded in each class. Received: none in "
            f"{few(_named(dataset, lost))}; the first is {reasons[0][0]!r}: "
            f"{reasons[0][1]}"
        )
    return kept, reasons


def _find(path: str | os.PathLike) -> Layout:
    path = os.fsdecode(path)
    if not os.path.exists(path):
        raise ValueError(
            "Expected a folder of class folders, a directory of TensorFlow Datasets, "
            f"or TFRecord files. Received: {readable(path)!r}, which does not exist"
        )
    if os.path.isfile(path) and path.lower().endswith(SUFFIXES):
        raise ValueError(
            "Expected a folder of class folders, not one image. Received: "
            f"{readable(path)!r}"
        )
    try:
        found = (os.path.isdir(path) and prepared(path)) or record_files(path)
    except OSError as error:
        raise ValueError(
            "Expected a folder that can be listed. Received: "
            f"{readable(path)!r}: {error.strerror or error}"
        ) from error
    return found or class_folders(path)


def _first(layout: Layout, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in layout.splits), None)


def _opened(layout: Layout, *splits: str) -> tuple[ImageDataset, ...]:
    """Some splits of a data set, all with images."""
    known = {split: layout.splits[split] for split in splits if split in layout.splits}
    opened = layout.open(known) if len(known) == len(splits) else {}
    for split in splits:
        if not len(opened.get(split, ())):
            raise ValueError(
                f"Expected images in the split {split!r}. Received: "
                f"{readable(layout.path)!r}, where it has none"
            )
    return tuple(opened[split] for split in splits)


def _check(training: ImageDataset, path: str):
    """There is something to be learned from these images."""
    counts = class_counts(training)
    if np.count_nonzero(counts) < 2:
        raise ValueError(
            f"Expected images of two classes or more. Received: {readable(path)!r} "
            f"with images of {few(_named(training, counts > 0))} alone"
        )
    if len(counts) > len(training):
        raise ValueError(
            "Expected no more classes than images to train on. Received: "
            f"{readable(path)!r} with {len(counts)} classes of {len(training)} images"
        )


def _named(dataset: ImageDataset, is_meant: np.ndarray) -> list[str]:
    """The names of some classes."""
    names = zip(dataset.class_names, is_meant, strict=True)
    return [name for name, meant in names if meant]


def _split(
    whole: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    """Holds out the share of each class."""
    alone = class_counts(whole) == 1
    if alone.any():
        raise ValueError(
            "Expected two images or more of each class, since one is held out for "
            f"validation. Received: one image of {few(_named(whole, alone))}; add "
            "some, or remove the class"
        )
    # The one generator of NumPy of which every version draws the same: who goes on
    # with a run elsewhere must not validate with what it has learned.
    draw = np.random.RandomState(seed)
    order = np.argsort(whole.labels, kind="stable")
    held_out = np.zeros(len(whole), bool)
    for of_class in np.split(order, np.cumsum(np.bincount(whole.labels))[:-1]):
        if len(of_class):
            count = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
            held_out[draw.permutation(of_class)[:count]] = True
    return whole.subset(np.flatnonzero(~held_out)), whole.subset(
        np.flatnonzero(held_out)
    )


def _decoded(dataset: ImageDataset) -> Iterator[int]:
    """Numbers of the images that training can decode."""

    def pixels(number):
        return number, tf.size(decode_image(dataset.read(number)), tf.int64)

    data = tf.data.Dataset.range(len(dataset))
    data = data.map(pixels, tf.data.AUTOTUNE, deterministic=True).ignore_errors()
    bar = tqdm(
        desc="looking at the images",
        total=len(dataset),
        unit=" images",
        disable=None,
        leave=False,
    )
    with bar:
        for numbers, sizes in data.batch(64).prefetch(1).as_numpy_iterator():
            yield from numbers[sizes > 0].tolist()
            bar.update(int(numbers[-1]) + 1 - bar.n)


def _reason(dataset: ImageDataset, number: int) -> str:
    try:
        contents = dataset.read(tf.constant(number, tf.int64))
        if not tf.strings.length(contents):
            return "an empty file"
        decode_image(contents)
    except (tf.errors.OpError, ValueError) as error:
        message = str(getattr(error, "message", error))
        message = re.sub(r"\{\{.*?\}\} *", "", message).partition("[Op:")[0]
        return readable(" ".join(message.split()))
    return NO_FORMAT

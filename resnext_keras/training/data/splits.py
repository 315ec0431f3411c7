"""Opens data sets in any of the supported formats, and holds out validation images."""

import os
from collections.abc import Callable

import numpy as np

from resnext_keras.arguments import few
from resnext_keras.images.listing import SUFFIXES, readable
from resnext_keras.images.read import ImageError
from resnext_keras.images.threads import in_threads
from resnext_keras.progress import tracked
from resnext_keras.training.data.csv_file import find_csv
from resnext_keras.training.data.dataset import (
    TRAINING,
    VALIDATION,
    ImageDataset,
    Layout,
)
from resnext_keras.training.data.image_folder import find_image_folder
from resnext_keras.training.data.tfds import find_tfds
from resnext_keras.training.data.tfrecord import find_tfrecords


def open_dataset(
    path: str | os.PathLike,
    validation_split: float = 0.2,
    seed: int = 0,
    keep: Callable[[ImageDataset], ImageDataset] = lambda dataset: dataset,
) -> tuple[ImageDataset, ImageDataset]:
    """Opens a data set, and splits it into training and validation images.

    Args:
        path: The data set, see `train`.
        validation_split: Share of each class to validate on, at least one image, if
            the data set has no validation split; between 0 and 1.
        seed: Seed of that split, 0 to 2**32 - 1.
        keep: Function that removes images that cannot be used, before the split.

    Returns:
        The images to train on and those to validate on, with the same classes.

    Raises:
        ValueError: There are no images to train on or to validate on, an image has no
            class, the splits have different classes, or a file is broken.
    """
    opened = open_splits(path)
    if len(opened) == 1:
        _check_pairs(*opened)
    kept = [keep(dataset) for dataset in opened]
    return tuple(kept) if len(kept) == 2 else _split(*kept, validation_split, seed)


def open_splits(path: str | os.PathLike) -> tuple[ImageDataset, ...]:
    """Opens the images to train on and those to validate on, with the same classes.

    A data set without a validation split gives only the first. For arguments and errors
    see `open_dataset`.
    """
    layout = _find(path)
    training, validation = _first(layout, TRAINING), _first(layout, VALIDATION)
    if training is None and "" not in layout.splits:
        raise ValueError(
            f"Expected a split to train on ({' or '.join(TRAINING)}). Received: "
            f"{readable(layout.path)!r} with {few(layout.splits)}"
        )
    splits = [training or ""] if validation is None else [training, validation]
    opened = _opened(layout, *splits)
    _check_classes(opened[0], layout.path)
    return opened


def open_split(path: str | os.PathLike) -> ImageDataset:
    """Opens the validation split of a data set, or all images if it has none.

    Raises:
        ValueError: There are no images, an image has no class, or a file is broken.
    """
    layout = _find(path)
    split = _first(layout, VALIDATION) or _first(layout, TRAINING) or ""
    (dataset,) = _opened(layout, split)
    return dataset


def decodable(dataset: ImageDataset) -> tuple[ImageDataset, list[tuple[str, str]]]:
    """Decodes all images once, with a progress bar.

    Returns:
        The images that can be decoded; and name and reason of each of the others.

    Raises:
        ValueError: No image can be decoded, or none of a class.
        OSError: A disk, a network or the machine has failed.
    """

    def reason(number):
        try:
            dataset.image(number)
        except ImageError as error:
            return readable(error.reason)

    results = in_threads(reason, range(len(dataset)), ahead=64)
    results = tracked(results, "checking the images", total=len(dataset))
    broken = {number: reason for number, reason in enumerate(results) if reason}
    if not broken:
        return dataset, []
    reasons = [(dataset.names[number], reason) for number, reason in broken.items()]
    kept = dataset.subset(np.setdiff1d(np.arange(len(dataset)), list(broken)))
    empty = (dataset.class_counts() > 0) & (kept.class_counts() == 0)
    if empty.any():
        has_empty = dataset.soft_labels(list(broken)) @ empty > 0
        name, reason = reasons[np.flatnonzero(has_empty)[0]]
        raise ValueError(
            "Expected each class to have an image that can be decoded. Received: none "
            f"in {few(_selected(dataset, empty))}; the first is {name!r}: {reason}"
        )
    return kept, reasons


def _find(path: str | os.PathLike) -> Layout:
    path = os.fsdecode(path)
    if not os.path.exists(path):
        raise ValueError(
            "Expected an image folder, a CSV file, a TFDS directory or TFRecord files. "
            f"Received: {readable(path)!r}, which does not exist"
        )
    if os.path.isfile(path) and path.lower().endswith(SUFFIXES):
        raise ValueError(
            f"Expected an image folder, not one image. Received: {readable(path)!r}"
        )
    if layout := find_csv(path):
        return layout
    try:
        layout = (os.path.isdir(path) and find_tfds(path)) or find_tfrecords(path)
    except OSError as error:
        raise ValueError(
            "Expected a folder that can be listed. Received: "
            f"{readable(path)!r}: {error.strerror or error}"
        ) from error
    return layout or find_image_folder(path)


def _first(layout: Layout, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in layout.splits), None)


def _opened(layout: Layout, *splits: str) -> tuple[ImageDataset, ...]:
    """The images of some splits; a split without images is an error."""
    known = {split: layout.splits[split] for split in splits if split in layout.splits}
    opened = layout.open(known) if len(known) == len(splits) else {}
    for split in splits:
        if not len(opened.get(split, ())):
            raise ValueError(
                f"Expected images in the split {split!r}. Received: "
                f"{readable(layout.path)!r}, where it has none"
            )
    return tuple(opened[split] for split in splits)


def _check_classes(training: ImageDataset, path: str) -> None:
    """Raises a `ValueError` unless there are at least two classes to learn."""
    counts = training.class_counts()
    if np.count_nonzero(counts) < 2:
        raise ValueError(
            f"Expected images of two classes or more. Received: {readable(path)!r} "
            f"with images of {few(_selected(training, counts > 0)) or 'no class'} only"
        )
    if training.is_multi_label and not counts.all():
        raise ValueError(
            f"Expected images of each class. Received: {readable(path)!r} without one "
            f"of {few(_selected(training, counts == 0))}; add some, or remove the class"
        )
    if len(counts) > len(training):
        raise ValueError(
            "Expected no more classes than images to train on. Received: "
            f"{readable(path)!r} with {len(counts)} classes of {len(training)} images"
        )


def _selected(dataset: ImageDataset, selected: np.ndarray) -> list[str]:
    """The names of the selected classes."""
    names = zip(dataset.class_names, selected, strict=True)
    return [name for name, is_selected in names if is_selected]


def _check_pairs(whole: ImageDataset) -> None:
    """Raises a `ValueError` if a class has one image, so none to hold out."""
    single = whole.class_counts() == 1
    if single.any():
        raise ValueError(
            "Expected two images or more of each class, since one is held out for "
            f"validation. Received: one image of {few(_selected(whole, single))}; add "
            "some, or remove the class"
        )


def _split(
    whole: ImageDataset, share: float, seed: int
) -> tuple[ImageDataset, ImageDataset]:
    """Holds out a share of each class for validation."""
    _check_pairs(whole)  # again, since broken images were removed
    # The only generator of NumPy that draws the same numbers in every version: a run
    # that is resumed elsewhere must not validate on its training images.
    draw = np.random.RandomState(seed)
    held_out = np.zeros(len(whole), bool)
    if whole.is_multi_label:
        held_out = _hold_out(whole.labels, share, draw)
    else:
        order = np.argsort(whole.labels, kind="stable")
        for of_class in np.split(order, np.cumsum(np.bincount(whole.labels))[:-1]):
            if count := len(of_class):
                held_out[draw.permutation(of_class)[: _part(share, count)]] = True
    training, validation = (np.flatnonzero(mask) for mask in (~held_out, held_out))
    return whole.subset(training), whole.subset(validation)


def _part(share: float, count: int) -> int:
    """The number of images to hold out of `count`, such that both parts have one."""
    return min(max(round(share * count), 1), count - 1)


def _hold_out(labels: np.ndarray, share: float, draw) -> np.ndarray:
    """Which images of a multi-label data set to hold out, bool (n,).

    As Sechidis et al., "On the Stratification of Multi-Label Data", 2011, it holds out
    the share of the rarest class first, since later ones have other images to choose
    from. Each class keeps an image to train on.
    """
    held_out, is_free = np.zeros(len(labels), bool), np.ones(len(labels), bool)
    classes = np.argsort(labels.sum(axis=0), kind="stable")
    # At the end come all images, for those without a class.
    for members in (*labels.T[classes], np.ones(len(labels), bool)):
        missing = _part(share, members.sum()) - (held_out & members).sum()
        free = draw.permutation(np.flatnonzero(members & is_free))
        held_out[free[: max(missing, 0)]] = True
        is_free &= ~members
    for number in np.flatnonzero(~labels[~held_out].any(axis=0)):
        held_out[np.flatnonzero(labels[:, number])[0]] = False
    return held_out

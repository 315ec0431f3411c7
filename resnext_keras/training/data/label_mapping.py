"""Maps the classes of a data set to those of a network."""

import csv
import os
import re
from dataclasses import replace
from importlib import resources

import numpy as np

from resnext_keras.arguments import few
from resnext_keras.images.labels import (
    class_names,
    class_number,
    class_spellings,
    wordnet_ids,
)
from resnext_keras.images.listing import SUFFIXES, readable
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.data.image_folder import files_dataset, images_within

VALIDATION_LABELS = resources.files("resnext_keras") / "data/imagenet_validation.npz"

_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def map_labels(
    dataset: ImageDataset, names: tuple[str, ...]
) -> tuple[ImageDataset, str]:
    """Maps the labels of a data set to the classes of a network.

    Args:
        dataset: The images.
        names: Class names of the network, in the order of its outputs.

    Returns:
        The images with the network's classes, and how these were matched:
        `"by names"`, `"by WordNet ids"` or `"by numbers"` (from 0).

    Raises:
        ValueError: A class with images is not a class of the network, or is ambiguous.
    """
    if dataset.class_names == names:  # even if two classes have the same name
        return dataset, "by names"
    counts = dataset.class_counts()
    used = [dataset.class_names[n] for n in np.flatnonzero(counts).tolist()]
    unknown = {}
    for kind, spellings in class_spellings(names).items():
        found = {name: class_number(name, [spellings]) for name in used}
        unknown[kind] = [name for name, number in found.items() if number is None]
        if not unknown[kind]:
            # Classes without images may have any name.
            numbers = [found.get(name, -1) for name in dataset.class_names]
            labels = _renumbered(dataset, np.array(numbers, "int32"), len(names))
            return replace(dataset, class_names=names, labels=labels), f"by {kind}"
    raise ValueError(
        f"Expected classes of the network, which has {len(names)}: {few(names)}. "
        f"Received: {len(dataset.class_names)} classes, of these unknown: "
        f"{few(min(unknown.values(), key=len))}; rename or remove them"
    )


def _renumbered(dataset: ImageDataset, numbers: np.ndarray, classes: int) -> np.ndarray:
    """The labels by new numbers of the classes, -1 for a class without images."""
    if not dataset.is_multi_label:
        return numbers[dataset.labels]
    labels = np.zeros((len(dataset), classes), bool)
    for column, number in zip(dataset.labels.T, numbers, strict=True):
        if number >= 0:
            labels[:, number] |= column
    return labels


def flat_images(
    folder: str | os.PathLike, labels: str | os.PathLike | None, names: tuple[str, ...]
) -> tuple[ImageDataset, str]:
    """Opens images in one folder, of all classes.

    Args:
        folder: The folder of the images.
        labels: A CSV file, with or without a header. Each line has the name of an image
            and its class: a name, a WordNet id or a number from 0. None for images
            with the names of ILSVRC2012's validation set; their classes are known.
        names: Class names of the network.

    Returns:
        The images with the network's classes, and how these were matched:
        `"by the names of ILSVRC2012"` or by the name of the file.

    Raises:
        ValueError: The file does not match the images or the classes.
    """
    if not os.path.isdir(folder):
        raise ValueError(
            f"Expected a folder of images that exists. Received: {readable(folder)!r}"
        )
    paths = images_within(folder)
    if labels is None:
        source, classes = "the names of ILSVRC2012", _validation_classes(paths, names)
    else:
        source, classes = readable(labels), _csv_classes(labels, paths, names)
    # A file without a class and without the ending of an image is something else.
    known = [
        (path, number)
        for path, number in zip(paths, classes, strict=True)
        if number is not None or _name(path).lower().endswith(SUFFIXES)
    ]
    if missing := [_name(path) for path, number in known if number is None]:
        raise ValueError(
            "Expected the class of each image: an image folder, names as in "
            "ILSVRC2012_val_00000001.JPEG, or a file of labels with a line for each. "
            f"Received: none for {few(missing)} in {source!r}"
        )
    if not known:
        raise ValueError(f"Expected images. Received: none in {readable(folder)!r}")
    paths, numbers = zip(*known, strict=True)
    return files_dataset(paths, np.array(numbers, "int32"), names), f"by {source}"


def is_flat(folder: str | os.PathLike) -> bool:
    """Whether a folder holds images with the names of ILSVRC2012's validation set."""
    with os.scandir(folder) as entries:
        return any(_VALIDATION_NAME.match(entry.name) for entry in entries)


def _validation_classes(paths, names) -> list[int | None]:
    # A network trained on folders with WordNet ids as names has its classes in the same
    # order.
    if names not in (class_names("imagenet"), wordnet_ids()):
        raise ValueError(
            "Expected a network of ImageNet's classes for images with the names of "
            f"ILSVRC2012. Received: a network of {len(names)} classes: {few(names)}; "
            "give a file of labels, or make an image folder"
        )
    with VALIDATION_LABELS.open("rb") as file, np.load(file) as data:
        labels = data["labels"].tolist()
    known = {}
    for path in paths:
        match = _VALIDATION_NAME.match(_name(path))
        if match and 1 <= int(match[1]) <= len(labels):
            known[path] = labels[int(match[1]) - 1]
    return [known.get(path) for path in paths]


def _csv_classes(labels, paths, names) -> list[int | None]:
    spellings = class_spellings(names).values()
    classes = {}
    for line, row in enumerate(_rows(labels)):
        number = class_number(row[-1], spellings)
        if number is not None:
            classes[row[0].strip()] = number
        elif line > 0:  # the first may be a header
            raise ValueError(
                f"Expected a class of the network, such as {few(names)}. Received: "
                f"{row[-1]!r} in the line {','.join(row)!r} of {readable(labels)!r}"
            )
    return [classes.get(_name(p), classes.get(_stem(p))) for p in paths]


def _name(path: bytes) -> str:
    return readable(os.path.basename(path))


def _stem(path: bytes) -> str:
    return _name(path).rpartition(".")[0]


def _rows(labels) -> list[list[str]]:
    try:
        with open(labels, newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            "Expected a CSV file with a line for each image. Received: "
            f"{readable(labels)!r}: {error}"
        ) from error

"""Which class of a network each picture of a data set is of."""

import csv
import os
import re
from importlib import resources

import numpy as np

from resnext_keras.features.listing import list_pictures, readable
from resnext_keras.labels import class_names, wordnet_ids
from resnext_keras.training.class_folders import of_files
from resnext_keras.training.picture_set import Pictures, few

VALIDATION_LABELS = resources.files("resnext_keras") / "data/imagenet_validation.npz"

_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def relabelled(pictures: Pictures, names: tuple[str, ...]) -> tuple[Pictures, str]:
    """Pictures whose labels are the classes of a network.

    Args:
        pictures: With classes as the data set names them.
        names: Of the network's classes, in the order of its outputs.

    Returns:
        The pictures, and in a few words how the two were brought together: by the
        names of the classes, by their WordNet ids, by their numbers, or, where none
        of those fits, in the order of their names if they are as many.

    Raises:
        ValueError: They cannot be; the message says what a class would be called.
    """
    for kind, known in _spellings(names).items():
        numbers = [known.get(name.lower()) for name in pictures.class_names]
        if None not in numbers:
            return _with_classes(pictures, np.array(numbers), names), kind
    if len(pictures.class_names) == len(names):
        order = np.arange(len(names))
        return _with_classes(pictures, order, names), "in the order of the names"
    unknown = [
        name
        for name in pictures.class_names
        if name.lower() not in _all_spellings(names)
    ]
    raise ValueError(
        f"Expected classes of the network, which has {len(names)}: {few(names)}. "
        f"Received: {len(pictures.class_names)} classes, of which it does not know "
        f"{few(unknown)}"
    )


def _spellings(names) -> dict[str, dict[str, int]]:
    spellings = {"names": names, "numbers": map(str, range(len(names)))}
    if names == class_names("imagenet"):
        spellings["WordNet ids"] = wordnet_ids()
    return {
        f"by {kind}": {name.lower(): number for number, name in enumerate(spelt)}
        for kind, spelt in spellings.items()
    }


def _all_spellings(names) -> set[str]:
    return set().union(*_spellings(names).values())


def _with_classes(pictures, numbers, names) -> Pictures:
    return Pictures(
        names, numbers[pictures.labels].astype("int32"), pictures.names, pictures.read
    )


def flat_pictures(
    folder: str | os.PathLike, labels: str | os.PathLike | None, names: tuple[str, ...]
) -> Pictures:
    """The pictures in a folder that has no class folders.

    Args:
        folder: Of the pictures.
        labels: A file of ground truth. A line for each picture, in the order of their
            names: a class, by name, WordNet id or number from 0; or in the form of
            CSV the name of a picture and its class. The file of ILSVRC2012, whose
            numbers are from 1 to 1000 and in an order of their own, is known by its
            50,000 lines. None for pictures named as those of its validation set,
            whose classes are known.
        names: Of the network's classes.

    Raises:
        ValueError: The file does not fit the pictures, or names no class.
    """
    paths, problems = [], []
    for path, problem in list_pictures([folder]):
        (problems if problem else paths).append(path)
    if not paths:
        raise ValueError(f"Expected pictures. Received: none in {os.fspath(folder)!r}")
    if labels is None:
        classes = [_of_validation(path) for path in paths]
    else:
        classes = _read_labels(labels, paths, names)
    return of_files(paths, np.array(classes, "int32"), names)


def is_flat(folder: str | os.PathLike) -> bool:
    """Whether a folder holds pictures named as those of ILSVRC2012's validation set."""
    with os.scandir(folder) as entries:
        return any(_VALIDATION_NAME.match(entry.name) for entry in entries)


def _validation_labels() -> np.ndarray:
    with VALIDATION_LABELS.open("rb") as file, np.load(file) as data:
        return data["labels"]


def _of_validation(path) -> int:
    found = _VALIDATION_NAME.match(os.path.basename(path))
    truth = _validation_labels()
    number = int(found[1]) if found else 0
    if not 1 <= number <= len(truth):
        raise ValueError(
            "Expected pictures in class folders, or a file of labels, or names as in "
            f"ILSVRC2012_val_00000001.JPEG. Received: {readable(path)!r}"
        )
    return int(truth[number - 1])


def _read_labels(labels, paths, names) -> list[int]:
    with open(labels, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) == len(paths) == len(_validation_labels()) and all(
        len(row) == 1 and row[0].isdecimal() for row in rows
    ):
        return _of_ilsvrc([int(row[0]) for row in rows], labels)
    by_name = len(rows[0]) == 2 if rows else False
    if len(rows) != len(paths):
        raise ValueError(
            f"Expected a line for each of {len(paths)} pictures. Received: {len(rows)} "
            f"lines in {os.fspath(labels)!r}"
        )
    known = {}
    for spelt in _spellings(names).values():
        known |= {name: number for name, number in spelt.items() if name not in known}
    classes = {}
    for line, row in enumerate(rows, 1):
        label = row[-1].strip().lower()
        if label not in known:
            raise ValueError(
                f"Expected a class of the network, such as {few(names)}. Received: "
                f"{row[-1]!r} in line {line} of {os.fspath(labels)!r}"
            )
        classes[row[0] if by_name else line] = known[label]
    if not by_name:
        return list(classes.values())
    missing = [path for path in paths if os.path.basename(path) not in classes]
    if missing:
        raise ValueError(
            f"Expected a line for each picture. Received: none for {few(missing)} in "
            f"{os.fspath(labels)!r}"
        )
    return [classes[os.path.basename(path)] for path in paths]


def _of_ilsvrc(ids: list[int], labels) -> list[int]:
    """Classes of ILSVRC's own numbers, which its 50,000 pictures tell."""
    truth = _validation_labels().tolist()
    meaning = dict(zip(ids, truth, strict=True))
    classes = [meaning[number] for number in ids]
    if classes != truth:
        raise ValueError(
            "Expected the ground truth of ILSVRC2012's validation set, since it has "
            f"50,000 lines. Received: other numbers in {os.fspath(labels)!r}"
        )
    return truth

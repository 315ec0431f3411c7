"""Which class of a network each image of a data set is of."""

import csv
import functools
import os
import re
from importlib import resources

import numpy as np

from resnext_keras.images.labels import class_names, wordnet_ids
from resnext_keras.images.listing import readable
from resnext_keras.training.data.dataset_types import ImageDataset, few
from resnext_keras.training.data.image_folder import images_within, of_files

VALIDATION_LABELS = resources.files("resnext_keras") / "data/imagenet_validation.npz"

_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def relabelled(
    dataset: ImageDataset, names: tuple[str, ...]
) -> tuple[ImageDataset, str]:
    """Images whose labels are the classes of a network.

    Args:
        dataset: With classes as the data set names them.
        names: Of the network's classes, in the order of its outputs.

    Returns:
        The images, and in a few words how the two were brought together: by the
        names of the classes, by their WordNet ids, by their numbers, from 1 where
        they are all of 1 to as many as there are, or, where not one of them is known
        and they are as many, in the order of their names.

    Raises:
        ValueError: They cannot be; the message says what a class would be called.
    """
    given = {n: dataset.class_names[n] for n in np.unique(dataset.labels).tolist()}
    order = np.arange(len(names), dtype="int32")
    if dataset.class_names == tuple(map(str, order + 1)):
        return _with_classes(dataset, order, names), "by numbers from 1"
    numbers = np.zeros(len(dataset.class_names), "int32")
    unknown = {}
    for kind, spelling in _spellings(names).items():
        unknown[kind] = [n for n in given.values() if not spelling.classes(n)]
        if not unknown[kind]:
            for place, name in given.items():
                numbers[place] = spelling.number(name, place)
            return _with_classes(dataset, numbers, names), f"by {kind}"
    if len(dataset.class_names) == len(names) and all(
        len(some) == len(given) for some in unknown.values()
    ):
        return _with_classes(dataset, order, names), "in the order of the names"
    raise ValueError(
        f"Expected classes of the network, which has {len(names)}: {few(names)}. "
        f"Received: {len(dataset.class_names)} classes, of which it does not know "
        f"{few(min(unknown.values(), key=len))}; rename their folders, or take them out"
    )


class _Spelling:
    """One way to write the classes of a network."""

    def __init__(self, spelt):
        self._exact, self._loose = {}, {}
        for number, name in enumerate(spelt):
            self._exact.setdefault(name, []).append(number)
            self._loose.setdefault(self._loosely(name), []).append(number)

    @staticmethod
    def _loosely(name: str) -> str:
        """What "Great white shark, man-eater" and "great_white_shark" share."""
        return name.partition(",")[0].strip().lower().replace(" ", "_")

    def classes(self, name: str) -> list[int]:
        """Those that it may stand for; more than one where some have the same name."""
        return self._exact.get(name) or self._loose.get(self._loosely(name), [])

    def number(self, name: str, place: int | None = None) -> int | None:
        """The class that it stands for, of several that at its place in a list.

        Raises:
            ValueError: It stands for several.
        """
        found = self.classes(name)
        if len(found) > 1 and place not in found:
            raise ValueError(
                "Expected names that stand for one class. Received: "
                f"{name!r}, which classes {found} of the network are called; give "
                "their numbers"
            )
        return place if len(found) > 1 else next(iter(found), None)


def _spellings(names) -> dict[str, _Spelling]:
    spellings = {"names": names, "numbers": map(str, range(len(names)))}
    if names == class_names("imagenet"):
        spellings["WordNet ids"] = wordnet_ids()
    return {kind: _Spelling(spelt) for kind, spelt in spellings.items()}


def _with_classes(dataset, numbers, names) -> ImageDataset:
    return ImageDataset(names, numbers[dataset.labels], dataset.names, dataset.read)


def flat_images(
    folder: str | os.PathLike, labels: str | os.PathLike | None, names: tuple[str, ...]
) -> ImageDataset:
    """The images in a folder that has no class folders.

    Args:
        folder: Of the images.
        labels: A file of ground truth. A line for each image, in the order of their
            names: a class, by name, WordNet id or number from 0; or in the form of
            CSV the name of an image and its class, with or without a line of heads.
            Of ILSVRC2012, for networks of its classes, the file of 50,000 lines whose
            numbers are from 1 to 1000 and in an order of their own; and Kaggle's
            `LOC_val_solution.csv`, with boxes behind the class. None for images
            named as those of its validation set, whose classes are known.
        names: Of the network's classes.

    Raises:
        ValueError: The file does not fit the images, or names no class.
    """
    paths = images_within(folder)
    if not paths:
        raise ValueError(f"Expected images. Received: none in {readable(folder)!r}")
    if labels is None:
        classes = _of_validation(paths, names)
    else:
        classes = _read_labels(labels, paths, names)
    return of_files(paths, np.array(classes, "int32"), names)


def is_flat(folder: str | os.PathLike) -> bool:
    """Whether a folder holds images named as those of ILSVRC2012's validation set."""
    with os.scandir(folder) as entries:
        return any(_VALIDATION_NAME.match(entry.name) for entry in entries)


@functools.cache
def _validation_labels() -> tuple[int, ...]:
    with VALIDATION_LABELS.open("rb") as file, np.load(file) as data:
        return tuple(data["labels"].tolist())


def _is_imagenet(names) -> bool:
    # A run on folders that are named by WordNet ids has the same order.
    return names in (class_names("imagenet"), wordnet_ids())


def _of_validation(paths, names) -> list[int]:
    if not _is_imagenet(names):
        raise ValueError(
            "Expected a network of ImageNet's classes for images that are named as "
            f"those of ILSVRC2012. Received: a network of {len(names)} classes: "
            f"{few(names)}; give a file of labels, or put them into class folders"
        )
    truth, classes = _validation_labels(), []
    for path in paths:
        found = _VALIDATION_NAME.match(_name(path))
        number = int(found[1]) if found else 0
        if not 1 <= number <= len(truth):
            raise ValueError(
                "Expected images in class folders, or a file of labels, or names as "
                f"in ILSVRC2012_val_00000001.JPEG. Received: {readable(path)!r}"
            )
        classes.append(truth[number - 1])
    return classes


def _name(path: bytes) -> str:
    return readable(os.path.basename(path))


def _read_labels(labels, paths, names) -> list[int]:
    rows = _rows(labels)
    if (
        _is_imagenet(names)
        and len(rows) == len(paths) == len(_validation_labels())
        and all(len(row) == 1 and row[0].isdecimal() for row in rows)
    ):
        return _of_ilsvrc([int(row[0]) for row in rows], labels)
    known = [*_spellings(names).values()]
    if len(rows) == len(paths) + 1 and _class_of(rows[0], known) is None:
        rows = rows[1:]  # after the heads
    if len(rows) != len(paths):
        raise ValueError(
            f"Expected a line for each of {len(paths)} images. Received: {len(rows)} "
            f"lines in {readable(labels)!r}"
        )
    classes = []
    for row in rows:
        classes.append(_class_of(row, known))
        if classes[-1] is None:
            raise ValueError(
                f"Expected a class of the network, such as {few(names)}. Received: "
                f"{row[-1]!r} in the line {','.join(row)!r} of {readable(labels)!r}"
            )
    if all(len(row) == 1 for row in rows):
        return classes
    by_name = {
        row[0].strip(): number for row, number in zip(rows, classes, strict=True)
    }
    found = [by_name.get(_name(path), by_name.get(_stem(path))) for path in paths]
    if None in found:
        missing = [
            _name(path) for path, n in zip(paths, found, strict=True) if n is None
        ]
        raise ValueError(
            f"Expected a line for each image. Received: none for {few(missing)} in "
            f"{readable(labels)!r}"
        )
    return found


def _stem(path: bytes) -> str:
    return _name(path).rpartition(".")[0]


def _rows(labels) -> list[list[str]]:
    try:
        with open(labels, newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            "Expected a file of labels, text with a line for each image. Received: "
            f"{readable(labels)!r}: {error}"
        ) from error


def _class_of(row: list[str], spellings: list[_Spelling]) -> int | None:
    """The class that a line names, before boxes too if there are any."""
    label = row[-1].strip()
    first, *boxes = label.split() or [""]
    is_box = len(boxes) >= 4 and all(word.isalnum() for word in boxes)
    for name in (label, first) if is_box else (label,):
        for spelling in spellings:
            if (number := spelling.number(name)) is not None:
                return number
    return None


def _of_ilsvrc(ids: list[int], labels) -> list[int]:
    """Classes of ILSVRC's own numbers, which its 50,000 images tell."""
    truth = _validation_labels()
    meaning = dict(zip(ids, truth, strict=True))
    classes = [meaning[number] for number in ids]
    if tuple(classes) != truth:
        raise ValueError(
            "Expected the ground truth of ILSVRC2012's validation set, since it has "
            f"50,000 lines. Received: other numbers in {readable(labels)!r}"
        )
    return classes

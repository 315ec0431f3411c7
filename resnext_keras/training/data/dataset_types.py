"""What a data set is to training and evaluation: encoded images with classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class ImageDataset:
    """Encoded images of one split, each in one class.

    Attributes:
        class_names: Name of each class.
        labels: int32 (n,), each image's class.
        names: What each image is called in messages: a path, or a record's file
            and number.
        read: From an image's number, a scalar int64 tensor, to its encoded bytes,
            a scalar string tensor; in a graph of `tf.data`.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    read: Callable

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, numbers: np.ndarray) -> "ImageDataset":
        """Some of the images, in the order of their numbers as given."""
        numbers = np.asarray(numbers, "int64")
        chosen = tf.constant(numbers)
        return replace(
            self,
            labels=self.labels[numbers],
            names=Names(lambda index: self.names[numbers[index]], len(numbers)),
            read=lambda index: self.read(tf.gather(chosen, index)),
        )


class Names(Sequence):
    """Names that are made when they are asked for: a million take no memory."""

    def __init__(self, name: Callable[[int], str], count: int):
        self._name, self._count = name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        numbers = range(self._count)[index]
        if isinstance(index, slice):
            return [self._name(number) for number in numbers]
        return self._name(numbers)


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, before its images are looked at.

    Attributes:
        path: Of the whole, for messages.
        splits: What each split consists of, by its name as in `SPLITS`; of a data
            set that is in one piece there is one, of the name "".
        open: From some of `splits` to their images, whose classes are the same.
    """

    path: str
    splits: dict
    open: Callable[[dict], dict[str, ImageDataset]]


TRAINING = ("train", "training")
VALIDATION = ("validation", "val", "valid", "test")  # the first there is is taken
SPLITS = TRAINING + VALIDATION


def few(names, most: int = 3) -> str:
    """The first of some names, for a message, and how many there are."""
    names = list(names)
    listed = ", ".join(map(repr, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"

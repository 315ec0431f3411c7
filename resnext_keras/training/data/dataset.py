"""Images with classes, before and after their files are opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import Image

from resnext_keras.images.read import (
    ImageError,
    check_machine,
    decode_rgb,
    reason_of,
)

TRAINING = ("train", "training")
VALIDATION = ("validation", "val", "valid", "test")  # the first that exists is used
SPLITS = TRAINING + VALIDATION


@dataclass(frozen=True)
class ImageDataset:
    """The encoded images of one split and their classes.

    Attributes:
        class_names: Name of each class.
        labels: int32 (n,), the class of each image. Of a multi-label data set bool (n,
            classes), whether each image has each class; it may have none or several.
        names: Name of each image for messages: its path, or the file and number of
            its record.
        open: Function from the number of an image to its file, open for reading.
        is_binary: Whether a network gives one score, a sigmoid, for the second of two
            classes.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    open: Callable[[int], BinaryIO]
    is_binary: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have no class or several."""
        return self.labels.ndim == 2

    @property
    def outputs(self) -> int:
        """Number of outputs of a network for the classes."""
        return 1 if self.is_binary else len(self.class_names)

    @property
    def activation(self) -> str:
        """Activation of the classifier, `"softmax"` or `"sigmoid"`."""
        return "sigmoid" if self.is_binary or self.is_multi_label else "softmax"

    def soft_labels(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels of some images as float32 (n, classes): 1 for a class of the image."""
        labels = self.labels[np.asarray(numbers, "int64")]
        if self.is_multi_label:
            return labels.astype("float32")
        return (labels[:, None] == np.arange(len(self.class_names))).astype("float32")

    def label(self, number: int) -> str:
        """The class of an image, or its classes as in `"cat|dog"`."""
        labels = self.labels[number]
        if self.is_multi_label:
            return "|".join(self.class_names[n] for n in np.flatnonzero(labels))
        return self.class_names[labels]

    @property
    def as_multi_label(self) -> "ImageDataset":
        """The same images as a multi-label data set."""
        labels, names = self.labels, self.class_names
        if self.is_binary:  # only the second class is one that images have
            labels, names = labels[:, None] == 1, names[1:]
        elif not self.is_multi_label:
            labels = labels[:, None] == np.arange(len(names))
        return replace(self, labels=labels, class_names=names, is_binary=False)

    def class_counts(self) -> np.ndarray:
        """Number of images of each class, int64 (classes,)."""
        if self.is_multi_label:
            return self.labels.sum(axis=0, dtype="int64")
        # Not by name: two classes of ImageNet may have the same name, "crane".
        return np.bincount(self.labels, minlength=len(self.class_names))

    def image(self, number: int) -> Image.Image:
        """Decodes an image, upright and of mode RGB, like `read_image`.

        Raises:
            ImageError: It cannot be read; the message gives only the reason.
            OSError: A disk, a network or the machine has failed.
        """
        try:
            with self.open(number) as file:
                return decode_rgb(file)
        except Exception as error:
            check_machine(error, self.names[number])
            raise ImageError(reason_of(error)) from error

    def subset(self, numbers: np.ndarray) -> "ImageDataset":
        """A data set of some of the images, in the order of `numbers`."""
        numbers = np.asarray(numbers, "int64")
        return replace(
            self,
            labels=self.labels[numbers],
            names=Names(lambda index: self.names[numbers[index]], len(numbers)),
            open=lambda index: self.open(numbers[index]),
        )


class Unreadable(dict):
    """Name and reason of each image of a split that could not be read while training.

    At most 1 % of the images (at least two, never all) may become unreadable.

    Args:
        images: Number of images of the split.

    Attributes:
        most: How many are allowed.
        failure: The error of a disk, a network or the machine; None without one.
    """

    def __init__(self, images: int):
        super().__init__()
        self.failure: OSError | None = None
        self.most = min(max(2, images // 100), images - 1)

    @property
    def must_end(self) -> bool:
        """Whether the run has to end."""
        return len(self) > self.most or self.failure is not None


class Names(Sequence):
    """A sequence of names that takes no memory: they are computed on access."""

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
    """The files of a data set, before its images are read.

    Attributes:
        path: Path of the data set, for messages.
        splits: The files or the folder of each split, by its name in `SPLITS`; a data
            set without splits has one split, named "".
        open: Function from some of `splits` to their images, all with the same
            classes.
    """

    path: str
    splits: dict
    open: Callable[[dict], dict[str, ImageDataset]]

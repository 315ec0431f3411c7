"""Image folders: data sets with a folder of images for each class."""

import contextlib
import os
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from resnext_keras.images.listing import (
    CIRCLE,
    IRREGULAR,
    SUFFIXES,
    is_hidden,
    is_other,
    list_images,
    readable,
)
from resnext_keras.images.read import is_image
from resnext_keras.training.data.dataset import (
    SPLITS,
    TRAINING,
    VALIDATION,
    ImageDataset,
    Layout,
    Names,
    few,
)


def find_image_folder(path: str) -> Layout:
    """Finds the layout of an image folder, with or without splits.

    Hidden folders are ignored: those with a dot, as by Keras'
    `image_dataset_from_directory`, and others that programs leave.

    Args:
        path: The folder.

    Returns:
        The `Layout`.

    Raises:
        ValueError: The folder has no folders, or has images beside them.
    """
    folders = _folders(path)
    splits = {name for name in folders if name.lower() in SPLITS}
    kinds = {name.lower() for name in splits}
    # A class may be named "train" (the vehicle); then it holds images, not folders.
    both = kinds & set(TRAINING) and kinds & set(VALIDATION)
    are_splits = splits and (
        both
        or len(splits) == len(folders)
        or any(_has_folders(os.path.join(path, name)) for name in splits)
    )
    if not are_splits:
        return Layout(path, {"": path}, _open)
    if len(kinds) < len(splits):
        raise ValueError(
            "Expected one folder per split. Received: "
            f"{readable(path)!r} with {few(sorted(splits))}; rename or remove one"
        )
    folders = {name.lower(): os.path.join(path, name) for name in splits}
    return Layout(path, folders, _open)


def files_dataset(
    paths: Sequence[str | bytes | os.PathLike],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    is_binary: bool = False,
) -> ImageDataset:
    """Makes a data set of image files.

    Args:
        paths: The files; their names may contain any bytes.
        labels: Integers (n,), the class of each file; or bool (n, classes), see
            `ImageDataset`.
        class_names: Name of each class.
        is_binary: See `ImageDataset`.

    Returns:
        The `ImageDataset`.
    """
    paths = [os.fsencode(path) for path in paths]
    return ImageDataset(
        class_names,
        labels if labels.ndim == 2 else np.asarray(labels, "int32"),
        Names(lambda index: readable(paths[index]), len(paths)),
        lambda index: open(paths[index], "rb"),
        is_binary,
    )


def _open(splits: dict[str, str]) -> dict[str, ImageDataset]:
    opened = {split: _open_one(folder) for split, folder in splits.items()}
    first, *others = (set(dataset.class_names) for dataset in opened.values())
    for other in others:  # at most one: the validation split
        differences = zip(splits.values(), (first - other, other - first), strict=True)
        only = [
            f"only in {readable(folder)!r}: {few(sorted(names))}"
            for folder, names in differences
            if names
        ]
        if only:
            raise ValueError(
                "Expected the same class folders in both splits. Received: "
                f"{'; '.join(only)}; rename, add or remove them"
            )
    return opened


def _open_one(folder: str) -> ImageDataset:
    classes = _folders(folder)
    if len(classes) < 2:
        raise ValueError(
            "Expected a folder for each of two classes or more. Received: "
            f"{readable(folder)!r} with {len(classes)}: {few(map(readable, classes))}; "
            "give the folder above, or add a second class"
        )
    paths, counts = [], []
    for name in tqdm(classes, "listing", unit=" classes", disable=None, leave=False):
        images = images_within(os.path.join(folder, name))
        paths += images
        counts.append(len(images))
    empty = [readable(name) for name, n in zip(classes, counts, strict=True) if not n]
    if len(empty) == len(classes):
        raise ValueError(
            "Expected class folders with images. Received: "
            f"{readable(folder)!r}, where no folder has any"
        )
    if empty:
        raise ValueError(
            "Expected images in each class folder. Received: "
            f"{readable(folder)!r} with none in {few(empty)}; add some, or remove "
            "the folder, of other splits too"
        )
    labels = np.repeat(np.arange(len(classes), dtype="int32"), counts)
    return files_dataset(paths, labels, tuple(map(readable, classes)))


def images_within(folder: str | os.PathLike) -> list[bytes]:
    """Paths of what may be images in a folder, at any depth, in the order of the names.

    Raises:
        ValueError: A folder cannot be listed, or an image is not a regular file.
    """
    paths = []
    for path, reason in list_images([folder]):
        if reason is None:
            paths.append(os.fsencode(path))
        elif reason == IRREGULAR:
            raise ValueError(
                "Expected images that are files. Received: "
                f"{readable(path)!r}, {reason}; remove it"
            )
        elif reason != CIRCLE:
            raise ValueError(
                "Expected folders that can be listed. Received: "
                f"{readable(path)!r}, {reason}; check its permissions"
            )
    return paths


def _has_folders(path: str) -> bool:
    # A folder that cannot be listed raises its error later, when it is opened.
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return any(
            os.path.isdir(entry.path) and not is_hidden(entry.name) for entry in entries
        )
    return False


def _folders(path: str) -> list[str]:
    """Names of the folders in a folder, sorted by bytes. Images in it are an error."""
    folders, images = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if os.path.isdir(entry.path):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES) or (
                    not is_other(entry.name) and is_image(entry.path)
                ):
                    images.append(entry.name)
    except OSError as error:
        raise ValueError(
            "Expected a folder that can be listed. Received: "
            f"{readable(path)!r}: {error.strerror or error}"
        ) from error
    if images:
        beside = "beside the class folders" if folders else "and no class folders"
        raise ValueError(
            "Expected each image in the folder of its class. Received: "
            f"{readable(path)!r} with {len(images)} images {beside}: "
            f"{few(map(readable, sorted(images, key=os.fsencode)))}; move or remove "
            "them"
        )
    if not folders:
        raise ValueError(
            "Expected an image folder, a TFDS directory or TFRecord files. Received: "
            f"{readable(path)!r}, which contains none of these"
        )
    return sorted(folders, key=os.fsencode)

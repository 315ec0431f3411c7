"""Image folders: data sets with a folder of images for each class."""

import contextlib
import logging
import os
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from resnext_keras.arguments import few
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
)

logger = logging.getLogger(__name__)


def find_image_folder(path: str) -> Layout:
    """Finds the splits of an image folder, which may have none.

    Hidden folders are ignored: those with a dot, as by Keras'
    `image_dataset_from_directory`, and others that programs leave.

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
    """Opens splits; their classes are those with images in the first of them."""
    found = {split: _class_images(folder) for split, folder in splits.items()}
    first, *others = found  # at most one other: the validation split
    if len(found[first]) < 2:
        raise ValueError(
            "Expected a folder for each of two classes or more. Received: "
            f"{readable(splits[first])!r} with {len(found[first])}: "
            f"{_few(found[first])}; give the folder above, or add a second class"
        )
    filled = {
        split: {name: images for name, images in of_split.items() if images}
        for split, of_split in found.items()
    }
    classes = filled[first]
    if not classes:
        raise ValueError(
            "Expected an image folder with images. Received: "
            f"{readable(splits[first])!r}, where no folder has any"
        )
    for split in others:
        unknown = [name for name in filled[split] if name not in classes]
        missing = [name for name in classes if name not in filled[split]]
        if unknown:
            also = f", and none of {_few(missing)}" * bool(missing)
            raise ValueError(
                "Expected images to train on of each class. Received: "
                f"{readable(splits[first])!r} without one of {_few(unknown)}, while "
                f"{readable(splits[split])!r} has some{also}; rename, add or remove "
                "them"
            )
        if missing and filled[split]:
            logger.warning("No images to validate on: %s", _few(missing, 10))
    names = dict.fromkeys(name for of_split in found.values() for name in of_split)
    if empty := [name for name in names if name not in classes]:
        logger.warning("Left out, as they have no images: %s", _few(empty, 10))
    return {split: _dataset(images, list(classes)) for split, images in filled.items()}


def _dataset(images: dict[str, list[bytes]], classes: list[str]) -> ImageDataset:
    counts = [len(images.get(name, ())) for name in classes]
    return files_dataset(
        [path for name in classes for path in images.get(name, ())],
        np.repeat(np.arange(len(classes)), counts),
        tuple(map(readable, classes)),
    )


def _class_images(folder: str) -> dict[str, list[bytes]]:
    """The images of each class folder."""
    classes = _folders(folder)
    bar = tqdm(classes, "listing", unit=" classes", disable=None, leave=False)
    return {name: images_within(os.path.join(folder, name)) for name in bar}


def _few(names, most: int = 3) -> str:
    return few(map(readable, names), most)


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

"""TFDS directories: data sets in the format of TensorFlow Datasets.

They are read without that package.

Source: https://www.tensorflow.org/datasets/external_tfrecord
"""

import json
import os

from resnext_keras.arguments import few
from resnext_keras.images.listing import readable
from resnext_keras.training.data.dataset import SPLITS, ImageDataset, Layout
from resnext_keras.training.data.tfrecord import Form, open_tfrecords

FEATURES, INFO = "features.json", "dataset_info.json"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def find_tfds(path: str) -> Layout | None:
    """Finds the splits of a TFDS directory.

    Args:
        path: The directory of a version of a data set, or one that contains a single
            version.

    Returns:
        The `Layout`; None if there is no `features.json`.

    Raises:
        ValueError: There are several versions, files are missing, or the features
            are not those of images in classes.
    """
    folders = [path]
    if not os.path.exists(os.path.join(path, FEATURES)):
        folders = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    versions = [f for f in folders if os.path.exists(os.path.join(f, FEATURES))]
    if not versions:
        return None
    if len(versions) > 1:
        raise ValueError(
            "Expected a directory of one version of a data set. Received: "
            f"{readable(path)!r} with {few(map(os.path.basename, versions), 9)}; "
            "give one of these"
        )
    (folder,) = versions
    info, features = _json(folder, INFO), _json(folder, FEATURES)
    try:
        form = _form(folder, features, info)
        splits = _splits(folder, info)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected {INFO} and {FEATURES} as TensorFlow Datasets writes them. "
            f"Received: {readable(folder)!r}, where {error} is not as expected; "
            "prepare the data set again"
        ) from error
    return Layout(folder, splits, lambda some: _open(some, form))


def _json(folder: str, name: str) -> dict:
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a directory of TensorFlow Datasets with a readable {name}. "
            f"Received: {readable(path)!r}: {error}; prepare it again"
        ) from error


def _form(folder: str, features: dict, info: dict) -> Form:
    """Finds the features of the image and its class, the supervised keys first."""
    known = features["featuresDict"]["features"]
    items = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
    supervised = [item.get("featureKey") for item in items]
    kinds = {
        name: each["pythonClassName"].split(".")[-1] for name, each in known.items()
    }
    keys = []
    for kind in ("Image", "ClassLabel"):
        of_kind = [name for name in known if kinds[name] == kind]
        chosen = [name for name in of_kind if name in supervised] or of_kind
        if len(chosen) != 1:
            listed = ", ".join(f"{name}: {kinds[name]}" for name in sorted(known))
            raise ValueError(
                "Expected features of images in classes, one Image and one "
                f"ClassLabel. Received: {readable(folder)!r} with {{{listed}}}"
            )
        keys += chosen
    image, label = keys
    count = int(known[label]["classLabel"]["numClasses"])
    return Form(image, label, class_names=_class_names(folder, label, count))


def _class_names(folder: str, label: str, count: int) -> tuple[str, ...]:
    path = os.path.join(folder, f"{label}.labels.txt")
    if not os.path.exists(path):
        return tuple(map(str, range(count)))
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        names = tuple(line.strip() for line in file if line.strip())
    if len(names) != count:
        raise ValueError(
            f"Expected the names of {count} classes, as {FEATURES} says. Received: "
            f"{readable(path)!r} with {len(names)}; prepare the data set again"
        )
    return names


def _splits(folder: str, info: dict) -> dict[str, dict[str, int]]:
    """The files of each split in `SPLITS`, with their numbers of records."""
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
        raise ValueError(
            "Expected a data set in TFRecord files. Received: "
            f"{readable(folder)!r} with fileFormat={kind!r}; prepare it with "
            "file_format='tfrecord'"
        )
    splits = {}
    for split in info["splits"]:
        name, lengths = split["name"], [int(n) for n in split.get("shardLengths", [])]
        if name.lower() not in SPLITS or not sum(lengths):
            continue
        files = {}
        for number, length in enumerate(lengths):
            file = split.get("filepathTemplate", TEMPLATE)
            for key, value in {
                "DATASET": info["name"],
                "SPLIT": name,
                "FILEFORMAT": kind,
                "SHARD_INDEX": f"{number:05}",
                "NUM_SHARDS": f"{len(lengths):05}",
                "SHARD_X_OF_Y": f"{number:05}-of-{len(lengths):05}",
            }.items():
                file = file.replace(f"{{{key}}}", value)
            files[os.path.join(folder, os.path.basename(file))] = length
        splits[name.lower()] = files
    if not splits:
        names = few([split["name"] for split in info["splits"]], 9)
        raise ValueError(
            f"Expected one of the splits {', '.join(SPLITS)}, with images. Received: "
            f"{readable(folder)!r} with {names or 'none'}"
        )
    missing = [f for some in splits.values() for f in some if not os.path.exists(f)]
    if missing:
        raise ValueError(
            f"Expected the TFRecord files that {INFO} names. Received: "
            f"{readable(folder)!r} without {few(map(os.path.basename, missing))}"
        )
    return splits


def _open(splits: dict[str, dict[str, int]], form: Form) -> dict[str, ImageDataset]:
    opened = open_tfrecords(splits, form)
    # In a file that is truncated between two records, no record is broken.
    for split, files in splits.items():
        count, expected = len(opened[split]), sum(files.values())
        if count != expected:
            raise ValueError(
                f"Expected {expected} records in the split {split!r}, as {INFO} says. "
                f"Received: {count} in {few(files)}; prepare the data set again"
            )
    return opened

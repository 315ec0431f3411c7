"""Which TFRecord files a data set has, of which split each, and names of classes."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence

from resnext_keras.images.listing import readable
from resnext_keras.training.data.dataset_types import SPLITS, Layout, few
from resnext_keras.training.data.tfrecord import Form, open_records

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)", re.DOTALL)
SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?:[-_.]|$)", re.IGNORECASE)
NUMBERED = re.compile(r"(\d+):(.+)")
LABEL_FILE = "labels.txt"


def _is_record_file(name: str) -> bool:
    """Whether a file is named as TFRecord files are."""
    return ".tfrecord" in name.lower() or SHARD.fullmatch(name) is not None


def record_files(path: str) -> Layout | None:
    """The layout of a folder of TFRecord files, or of one such file.

    A file is of the split that its name or that of its folder tells: `train-...`,
    `set-validation.tfrecord`. Beside them `labels.txt` may name the classes, one a
    line, or `0:name`.

    Returns:
        The layout; None if there are no such files in the folder.

    Raises:
        ValueError: A file is of no split while others are, or one of a numbered row
            of files is missing.
    """
    if not os.path.isdir(path):
        return Layout(path, {"": [path]}, open_records)
    files = _listed(path)
    if not files:
        return None
    splits = defaultdict(list)
    for file in files:
        found = SPLIT.search(os.path.basename(file))
        folder = os.path.basename(os.path.dirname(file)).lower()
        inside = os.path.dirname(file) != path
        splits[folder if inside else found[1].lower() if found else ""].append(file)
    if "" in splits and len(splits) > 1:
        raise ValueError(
            f"Expected a split in the name of each file: {', '.join(SPLITS)}. "
            f"Received: {few(map(readable, splits['']))}; rename or move them"
        )
    _check_shards(files)
    names = os.path.join(path, LABEL_FILE)
    form = _label_file(names) if os.path.exists(names) else None
    return Layout(path, dict(splits), lambda parts: open_records(parts, form))


def _check_shards(files: Sequence[str]):
    """Raises `ValueError` if one of a numbered row of files is missing."""
    rows = defaultdict(set)
    for file in files:
        if found := SHARD.fullmatch(file):
            start, number, count, end = found.groups()
            rows[start, count, end].add(int(number))
    for (start, count, end), numbers in rows.items():
        missing = [
            readable(f"{start}-{number:05}-of-{count}{end}")
            for number in range(int(count))
            if number not in numbers
        ]
        if missing:
            raise ValueError(
                f"Expected {int(count)} TFRecord files that begin with "
                f"{readable(start)!r}. Received: {len(numbers)}, without {few(missing)}"
            )


def _listed(path: str) -> list[str]:
    """The TFRecord files in a folder, and in folders in it that are named as splits."""
    files = []
    for name in sorted(os.listdir(path)):
        inside = os.path.join(path, name)
        if os.path.isfile(inside):
            files += [inside] if _is_record_file(name) else []
        elif os.path.isdir(inside) and name.lower() in SPLITS:
            files += [
                os.path.join(inside, file)
                for file in sorted(os.listdir(inside))
                if _is_record_file(file)
            ]
    return files


def _label_file(path: str) -> Form:
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        lines = [line.strip() for line in file if line.strip()]
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(numbered):
        return Form("", "", first=None, class_names=tuple(lines))
    numbers = [int(found[1]) for found in numbered]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(
            "Expected the lines of a label file to be numbered in their order. "
            f"Received: {readable(path)!r}"
        )
    names = tuple(found[2].strip() for found in numbered)
    return Form("", "", first=numbers[0], class_names=names)

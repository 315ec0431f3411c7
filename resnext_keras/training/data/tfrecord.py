"""Data sets in TFRecord files of `tf.train.Example`, each with an image and its class.

One pass over the records finds their offsets and labels. Then images can be read in
any order.
"""

import contextlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from resnext_keras.arguments import few
from resnext_keras.images.listing import readable
from resnext_keras.training.data.dataset import (
    SPLITS,
    ImageDataset,
    Layout,
    Names,
)

HEADER, FOOTER = 12, 4  # bytes around a record: its length and checksums
PLACE = np.dtype(
    [(key, "i8") for key in ("file", "number", "offset", "length", "label")]
)

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)", re.DOTALL)
SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?:[-_.]|$)", re.IGNORECASE)
NUMBERED = re.compile(r"(\d+):(.+)")
LABEL_FILE = "labels.txt"


@dataclass(frozen=True)
class Form:
    """The features of an example, and the meaning of its labels.

    Attributes:
        image: Name of the feature with the encoded image.
        label: Name of the feature with the number of the class.
        text: Names of features with the name of the class; the first is preferred.
        first: Number of the first class, 0 or 1; None to infer it. It is 1 if a label
            is as large as the number of `class_names` or, without these, if no label
            is 0.
        class_names: Name of each class; None if there is no list of them.
    """

    image: str
    label: str
    text: tuple[str, ...] = ()
    first: int | None = 0
    class_names: tuple[str, ...] | None = None


FORMS = (
    # The scripts for ImageNet, in which label 0 is "background". Scripts for smaller
    # data sets use the same features, but their labels begin at 0.
    Form(
        "image/encoded",
        "image/class/label",
        ("image/class/text", "image/class/synset"),
        first=None,
    ),
    Form("image", "label"),
)


def open_tfrecords(
    splits: dict[str, Collection[str]], form: Form | None = None, **known: Any
) -> dict[str, ImageDataset]:
    """Opens the images of some splits, all with the same class numbers.

    Args:
        splits: The files of each split.
        form: The form of the examples; None for that of the first example.
        **known: Fields of the form that a label file gives.

    Raises:
        ValueError: A record is broken or truncated, an example has no image or label,
            a label is out of range, or there are no records.
    """
    files = [file for some in splits.values() for file in some]
    form = replace(form or _form_of(files), **known)
    places, texts = _scan(files, form)
    if not len(places):
        raise ValueError(
            f"Expected images in the TFRecord files. Received: {few(files)}, "
            "which have no records"
        )
    first, class_names = _classes(files, places, texts, form)
    opened, begin = {}, 0
    for split, some in splits.items():
        numbers = range(begin, begin + len(some))
        begin += len(some)
        of_split = places[np.isin(places["file"], numbers)]
        opened[split] = _images(files, of_split, first, class_names, form)
    return opened


def _tensorflow():
    """TensorFlow, which reads the records also if Keras runs on another backend."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "TFRecord files are read by TensorFlow, which is not installed. To install "
            "it: pip install tensorflow"
        ) from error
    if keras.config.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # or it would take their memory
    return tf


def _form_of(files: Sequence[str]) -> Form:
    """The form of the first example; any form if there are no examples."""
    from google.protobuf.message import DecodeError

    tf = _tensorflow()
    for file in files:
        try:
            records = tf.data.TFRecordDataset(os.fsencode(file)).take(1)
            examples = [tf.train.Example.FromString(r.numpy()) for r in records]
        except (tf.errors.OpError, DecodeError) as error:
            raise _broken(file, 0, error) from error
        if examples:
            break
    else:
        return FORMS[0]
    features = examples[0].features.feature
    for form in FORMS:
        if form.image in features and form.label in features:
            text = [key for key in form.text if key in features]
            return replace(form, text=tuple(text[:1]))
    expected = " or ".join(f"{form.image!r} with {form.label!r}" for form in FORMS)
    raise ValueError(
        f"Expected examples with the features {expected}. Received: {readable(file)!r} "
        f"with {few(sorted(features), 9)}"
    )


def _features(form: Form) -> dict:
    tf = _tensorflow()
    return {
        form.image: tf.io.FixedLenFeature([], tf.string),
        form.label: tf.io.FixedLenFeature([], tf.int64),
        **{key: tf.io.FixedLenFeature([], tf.string, "") for key in form.text},
    }


def _scan(files: Sequence[str], form: Form) -> tuple[np.ndarray, dict[int, str]]:
    """Place and label of each record, file by file; and names of labels."""
    tf = _tensorflow()

    def parse(number, records):
        values = tf.io.parse_example(records, _features(form))
        texts = values[form.text[0]] if form.text else tf.strings.substr(records, 0, 0)
        return number, tf.strings.length(records), values[form.label], texts

    def of_file(number, file):
        records = tf.data.TFRecordDataset(file, buffer_size=2**22).batch(64)
        return records.map(lambda some: parse(number, some))

    paths = [os.fsencode(file) for file in files]
    data = tf.data.Dataset.from_tensor_slices((np.arange(len(files)), paths))
    data = data.interleave(of_file, num_parallel_calls=tf.data.AUTOTUNE)
    size = sum(map(os.path.getsize, files))
    bar = tqdm(
        desc="reading records",
        total=size,
        unit="B",
        unit_scale=True,
        disable=None,
        leave=False,
    )
    blocks, texts = [], {}
    try:
        with bar:
            for number, lengths, labels, names in data.as_numpy_iterator():
                block = np.zeros(len(lengths), PLACE)
                block["file"], block["length"], block["label"] = number, lengths, labels
                blocks.append(block)
                texts |= dict(zip(labels.tolist(), names, strict=True))
                bar.update(int((HEADER + lengths + FOOTER).sum()))
    except tf.errors.OpError as error:
        raise _first_broken(files, form, error) from error
    places = np.concatenate([np.zeros(0, PLACE), *blocks])
    places = places[np.argsort(places["file"], kind="stable")]
    spans = HEADER + places["length"] + FOOTER
    ends = np.cumsum(spans)
    begins = np.searchsorted(places["file"], places["file"])  # first of each file
    places["number"] = np.arange(len(places)) - begins
    places["offset"] = ends - spans - (ends - spans)[begins] + HEADER
    return places, {
        label: name.decode("utf-8", "backslashreplace")
        for label, name in texts.items()
        if name
    }


def _first_broken(files, form: Form, error: Exception) -> ValueError:
    """Finds the first broken record, which the fast pass does not name."""
    tf = _tensorflow()
    for file in files:
        number = 0
        try:
            for record in tf.data.TFRecordDataset(os.fsencode(file)):
                tf.io.parse_single_example(record, _features(form))
                number += 1
        except tf.errors.OpError as reason:
            return _broken(file, number, reason)
    return ValueError(f"Expected TFRecord files that can be read. Received: {error}")


def _broken(file: str, number: int, error: Exception) -> ValueError:
    remedy = "write or fetch the file again"
    with contextlib.suppress(OSError), open(file, "rb") as opened:
        if number == 0 and opened.read(2) == b"\x1f\x8b":
            remedy = "decompress it: a compressed file has no random access"
    return ValueError(
        "Expected whole TFRecord files of tf.train.Example with an image and its "
        f"class. Received: {readable(file)!r}, record {number}: "
        f"{_short_message(error)}; {remedy}"
    )


def _short_message(error: Exception) -> str:
    """The message of an error of TensorFlow, without the names of its operations."""
    message = re.sub(r"\{\{.*?\}\} *", "", str(getattr(error, "message", error)))
    return " ".join(message.partition("[Op:")[0].split())


def _classes(files, places, texts, form: Form) -> tuple[int, tuple[str, ...]]:
    """Number of the first class, and the names of all."""
    first = form.first
    if first is None:
        # A split may lack images of the first class, so the names decide.
        labels, names = places["label"], form.class_names
        first = int(labels.min() > 0 if names is None else labels.max() >= len(names))
    largest = int(places["label"].max()) + 1 - first
    if form.class_names is None and largest > len(places):
        raise ValueError(
            "Expected no more classes than images. Received: labels up to "
            f"{places['label'].max()} of {len(places)} images"
        )
    count = largest if form.class_names is None else len(form.class_names)
    outside = (places["label"] < first) | (places["label"] >= first + count)
    if outside.any():
        place = places[outside][0]
        raise ValueError(
            f"Expected labels from {first} to {first + count - 1}, of {count} classes. "
            f"Received: label={place['label']} in {readable(files[place['file']])!r}, "
            f"record {place['number']}, and {outside.sum() - 1} more; correct the "
            "labels or the names of the classes"
        )
    names = form.class_names
    if names is None:
        # The labels themselves, since one split may not show the first class.
        labels = range(first, first + count)
        names = tuple(texts.get(label, str(label)) for label in labels)
    return first, names


def _images(files, places, first: int, class_names, form: Form) -> ImageDataset:
    example = _tensorflow().train.Example

    def name(index):
        place = places[index]
        return f"{readable(files[place['file']])}, record {place['number']}"

    def opened(index):
        place = places[index]
        # The file is opened each time: a data set may have more files than a process
        # can have open.
        with open(files[place["file"]], "rb") as file:
            file.seek(place["offset"])
            record = example.FromString(file.read(place["length"]))
        return io.BytesIO(record.features.feature[form.image].bytes_list.value[0])

    labels = (places["label"] - first).astype("int32")
    return ImageDataset(class_names, labels, Names(name, len(places)), opened)


def find_tfrecords(path: str) -> Layout | None:
    """Finds the splits of a folder of TFRecord files, or of one such file.

    The split is a part of a file's name (`train-...`, `set-validation.tfrecord`), or
    the name of its folder. A file `labels.txt` beside them may name the classes, one
    per line, as `name` or `0:name`.

    Returns:
        The `Layout`; None if there are no such files in the folder.

    Raises:
        ValueError: Some files have a split and others have none, a file of a numbered
            series is missing, or the label file is wrong.
    """
    if not os.path.isdir(path):
        return _layout(path, {"": [path]}, os.path.dirname(path))
    files = _listed(path)
    if not files:
        return None
    splits = defaultdict(list)
    for file in files:
        folder, name = os.path.split(file)
        in_name = SPLIT.search(name)
        if folder != path:
            splits[os.path.basename(folder).lower()].append(file)
        else:
            splits[in_name[1].lower() if in_name else ""].append(file)
    if "" in splits and len(splits) > 1:
        raise ValueError(
            f"Expected a split in the name of each file: {', '.join(SPLITS)}. "
            f"Received: {few(map(readable, splits['']))}; rename or move them"
        )
    _check_shards(files)
    return _layout(path, dict(splits), path)


def _layout(path: str, splits: dict[str, list[str]], folder: str) -> Layout:
    """The layout of files, with the class names of the label file in a folder."""
    known = _label_file(os.path.join(folder, LABEL_FILE))
    return Layout(path, splits, lambda some: open_tfrecords(some, **known))


def _check_shards(files: Sequence[str]) -> None:
    """Raises a `ValueError` if a file of a numbered series is missing."""
    series = defaultdict(set)
    for file in files:
        if shard := SHARD.fullmatch(file):
            start, number, count, end = shard.groups()
            series[start, count, end].add(int(number))
    for (start, count, end), numbers in series.items():
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
    """The TFRecord files in a folder, and in its folders with the name of a split."""
    folders = [path] + [
        os.path.join(path, name)
        for name in sorted(os.listdir(path))
        if name.lower() in SPLITS and os.path.isdir(os.path.join(path, name))
    ]
    files = [
        os.path.join(folder, name)
        for folder in folders
        for name in sorted(os.listdir(folder))
        if ".tfrecord" in name.lower() or SHARD.fullmatch(name)
    ]
    return list(filter(os.path.isfile, files))


def _label_file(path: str) -> dict[str, Any]:
    """The fields of a `Form` that a label file gives."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        lines = [line.strip() for line in file if line.strip()]
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(numbered):
        return {"class_names": tuple(lines)}
    numbers = [int(line[1]) for line in numbered]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(
            "Expected the lines of a label file to be numbered in their order. "
            f"Received: {readable(path)!r}"
        )
    names = tuple(line[2].strip() for line in numbered)
    return {"first": numbers[0], "class_names": names}

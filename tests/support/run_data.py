"""Small data sets for training runs, and what a run leaves."""

import csv
import math

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

CLASSES = ("Dark Room", "light")


class StopError(Exception):
    """Ends a run in the middle."""


class Stop(keras.callbacks.Callback):
    """Stops the run before its n-th step."""

    def __init__(self, steps=math.inf):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch, logs=None):
        self.steps -= 1
        if self.steps < 0:
            raise StopError


def image_folder(folder, count=15, classes=CLASSES):
    """Writes a folder of dark and a folder of light images; returns their folder."""
    rng = np.random.default_rng(0)
    for name, low in zip(classes, (0, 150), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(low, low + 100, (40, 36, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def tfrecords(folder, images, classes=CLASSES):
    """Writes an image folder as TFRecords with a label file; returns their folder."""
    folder.mkdir()
    write_examples(
        folder / "all.tfrecord",
        [
            {"image": path.read_bytes(), "label": label}
            for label, name in enumerate(classes)
            for path in sorted((images / name).iterdir())
        ],
    )
    (folder / "labels.txt").write_text("\n".join(classes))
    return folder


def write_examples(path, examples):
    """Writes a TFRecord file of `tf.train.Example` with integers and bytes."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for example in examples:
            features = tf.train.Features(
                feature={key: _feature(value) for key, value in example.items()}
            )
            file.write(tf.train.Example(features=features).SerializeToString())


def _feature(value):
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def contents(dataset):
    """All encoded images of a data set."""
    files = []
    for number in range(len(dataset)):
        with dataset.open(number) as file:
            files.append(file.read())
    return files


def history_rows(folder):
    """The rows of `history.csv`, as text and without the times."""
    with (folder / "history.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]

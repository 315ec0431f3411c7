"""Images of two classes for the runs of a tiny network."""

import numpy as np
import tensorflow as tf
from PIL import Image

CLASSES = ("Dark Room", "light")


def image_folder(folder, count=15):
    """A folder with a folder of images for each class; gives it."""
    rng = np.random.default_rng(0)
    for name, low in zip(CLASSES, (0, 150), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(low, low + 100, (40, 36, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def tfrecords(folder, images, classes=CLASSES):
    """An image folder as TFRecords with a label file; gives their folder."""
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "all.tfrecord")) as file:
        for label, name in enumerate(classes):
            for path in sorted((images / name).iterdir()):
                image = tf.train.BytesList(value=[path.read_bytes()])
                features = {
                    "image": tf.train.Feature(bytes_list=image),
                    "label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[label])
                    ),
                }
                features = tf.train.Features(feature=features)
                example = tf.train.Example(features=features)
                file.write(example.SerializeToString())
    (folder / "labels.txt").write_text("\n".join(classes))
    return folder

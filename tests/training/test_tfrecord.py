"""TFRecord files and TFDS directories as data sets."""

import gzip
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN
from PIL import Image
from run_data import contents, write_examples

from resnext_keras.training.data.splits import decodable, open_dataset, open_split

PREPARED = GOLDEN / "tfds" / "shapes" / "1.0.0"
IMAGENET = ("image/encoded", "image/class/label")
TRAIN = "shapes-train.tfrecord-00000-of-00001"


def write(path, labels, keys=("image", "label"), texts=None):
    """A file of examples; their images are different texts that end in zeros."""
    path.parent.mkdir(exist_ok=True)
    examples = []
    for number, label in enumerate(labels):
        image = f"{path.name} {number}".encode() + b"\0\0"
        text = {"image/class/text": texts[label].encode()} if texts else {}
        examples.append(dict(zip(keys, (image, label), strict=True)) | text)
    write_examples(path, examples)


@pytest.fixture
def prepared(tmp_path):
    return shutil.copytree(PREPARED, tmp_path / "shapes" / "1.0.0")


def edit(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_a_tfds_directory_has_what_was_put_in():
    training, validation = open_dataset(PREPARED)
    assert training.class_names == ("dark", "light")
    # As tests/golden/make_tfds.py has it.
    for dataset, numbers in ((training, range(10)), (validation, range(10, 14))):
        values = [
            np.asarray(Image.open(io.BytesIO(data))) for data in contents(dataset)
        ]
        assert all((pixels == pixels[0, 0, 0]).all() for pixels in values)
        found = zip([v[0, 0, 0] for v in values], dataset.labels, strict=True)
        assert sorted(found) == sorted((i % 2 * 200 + i, i % 2) for i in numbers)
    assert decodable(training) == (training, [])
    assert len(open_split(PREPARED.parent)) == 4  # the folder of its versions


def test_records_of_the_imagenet_form_begin_at_one(tmp_path):
    names = {1: "tench", 2: "goldfish", 3: "shark"}
    write(tmp_path / "train-00000-of-00002", [3, 1, 2], IMAGENET, names)
    write(tmp_path / "train-00001-of-00002", [2, 1], IMAGENET, names)
    write(tmp_path / "validation-00000-of-00001", [2], IMAGENET, names)
    training, validation = open_dataset(tmp_path)
    assert training.class_names == ("tench", "goldfish", "shark")
    assert training.labels.tolist() == [2, 0, 1, 1, 0]
    assert validation.labels.tolist() == [1]
    assert validation.class_names == training.class_names
    assert contents(training)[3] == b"train-00001-of-00002 0\0\0"
    assert training.names[4] == f"{tmp_path / 'train-00001-of-00002'}, record 1"


def test_the_same_form_may_begin_at_zero(tmp_path):
    write(tmp_path / "a.tfrecord", [0, 1, 0, 1], IMAGENET)
    dataset = open_split(tmp_path / "a.tfrecord")
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.class_names == ("0", "1")


@pytest.mark.parametrize(("labels", "expected"), [([1, 2], [1, 2]), ([1, 3], [0, 2])])
def test_class_names_give_the_first_number_where_a_split_lacks_it(
    tmp_path, labels, expected
):
    write(tmp_path / "val.tfrecord", labels, IMAGENET)
    (tmp_path / "labels.txt").write_text("tench\ngoldfish\nshark\n")
    for path in (tmp_path, tmp_path / "val.tfrecord"):
        dataset = open_split(path)
        assert dataset.class_names == ("tench", "goldfish", "shark")
        assert dataset.labels.tolist() == expected


def test_records_of_many_batches_are_read_by_number(tmp_path):
    labels = [number % 3 for number in range(300)]
    for split in ("train", "val"):
        write(tmp_path / split / "one.tfrecord", labels)
    training, _ = open_dataset(tmp_path)
    expected = [f"one.tfrecord {n}".encode() + b"\0\0" for n in range(300)]
    assert contents(training) == expected
    assert training.labels.tolist() == labels
    assert training.open(299).read() == expected[299]


@pytest.mark.parametrize("lines", ["dark\nlight\n", "0:dark\n1:light\n"])
def test_records_without_a_split_are_split_and_a_label_file_names_the_classes(
    tmp_path, lines
):
    write(tmp_path / "all.tfrecord", [0] * 10 + [1] * 20)
    (tmp_path / "labels.txt").write_text(lines)
    training, validation = open_dataset(tmp_path)
    assert training.class_names == ("dark", "light")
    assert training.class_counts().tolist() == [8, 16]
    assert validation.class_counts().tolist() == [2, 4]
    assert not set(contents(training)) & set(contents(validation))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pack(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def last_without_label(path):
    write_examples(path, [{"image": b"x", "label": 1}, {"image": b"x", "size": 1}])


def not_an_example(path):
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(b"no example")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "record 99: .*write or fetch"),
        (flip, "record 50: corrupted record.*write or fetch"),
        (pack, "record 0: .*decompress it"),
        (last_without_label, "record 1: .*label"),
        (not_an_example, "record 0: "),
        (lambda path: write(path, [1], ("audio", "label")), "with 'audio', 'label'"),
        (lambda path: path.write_bytes(b""), "which have no records"),
        (lambda path: write(path, [-1, 0]), "label=-1 in .*record 0"),
        (lambda path: write(path, [0, 10**9]), "labels up to 1000000000 of 2"),
        (lambda path: write(path, [0, 0, 0]), "images of '0' only"),
        (lambda path: write(path, [0, 0, 1]), "one image of '1'"),
    ],
)
def test_files_that_cannot_be_trained_on_are_refused(tmp_path, spoil, message):
    path = tmp_path / "set.tfrecord"
    write(path, [0, 1] * 50)
    spoil(path)
    with pytest.raises(ValueError, match=f"Expected.*Received: .*{message}") as caught:
        open_dataset(tmp_path)
    if "record" in message and "have no" not in message:
        assert str(path) in str(caught.value)


def test_a_label_file_that_does_not_fit_is_refused(tmp_path):
    write(tmp_path / "set.tfrecord", [0, 1, 2] * 2)
    (tmp_path / "labels.txt").write_text("dark\nlight\n")
    with pytest.raises(ValueError, match=r"labels from 0 to 1.*label=2 in .*record 2"):
        open_dataset(tmp_path)
    (tmp_path / "labels.txt").write_text("1:dark\n0:light\n")
    with pytest.raises(ValueError, match="numbered in their order"):
        open_dataset(tmp_path)


def test_missing_and_unsorted_files_are_refused(tmp_path):
    write(tmp_path / "train-00001-of-00003", [0, 1])
    with pytest.raises(ValueError, match=r"Received: 1, without '.*00000-of-00003', '"):
        open_dataset(tmp_path)
    (tmp_path / "train-00001-of-00003").rename(tmp_path / "train.tfrecord")
    write(tmp_path / "others.tfrecord", [0, 1])
    with pytest.raises(ValueError, match=r"name of each file.*others.tfrecord"):
        open_dataset(tmp_path)


def without_image(features):
    features["featuresDict"]["features"].pop("image")
    return features


def longer(info):
    info["splits"][0]["shardLengths"] = ["11"]
    return info


def split_named_all(info):
    return info | {"splits": [info["splits"][0] | {"name": "all"}]}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features.json", without_image, "one Image.*id: Text, label: ClassLabel"),
        ("features.json", lambda _: {}, "'featuresDict' is not as expected"),
        (
            "dataset_info.json",
            lambda info: info | {"fileFormat": "array_record"},
            "fileFormat='array_record'",
        ),
        ("dataset_info.json", split_named_all, "one of the splits train, .*with 'all'"),
        ("dataset_info.json", longer, "11 records in the split 'train'.*10"),
        (
            "dataset_info.json",
            lambda info: info | {"splits": info["splits"][1:]},
            "a split to train on",
        ),
    ],
)
def test_tfds_directories_that_do_not_fit_are_refused(prepared, name, change, message):
    edit(prepared / name, change)
    with pytest.raises(ValueError, match=message):
        open_dataset(prepared)


def test_tfds_directories_with_missing_or_wrong_files_are_refused(prepared):
    (prepared / "label.labels.txt").write_text("dark\n")
    with pytest.raises(ValueError, match=r"names of 2 classes.*txt' with 1"):
        open_dataset(prepared)
    (prepared / "label.labels.txt").unlink()
    assert open_split(prepared).class_names == ("0", "1")
    (prepared / TRAIN).unlink()
    with pytest.raises(ValueError, match=f"without '{TRAIN}'"):
        open_dataset(prepared)
    shutil.copytree(prepared, prepared.parent / "2.0.0")
    with pytest.raises(ValueError, match=r"with '1.0.0', '2.0.0'; give one"):
        open_dataset(prepared.parent)
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"a readable dataset_info.json"):
        open_dataset(prepared)

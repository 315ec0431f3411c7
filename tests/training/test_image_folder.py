"""Image folders as data sets: their images, their splits, and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_data import contents

from resnext_keras.training.data.splits import decodable, open_dataset, open_split


def write(folder, *names):
    """Images whose pixels differ, of the given names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)


@pytest.fixture
def folder(tmp_path):
    """Ten images of one class and twenty of another, some of them deeper."""
    write(tmp_path / "cat", *(f"{i}.png" for i in range(10)))
    write(tmp_path / "dog", *(f"{i}.jpg" for i in range(15)))
    write(tmp_path / "dog" / "more" / "yet", *(f"{i}.BMP" for i in range(5)))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_classes_are_the_folders_and_each_image_is_once_in_one_split(folder):
    training, validation = open_dataset(folder)
    assert training.class_names == validation.class_names == ("cat", "dog")
    assert training.class_counts().tolist() == [8, 16]
    assert validation.class_counts().tolist() == [2, 4]
    names = [*training.names, *validation.names]
    expected = [str(p) for p in folder.rglob("*.*") if p.suffix.lower() != ".txt"]
    assert sorted(names) == sorted(p for p in expected if os.path.isfile(p))
    assert len(set(names)) == 30
    assert training.labels.dtype == np.int32
    for dataset in (training, validation):
        rows = zip(dataset.names, dataset.labels, contents(dataset), strict=True)
        for name, label, data in rows:
            assert Path(name).read_bytes() == data
            assert f"/{dataset.class_names[label]}/" in name
    assert len(open_split(folder)) == 30  # no split, so all are evaluated


def test_a_seed_gives_one_split_and_another_seed_another(folder):
    held_out = [list(open_dataset(folder, seed=s)[1].names) for s in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    # A tiny share still holds one of each class out.
    assert open_dataset(folder, 0.001)[1].class_counts().tolist() == [1, 1]
    assert open_dataset(folder, 0.999)[0].class_counts().tolist() == [1, 1]


# What is a split


def images(*names):
    """Makes a function that writes images of the classes a and b into folders."""

    def make(root):
        for name in names:
            for label in ("a", "b"):
                write(root / name / label, "1.png", "2.png")

    return make


def vehicles(root):
    for label in ("bus", "train"):
        write(root / label, "1.png", "2.png")
    (root / "train" / ".thumbnails").mkdir()


def train_beside_unlabelled(root):
    images("train")(root)
    write(root / "unlabelled", "1.png", "2.png")


@pytest.mark.parametrize(
    ("make", "training", "validation", "classes"),
    [
        (images("train", "val"), "train", "val", "a b"),
        (images("train", "validation"), "train", "validation", "a b"),
        (images("train", "test"), "train", "test", "a b"),
        (images("training", "Valid"), "training", "Valid", "a b"),
        (images("train", "test", "val"), "train", "val", "a b"),  # val goes first
        (images("train"), "train", "train", "a b"),
        (train_beside_unlabelled, "train", "train", "a b"),
        (vehicles, "", "", "bus train"),  # a class may be named as a split
    ],
)
def test_splits_are_taken_as_they_are_or_split_by_share(
    tmp_path, make, training, validation, classes
):
    make(tmp_path)
    splits = open_dataset(tmp_path, validation_split=0.5)
    for dataset, split in zip(splits, (training, validation), strict=True):
        assert dataset.class_names == tuple(classes.split())
        assert len(dataset) == (2 if training == validation else 4)
        for name, label in zip(dataset.names, dataset.labels, strict=True):
            path = tmp_path / split / dataset.class_names[label]
            assert os.path.dirname(name) == str(path)
    evaluated = open_split(tmp_path)
    assert len(evaluated) == 4
    if training != validation:
        assert list(evaluated.names) == list(splits[1].names)


def test_two_spellings_of_a_split_are_refused(tmp_path):
    images("train", "Train")(tmp_path)
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("a file system that does not tell cases apart")
    with pytest.raises(ValueError, match=r"one folder per split.*'Train', 'train'"):
        open_split(tmp_path)


# Endings, names, links and broken files


def test_an_image_is_known_by_its_contents_and_hidden_copies_are_left(folder):
    """What cameras, browsers, notebooks and file managers write."""
    jpeg = (folder / "dog" / "1.jpg").read_bytes()
    images = {"a.jfif", "b.JPE", "c.mpo", "d.heic", "e.tmp1", "f", "g.jpg.part"}
    for name in images:
        (folder / "cat" / name).write_bytes(jpeg)
    copies = (
        ".ipynb_checkpoints/0-checkpoint.png",
        "@eaDir/0.png/THUMB_M.png",
        ".thumbnails/1.png",
        "__MACOSX/._0.png",
        "._0.png",
        "Thumbs.db",
        "desktop.ini",
        "labels.csv",
        "classes.json",
        "more.zip",
    )
    for name in copies:
        (folder / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cat" / name).write_bytes(jpeg)
    (folder / "__MACOSX").mkdir()
    dataset = open_split(folder)
    assert dataset.class_counts().tolist() == [10 + len(images), 20]
    found = {os.path.basename(name) for name in dataset.names}
    assert images < found
    assert decodable(dataset)[1] == []


def test_names_of_any_bytes(tmp_path):
    for label in (b"\xe9t\xe9", "\N{SNOWMAN}".encode()):
        inside = os.path.join(os.fsencode(tmp_path), label)
        os.mkdir(inside)
        for name in (b"\xff\n 1.png", b"%2.png"):
            with open(os.path.join(inside, name), "wb") as file:
                file.write(label + name)
    dataset = open_split(tmp_path)
    assert dataset.class_names == ("\N{SNOWMAN}", r"\xe9t\xe9")
    assert contents(dataset)[-1] == b"\xe9t\xe9\xff\n 1.png"
    assert dataset.names[3].endswith("\\xe9t\\xe9/\\xff\n 1.png")


def test_links_are_followed_but_not_in_circles(folder, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    (linked / "cat").symlink_to(folder / "cat")
    (linked / "dog").symlink_to(folder / "dog")
    (folder / "cat" / "self").symlink_to(folder / "cat")
    assert open_split(linked).class_counts().tolist() == [10, 20]


def test_what_cannot_be_decoded_is_left_out_and_listed(folder):
    good = (folder / "dog" / "1.jpg").read_bytes()
    broken = {
        "cat/3.png": (folder / "cat" / "3.png").read_bytes()[:-30],
        "dog/empty.jpg": b"",
        "dog/page.jpg": b"<html>",
        "dog/short.jpg": good[: len(good) // 2],
        "dog/moving.gif": b"GIF89a",
        "dog/IMG_1.HEIC": b"\0\0\0\x18ftypheic",
        "dog/notes": b"no image",
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    dataset = open_split(folder)
    kept, left_out = decodable(dataset)
    reasons = {os.path.relpath(name, folder): reason for name, reason in left_out}
    assert set(reasons) == set(broken)
    assert reasons["dog/empty.jpg"] == "an empty file"
    assert reasons["dog/page.jpg"] == "a file that begins with b'<html>'"
    assert reasons["dog/notes"] == "a file that begins with b'no image'"
    assert "truncated" in reasons["dog/short.jpg"].lower()
    assert "resnext-keras[heic]" in reasons["dog/IMG_1.HEIC"]
    assert kept.class_counts().tolist() == [9, 20]
    assert not set(kept.names) & {str(folder / name) for name in broken}
    for path in (folder / "dog").glob("**/*.*"):
        path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"none in 'dog'; the first is '.*dog/0\.jpg'"):
        decodable(dataset)


def test_classes_without_images_are_named_and_left_out(tmp_path, caplog):
    for name in ("train/bee", "train/dog", "train/eel", "val/dog"):
        write(tmp_path / name, "1.png", "2.png")
    for name in ("train/ant", "train/cat", "val/ant", "val/bee", "val/fox"):
        (tmp_path / name).mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    training, validation = open_dataset(tmp_path)
    assert training.class_names == validation.class_names == ("bee", "dog", "eel")
    assert training.class_counts().tolist() == [2, 2, 2]
    assert validation.class_counts().tolist() == [0, 2, 0]
    assert caplog.messages == [
        "No images to validate on: 'bee', 'eel'",
        "Left out, as they have no images: 'ant', 'cat', 'fox'",
    ]
    write(tmp_path / "val" / "cat", "1.png")  # there are none to learn from
    with pytest.raises(ValueError, match=r"train' without one of 'cat', while .*val'"):
        open_dataset(tmp_path)


def other_classes_in_val(folder):
    for name in ("cat", "dog"):
        os.rename(folder / name, folder / f".{name}")
    for name in ("train/cat", "train/dog", "val/cat", "val/cow"):
        write(folder / name, "1.png")


def only_val(folder):
    (folder / "val").mkdir()
    for name in ("cat", "dog"):
        os.rename(folder / name, folder / "val" / name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: os.mkfifo(folder / "cat" / "pipe.png"),
            r"pipe.png', not a regular file; remove it",
        ),
        (
            lambda folder: os.rename(folder / "dog", folder / ".dog"),
            "with 1: 'cat'; give the folder above",
        ),
        (
            lambda folder: write(folder / "fish", "1.png"),
            "one image of 'fish'; add some, or remove",
        ),
        (
            lambda folder: write(folder, "lost.png"),
            "1 images beside the class folders: 'lost.png'",
        ),
        (
            lambda folder: shutil.copy(folder / "dog" / "0.jpg", folder / "IMG_1"),
            "1 images beside the class folders: 'IMG_1'",
        ),
        (
            other_classes_in_val,
            "train' without one of 'cow', while .*val' has some, and none of 'dog'; re",
        ),
        (only_val, "with 'val'"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=f"Expected.*Received: .*{message}"):
        open_dataset(folder, keep=pytest.fail)  # before the images are decoded


def test_paths_without_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'.*nowhere', which does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="which contains none of these"):
        open_split(tmp_path)
    write(tmp_path, "1.png")
    with pytest.raises(ValueError, match="1 images and no class folders"):
        open_split(tmp_path)
    with pytest.raises(ValueError, match="not one image"):
        open_split(tmp_path / "1.png")
    for name in ("a", "b"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="no folder has any"):
        open_dataset(tmp_path / "empty")

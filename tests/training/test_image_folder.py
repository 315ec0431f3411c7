"""Class folders as data sets: what is in them, how they are split, what is refused."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnext_keras.training.data.dataset import (
    class_counts,
    decodable,
    open_dataset,
    open_split,
)


def write(folder, *names):
    """Images whose pixels differ, of the given names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)


def contents(dataset):
    """All encoded images, read in a graph in parallel."""
    data = tf.data.Dataset.range(len(dataset)).map(dataset.read, tf.data.AUTOTUNE)
    return list(data.as_numpy_iterator())


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
    assert class_counts(training).tolist() == [8, 16]
    assert class_counts(validation).tolist() == [2, 4]
    names = [*training.names, *validation.names]
    expected = [str(p) for p in folder.rglob("*.*") if p.suffix.lower() != ".txt"]
    assert sorted(names) == sorted(p for p in expected if os.path.isfile(p))
    assert len(set(names)) == 30
    assert training.labels.dtype == np.int32


def test_bytes_labels_and_names_belong_together(folder):
    for dataset in open_dataset(folder):
        for name, label, data in zip(
            dataset.names, dataset.labels, contents(dataset), strict=True
        ):
            with open(name, "rb") as file:
                assert file.read() == data
            assert f"/{dataset.class_names[label]}/" in name


def test_a_seed_gives_one_split_and_another_seed_another(folder):
    held_out = [list(open_dataset(folder, seed=s)[1].names) for s in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_tiny_share_still_holds_one_of_each_class_out(folder):
    assert class_counts(open_dataset(folder, 0.001)[1]).tolist() == [1, 1]
    assert class_counts(open_dataset(folder, 0.999)[0]).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["val", "validation", "test", "Valid"])
def test_splits_are_taken_as_they_are(tmp_path, name):
    for label in ("a", "b"):
        write(tmp_path / "train" / label, "1.png", "2.png", "3.png")
        write(tmp_path / name / label, "4.png")
    training, validation = open_dataset(tmp_path, validation_share=0.5)
    assert (len(training), len(validation)) == (6, 2)
    assert list(open_split(tmp_path).names) == list(validation.names)


def test_validation_goes_before_test(tmp_path):
    for split in ("train", "test", "val"):
        for label in ("a", "b"):
            write(tmp_path / split / label, "1.png")
    assert all("/val/" in name for name in open_dataset(tmp_path)[1].names)


def test_a_training_split_alone_is_split_by_share(tmp_path):
    for label in ("a", "b"):
        write(tmp_path / "train" / label, "1.png", "2.png")
    assert [len(dataset) for dataset in open_dataset(tmp_path)] == [2, 2]


def test_a_class_may_be_named_as_a_split(tmp_path):
    for label in ("bus", "train"):
        write(tmp_path / label, "1.png", "2.png")
    (tmp_path / "train" / ".thumbnails").mkdir()
    assert open_split(tmp_path).class_names == ("bus", "train")


def test_a_training_split_beside_other_folders_is_one(tmp_path):
    for label in ("a", "b"):
        write(tmp_path / "train" / label, "1.png", "2.png")
    write(tmp_path / "unlabelled", "1.png", "2.png")
    assert open_split(tmp_path).class_names == ("a", "b")


def test_two_spellings_of_a_split_are_refused(tmp_path):
    for split in ("train", "Train"):
        for label in ("a", "b"):
            write(tmp_path / split / label, "1.png", "2.png")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("a file system that does not tell cases apart")
    with pytest.raises(ValueError, match=r"one folder per split.*'Train', 'train'"):
        open_split(tmp_path)


def test_without_a_split_all_are_evaluated(folder):
    assert len(open_split(folder)) == 30


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
    assert class_counts(open_split(linked)).tolist() == [10, 20]


def test_what_cannot_be_decoded_is_left_out_and_listed(folder):
    good = (folder / "dog" / "1.jpg").read_bytes()
    broken = {
        "cat/3.png": (folder / "cat" / "3.png").read_bytes()[:-30],
        "dog/empty.jpg": b"",
        "dog/page.jpg": b"<html>",
        "dog/short.jpg": good[: len(good) // 2],
        "dog/moving.gif": b"GIF89a",
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    dataset = open_split(folder)
    kept, left_out = decodable(dataset)
    found = {os.path.relpath(name, folder): why for name, why in left_out}
    assert set(found) == set(broken)
    assert found["dog/empty.jpg"] == "an empty file"
    assert "not JPEG, PNG" in found["dog/page.jpg"] == found["dog/moving.gif"]
    assert "Invalid JPEG data" in found["dog/short.jpg"]
    assert class_counts(kept).tolist() == [9, 20]
    assert not set(kept.names) & {str(folder / name) for name in broken}
    assert decodable(kept) == (kept, [])


def test_a_class_of_broken_images_is_refused(folder):
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"none in 'cat'; the first is '.*0\.png'"):
        decodable(open_split(folder))


def test_numbers_may_be_cut_out_like_those_of_a_list(folder):
    names = open_split(folder).names
    assert names[-1] == list(names)[29] == names[28:][1]
    with pytest.raises(IndexError):
        names[30]


def spoil_one_class(folder):
    os.rename(folder / "dog", folder / ".dog")


def spoil_empty_class(folder):
    (folder / "fish").mkdir()


def spoil_single(folder):
    write(folder / "fish", "1.png")


def spoil_beside(folder):
    write(folder, "lost.png")


def spoil_classes(folder):
    for name in ("cat", "dog"):
        os.rename(folder / name, folder / f".{name}")
    write(folder / "train" / "cat", "1.png")
    write(folder / "train" / "dog", "1.png")
    write(folder / "val" / "cat", "1.png")
    write(folder / "val" / "cow", "1.png")


def spoil_one_split(folder):
    for name in ("cat", "dog"):
        os.makedirs(folder / "val", exist_ok=True)
        os.rename(folder / name, folder / "val" / name)


def spoil_by_a_pipe(folder):
    os.mkfifo(folder / "cat" / "pipe.png")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        pytest.param(
            spoil_by_a_pipe,
            r"pipe.png', not a regular file; remove it",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes"),
        ),
        (spoil_one_class, "with 1: 'cat'; give the folder above"),
        (spoil_empty_class, "none in 'fish'; add some, or remove the folder"),
        (spoil_single, "one image of 'fish'; add some, or remove"),
        (spoil_beside, "1 images beside the class folders: 'lost.png'"),
        (spoil_classes, "only in .*train': 'dog'; only in .*val': 'cow'; rename"),
        (spoil_one_split, "with 'val'"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(folder, spoil, found):
    spoil(folder)
    with pytest.raises(ValueError, match=f"Expected.*Received: .*{found}"):
        open_dataset(folder)


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


def test_class_folders_without_any_image_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="no folder has any"):
        open_dataset(tmp_path)

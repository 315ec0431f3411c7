"""The labels of a data set are mapped to the classes of the network."""

import os

import numpy as np
import pytest
from weight_files import SMALLEST

import resnext_keras as rk
from resnext_keras.images.labels import class_names, wordnet_ids
from resnext_keras.training.data.image_folder import files_dataset
from resnext_keras.training.data.label_mapping import flat_images, is_flat, map_labels

ANIMALS = ("cat", "dog", "fish")

# The first lines of Caffe's val.txt, and some of Kaggle's LOC_val_solution.csv.
CAFFE = (65, 970, 230, 809, 516, 57, 334, 415, 674, 332)
KAGGLE = {
    48981: "n03995372 85 1 499 272",
    37956: "n03481172 131 0 499 254",
    26161: "n02108000 38 0 464 280",
}


def of_classes(*names):
    """Two images of each class."""
    paths = [f"{name}/{n}.png" for name in names for n in range(2)]
    return files_dataset(paths, np.repeat(np.arange(len(names)), 2), names)


@pytest.fixture
def folder(tmp_path):
    """Names files in a folder as images; they are empty."""
    (tmp_path / "flat").mkdir()

    def named(*names):
        for name in names:
            (tmp_path / "flat" / name).touch()
        return tmp_path / "flat"

    return named


@pytest.fixture
def labels(tmp_path):
    """Writes a file of labels."""

    def written(*lines, encoding="utf-8"):
        path = tmp_path / "labels.txt"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
        return path

    return written


def val(*numbers):
    return [f"ILSVRC2012_val_{number:08}.JPEG" for number in numbers]


# Classes of the data set


@pytest.mark.parametrize(
    ("folders", "names", "expected", "how"),
    [
        (("dog", "fish"), ANIMALS, [1, 1, 2, 2], "by names"),
        (("Cat", "FISH"), ANIMALS, [0, 0, 2, 2], "by names"),
        (("2", "0"), ANIMALS, [2, 2, 0, 0], "by numbers"),
        (("Cat", "cat"), ("Cat", "cat", "dog"), [0, 0, 1, 1], "by names"),
        (("crane", "crane", "ox"), ("crane", "crane", "ox"), [0, 0, 1, 1, 2, 2], "by"),
        (("Cardigan", "cardigan"), None, [264, 264, 474, 474], "by names"),
        (("tench, Tinca tinca", "great white shark, jaws"), None, [0, 0, 2, 2], "by"),
        (("n01440764", "n15075141"), None, [0, 0, 999, 999], "by WordNet ids"),
        (("tench", "toilet_tissue"), None, [0, 0, 999, 999], "by names"),
    ],
)
def test_classes_become_those_of_the_network(folders, names, expected, how):
    names = names or class_names("imagenet")
    mapped, how_mapped = map_labels(of_classes(*folders), names)
    assert mapped.labels.tolist() == expected
    assert mapped.labels.dtype == np.int32
    assert mapped.class_names == names
    assert mapped.names[0] == f"{folders[0]}/0.png"
    assert how_mapped.startswith(how)


@pytest.mark.parametrize(
    "folders",
    [
        ("cat", "cow"),
        ("cat", "cow", "fish"),  # as many, but a cow is no dog
        ("chat", "chien"),
        ("n01440764", "n15075141"),
    ],
)
def test_classes_that_the_network_does_not_have_are_refused(folders):
    unknown = [name for name in folders if name not in ANIMALS]
    with pytest.raises(ValueError, match=f"has 3: 'cat'.*unknown: '{unknown[0]}'"):
        map_labels(of_classes(*folders), ANIMALS)
    kinds = of_classes("cat", "1", "a cow")  # a name, a number and an unknown one
    with pytest.raises(ValueError, match=r"of these unknown: '1'.*; rename"):
        map_labels(kinds, ANIMALS)
    used = kinds.subset(np.array([0, 1]))  # an unused class may have any name
    assert map_labels(used, ANIMALS)[0].labels.tolist() == [0, 0]


def test_a_name_of_two_classes_is_refused(folder, labels):
    names = ("crane", "ox", "crane")
    with pytest.raises(ValueError, match=r"'crane', the name of .*\[0, 2\]"):
        map_labels(of_classes("ox", "crane"), names)
    with pytest.raises(ValueError, match=r"'Crane', the name .*their numbers"):
        flat_images(folder("a.jpg"), labels("a,Crane"), names)


def test_a_network_without_classes_is_refused(folder, tmp_path):
    network = rk.ResNeXt(SMALLEST, False, None, input_shape=(32, 32, 3))
    network.save_weights(tmp_path / "notop.weights.h5")
    for labels in (None, "labels.txt"):
        with pytest.raises(ValueError, match="Expected the weights of a classifier"):
            rk.evaluate(
                folder("1.png"),
                SMALLEST,
                tmp_path / "notop.weights.h5",
                labels=labels,
                output=tmp_path / "report",
            )


# Names of ILSVRC2012


def test_the_names_of_imagenets_validation_set_have_known_classes(folder):
    flat = folder(*val(*range(1, 11), *KAGGLE), "notes.txt", "LICENSE")
    assert is_flat(flat)
    for names in (class_names("imagenet"), wordnet_ids()):
        dataset, how = flat_images(flat, None, names)
        assert how == "by the names of ILSVRC2012"
        assert dataset.class_names == names
        assert [os.path.basename(name) for name in dataset.names[:2]] == val(1, 2)
        assert dataset.labels[:10].tolist() == list(CAFFE)
        ids = [wordnet_ids()[label] for label in dataset.labels[10:]]
        assert ids == [KAGGLE[number].split()[0] for number in sorted(KAGGLE)]


@pytest.mark.parametrize("name", ["cat.jpg", *val(0, 50_001)])
def test_an_image_of_another_name_is_refused(folder, name):
    flat = folder(*val(1), name)
    with pytest.raises(ValueError, match=f"names as in ILSVRC.*Received: .*{name}"):
        flat_images(flat, None, class_names("imagenet"))
    with pytest.raises(ValueError, match=r"3 classes: 'cat', .*give a file of labels"):
        flat_images(flat, None, ANIMALS)


# Files of labels


@pytest.mark.parametrize(
    "lines",
    [
        ("b.jpg,cat", "c.jpg,fish", "a.jpg,dog"),
        ("image,class", "b.jpg,0", "c.jpg,2", "a.jpg,1"),
        ("c,fish", "b,cat", "a,dog"),
        ('"c.jpg","fish"', '"b.jpg","cat"', "", '"a.jpg","dog"'),
    ],
    ids=" ".join,
)
def test_a_csv_file_has_the_classes(folder, labels, lines):
    flat = folder("c.jpg", "a.jpg", "b.jpg", "LICENSE")
    for encoding in ("utf-8", "utf-8-sig"):
        path = labels(*lines, encoding=encoding)
        dataset, how = flat_images(flat, path, ANIMALS)
        assert how == f"by {path}"
        assert dataset.labels.tolist() == [1, 0, 2]
        names = [os.path.basename(name) for name in dataset.names]
        assert names == ["a.jpg", "b.jpg", "c.jpg"]


def test_wordnet_ids_may_stand_in_a_file_of_labels(folder, labels):
    path = labels("a,n15075141", "b,tench")
    dataset, _ = flat_images(folder("a.jpg", "b.jpg"), path, class_names("imagenet"))
    assert dataset.labels.tolist() == [999, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("cat",), "none for 'a.jpg'"),
        (("a.jpg,cat", "b.jpg,cow"), "'cow' in the line 'b.jpg,cow'"),
        (("a.jpg,0", "b.jpg,3"), "'3' in the line"),
        (("a.jpg,0", "b.jpg,-1"), "'-1' in the line"),
        (("a.jpg,cat", "c.jpg,dog"), "none for 'b.jpg'"),
        (("a.jpg,cat", "b.jpg,"), "'' in the line 'b.jpg,'"),
    ],
    ids=str,
)
def test_a_file_of_labels_that_does_not_fit_is_refused(folder, labels, lines, message):
    path = labels(*lines)
    with pytest.raises(ValueError, match=f"Expected.*Received: .*{message}"):
        flat_images(folder("a.jpg", "b.jpg"), path, ANIMALS)


def test_a_file_that_is_not_text_and_a_folder_without_images_are_refused(
    folder, labels, tmp_path
):
    path = tmp_path / "labels"
    for contents in (b"\xff\xd8\xff\xe0", b'"' + b"x" * 200_000):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match="Expected a CSV file"):
            flat_images(folder("a.jpg"), path, ANIMALS)
    (tmp_path / "flat" / "a.jpg").rename(tmp_path / "flat" / "notes.txt")
    with pytest.raises(ValueError, match=r"Expected images. Received: none in"):
        flat_images(tmp_path / "flat", labels("a,cat"), ANIMALS)


def test_missing_paths_are_refused(folder, labels, tmp_path):
    with pytest.raises(ValueError, match=r"images that exists. Received: '.*gone'"):
        flat_images(tmp_path / "gone", labels("a,cat"), ANIMALS)
    with pytest.raises(ValueError, match=r"a CSV file .*gone.csv': .*No such file"):
        flat_images(folder("a.jpg"), tmp_path / "gone.csv", ANIMALS)


def test_a_folder_that_cannot_be_listed_is_refused(folder, labels, monkeypatch):
    flat = folder("a.jpg")
    (flat / "hidden").mkdir()
    scandir = os.scandir

    def forbidding(path):
        if os.fsdecode(path).endswith("hidden"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(ValueError, match=r"can be listed.*hidden"):
        flat_images(flat, labels("a,cat"), ANIMALS)

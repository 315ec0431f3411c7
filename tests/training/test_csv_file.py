"""Data sets of a CSV or TSV file: what it may look like, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from resnext_keras.training.data.splits import open_dataset, open_split, open_splits

COUNT = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of different greys, with a name that has a comma and spaces."""
    folder = tmp_path_factory.mktemp("csv")
    (folder / "images").mkdir()
    for number in range(COUNT):
        image = Image.new("RGB", (40, 40), (number, 0, 0))
        image.save(folder / "images" / f"a, {number}.png")
    return folder


def written(folder, text, name="labels.csv"):
    """The path of a file; `{}` in a line is the path of the next image."""
    lines, number = [], 0
    for line in text.strip("\n").splitlines():
        if "{}" in line:
            quote = "" if name.endswith(".tsv") else '"'
            line = line.replace("{}", f"{quote}images/a, {number}.png{quote}")
            number += 1
        lines.append(line)
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def labels(dataset):
    """The names of the classes of each image."""
    return [
        [name for name, value in zip(dataset.class_names, row, strict=True) if value]
        for row in dataset.soft_labels(range(len(dataset)))
    ]


ONE_LABEL = {
    "without a header": "{},cat\n{},dog\n{},cat\n{},dog",
    "with a header": "image,label\n{},cat\n{},dog\n{},cat\n{},dog",
    "in another order": "Label, x, File_Name\ncat,1,{}\ndog,,{}\ncat,3,{}\n\ndog,4,{}",
    "an image column of any name": "id,class\n{},cat\n{}, dog\n{},cat\n{},dog",
    "semicolons": "image;label\n{};cat\n{};dog\n{};cat\n{};dog",
    "a byte order mark": "\ufeffimage,label\n{},cat\n{},dog\n{},cat\n{},dog",
}


@pytest.mark.parametrize("text", ONE_LABEL.values(), ids=ONE_LABEL)
def test_one_class_an_image(folder, text):
    (dataset,) = open_splits(written(folder, text))
    assert dataset.class_names == ("cat", "dog")
    assert labels(dataset) == [["cat"], ["dog"], ["cat"], ["dog"]]
    assert not dataset.is_multi_label
    assert [dataset.image(n).getpixel((0, 0))[0] for n in range(4)] == [0, 1, 2, 3]
    assert all(str(folder) in name for name in dataset.names)


SEVERAL = {
    "bars": ("image,label\n{},b|a\n{},\n{},c | b\n{},a", "csv"),
    "tabs": ("image\tlabels\n{}\tb|a\n{}\t\n{}\tc|b\n{}\ta", "tsv"),
    "columns": ("a,b,c,image\n1,1,0,{}\n0,0,0,{}\n0,1,1,{}\n1,0,0,{}", "csv"),
    "pandas": (
        "path,a,b,c\n{},1.0,1.0,0.0\n{},0,0,0\n{},False,TRUE,true\n{},1,0,0",
        "csv",
    ),
}


@pytest.mark.parametrize(("text", "ending"), SEVERAL.values(), ids=SEVERAL)
def test_several_classes_an_image(folder, text, ending):
    (dataset,) = open_splits(written(folder, text, f"labels.{ending}"))
    assert dataset.is_multi_label
    assert dataset.class_names == ("a", "b", "c")
    assert labels(dataset) == [["a", "b"], [], ["b", "c"], ["a"]]
    assert dataset.class_counts().tolist() == [2, 2, 1]
    assert (dataset.outputs, dataset.activation) == (3, "sigmoid")


@pytest.mark.parametrize(
    "text", ["image,ill\n{},1\n{},0\n{},1", "{},|ill\n{},\n{},ill"]
)
def test_one_column_of_0_and_1_is_one_score_of_two_classes(folder, text):
    (dataset,) = open_splits(written(folder, text))
    assert dataset.class_names == ("not ill", "ill")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert (dataset.outputs, dataset.activation) == (1, "sigmoid")


def test_a_column_may_hold_the_split(folder):
    text = "image,label,split\n{},a,train\n{},b,Test\n{},b,train\n{},a,val\n{},a,test"
    path = written(folder, text)
    training, validation = open_dataset(path)
    assert labels(training) == [["a"], ["b"]]
    assert labels(validation) == [["a"]]
    assert labels(open_split(path)) == [["a"]]  # of the splits `val` goes first


def test_the_share_is_held_out_of_every_class_and_each_keeps_an_image(folder):
    rng = np.random.default_rng(0)
    own = rng.random((400, 6)) < [0.01, 0.05, 0.1, 0.3, 0.5, 0.9]
    own[0, 0] = own[1, 0] = True
    rows = [",".join(map(str, row.astype(int))) for row in own]
    lines = [f"{number}.png,{row}" for number, row in enumerate(rows)]
    path = folder / "many.csv"
    path.write_text("\n".join(["image,a,b,c,d,e,f", *lines]))
    training, validation = open_dataset(path, 0.25, seed=3)
    assert len(training) + len(validation) == 400
    assert not set(training.names) & set(validation.names)
    assert len(validation) == pytest.approx(100, abs=8)
    counts = training.class_counts(), validation.class_counts()
    assert min(map(min, counts)) >= 1
    np.testing.assert_allclose(counts[1], own.sum(axis=0) / 4, atol=8)
    again = open_dataset(path, 0.25, seed=3)
    assert list(again[1].names) == list(validation.names)
    assert list(open_dataset(path, 0.25, seed=4)[1].names) != list(validation.names)


REFUSED = {
    "": "a line for each image",
    "image,label\n": "a line for each image. Received: none in",
    "image,label\n{},cat\n{}": "2 cells image, label in each line. .* 1 in line 3",
    "image,label\n{},cat\n{},": "'label' of each line.*'|' for an image.* in line 3",
    "image,label\n{},cat\n,dog": "the path of an image in each line. .* none in line 3",
    "image,label\na.png,b\nx/../a.png,c": "each image once; .* in line 2 and in line 3",
    "image,label,split\n{},a,train\n{},b,tset": "'split'. Received: 'tset' in line 3",
    "image,a,width\n{},1,640\n{},0,480": "0 and 1 .* '640' .*'width', in line 2",
    "image,split\n{},train": "a column 'label', or a column of 0 and 1",
    "image,a,a\n{},1,0\n{},0,1": "a column 'label', or a column of 0 and 1",
    'image,label\n{},a\n{},"b\n{},a\n{},b': "in UTF-8, with closed quotes",
    'image,label\n{},a\n{},"b\nc"\n{},b': "cells of one line.* line break",
    "img,target\n{},a\n{},b": "a header with .* Received: 'img, target' in line 1",
    "split,one,label,two\ntrain,{},a,1\nval,{},b,2": "with one of the names image",
    "image,label,split\n{},a,train\n{},b,train\n{},c,val": (
        "of each class in the split 'train'. Received: none of 'c'"
    ),
    "image,a,b,c\n{},1,0,0\n{},0,1,0\n{},1,1,0": "of each class.* without one of 'c'",
    "image,label\n{},a\n{},a": "two classes or more",
    "image,label\n{},a\n{},a\n{},b": "two images or more of each class.* image of 'b'",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_is_wrong_is_named_with_its_line(folder, text, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(written(folder, text, "refused.csv"))


def test_a_file_that_is_no_text_is_refused(folder):
    path = folder / "photo.csv"
    path.write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(ValueError, match=r"in UTF-8.*photo\.csv"):
        open_dataset(path)

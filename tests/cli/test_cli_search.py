"""`resnext-keras search` prints, draws, and refuses in one line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import run
from feature_files import pooled_features, write_features
from PIL import Image

from resnext_keras.digits import held_out_digits

ODD = "<script>alert('1')<b>\" &.png"


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """The names of six digits as images in the working folder, with features."""
    monkeypatch.chdir(tmp_path)
    images, _ = held_out_digits()
    names = [*(f"{number}.png" for number in range(5)), ODD]
    for name, image in zip(names, images, strict=False):
        Image.fromarray(image).save(name)
    write_features("features.parquet", pooled_features(names), names)
    return names


def test_a_table_and_a_contact_sheet(collection):
    result = run("search", "2.png", "--index", "features.parquet", "--top", 4)
    assert result.stderr == ""
    about, _, *rows, file = result.stdout.splitlines()
    assert about == "6 images compared by resnext11_8x4d.digits"
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0].split()[1:] == ["1.0000", "2.png"]
    assert file == "2.found.png"
    with Image.open(file) as sheet:
        assert sheet.width > 5 * 192


def test_json_has_the_same_and_draws_only_when_asked(collection):
    arguments = ("search", "2.png", "--index", "features.parquet", "--json")
    result = run(*arguments)
    found = json.loads(result.stdout)
    assert [match["rank"] for match in found] == list(range(1, 7))
    assert found[0]["path"] == "2.png"
    similarities = [match["similarity"] for match in found]
    assert similarities == sorted(similarities, reverse=True)
    assert not Path("2.found.png").exists()
    result = run(*arguments, "-o", "a.png")
    assert json.loads(result.stdout) == found
    assert result.stderr == "a.png\n"


def test_the_page_is_one_file_and_odd_names_harm_nothing(collection):
    run("search", ODD, "--index", "features.parquet", "--html", "-o", "a.png")
    page = Path("a.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 7
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "://" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2.png", "--index", "gone.parquet"], "no such file"),
        (["2.png", "--index", "1.png"], "a .parquet file from `resnext-keras extract`"),
        (["2.png", "--index", "empty.parquet"], "none in 'empty.parquet'"),
        (["gone.png", "--index", "features.parquet"], "no such file"),
        (["features.parquet", "--index", "features.parquet"], "an image"),
        (["2.png", "--index", "features.parquet", "-o", "1.png"], "--overwrite"),
        (["2.png", "--index", "features.parquet", "-o", "a.txt"], ".png"),
    ],
)
def test_bad_arguments_give_one_line_and_no_file(collection, arguments, message):
    write_features("empty.parquet", np.ones((0, 1024), "float32"))
    before = sorted(os.listdir())
    result = run("search", *arguments, code=1)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir()) == before


def test_without_an_index_the_help_is_named(collection):
    assert "--index" in run("search", "2.png", code=2).stderr

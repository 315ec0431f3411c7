"""`resnext-keras search` prints, draws, and refuses in one line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import error_of, run
from feature_files import pooled_features, write_features
from PIL import Image

from resnext_keras.digits import held_out_digits

ODD = "<script>alert('1')<b>\" &.png"


@pytest.fixture(autouse=True, scope="module")
def _collection(tmp_path_factory):
    """Six digits as images in the working folder, and their features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("collection"))
        images, _ = held_out_digits()
        names = [*(f"{number}.png" for number in range(5)), ODD]
        for name, image in zip(names, images, strict=False):
            Image.fromarray(image).save(name)
        write_features("features.parquet", pooled_features(names), names)
        yield


def test_a_table_with_a_contact_sheet_or_json_without():
    arguments = ("search", "2.png", "--index", "features.parquet", "--top", 4)
    found = json.loads(run(*arguments, "--json").stdout)
    assert [match["rank"] for match in found] == [1, 2, 3, 4]
    similarities = [match["similarity"] for match in found]
    assert similarities == sorted(similarities, reverse=True)
    assert not Path("2.found.png").exists()

    result = run(*arguments)
    assert result.stderr == ""
    about, _, *rows, file = result.stdout.splitlines()
    assert about == "6 images compared by resnext11_8x4d.digits"
    assert rows[0].split() == ["1", "1.0000", "2.png"]
    assert [row.split(None, 2)[2] for row in rows] == [m["path"] for m in found]
    assert file == "2.found.png"
    with Image.open(file) as sheet:
        assert sheet.width > 5 * 192

    result = run(*arguments, "--json", "-o", "a.png")
    assert json.loads(result.stdout) == found
    assert result.stderr == "a.png\n"


def test_a_page_is_one_file_and_escapes_names():
    run("search", ODD, "--index", "features.parquet", "--html", "-o", "page.png")
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 7
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "://" not in page


def test_wrong_arguments_give_one_line_and_no_file():
    write_features("empty.parquet", np.ones((0, 1024), "float32"))
    before = sorted(os.listdir())
    for message, *arguments in (
        ("no such file", "4.png", "--index", "gone.parquet"),
        ("file from `resnext-keras extract`", "4.png", "--index", "1.png"),
        ("none in 'empty.parquet'", "4.png", "--index", "empty.parquet"),
        ("no such file", "gone.png", "--index", "features.parquet"),
        ("an image", "features.parquet", "--index", "features.parquet"),
        ("--overwrite", "4.png", "--index", "features.parquet", "-o", "1.png"),
        (".png", "4.png", "--index", "features.parquet", "-o", "a.txt"),
    ):
        assert message in error_of("search", *arguments)
        assert sorted(os.listdir()) == before
    assert "--index" in run("search", "4.png", code=2).stderr

"""`resnext-keras explain` draws the evidence for a class."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import run
from PIL import Image

import resnext_keras as rk
from resnext_keras.digits import held_out_digits
from resnext_keras.features.explanation import SIDE, Evidence, class_number

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def digit(tmp_path, monkeypatch):
    """A held-out digit as a file in the working folder."""
    monkeypatch.chdir(tmp_path)
    images, labels = held_out_digits()
    Image.fromarray(images[0]).save("digit.png")
    return str(labels[0])


def test_the_most_probable_class_is_drawn_beside_the_image(digit):
    result = run("explain", "digit.png", "--weights", "digits")
    assert result.stderr == ""
    weights, _, row, file = result.stdout.splitlines()
    assert (weights, file) == ("resnext11_8x4d.digits", "digit.explained.png")
    assert row.split()[0] == digit
    assert float(row.split()[1].rstrip("%")) > 90
    with Image.open(file) as sheet:
        assert sheet.width > 2 * SIDE
        assert sheet.height > SIDE
        plain, heated = (
            np.asarray(sheet.crop((x, 8, x + SIDE, 8 + SIDE))).astype(int)
            for x in (8, 16 + SIDE)
        )
    assert (plain == plain[..., :1]).all()  # a grey image
    assert np.ptp(heated, axis=-1).max() > 50


def test_a_name_that_is_a_number_is_not_mixed_up_with_the_score(digit):
    assert Evidence("3", 0.0, np.zeros((1, 1))).caption == "3: 0.0%"
    run("explain", "digit.png", "--weights", "digits", "--html")
    assert f"<strong>{digit}</strong>: " in Path("digit.explained.html").read_text()


def test_classes_go_by_name_and_number_and_several_side_by_side(digit):
    command = ("explain", "digit.png", "--weights", "digits")
    rows = run(*command, "--class", 3, "--class", 8).stdout.splitlines()
    assert [row.split()[0] for row in rows[2:4]] == ["3", "8"]
    rows = run(*command, "--top", 3, "-o", "top.png").stdout
    assert len(rows.splitlines()) == 2 + 3 + 1


def test_python_returns_what_the_command_prints_and_draws_only_when_asked(digit):
    explanation = rk.explain("digit.png", weights="digits", classes=[int(digit), "8"])
    assert [evidence.name for evidence in explanation.classes] == [digit, "8"]
    assert explanation.weights == "resnext11_8x4d.digits"
    assert explanation.files == ()
    assert os.listdir() == ["digit.png"]
    drawn = rk.explain("digit.png", weights="digits", output="a.png", html=True)
    assert [str(file) for file in drawn.files] == ["a.png", "a.html"]
    assert sorted(os.listdir()) == ["a.html", "a.png", "digit.png"]


def test_the_page_has_all_in_one_file_and_odd_names_harm_nothing(digit):
    odd = os.fsdecode(b"<script>alert(1)<%2f \"'&\xff.png").replace("/", "")
    os.rename("digit.png", odd)
    run("explain", odd, "--weights", "digits", "--html", "--top", 2, "-o", "out.png")
    page = Path("out.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count('src="data:image/jpeg;base64,') == 3
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "http://" not in page
    assert "https://" not in page
    assert "Content-Security-Policy" in page


def test_existing_files_are_replaced_only_with_overwrite(digit, tmp_path):
    command = ("explain", "digit.png", "--weights", "digits", "--html", "-o", "a.png")
    run(*command)
    for file in ("a.png", "a.html"):
        message = run(*command, code=1).stderr
        assert f"or --overwrite. Received: '{file}'" in message
        os.remove(file)
    run(*command)
    run(*command, "--overwrite")
    assert sorted(os.listdir(tmp_path)) == ["a.html", "a.png", "digit.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit.png", "--class", "10"], "from 0 to 9"),
        (["digit.png", "--layer", "conv4_block1"], "Did you mean conv4_block1_"),
        (["digit.png", "--layer", "avg_pool"], "with feature maps"),
        (["digit.png", "-o", "a.jpg"], ".png"),
        (["digit.png", "-o", "no/a.png"], "existing folder"),
        (["gone.png"], "no such file"),
        (["digit.png", "--model", "resnext50"], "Did you mean resnext50_32x4d"),
    ],
)
def test_bad_arguments_give_one_line_and_no_file(digit, tmp_path, arguments, message):
    result = run("explain", "--weights", "digits", *arguments, code=1)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["digit.png"]


def test_an_unknown_class_lists_near_ones():
    names = rk.class_names("imagenet")
    assert class_number("Great white shark", names) == 2
    assert class_number("7", names) == class_number(7, names) == 7
    with pytest.raises(ValueError, match=r"Did you mean tabby.*Received: class='tabi'"):
        class_number("tabi", names)
    with pytest.raises(ValueError, match="great_white_shark"):
        class_number("shark", names)
    with pytest.raises(ValueError, match="from 0 to 999"):
        class_number(-1, names)


def test_a_class_without_evidence_is_marked(digit, tmp_path):
    model = rk.load_classifier(weights="digits").model
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([-np.abs(kernel), bias])
    model.save_weights(tmp_path / "own.weights.h5")
    result = run("explain", "digit.png", "--weights", "own.weights.h5", "--html")
    assert "no evidence in conv4_block1_out" in result.stdout
    assert "Nothing in the image" in Path("digit.explained.html").read_text("utf-8")

"""`resnext-keras explain` draws the evidence for a class."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import error_of, run
from PIL import Image

import resnext_keras as rk
from resnext_keras.features.explanation import SIDE

pytestmark = pytest.mark.tensorflow


def test_the_top_class_is_drawn_beside_the_image(digit):
    command = ("explain", "digit.png", "--weights", "digits")
    result = run(*command)
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
    rows = run(*command, "--class", 3, "--class", 8, "-o", "a.png").stdout.splitlines()
    assert [row.split()[0] for row in rows[2:4]] == ["3", "8"]


def test_the_function_draws_only_when_asked_and_replaces_only_with_overwrite(digit):
    def explain(**options):
        return rk.explain("digit.png", weights="digits", **options)

    (zero,) = explain(classes=np.int64(0)).classes
    assert zero.name == "0"
    explanation = explain(classes=[int(digit), "8"])
    assert [evidence.name for evidence in explanation.classes] == [digit, "8"]
    assert explanation.weights == "resnext11_8x4d.digits"
    assert explanation.files == ()
    assert os.listdir() == ["digit.png"]
    drawn = explain(top=3, output="a.png", html=True)
    assert len(drawn.classes) == 3
    assert [str(file) for file in drawn.files] == ["a.png", "a.html"]
    # A class whose name is a number is not mixed up with its score.
    assert f"<strong>{digit}</strong>: " in Path("a.html").read_text()
    with pytest.raises(ValueError, match=r"overwrite=True\. Received: 'a.png'"):
        explain(output="a.png")
    os.remove("a.png")
    with pytest.raises(ValueError, match=r"overwrite=True\. Received: 'a.html'"):
        explain(output="a.png", html=True)
    explain(output="a.png", html=True, overwrite=True)
    assert sorted(os.listdir()) == ["a.html", "a.png", "digit.png"]


def test_a_page_is_one_file_and_escapes_names(digit):
    odd = os.fsdecode(b"<script>alert(1)<%2f \"'&\xff.png").replace("/", "")
    os.rename("digit.png", odd)
    run("explain", odd, "--weights", "digits", "--html", "--top", 2, "-o", "out.png")
    page = Path("out.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count('src="data:image/jpeg;base64,') == 3
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "://" not in page
    assert "Content-Security-Policy" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit.png", "--class", "10"], "from 0 to 9"),
        (["digit.png", "--layer", "conv4_block1"], "Did you mean conv4_block1_"),
        (["digit.png", "--layer", "avg_pool"], "with feature maps"),
        (["digit.png", "-o", "a.jpg"], ".png"),
        (["digit.png", "-o", "no/a.png"], "existing folder"),
        (["gone.png"], "no such file"),
    ],
)
def test_wrong_arguments_give_one_line_and_no_file(digit, arguments, message):
    assert message in error_of("explain", "--weights", "digits", *arguments)
    assert os.listdir() == ["digit.png"]


def test_an_unknown_class_lists_near_ones(digit):
    for wrong, message in (  # before weights are downloaded
        ("tabi", r"Did you mean tabby.*Received: class='tabi'"),
        ("shark", "great_white_shark"),
        (-1, "from 0 to 999"),
    ):
        with pytest.raises(ValueError, match=message):
            rk.explain("digit.png", classes=wrong)


def test_a_class_of_imagenet_has_a_name_a_number_and_a_wordnet_id(digit):
    network = rk.ResNeXt("resnext11_8x4d", weights=None, classes=1000)
    network.save_weights("own.weights.h5")
    spelled = ["--class=n01484850", "--class", "Great white shark", "--class", 2]
    rows = run("explain", "digit.png", "--weights", "own.weights.h5", *spelled).stdout
    assert [row.split()[0] for row in rows.splitlines()[2:5]] == [
        "great_white_shark"
    ] * 3


def test_a_class_without_evidence_is_marked(digit):
    model = rk.load_classifier(weights="digits").model
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([-np.abs(kernel), bias])
    model.save_weights("own.weights.h5")
    result = run("explain", "digit.png", "--weights", "own.weights.h5", "--html")
    assert "no evidence in conv4_block1_out" in result.stdout
    assert "Nothing in the image" in Path("digit.explained.html").read_text("utf-8")

"""The command `resnext-keras` does what its help says."""

import json
import os
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import CliRunner
from command import row_of, run
from PIL import Image

from resnext_keras import ResNeXt
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras_cli.main import group


@pytest.fixture
def digit_file(tmp_path):
    """A held-out digit as an image file; its name is the digit."""
    images, labels = held_out_digits()
    path = tmp_path / f"{labels[0]}.png"
    Image.fromarray(images[0]).save(path)
    return path


def test_demo_shows_predictions_the_accuracy_and_a_contact_sheet(tmp_path):
    output = tmp_path / "sheet.png"
    text = run("demo", "-o", output).stdout
    accuracy = float(text.split("top-1 accuracy")[1].split("%")[0])
    assert accuracy >= 98
    assert "predicted" in text
    assert "resnext-keras predict" in text
    with Image.open(output) as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 500


@pytest.mark.parametrize("output", ["no/folder/sheet.png", "notes.txt", "mine.png"])
def test_demo_says_when_it_cannot_write(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "mine.png"):
        (tmp_path / name).write_text("mine")
    result = run("demo", "-o", output, code=1)
    assert result.stderr.startswith("Error: ")
    assert output in result.stderr
    assert len(result.stderr.splitlines()) == 1  # no bar: nothing was done yet
    assert result.stdout == ""
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "notes.txt": "mine",
        "mine.png": "mine",
    }


def test_demo_replaces_its_own_sheet_when_all_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "resnext-keras-demo.png"
    path.write_text("earlier")
    with monkeypatch.context() as patch:
        stop = Mock(side_effect=KeyboardInterrupt)
        patch.setattr("resnext_keras.digits.contact_sheet", stop)
        run("demo", code=1)
    assert path.read_text() == "earlier"
    run("demo")
    assert os.listdir(tmp_path) == [path.name]
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
    run("demo", "-o", path.name, code=1)
    run("demo", "-o", path.name, "--overwrite")


def test_predict_names_the_digit(digit_file):
    result = run("predict", digit_file, "--weights", "digits")
    assert row_of(result.stdout, str(digit_file))[1] == digit_file.stem
    assert result.stdout.startswith("resnext11_8x4d.digits\n")
    assert result.stderr == ""


def test_predict_gives_json(digit_file):
    found = json.loads(
        run("predict", "--json", "--top", 3, digit_file, "--weights", "digits").stdout
    )
    assert [entry["file"] for entry in found] == [str(digit_file)]
    assert found[0]["weights"] == "resnext11_8x4d.digits"
    best, *others = found[0]["predictions"]
    assert best["name"] == digit_file.stem
    assert len(others) == 2
    assert 1 >= best["score"] >= others[0]["score"] >= others[1]["score"] >= 0


def test_predict_skips_what_is_no_image_and_tells_at_the_end(digit_file, tmp_path):
    text_file = tmp_path / "text.jpg"
    text_file.write_text("no image")
    files = (text_file, digit_file, tmp_path / "missing.png", digit_file)
    result = run("predict", "--json", "--weights", "digits", *files, code=1)
    named = [entry["file"] for entry in json.loads(result.stdout)]
    assert named == [str(digit_file)] * 2
    skipped = [
        line for line in result.stderr.splitlines() if line.startswith("Skipped")
    ]
    assert len(skipped) == 2
    assert str(text_file) in skipped[0]
    assert str(tmp_path / "missing.png") in skipped[1]


def test_predict_gives_the_same_for_many_files_as_for_each(tmp_path):
    images, labels = held_out_digits()
    paths = []
    for number, image in enumerate(images[:70]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    together = json.loads(
        run("predict", "--json", "--weights", "digits", "--top", 1, *paths).stdout
    )
    assert [entry["file"] for entry in together] == list(map(str, paths))
    classifier = load_classifier(weights="digits")
    alone = classifier.predict(
        as_network_sees(images[:70], classifier.preprocessing), 1
    )
    for entry, ((_, name, score),) in zip(together, alone, strict=True):
        assert entry["predictions"][0]["name"] == name
        assert entry["predictions"][0]["score"] == pytest.approx(score, abs=1e-5)
    right = [e["predictions"][0]["name"] for e in together] == labels[:70].astype(str)
    assert np.mean(right) > 0.9


def test_predict_takes_weights_from_a_file_and_finds_their_architecture(
    digit_file, tmp_path
):
    weights = tmp_path / "own.weights.h5"
    ResNeXt("resnext11_8x4d", weights=None, classes=3).save_weights(weights)
    found = json.loads(
        run("predict", "--json", "--weights", weights, digit_file).stdout
    )
    assert {entry["name"] for entry in found[0]["predictions"]} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "resnext50"], "Did you mean resnext50_32x4d"),
        (["--model", "resnext50_32x4d"], "resnext50_32x4d-1a0047aa.pth"),
        (["--model", "resnext101_32x48d"], "resnext101_32x48d.fb_wsl_ig1b_ft_in1k"),
        (["--model", "resnext29_8x64d"], "No ImageNet weights"),
        (["--weights", "resnext50_32x4d.keras_in1k_notop"], "with a classifier; "),
        (["--weights", "nowhere.weights.h5"], "nowhere.weights.h5"),
        (["--weights", "imagenet"], "as in 'resnext50_32x4d.imagenet'"),
        (["--weights", "digit"], "Did you mean digits? Received: 'digit'; `resnext-"),
        (["--model", "foo"], "names that `resnext-keras list` gives. Received: 'foo'"),
        ([], "digits need no download: --weights digits."),
        (["--model", "resnext50_32x4d", "--weights", "digits"], "resnext11_8x4d"),
    ],
)
def test_bad_arguments_give_one_line_and_no_trace(digit_file, arguments, told):
    result = run("predict", *arguments, digit_file, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert told in result.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_only_traceback_shows_the_trace(place):
    arguments = ["weights", "convert", "digits", "nothing.known"]
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, SystemExit)
    arguments.insert(0 if place == "before" else 4, "--traceback")
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("Expected this."), "Expected this."),
        (OSError(28, "No space left"), "[Errno 28] No space left"),
        (KeyError("x"), "KeyError: 'x' (--traceback shows more)"),
        (ValueError("One\nTwo"), "ValueError: One (--traceback shows more)"),
        (MemoryError(), "MemoryError (--traceback shows more)"),
    ],
)
def test_an_error_that_is_no_message_to_users_tells_its_kind(monkeypatch, error, told):
    monkeypatch.setattr(
        "resnext_keras.models.flops.stage_costs", Mock(side_effect=error)
    )
    result = run("summary", "resnext11_8x4d", code=1)
    assert result.stderr == f"Error: {told}\n"


def test_summary_has_a_row_a_stage():
    text = run("summary", "resnext50_32x4d").stdout
    assert row_of(text, "conv4")[1:6] == ["14", "x", "14", "x", "1024"]
    total = row_of(text, "all")
    assert total[1:] == ["25,097,128", "4,230,479,872"]
    own = run("summary", "resnext11_8x4d", "--size", 64, "--classes", 3).stdout
    assert row_of(own, "classifier")[1] == "3"


def test_list_names_architectures_and_weight_sets():
    text = run("list").stdout
    assert row_of(text, "resnext11_8x4d")[-1] == "digits"
    assert row_of(text, "resnext50_32x4d")[1:4] == ["224", "1000", "25,097,128"]


@pytest.mark.parametrize(
    "name", ["[red]digit.png", "a [b] c.png", ":smile:.png", "ä ö.png"]
)
def test_any_file_name_is_printed_as_it_is(digit_file, name):
    path = digit_file.rename(digit_file.with_name(name))
    assert str(path) in run("predict", "--weights", "digits", "--top", 1, path).stdout


@pytest.mark.parametrize("command", [["list"], ["summary", "resnext11_8x4d"]])
def test_what_is_piped_has_no_blanks_around_it(command):
    lines = run(*command).stdout.splitlines()
    assert lines == [line.strip() for line in lines]
    assert all(lines)


def test_the_start_of_tensorflow_is_not_told():
    done = subprocess.run(
        [sys.executable, "-m", "resnext_keras_cli", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("TF_")},
    )
    assert "resnext50_32x4d" in done.stdout
    assert done.stderr == ""

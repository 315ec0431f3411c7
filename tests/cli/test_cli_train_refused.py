"""`resnext-keras train` and `finetune`: what they refuse, and how they stop."""

import functools
import os
import shutil

import filelock
import keras
import pytest
from command import error_of, run
from helpers import GOLDEN
from run_data import CLASSES, image_folder, tfrecords

import resnext_keras as rk
from resnext_keras.training.callbacks import CHECKPOINT
from resnext_keras.training.trainer import LOCK

QUICK = ("--model", "tiny", "--epochs", 2, "--batch", 8, "--checkpoint-every", 0)


pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture
def data(tmp_path):
    return image_folder(tmp_path / "rooms")


def one_class(data):
    shutil.rmtree(data / CLASSES[1])
    return data


def broken_class(data):
    for path in (data / CLASSES[0]).iterdir():
        path.write_bytes(b"no image")
    return data


def more_classes(data):
    records = tfrecords(data.parent / "records", data)
    names = [f"class {number}" for number in range(100)]
    (records / "labels.txt").write_text("\n".join(names))
    return records


def few_names(data):
    directory = shutil.copytree(GOLDEN / "tfds" / "shapes", data.parent / "shapes")
    (directory / "1.0.0" / "label.labels.txt").write_text("dark\n")
    return directory


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_class, "folder for each of two classes or more"),
        (broken_class, "none in 'Dark Room'; the first is"),
        (more_classes, "100 classes of 30 images"),
        (few_names, "names of 2 classes"),
        (lambda data: data / CLASSES[0] / "0.png", "not one image"),
    ],
)
def test_wrong_data_give_one_line_and_no_folder(data, tmp_path, spoil, message):
    spoiled = spoil(data)
    before = sorted(tmp_path.iterdir())
    for command in (["train", "--model", "tiny"], ["finetune", "--weights", "digits"]):
        line = error_of(*command, spoiled, "-o", tmp_path / "run")
        assert line.startswith("Error: Expected")
        assert "Received: " in line
        assert message in line
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["digits", "resnext50_32x4d.A1_IN1K", "ResNeXt50"])
def test_a_run_has_not_the_name_of_published_weights(data, monkeypatch, name):
    monkeypatch.chdir(data.parent)
    line = error_of("finetune", "--weights", "digits", data, "-o", name)
    assert "Expected another name for the folder" in line
    assert os.listdir() == [data.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accumulate", 3, "--batch", 8], "`accumulate` to divide the batch of 8"),
        (["--set", "mixupp=0.2"], "Did you mean mixup"),
        (["--set", "flip=false", "--set", "crop=cut"], "Received: crop='cut'"),
        (["--set", "recipe=paper"], "Expected one of the fields of a recipe"),
        (["--recipe", "papers"], "Did you mean paper"),
        (["--model", "tinier"], "Did you mean tiny?"),
        (["--class-weight", "Dark Rom=2"], "Did you mean Dark Room?"),
        (["--class-weight", "light=-1"], "a dict of positive numbers"),
        (["--class-weight", "lights=on=2"], "a weight of 'lights=on'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(
    data, tmp_path, options, message, no_model
):
    output = ("-o", tmp_path / "run", "--model", "tiny")
    assert message in error_of("train", data, *output, *options)
    assert not (tmp_path / "run").exists()
    for wrong in (
        ["--set", "mixup"],
        ["--class-weight", "light"],
        ["--class-weight", "light=1", "--class-weight", "light=2"],
        ["--class-weight", "light=1", "--balance"],
    ):
        result = run("train", data, *output, *wrong, code=2)
        assert result.stderr.startswith("Usage: ")


def test_weights_are_looked_for_before_a_folder_is_made(data, tmp_path):
    line = error_of("finetune", data, "-o", tmp_path / "run")
    assert "resnext50_32x4d-1a0047aa.pth" in line
    assert "RESNEXT_KERAS_OFFLINE" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_exists_is_left_as_it_is(data, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    for message, output, *options in (
        ("does not exist, or --resume, which continues the run in it", mine),
        ("with a run.json", mine, "--resume"),
        ("outside the image folder", data / "run"),
    ):
        assert message in error_of("train", data, "-o", output, *QUICK, *options)
    assert [path.name for path in mine.iterdir()] == ["letter"]
    assert sorted(os.listdir(data)) == sorted(CLASSES)


@pytest.mark.long
def test_a_stopped_run_prints_how_to_continue(data, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["train", data, "-o", folder, *QUICK]

    def stop(batch, logs):
        if callback.model.optimizer.iterations == 4:
            raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
    stopping = functools.partial(rk.train, callbacks=callback)
    with monkeypatch.context() as patch:
        patch.setattr(rk, "train", stopping)
        result = run(*command, code=130)
    (line,) = result.stderr.splitlines()
    assert line == "Stopped; the same command with --resume continues the run."
    (folder / ".writing-begun").mkdir()  # as a killed process leaves it
    (folder / ".writing-begun" / CHECKPOINT).write_bytes(b"half")
    with filelock.FileLock(folder / LOCK):
        locked = run(*command, "--resume", code=1).stderr
    assert "no other process is writing to" in locked
    assert "In " in run(*command, "--resume").stdout
    assert not list(folder.glob(".writing-*"))

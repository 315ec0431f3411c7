"""`resnext-keras train` and `finetune`: what they refuse, and how they stop."""

import os
import shutil

import filelock
import numpy as np
import pytest
from command import run
from helpers import GOLDEN
from run_data import CLASSES, image_folder, tfrecords
from safetensors.numpy import load_file
from tiny_command import TINY

from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.training.callbacks import CHECKPOINT, TrainingState
from resnext_keras.training.trainer import LOCK

QUICK = ("--model", "tiny", "--epochs", 2, "--batch", 8, "--checkpoint-every", 0)


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", TINY)
        yield


@pytest.fixture
def data(tmp_path):
    return image_folder(tmp_path / "rooms")


def error(result):
    """The one line of an error."""
    (line,) = result.stderr.splitlines()
    return line


def one_class(data):
    shutil.rmtree(data / CLASSES[1])
    return data


def empty_class(data):
    (data / "nothing").mkdir()
    return data


def one_image(data):
    (data / "alone").mkdir()
    shutil.copy(data / CLASSES[0] / "0.png", data / "alone")
    return data


def in_no_class(data):
    shutil.copy(data / CLASSES[0] / "0.png", data)
    return data


def broken_class(data):
    for path in (data / CLASSES[0]).iterdir():
        path.write_bytes(b"no image")
    return data


def more_classes(data):
    found = tfrecords(data.parent / "records", data)
    names = [f"class {number}" for number in range(100)]
    (found / "labels.txt").write_text("\n".join(names))
    return found


def few_labels(data):
    found = tfrecords(data.parent / "records", data)
    (found / "labels.txt").write_text("one\n")
    return found


def few_names(data):
    found = shutil.copytree(GOLDEN / "tfds" / "shapes", data.parent / "shapes")
    (found / "1.0.0" / "label.labels.txt").write_text("dark\n")
    return found


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (one_class, "folder for each of two classes or more"),
        (empty_class, "none in 'nothing'; add some, or remove the folder"),
        (one_image, "one image of 'alone'; add some, or remove the class"),
        (in_no_class, "each image in the folder of its class"),
        (broken_class, "none in 'Dark Room'; the first is"),
        (more_classes, "100 classes of 30 images"),
        (few_labels, "label=1"),
        (few_names, "names of 2 classes"),
        (lambda data: data / CLASSES[0] / "0.png", "not one image"),
    ],
)
def test_data_that_cannot_be_learned_give_one_line_and_no_folder(
    data, tmp_path, command, spoil, found
):
    spoiled = spoil(data)
    before = sorted(tmp_path.iterdir())
    start = ["--weights", "digits"] if command == "finetune" else ["--model", "tiny"]
    line = error(run(command, spoiled, "-o", tmp_path / "run", *start, code=1))
    assert line.startswith("Error: Expected")
    assert "Received: " in line
    assert found in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--accumulate", 3, "--batch", 8], "`accumulate` to divide the batch of 8"),
        (["--set", "mixupp=0.2"], "Did you mean mixup"),
        (["--set", "mixup=-1"], "`mixup` of a recipe to be 0 or more"),
        (["--set", "recipe=paper"], "Expected one of the fields of a recipe"),
        (["--recipe", "papers"], "Did you mean paper"),
        (["--model", "tinier"], "Did you mean tiny?"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_built(
    data, tmp_path, options, found, monkeypatch
):
    monkeypatch.setattr("keras.layers.Conv2D.__init__", pytest.fail)
    output = ("-o", tmp_path / "run", "--model", "tiny")
    assert found in error(run("train", data, *output, *options, code=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [["--batch", "0"], ["--set", "mixup"], ["--frob"]])
def test_unknown_options_are_wrong_usage(data, tmp_path, option):
    result = run("train", data, "-o", tmp_path / "run", *option, code=2)
    assert result.stderr.startswith("Usage: ")
    assert not (tmp_path / "run").exists()


def test_weights_are_looked_for_before_a_folder_is_made(data, tmp_path):
    line = error(run("finetune", data, "-o", tmp_path / "run", code=1))
    assert "resnext50_32x4d-1a0047aa.pth" in line
    assert "RESNEXT_KERAS_OFFLINE" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_exists_is_left_as_it_is(data, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    line = error(run("train", data, "-o", mine, *QUICK, code=1))
    assert "does not exist, or --resume, which continues the run in it" in line
    assert "with a run.json" in error(
        run("train", data, "-o", mine, *QUICK, "--resume", code=1)
    )
    inside = error(run("train", data, "-o", data / "run", *QUICK, code=1))
    assert "outside the image folder" in inside
    assert [path.name for path in mine.iterdir()] == ["letter"]
    assert sorted(os.listdir(data)) == sorted(CLASSES)


@pytest.mark.long
def test_a_stopped_run_prints_how_to_continue(data, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["train", data, "-o", folder, *QUICK]

    def stop(self, batch, logs=None):
        if self.progress["step"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "on_train_batch_begin", stop)
        result = run(*command, code=130)
    assert error(result) == "Stopped; the same command with --resume continues the run."
    (folder / ".writing-begun").mkdir()  # as a killed process leaves it
    (folder / ".writing-begun" / CHECKPOINT).write_bytes(b"half")
    with filelock.FileLock(folder / LOCK):
        line = error(run(*command, "--resume", code=1))
    assert "no other process is writing to" in line
    assert "In " in run(*command, "--resume").stdout
    assert not list(folder.glob(".writing-*"))


def test_a_loss_of_nan_stops_a_run_with_the_step(data, tmp_path):
    folder = tmp_path / "run"
    result = run("train", data, "-o", folder, *QUICK, "--learning-rate", 1e30, code=1)
    line = error(result)
    assert line.startswith("Error: Step ")
    assert "in epoch 1 of phase 1: " in line
    assert "NaN or infinite" in line
    assert "lower learning rate" in line
    for state in folder.glob(CHECKPOINT):
        assert all(np.isfinite(array).all() for array in load_file(state).values())
    assert not list(folder.glob("*.weights.h5"))

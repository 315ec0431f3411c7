"""`resnext-keras train` and `finetune`: what they print, and what they leave."""

import base64
import csv
import io
import json
import re
import shutil

import pytest
import tensorflow as tf
from command import error_of, row_of, run
from helpers import GOLDEN
from PIL import Image
from run_data import CLASSES, image_folder, tfrecords

import resnext_keras as rk

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("tiny_network")]

FILES = {
    ".lock",
    "best.weights.h5",
    "checkpoint.safetensors",
    "classes.csv",
    "confusion.png",
    "curves.png",
    "history.csv",
    "model.keras",
    "predictions.csv",
    "reliability.png",
    "report.html",
    "run.json",
    "images.csv",
    "skipped.csv",
}

QUICK = ("--model", "tiny", "--epochs", 1, "--batch", 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An image folder, with a broken image among them."""
    folder = image_folder(tmp_path_factory.mktemp("data") / "rooms")
    (folder / CLASSES[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory, tiny_network):
    """The folder of a run at a size of its own, and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "first.run"
    options = ("--epochs", 2, "--batch", 8, "--size", 40, "--learning-rate", 0.02)
    options += ("--set", "train_size=32")
    result = run(
        "train", f"{data}/", "-o", f"{folder}/", "--model", "tiny", *options, "--export"
    )
    return folder, result


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_plan_is_printed_first_then_progress_figures_and_files(trained):
    folder, result = trained
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "2 classes, 24 images to train on, 6 to validate on, 1 skipped (skipped.csv)."
    )
    assert [line.split() for line in lines[2:4]] == [
        ["Dark", "Room", "12", "3", "#" * 30],
        ["light", "12", "3", "#" * 30],
    ]
    assert lines[4] == "tiny from random weights, images of 40 x 40 pixels."
    assert lines[5] == (
        "Phase 1: 2 epochs by the recipe cifar, batches of 8 images of 32 x 32 pixels, "
        "trains all layers; learning rate 0.02, which falls in steps; pad crops, flips."
    )
    assert lines[6] == "Epoch 1/2"
    # A slow machine prints lines within the epoch.
    after = [line for line in lines[7:] if not line.startswith("Epoch 1/2: ")]
    assert "val_accuracy" in after[0]
    assert row_of(result.stdout, "top-1")[1].endswith("%")
    assert row_of(result.stdout, "report.html")
    assert f"--weights {folder}`" in result.stdout
    assert result.stderr == ""


def test_the_folder_has_every_promised_file(trained, data):
    folder, _ = trained
    assert {path.name for path in folder.iterdir()} == FILES | {"saved_model"}
    history = rows(folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history[0])
    run_file = json.loads((folder / "run.json").read_text())
    assert run_file["settings"]["data"] == str(data)
    assert run_file["settings"]["size"] == run_file["preprocessing"]["size"] == 40
    assert run_file["class_names"] == list(CLASSES)
    assert run_file["versions"]["tensorflow"] == tf.__version__
    assert [row["class"] for row in rows(folder / "predictions.csv")] == [
        *[CLASSES[0]] * 3,
        *[CLASSES[1]] * 3,
    ]
    (skipped,) = rows(folder / "skipped.csv")
    assert skipped["image"] == f"{CLASSES[0]}/broken.jpg"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") >= 3  # curves, confusion, reliability
    assert "tiny on rooms" in page
    assert (  # of the settings
        "<td>batch_size</td><td>8</td><td>Images per update, over all devices.</td>"
    ) in page
    assert "<td>data</td><td>" in page
    served = tf.saved_model.load(folder / "saved_model" / "1").signatures
    image = (data / CLASSES[0] / "0.png").read_bytes()
    answer = served["serving_default"](image_bytes=tf.constant([image]))
    names = {name.decode() for name in answer["classes"].numpy()[0]}
    assert names == set(CLASSES)
    card = json.loads((folder / "saved_model/1/assets/model.json").read_text())
    assert (card["weights"], card["licence"]) == ("first.run", None)


def test_a_run_is_exported_beside_it_in_all_formats_with_its_own_images(
    trained, tmp_path, monkeypatch
):
    """The default path of a run in the current folder is not the run itself."""
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "flowers")
    for formats in ([], ["--format", "litert-int8"], ["--format", "litert"]):
        printed = run("export", "flowers", *formats).stdout
        assert "for 6 images" in printed  # those it was validated on
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("flowers", "flowers.export", "flowers.export.tflite"),
        "flowers.export.int8.tflite",
    }
    # A path that is given may have another export.
    assert "--overwrite" in error_of("export", "flowers", "-o", "flowers.export")


def test_a_folder_named_as_a_weight_set_is_no_run(tmp_path, monkeypatch):
    """Such as an export of this set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnext11_8x4d.digits").mkdir()
    assert "resnext11_8x4d.digits" in error_of("export", "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["resnext11_8x4d.digits"]


def test_images_that_a_run_was_trained_on_are_not_evaluated(
    trained, data, tmp_path, monkeypatch
):
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    printed = run("evaluate", data, "--weights", folder, code=1).stdout
    assert "24 images left out, since the run was trained on them" in printed
    options = ("--weights", folder, "--json", "-o", "other")
    figures = json.loads(run("evaluate", data, *options, code=1).stdout)
    assert (figures["images"], figures["trained_on"]) == (6, 24)
    # Also by another path, and after the data have moved.
    (tmp_path / "link").symlink_to(data)
    options = (*options, "--overwrite")
    figures = json.loads(run("evaluate", "link", *options, code=1).stdout)
    assert figures["trained_on"] == 24
    moved = shutil.copytree(data, tmp_path / "moved")
    moved_run = shutil.copytree(folder, tmp_path / "run")
    text = (moved_run / "run.json").read_text()
    (moved_run / "run.json").write_text(text.replace(str(data), "/gone"))
    options = ("--weights", moved_run, *options[2:])
    figures = json.loads(run("evaluate", moved, *options, code=1).stdout)
    assert figures["trained_on"] == 24
    options = (*options, "--include-training")
    figures = json.loads(run("evaluate", data, *options, code=1).stdout)
    assert (figures["images"], figures["trained_on"]) == (30, 0)


def test_other_commands_take_the_run_with_its_classes_and_size(
    trained, data, tmp_path, monkeypatch
):
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    last = rows(folder / "predictions.csv")[-1]
    assert last["image"].startswith("light/")
    (_, ((_, best, score), (_, other, _))) = rk.predict_files(
        data / last["image"], weights=f"{folder}/"
    ).predictions[0]
    assert {best, other} == set(CLASSES)
    assert best == last["predicted"]
    assert score == pytest.approx(float(last["score"]), abs=1e-3)
    (tmp_path / "runs").mkdir()  # beside the run, and named after it
    shutil.copytree(folder, "runs/lr0.1")
    assert "lr0.1.export" in run("export", "runs/lr0.1").stdout
    exported = tmp_path / "runs" / "lr0.1.export" / "1"
    assert (exported / "saved_model.pb").is_file()
    card = json.loads((exported / "assets" / "model.json").read_text())
    assert card["weights"] == "lr0.1"
    image = data / CLASSES[0] / "0.png"
    explained = rk.explain(image, weights=folder, classes=["dark room"])
    assert [evidence.name for evidence in explained.classes] == ["Dark Room"]
    rk.extract(data / "light", "f.parquet", weights=folder, engine="tensorflow")
    evaluated = run("evaluate", data, "--weights", folder, "-o", "report", code=1)
    assert "7 images" in evaluated.stdout  # one is broken, 24 were trained on
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    first = re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1]
    with Image.open(io.BytesIO(base64.b64decode(first))) as image:
        assert image.size == (40, 40)


def test_a_run_that_no_longer_improves_ends_early_and_says_so(
    trained, data, tmp_path, caplog
):
    folder = tmp_path / "run"
    options = ("--epochs", 9, "--batch", 8, "--weights", trained[0], "--patience", 1)
    run("finetune", data, "-o", folder, *options, "--learning-rate", 1e-30)
    message = "Phase 1 ends early, after epoch 2: its best was epoch 1 (patience: 1)"
    assert message in caplog.messages
    end = json.loads((folder / "run.json").read_text())["end"]
    epochs, best = len(rows(folder / "history.csv")), end["best_epoch"]
    assert end.pop("metrics").keys() == {"top_1", "cross_entropy", "calibration_error"}
    assert end == {"epochs": epochs, "planned_epochs": 9, "best_epoch": best}
    page = (folder / "report.html").read_text()
    assert f"those of epoch {best} of {epochs}, the best; the run ended early, " in page


@pytest.mark.long
def test_a_run_is_the_start_of_another(trained, data, tmp_path):
    folder, _ = trained
    result = run(
        "finetune", data, "-o", tmp_path / "second", "--weights", folder, *QUICK[2:]
    )
    assert f"tiny from {folder}, images of 40 x 40 pixels." in result.stdout
    assert "Phase 1: 1 epoch by the recipe head" in result.stdout
    assert "trains only the classifier" in result.stdout
    assert {path.name for path in (tmp_path / "second").iterdir()} == FILES


@pytest.mark.long
def test_tfrecords_and_tfds_directories_are_trained_on(tmp_path):
    records = tfrecords(tmp_path / "records", image_folder(tmp_path / "images"))
    result = run("train", records, "-o", tmp_path / "first", *QUICK)
    assert result.stdout.startswith("2 classes, 24 images to train on")
    assert "Dark Room" in result.stdout
    prepared = GOLDEN / "tfds" / "shapes" / "1.0.0"
    result = run("train", prepared, "-o", tmp_path / "second", *QUICK)
    assert result.stdout.startswith("2 classes, 10 images to train on, 4 to")
    names = {row["class"] for row in rows(tmp_path / "second" / "predictions.csv")}
    assert names == {"dark", "light"}


def test_a_run_has_weights_of_its_own_architecture_only(trained, data, tmp_path):
    folder, _ = trained
    other = ("--weights", folder, "--model", "resnext11_8x4d")
    image = data / CLASSES[0] / "0.png"
    for command in (["predict", image], ["finetune", data, "-o", tmp_path / "run"]):
        assert "Expected weights of 'resnext11_8x4d'" in error_of(*command, *other)
    assert not list(tmp_path.iterdir())

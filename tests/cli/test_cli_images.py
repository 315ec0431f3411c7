"""Images that are named to commands: found, and looked at before any weights."""

import os

import numpy as np
import pytest
from command import run
from helpers import SMALL
from PIL import Image

from resnext_keras import predict_files
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import held_out_digits
from resnext_keras.images.listing import list_images
from resnext_keras.inference import prediction
from resnext_keras.inference.prediction import sample_images
from resnext_keras.weights.checkpoint import resolve

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "gone.jpg", "gone.png"],
            "image files that exist. Received: 'gone.jpg', 'gone.png'",
        ),
        (["explain", "gone.jpg"], "no such file"),
        (["explain", "text.jpg"], "a file that begins with b'no image'"),
        (["explain", "one.png", "--class", "tabi"], "Did you mean tabby"),
        (["quantize", "gone.jpg"], "None of the images can be read"),
        (["quantize", "text.jpg"], "None of the images can be read"),
        (["export", "text.jpg"], "None of the images can be read"),
    ],
)
def test_a_typo_costs_no_download(tmp_path, monkeypatch, arguments, message):
    for module in ("classifier", "inference.prediction", "inference.quantization"):
        monkeypatch.setattr(f"resnext_keras.{module}.load_classifier", None)
    monkeypatch.setattr("resnext_keras.export.formats.load_classifier", None)
    monkeypatch.setattr(
        "resnext_keras.inference.quantization.check_converter", lambda: None
    )
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (40, 40)).save("one.png")
    command, *named = arguments
    model = ["resnext50_32x4d"]
    if command in ("predict", "explain"):
        model.insert(0, "--model")
    result = run(command, *model, *named, code=1)
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert sorted(os.listdir()) == ["one.png", "text.jpg"]


@pytest.mark.parametrize("weights", ["digits", "own.weights.h5"])
def test_how_images_are_read_is_known_before_the_network(weights):
    model = load_classifier(weights="digits").model
    model.save_weights("own.weights.h5")
    expected = load_classifier(weights=weights).preprocessing
    assert resolve(weights).preprocessing == expected


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_a_file_without_permission_is_left_out_alone(monkeypatch, command):
    for name in ("one.png", "secret.png"):
        Image.new("L", (8, 8)).save(name)
    os.chmod("secret.png", 0)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *mode: path != "secret.png" and access(path, *mode)
    )
    opened = open

    def guarded(path, *arguments, **options):
        if path == "secret.png":
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", guarded)
    result = run(
        command,
        *("one.png", "secret.png", "--weights", "digits"),
        code=command == "predict",
    )
    assert "kipped" in result.stderr
    assert "Usage" not in result.stderr


@pytest.fixture
def read(monkeypatch):
    """Gives the files that `sample_images` reads, and what it skips."""
    files = []

    def no_pixels(path, preprocessing):
        files.append(path)
        return np.zeros((8, 8, 3), "uint8")

    def call(*paths):
        files.clear()
        images, skipped = sample_images(paths, SMALL)
        assert len(images) == len(files)
        return list(files), skipped

    monkeypatch.setattr(prediction, "read_image", no_pixels)
    return call


def test_images_are_taken_from_all_over_the_folders(tmp_path, monkeypatch, read):
    (tmp_path / "b").mkdir()
    names = ["b/1.jpg", "b/2.PNG", "b/3.webp", "c.tiff", "d.jpeg"]
    for name in [*names, "b/x.txt", "y"]:
        (tmp_path / name).touch()
    files, _ = read(str(tmp_path))
    assert [os.path.relpath(file) for file in files] == names
    assert read("y", "b")[0] == ["y", *names[:3]]
    for most, chosen in ((2, [files[0], files[2]]), (5, files), (9, files)):
        monkeypatch.setattr(prediction, "MAX_IMAGES", most)
        assert read(str(tmp_path))[0] == chosen


def test_links_are_followed_as_by_extract(tmp_path, read):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.jpg").touch()
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "circle").symlink_to(tmp_path / "near")
    files, skipped = read("near")
    assert files == [os.path.join("near", "link", "1.jpg")]
    assert files == [path for path, reason in list_images(["near"]) if not reason]
    assert "near/circle: a link to a folder" in skipped[0]


def test_predict_files_gives_what_the_command_prints(tmp_path):
    images, labels = held_out_digits()
    Image.fromarray(images[0]).save("digit.png")
    (tmp_path / "text.jpg").write_text("no image")
    found = predict_files(["digit.png", "text.jpg"], weights="digits", top=2)
    assert found.weights == "resnext11_8x4d.digits"
    ((path, predictions),) = found.predictions
    assert path == "digit.png"
    assert [len(predictions), predictions[0][1]] == [2, str(labels[0])]
    assert "text.jpg" in str(found.skipped[0])
    assert predict_files(tmp_path / "digit.png", weights="digits").skipped == []
    for wrong in ({"top": 0}, {"batch_size": 1.5}):
        with pytest.raises(ValueError, match="positive integer"):
            predict_files("digit.png", weights="digits", **wrong)

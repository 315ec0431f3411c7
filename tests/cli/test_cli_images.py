"""Images that are named to commands: found, and looked at before any weights."""

import os

import pytest
from command import run
from PIL import Image

from resnext_keras.classifier import find_preprocessing, load_classifier
from resnext_keras.images.listing import list_images
from resnext_keras_cli import images
from resnext_keras_cli.images import image_files

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict", "gone.jpg", "gone.png"], "No such file: gone.jpg, gone.png"),
        (["explain", "gone.jpg"], "no such file"),
        (["explain", "text.jpg"], "a file that begins with b'no image'"),
        (["explain", "one.png", "--class", "tabi"], "Did you mean tabby"),
        (["quantize", "gone.jpg"], "None of the images can be read"),
        (["quantize", "text.jpg"], "None of the images can be read"),
        (["export", "text.jpg"], "None of the images can be read"),
    ],
)
def test_a_typo_costs_no_download(tmp_path, monkeypatch, arguments, told):
    monkeypatch.setattr("resnext_keras.classifier.load_classifier", None)
    monkeypatch.setattr(
        "resnext_keras.inference.quantization.check_packages", lambda: None
    )
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (40, 40)).save("one.png")
    command, *named = arguments
    model = ["resnext50_32x4d"]
    if command in ("predict", "explain"):
        model.insert(0, "--model")
    result = run(command, *model, *named, code=1)
    assert told in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert sorted(os.listdir()) == ["one.png", "text.jpg"]


@pytest.mark.parametrize("weights", ["digits", "own.weights.h5"])
def test_how_images_are_read_is_known_before_the_network(weights):
    model = load_classifier(weights="digits").model
    model.save_weights("own.weights.h5")
    expected = load_classifier(weights=weights).preprocessing
    assert find_preprocessing(weights=weights) == expected


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
    result = run(command, "one.png", "secret.png", code=command == "predict")
    assert "kipped" in result.stderr
    assert "Usage" not in result.stderr


def test_images_are_taken_from_all_over_the_folders(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    names = ["b/1.jpg", "b/2.PNG", "b/3.webp", "c.tiff", "d.jpeg"]
    for name in [*names, "b/x.txt", "y"]:
        (tmp_path / name).touch()
    files = image_files([str(tmp_path)])
    assert [os.path.relpath(file) for file in files] == names
    assert image_files(["y", "b"]) == ["y", *names[:3]]
    for most, chosen in ((2, [files[0], files[2]]), (5, files), (9, files)):
        monkeypatch.setattr(images, "MOST", most)
        assert image_files([str(tmp_path)]) == chosen


def test_links_are_followed_as_by_extract(tmp_path, capsys):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.jpg").touch()
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "circle").symlink_to(tmp_path / "near")
    found = image_files(["near"])
    assert found == [os.path.join("near", "link", "1.jpg")]
    assert found == [path for path, reason in list_images(["near"]) if not reason]
    assert "near/circle: a link to a folder" in capsys.readouterr().err

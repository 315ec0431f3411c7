"""A file that is not an image, or is broken or hostile, gives one clear error."""

import re
import threading
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import SMALL, save
from image_files import broken_files, encoded, png, written_formats
from PIL import Image

from resnext_keras.images.preprocessing import IMAGENET
from resnext_keras.images.read import ImageError, read_image


def refused(path, found, preprocessing=SMALL):
    """Checks the one error that is promised."""
    with pytest.raises(ImageError) as caught:
        read_image(path, preprocessing)
    message = str(caught.value)
    assert message.startswith("Expected an image (JPEG, PNG")
    assert repr(str(path)) in message
    assert re.search(found, message.partition("Found: ")[2]), message


def test_a_file_that_is_not_an_image_is_named(photos, tmp_path, monkeypatch):
    refused(tmp_path / "missing.jpg", "no such file")
    refused(tmp_path, "^a folder$")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "^an empty file$")
    (tmp_path / "text.jpg").write_text("<!DOCTYPE html>")
    refused(tmp_path / "text.jpg", "begins with b'<!DOCTYPE html>'$")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    refused(tmp_path / "link.jpg", "no such file")
    refused(Path("/dev/null"), "not a regular file")
    refused("null\0byte.jpg", "null byte")
    path = save(photos[0], tmp_path / "secret.png")
    forbidden = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr("builtins.open", forbidden)  # root may read any file
    refused(path, "Permission denied")


def test_formats_whose_readers_start_programs_are_never_tried(tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    refused(path, "begins with")
    refused(save(Image.new("RGB", (9, 9)), tmp_path / "a.ico"), "begins with")


@pytest.mark.parametrize("name", written_formats())
def test_a_truncated_image_is_refused(name, photos, tmp_path):
    whole = encoded(photos[0].resize((320, 213)), name)
    for part in (0.1, 0.5, 0.9):
        path = tmp_path / "cut"
        path.write_bytes(whole[: int(part * len(whole))])
        refused(path, ".")


def test_a_pixel_bomb_is_refused_before_it_takes_memory(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png([[0]], 8, 0, size=(60_000, 60_000)))
    refused(
        path,
        "^3,600,000,000 pixels, more than the limit of 178,956,970; they would take "
        "14,400 MB. .*--max-pixels 3600000000, or .*MAX_IMAGE_PIXELS = 1800000000$",
    )


def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch):
    path = save(Image.new("L", (40, 30), 9), tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (read_image(path, SMALL) == 9).all()
    assert not caught


def test_threads_read_at_once(tmp_path):
    paths = [save(Image.new("L", (30, 30), i), tmp_path / f"{i}.png") for i in range(8)]
    results = [None] * len(paths)

    def read(i):
        for _ in range(20):
            results[i] = read_image(paths[i], SMALL)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((results[i] == i).all() for i in range(len(paths)))


def test_an_image_without_pixels_or_of_absurd_aspect_is_refused(tmp_path):
    path = tmp_path / "line.png"
    for size in [(1, 100_000), (100_000, 1), (101, 1)]:
        save(Image.new("L", size), path)
        refused(path, f"{size[0]} x {size[1]} pixels; .* at most 100 times", IMAGENET)
    for size in [(0, 5), (5, 0), (0, 0)]:
        path.write_bytes(png([[0]], 8, 0, size=size))
        refused(path, ".")
    assert read_image(save(Image.new("L", (100, 1)), path)).shape == (224, 224, 3)


def test_pixels_without_an_agreed_range_are_refused(tmp_path):
    for value in (-0.1, 1.5, 300.0, np.nan):
        image = Image.fromarray(np.full((9, 9), value, "float32"))
        path = save(image, tmp_path / "f.tif")
        refused(path, f"^grey values from {value}.*, not within 0 to 1$")
    for value in (-1, 65536):
        image = Image.fromarray(np.full((9, 9), value, "int32"))
        refused(
            save(image, tmp_path / "i.tif"), f"^grey values from {value} to {value}"
        )


def test_broken_files_give_an_image_or_the_one_error(photos, tmp_path, monkeypatch):
    # Flipped sizes must not make this test allocate hundreds of megabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    path = tmp_path / "broken"
    images, errors = 0, []
    for content in broken_files(photos[0]):
        path.write_bytes(content)
        try:
            assert read_image(path, SMALL).shape == (8, 8, 3)
            images += 1
        except ImageError as error:
            errors.append(str(error))
    assert all("Found: " in error for error in errors)
    assert min(images, len(errors)) > 50  # the flips hit headers and pixels

"""A file that is not an image, or is broken or hostile, gives one clear error."""

import io
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, save
from PIL import Image

from resnext_keras.images.preprocessing import IMAGENET
from resnext_keras.images.read import FORMATS, ImageError, read_image


def refused(path, found, preprocessing=SMALL):
    """Checks the one error that is promised, and hands back its message."""
    with pytest.raises(ImageError) as caught:
        read_image(path, preprocessing)
    message = str(caught.value)
    assert message.startswith("Expected an image (JPEG, PNG")
    assert repr(str(path)) in message
    assert re.search(found, message.partition("Found: ")[2]), message
    return message


def test_what_is_no_image_is_named(tmp_path):
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


def test_a_file_that_may_not_be_read_is_named(photos, tmp_path, monkeypatch):
    path = save(photos[0], tmp_path / "secret.png")

    def forbid(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbid)
    refused(path, "Permission denied")


def test_formats_whose_readers_start_programs_are_never_tried(tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    refused(path, "begins with")
    refused(save(Image.new("RGB", (9, 9)), tmp_path / "a.ico"), "begins with")


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_image_is_refused(name, photos, tmp_path):
    whole = io.BytesIO()
    photos[0].save(whole, name)
    for part in (0.1, 0.5, 0.9):
        path = tmp_path / "cut"
        path.write_bytes(whole.getvalue()[: int(part * len(whole.getvalue()))])
        refused(path, ".")


def png(width, height, pixel_data=b""):
    """A PNG of 8-bit grey whose header says what it likes."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(pixel_data, 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def test_a_pixel_bomb_is_refused_before_it_takes_memory(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000))
    refused(path, "DecompressionBombError.*3600000000 pixels")


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


def test_a_image_without_pixels_or_of_absurd_aspect_is_refused(tmp_path):
    path = tmp_path / "line.png"
    for size in [(1, 100_000), (100_000, 1), (101, 1)]:
        save(Image.new("L", size), path)
        refused(path, f"{size[0]} x {size[1]} pixels; .* at most 100 times", IMAGENET)
    for size in [(0, 5), (5, 0), (0, 0)]:
        path.write_bytes(png(*size))
        refused(path, ".")
    assert read_image(save(Image.new("L", (100, 1)), path)).shape == (224, 224, 3)


def test_pixels_without_an_agreed_range_are_refused(tmp_path):
    refused(save(Image.new("F", (9, 9), 0.5), tmp_path / "f.tif"), "^float pixels")
    for value in (-1, 65536):
        image = Image.fromarray(np.full((9, 9), value, "int32"))
        refused(
            save(image, tmp_path / "i.tif"), f"^grey values from {value} to {value}"
        )


MAGIC = [
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"RIFF\x00\x01\x00\x00WEBPVP8 ",
    b"BM",
    b"P6\n",
    b"P5 9 9 ",
    b"Pf\n9 9\n",
]


def broken_files(photos):
    rng = np.random.default_rng(0)
    for magic in MAGIC:
        for length in (0, 1, 7, 40, 500):
            for _ in range(3):
                yield magic + rng.bytes(length)
    small = photos[0].resize((40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = [(small.convert(mode), name) for mode in ("L", "RGB") for name in FORMATS]
    sources += [(small.convert("P"), name) for name in ("PNG", "GIF", "BMP", "TIFF")]
    sources += [(small.convert("RGBA"), name) for name in ("PNG", "WEBP", "TIFF")]
    sources += [(small.convert("CMYK"), "JPEG"), (small.convert("LAB"), "TIFF")]
    sources += [(Image.fromarray(rng.integers(0, 65536, (30, 40), "uint16")), "PNG")]
    for image, name in sources:
        file = io.BytesIO()
        image.save(
            file, name, **({} if name in ("GIF", "BMP", "PPM") else {"exif": exif})
        )
        whole = np.frombuffer(file.getvalue(), "uint8")
        for spread in (64, 512, len(whole)):  # mostly headers, then all
            for _ in range(12):
                flipped = whole.copy()
                places = rng.integers(0, min(spread, len(whole)), rng.integers(1, 5))
                flipped[places] ^= rng.integers(1, 256, len(places), "uint8")
                yield flipped.tobytes()
        for end in rng.integers(1, len(whole), 6):
            yield whole[:end].tobytes()


def test_broken_files_give_a_image_or_the_one_error(photos, tmp_path, monkeypatch):
    # Flipped sizes must not make this test allocate hundreds of megabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    path = tmp_path / "broken"
    images, errors = 0, []
    for content in broken_files(photos):
        path.write_bytes(content)
        try:
            assert read_image(path, SMALL).shape == (8, 8, 3)
            images += 1
        except ImageError as error:
            errors.append(str(error))
    assert all("Found: " in error for error in errors)
    assert min(images, len(errors)) > 100  # the flips hit headers and pixels

"""Images decoded in a graph have the pixels that Pillow gives in Python."""

import functools
import struct
import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL
from image_files import bmps, broken_files, encoded, jpegs, patched, pngs, webps
from PIL import Image

from resnext_keras.images import read as in_python
from resnext_keras.images.decode import decode_images, resize_and_crop
from resnext_keras.images.preprocessing import IMAGENET, STD, Preprocessing
from resnext_keras.images.read import read_image
from resnext_keras.weights.registry import WEIGHT_SETS

pytestmark = pytest.mark.tensorflow

REGISTRY = {e.preprocessing for w in WEIGHT_SETS.values() for e in w.evaluations}
OTHERS = {
    Preprocessing(97, 101, "bicubic"),
    Preprocessing(64, (40, 72), "bicubic"),
    SMALL,
}
HAS_WEBP = hasattr(tf.io, "decode_webp")
needs_webp = pytest.mark.skipif(not HAS_WEBP, reason="this TensorFlow has no WebP")


@functools.cache
def graph(preprocessing):
    """What is exported, as the function that it is exported from."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(image_bytes):
        return decode_images(image_bytes, preprocessing)

    return decode


def decoded(contents, preprocessing=SMALL):
    contents = tf.constant(contents, tf.string, shape=[len(contents)])
    pixels, valid = (t.numpy() for t in graph(preprocessing)(contents))
    size = preprocessing.size
    assert pixels.shape == (len(valid), size, size, 3)
    assert (pixels.dtype, valid.dtype) == ("uint8", "bool")
    assert not pixels[~valid].any()
    return pixels, valid


@pytest.fixture
def read(tmp_path):
    def read(contents, preprocessing):
        path = tmp_path / "image"
        path.write_bytes(contents)
        return read_image(path, preprocessing)

    return read


def assert_near(got, wanted, name, most=2):
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= most, name
    # Far less than 0.5 / 255 in the network's input, of a standard deviation of STD.
    assert difference.mean() < 0.03 < 0.5 * min(STD), name


# Resizing


@pytest.mark.parametrize("preprocessing", sorted(REGISTRY | OTHERS, key=repr), ids=str)
def test_an_image_of_any_size_is_resized_as_by_pillow(photos, preprocessing):
    resize = tf.function(
        lambda rgb: resize_and_crop(rgb, preprocessing),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    sizes = [(640, 427), (101, 427), (256, 300), (427, 427), (31, 47), (225, 224)]
    sizes += [(640, 7), (7, 53), (1, 1)]
    for width, height in sizes:
        image = photos[0].crop((0, 0, width, height))
        got = resize(np.asarray(image)).numpy()
        wanted = in_python.resize_and_crop(image, preprocessing)
        assert_near(got, wanted, image.size)


def test_a_large_photo_is_resized_as_by_pillow(photos):
    large = photos[0].resize((4031, 3023), Image.Resampling.BICUBIC)
    got = resize_and_crop(tf.constant(np.asarray(large)), IMAGENET)
    assert_near(got.numpy(), in_python.resize_and_crop(large, IMAGENET), "large")


# Formats


@pytest.mark.parametrize(
    "variants", [jpegs, pngs, bmps, pytest.param(webps, marks=needs_webp)]
)
def test_each_format_has_the_pixels_that_pillow_reads(photos, read, variants):
    china, flower = photos
    for image in (flower.crop((0, 0, 301, 403)), china.crop((99, 99, 232, 185))):
        files = dict(variants(image))
        for preprocessing in (IMAGENET, Preprocessing(224, 235, "bicubic")):
            pixels, valid = decoded([*files.values()], preprocessing)
            assert valid.all()
            for name, got in zip(files, pixels, strict=True):
                assert_near(got, read(files[name], preprocessing), (name, image.size))


@pytest.mark.parity
def test_photos_of_scikit_image_have_the_pixels_that_pillow_reads(read):
    data = pytest.importorskip("skimage.data")
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        photo = Image.fromarray(getattr(data, name)())
        for quality in (50, 75, 95):
            contents = encoded(photo, "JPEG", quality=quality)
            pixels, valid = decoded([contents], IMAGENET)
            assert valid.all()
            assert_near(pixels[0], read(contents, IMAGENET), name)


def test_black_and_white_stay_so_to_the_last_digit():
    for value in (0, 255):
        image = Image.new("RGB", (301, 203), (value,) * 3)
        pixels, valid = decoded([encoded(image, "PNG")], IMAGENET)
        assert valid.all()
        assert (pixels == value).all()


def test_the_exif_rotation_is_not_carried_out(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photos[0], "JPEG", exif=exif)
    pixels, valid = decoded([turned, encoded(photos[0], "JPEG")])
    assert valid.all()
    np.testing.assert_array_equal(*pixels)


# Rows that are not images


def spoilt(photos):
    """Contents that cannot be decoded, by what is wrong with them."""
    photo = photos[0].resize((60, 40))
    names = ("JPEG", "PNG", "BMP", *["WEBP"] * HAS_WEBP)
    files = {name: encoded(photo, name) for name in names}
    cut = {
        f"{part} of a {name}": contents[: int(part * len(contents))]
        for name, contents in files.items()
        for part in (0.05, 0.5, 0.95)
    }
    magic = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFFabcdWEBP"]
    huge = b"\xff\xff\xff\x7f"
    size = files["JPEG"].index(b"\xff\xc0") + 5
    return cut | {
        "empty": b"",
        "text": b"<!DOCTYPE html>",
        "zeros": bytes(100),
        "a byte": b"\xff",
        **{f"only {start}": start for start in magic},
        "GIF": encoded(photo, "GIF"),
        "TIFF": encoded(photo, "TIFF"),
        "PPM": encoded(photo, "PPM"),
        "PNG bomb": patched(files["PNG"], 16, struct.pack(">II", 20_000, 20_000)),
        "PNG of 2**62": patched(files["PNG"], 16, struct.pack(">II", 2**31, 2**31)),
        "PNG without pixels": patched(files["PNG"], 16, bytes(8)),
        "JPEG bomb": patched(files["JPEG"], size, struct.pack(">HH", 20_000, 20_000)),
        "BMP bomb": patched(files["BMP"], 18, huge + huge),
        "compressed BMP": patched(files["BMP"], 30, b"\1"),
        "line": encoded(Image.new("L", (1, 101)), "PNG"),
        "flat line": encoded(Image.new("L", (1010, 10)), "JPEG"),
    }


def test_a_broken_row_is_flagged_and_spoils_no_other(photos):
    good = [encoded(photo, "JPEG") for photo in photos]
    wanted, valid = decoded(good)
    assert valid.all()
    for number, (name, contents) in enumerate(spoilt(photos).items()):
        place = number % 3
        pixels, valid = decoded([*good[:place], contents, *good[place:]])
        assert valid.tolist() == [row != place for row in range(3)], name
        np.testing.assert_array_equal(np.delete(pixels, place, 0), wanted)


def test_a_batch_may_be_empty_or_all_broken(photos):
    assert len(decoded([])[1]) == 0
    broken = [*spoilt(photos).values()]
    assert not decoded(broken)[1].any()
    assert not decoded(broken[:1])[1].any()


def test_the_widest_images_allowed_are_decoded():
    for size in ((100, 1), (1, 100)):
        assert decoded([encoded(Image.new("L", size, 9), "PNG")])[0].max() == 9


def test_broken_files_never_fail_the_batch(photos, monkeypatch):
    # Flipped sizes must not make this test allocate hundreds of megabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    whole = encoded(photos[0], "PNG")
    graph.cache_clear()
    try:
        contents = [*broken_files(photos[0]), whole]
        pixels, valid = decoded(contents)
    finally:
        graph.cache_clear()
    assert min(valid.sum(), (~valid).sum()) > 50
    assert valid[-1]
    np.testing.assert_array_equal(pixels[-1:], decoded([whole])[0])


def test_pillows_limit_of_pixels_counts_also_where_it_is_lifted(photos, monkeypatch):
    contents = [encoded(photos[0], "PNG")]
    half = photos[0].width * photos[0].height // 2
    for limit, expected in ((half - 1, False), (half, True), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        graph.cache_clear()
        try:
            assert decoded(contents)[1].all() == expected
        finally:
            graph.cache_clear()


def test_threads_may_decode_at_once(photos):
    good = [encoded(photo, "JPEG") for photo in photos]
    broken = [*spoilt(photos).values()]
    wanted, _ = decoded(good)
    faults = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            rows = rng.integers(-len(broken), len(good), rng.integers(0, 9))
            pixels, valid = decoded([good[i] if i >= 0 else broken[i] for i in rows])
            expected = np.where(rows[:, None, None, None] < 0, 0, wanted[rows % 2])
            if (valid != (rows >= 0)).any() or (pixels != expected).any():
                faults.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults

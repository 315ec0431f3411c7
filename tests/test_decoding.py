"""Pictures decoded in a graph have the pixels that Pillow gives in Python."""

import functools
import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
import tensorflow as tf
from elsewhere import OTHER_KERNELS
from helpers import SMALL
from PIL import Image
from test_broken_images import broken_files

from resnext_keras import preprocessing as in_python
from resnext_keras.deploy import picture_formats
from resnext_keras.deploy.decoding import decode_pictures, resize_and_crop
from resnext_keras.preprocessing import IMAGENET, STD, Preprocessing, read_image
from resnext_keras.weights import WEIGHT_SETS

REGISTRY = {e.preprocessing for w in WEIGHT_SETS.values() for e in w.evaluations}
OTHERS = {
    Preprocessing(97, 101, "bicubic"),
    Preprocessing(64, 72, "bicubic", detail=40),
    SMALL,
}
HAS_WEBP = hasattr(tf.io, "decode_webp")
needs_webp = pytest.mark.skipif(not HAS_WEBP, reason="this TensorFlow has no WebP")


@functools.cache
def graph(preprocessing):
    """What is exported, as the function that it is exported from."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(image_bytes):
        return decode_pictures(image_bytes, preprocessing)

    return decode


def decoded(contents, preprocessing=SMALL):
    contents = tf.constant(contents, tf.string, shape=[len(contents)])
    pixels, valid = (t.numpy() for t in graph(preprocessing)(contents))
    size = preprocessing.size
    assert pixels.shape == (len(valid), size, size, 3)
    assert (pixels.dtype, valid.dtype) == ("uint8", "bool")
    assert not pixels[~valid].any()
    return pixels, valid


def encoded(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(contents, preprocessing):
        path = tmp_path / "picture"
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
def test_a_picture_of_any_size_is_resized_as_by_pillow(photos, preprocessing):
    resize = tf.function(
        lambda rgb: resize_and_crop(rgb, preprocessing),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    sizes = [(640, 427), (427, 427), (201, 427), (639, 101), (333, 77), (256, 300)]
    sizes += [(232, 232), (31, 47), (53, 7), (1, 1), (640, 7), (225, 224), (8, 9)]
    for photo in photos:
        for width, height in sizes:
            image = photo.crop((0, 0, width, height))
            for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
                got = resize(np.asarray(picture)).numpy()
                wanted = in_python.resize_and_crop(picture, preprocessing)
                assert_near(got, wanted, picture.size)


def test_a_large_photo_is_resized_as_by_pillow(photos):
    large = photos[0].resize((4031, 3023), Image.Resampling.BICUBIC)
    for preprocessing in (IMAGENET, Preprocessing(224, 235, "bicubic")):
        got = resize_and_crop(tf.constant(np.asarray(large)), preprocessing)
        wanted = in_python.resize_and_crop(large, preprocessing)
        assert_near(got.numpy(), wanted, preprocessing)


# Formats


def png(values, depth, colour, interlaced=False, transparent=None):
    """A PNG of what Pillow does not write: 16-bit colour, and interlaced ones."""
    values = np.asarray(values)
    offsets = [(0, 0, 1, 1)]
    if interlaced:  # Adam7
        offsets = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        offsets += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(
        b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()
        for y, x, down, right in offsets
        for row in values[y::down, x::right]
    )
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header)]
    if transparent is not None:
        chunks.append((b"tRNS", np.asarray(transparent, ">u2").tobytes()))
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def with_alpha(image):
    """The image, from left to right ever more opaque."""
    image = image.copy()
    ramp = np.linspace(0, 255, image.width).astype("uint8")
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def jpegs(photo):
    yield "4:2:0", encoded(photo, "JPEG", quality=90)
    yield "4:4:4", encoded(photo, "JPEG", quality=95, subsampling="4:4:4")
    yield "4:2:2", encoded(photo, "JPEG", quality=60, subsampling="4:2:2")
    yield "progressive", encoded(photo, "JPEG", progressive=True)
    yield "grey", encoded(photo.convert("L"), "JPEG")
    yield "CMYK", encoded(photo.convert("CMYK"), "JPEG")


def pngs(photo):
    grey, rgb = photo.convert("L"), np.asarray(photo)
    fine = np.asarray(grey, int) * 257 - (np.arange(photo.width) % 250) * (
        rgb[..., 0] > 0
    )
    fine = np.maximum(fine, 0).astype("uint16")
    wide = rgb.astype("uint16") * 257
    yield "RGB", encoded(photo, "PNG")
    yield "RGBA", encoded(with_alpha(photo.convert("RGBA")), "PNG")
    yield "RGB, one colour clear", encoded(photo, "PNG", transparency=(1, 2, 3))
    yield "grey", encoded(grey, "PNG")
    yield "grey and alpha", encoded(with_alpha(photo.convert("LA")), "PNG")
    yield "grey, one value clear", encoded(grey, "PNG", transparency=100)
    yield "1 bit", encoded(photo.convert("1"), "PNG")
    yield "1 bit, black clear", encoded(photo.convert("1"), "PNG", transparency=0)
    for colours in (2, 4, 16, 256):
        palette = photo.quantize(colours)
        clear = bytes(255 * n // colours for n in range(colours))
        yield f"{colours} colours", encoded(palette, "PNG")
        yield f"{colours}, clear", encoded(palette, "PNG", transparency=clear)
    yield "16-bit grey", encoded(Image.fromarray(fine), "PNG")
    yield "16-bit RGB", png(wide, 16, 2)
    yield "16-bit grey and alpha", png(np.stack([fine, fine], -1), 16, 4)
    yield "16-bit RGBA", png(np.concatenate([wide, wide[..., :1]], -1), 16, 6)
    yield "interlaced RGB", png(rgb, 8, 2, interlaced=True)
    yield "interlaced 16-bit grey", png(fine, 16, 0, interlaced=True)


def others(photo):
    palette = photo.quantize(200)
    frames = {"save_all": True, "append_images": [palette.transpose(0)] * 3}
    yield "GIF", encoded(photo, "GIF")
    yield "interlaced GIF", encoded(palette, "GIF", interlace=True)
    yield "GIF, a colour clear", encoded(palette, "GIF", transparency=7)
    yield "animation", encoded(palette, "GIF", transparency=7, loop=0, **frames)
    yield "GIF, a comment", encoded(palette, "GIF", comment=b"from above" * 99)
    yield "BMP", encoded(photo, "BMP")
    yield "BMP, 32 bits", encoded(photo.convert("RGBA"), "BMP")
    yield "BMP, a palette", encoded(palette, "BMP")
    yield "BMP, grey", encoded(photo.convert("L"), "BMP")


def webps(photo):
    alpha = with_alpha(photo.convert("RGBA"))
    frames = {"save_all": True, "append_images": [alpha.transpose(0)] * 2}
    yield "WebP", encoded(photo, "WEBP")
    yield "WebP and alpha", encoded(alpha, "WEBP")
    yield "lossless WebP", encoded(photo, "WEBP", lossless=True)
    yield "lossless WebP and alpha", encoded(alpha, "WEBP", lossless=True)
    yield "WebP animation", encoded(alpha, "WEBP", **frames)


@pytest.mark.parametrize(
    "variants", [jpegs, pngs, others, pytest.param(webps, marks=needs_webp)]
)
@pytest.mark.parametrize(
    "preprocessing", [IMAGENET, Preprocessing(224, 235, "bicubic")], ids=str
)
def test_each_format_has_the_pixels_that_pillow_reads(
    photos, read, variants, preprocessing
):
    china, flower = photos
    pictures = [china, flower.crop((0, 0, 301, 403)), china.crop((99, 99, 232, 185))]
    for picture in pictures:
        files = dict(variants(picture))
        pixels, valid = decoded([*files.values()], preprocessing)
        for name, got, found in zip(files, pixels, valid, strict=True):
            assert found, name
            assert_near(got, read(files[name], preprocessing), (name, picture.size))


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


# Rows that are no pictures


def patched(contents, place, new):
    return contents[:place] + new + contents[place + len(new) :]


def spoilt(photos):
    """By what is wrong with them, contents that are no picture to be decoded."""
    photo = photos[0].resize((60, 40))
    names = ("JPEG", "PNG", "GIF", "BMP", *["WEBP"] * HAS_WEBP)
    files = {name: encoded(photo, name) for name in names}
    cut = {
        f"{part} of a {name}": contents[: int(part * len(contents))]
        for name, contents in files.items()
        for part in (0.05, 0.5, 0.95)
    }
    magic = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFFabcdWEBP"]
    huge = b"\xff\xff\xff\x7f"
    frame = files["GIF"].index(b"," + bytes(4) + struct.pack("<HH", *photo.size))
    size = files["JPEG"].index(b"\xff\xc0") + 5
    return cut | {
        "empty": b"",
        "text": b"<!DOCTYPE html>",
        "zeros": bytes(100),
        "a byte": b"\xff",
        **{f"only {start}": start for start in magic},
        "TIFF": encoded(photo, "TIFF"),
        "PPM": encoded(photo, "PPM"),
        "PNG bomb": patched(files["PNG"], 16, struct.pack(">II", 20_000, 20_000)),
        "PNG of 2**62": patched(files["PNG"], 16, struct.pack(">II", 2**31, 2**31)),
        "PNG without pixels": patched(files["PNG"], 16, bytes(8)),
        "JPEG bomb": patched(files["JPEG"], size, struct.pack(">HH", 20_000, 20_000)),
        "GIF bomb": patched(files["GIF"], 6, b"\xff\xff\xff\xff"),
        "GIF frame bomb": patched(files["GIF"], frame + 5, b"\xff\xff\xff\xff"),
        "GIF of a part": patched(files["GIF"], frame + 1, b"\1\0"),
        "BMP bomb": patched(files["BMP"], 18, huge + huge),
        "compressed BMP": patched(files["BMP"], 30, b"\1"),
        "line": encoded(Image.new("L", (1, 101)), "PNG"),
        "flat line": encoded(Image.new("L", (1010, 10)), "JPEG"),
    }


def test_a_broken_row_is_flagged_and_spoils_no_other(photos):
    good = [encoded(photo, "JPEG") for photo in photos]
    wanted, valid = decoded(good)
    assert valid.all()
    for name, contents in spoilt(photos).items():
        for place in range(3):
            pixels, valid = decoded([*good[:place], contents, *good[place:]])
            assert valid.tolist() == [row != place for row in range(3)], name
            np.testing.assert_array_equal(np.delete(pixels, place, 0), wanted)


def test_a_batch_may_be_empty_or_all_broken(photos):
    assert len(decoded([])[1]) == 0
    broken = [*spoilt(photos).values()]
    assert not decoded(broken)[1].any()
    assert not decoded(broken[:1])[1].any()


def test_the_widest_pictures_allowed_are_decoded():
    for size in ((100, 1), (1, 100)):
        assert decoded([encoded(Image.new("L", size, 9), "PNG")])[0].max() == 9


def test_broken_files_never_fail_the_batch(photos, monkeypatch):
    # Flipped sizes must not make this test allocate hundreds of megabytes.
    monkeypatch.setattr(picture_formats, "MAX_PIXELS", 2_000_000)
    whole = encoded(photos[0], "PNG")
    graph.cache_clear()
    try:
        contents = [*broken_files(photos), whole]
        pixels, valid = decoded(contents)
    finally:
        graph.cache_clear()
    assert min(valid.sum(), (~valid).sum()) > 100
    assert valid[-1]
    np.testing.assert_array_equal(pixels[-1:], decoded([whole])[0])


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


# Where it is exported to

ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
model, found, *paths = sys.argv[1:]
decode = tf.saved_model.load(model).signatures["serving_default"]
contents = [Path(path).read_bytes() for path in paths]
np.savez(found, **decode(image_bytes=tf.constant(contents)))
assert "resnext_keras" not in sys.modules
"""


def test_an_exported_graph_decodes_without_this_package(photos, tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def decode(image_bytes):
        pixels, valid = decode_pictures(image_bytes, IMAGENET)
        return {"pixels": pixels, "valid": valid}

    module.decode = decode
    tf.saved_model.save(module, tmp_path / "model", {"serving_default": decode})
    contents = [file for photo in photos for _, file in [*jpegs(photo), *others(photo)]]
    contents[3:3] = spoilt(photos).values()
    paths = [tmp_path / f"{row}" for row in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", ELSEWHERE, tmp_path / "model", tmp_path / "a.npz"]
    done = subprocess.run(
        [*command, *paths],
        env=os.environ | OTHER_KERNELS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "a.npz")
    pixels, valid = decoded(contents, IMAGENET)
    np.testing.assert_array_equal(found["pixels"], pixels)
    np.testing.assert_array_equal(found["valid"], valid)
    assert valid.sum() == len(contents) - len(spoilt(photos))


def test_the_graph_has_no_operation_that_a_server_refuses():
    definition = graph(SMALL).get_concrete_function().graph.as_graph_def()
    nodes = [
        *definition.node,
        *(n for f in definition.library.function for n in f.node_def),
    ]
    operations = {node.op for node in nodes}
    assert "DecodeJpeg" in operations
    # The first three are those that `saved_model_cli scan` looks for.
    refused = {"ReadFile", "WriteFile", "PrintV2", "PyFunc", "EagerPyFunc", "XlaLaunch"}
    assert not refused & operations

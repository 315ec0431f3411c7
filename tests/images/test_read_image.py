"""read_image gives the pixels of an image, whatever format and mode they are in."""

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, save
from PIL import Image, TiffImagePlugin, TiffTags

from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import FORMATS, read_image


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_photo_becomes_a_square_of_rgb(photos, tmp_path, as_type):
    path = save(photos[0], tmp_path / "china.png")
    got = read_image(as_type(path))
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.uint8
    # 640 x 427 resized to 383 x 256; its centre starts at 79.5, rounded to even.
    resized = photos[0].resize((383, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(resized)[16:240, 80:304])
    got[0] = 0  # the array is the caller's own


def test_each_format_is_read(photos, tmp_path):
    lossless = {"PNG", "BMP", "TIFF", "PPM"}
    wanted = read_image(save(photos[1], tmp_path / "flower.png")).astype(int)
    for name in FORMATS:
        got = read_image(save(photos[1], tmp_path / f"flower.{name}", format=name))
        difference = np.abs(got - wanted).mean()
        assert difference == 0 if name in lossless else 0 < difference < 6, name


def test_the_content_decides_and_not_the_suffix(photos, tmp_path):
    path = save(photos[0], tmp_path / "image.jpg", format="PNG")
    np.testing.assert_array_equal(
        read_image(path), read_image(save(photos[0], tmp_path / "image.png"))
    )


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.tif", "image.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_carried_out(orientation, name, tmp_path):
    colours = np.zeros((64, 96, 3), "uint8")
    colours[:32, :48], colours[:32, 48:] = (255, 255, 255), (255, 0, 0)
    colours[32:, :48] = (0, 0, 255)
    upright = Image.fromarray(colours)
    # How a camera held this way stores the image: the inverse of what undoes it.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / name, exif=exif)
    wanted = read_image(save(upright, tmp_path / "upright.png"), SMALL).astype(int)
    np.testing.assert_allclose(read_image(path, SMALL), wanted, atol=40)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0\x2a\0\0\0\xff" * 3,
        b"Exif\0\0neither II nor MM",
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x02",  # ends in a tag
        b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0",  # text
    ],
)
@pytest.mark.parametrize("name", ["jpg", "png", "webp"])
def test_broken_exif_data_do_not_hide_the_image(photos, tmp_path, name, exif):
    path = save(photos[0], tmp_path / f"a.{name}", exif=exif)
    np.testing.assert_array_equal(
        read_image(path), read_image(save(photos[0], tmp_path / f"b.{name}"))
    )


@pytest.mark.parametrize("orientation", [0, 9, "a"])
def test_a_tiff_with_a_broken_orientation_is_read(photos, tmp_path, orientation):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[0x0112] = TiffTags.ASCII if orientation == "a" else TiffTags.SHORT
    tags[0x0112] = orientation
    path = save(photos[0], tmp_path / "broken.tif", tiffinfo=tags)
    plain = save(photos[0], tmp_path / "plain.tif")
    np.testing.assert_array_equal(read_image(path), read_image(plain))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_the_exif_rotation_is_carried_out_in_every_mode(mode, tmp_path):
    ramp = Image.fromarray(
        np.arange(0, 256, 16, dtype="uint8").repeat(16).reshape(16, 16)
    )
    if mode == "I;16":
        image = Image.fromarray(np.asarray(ramp, "uint16") * 257)
    else:
        image = ramp.convert("RGBA").convert(mode) if mode != "P" else ramp.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = read_image(save(image, tmp_path / "turned.png", exif=exif), SMALL)
    plain = read_image(save(image, tmp_path / "plain.png"), SMALL)
    assert (turned != plain).any()
    np.testing.assert_allclose(turned.astype(int), plain[::-1, ::-1], atol=1)


def centre(image, path, **options):
    """The centre pixel of an image that was written to a file and read again."""
    return read_image(save(image, path, **options), SMALL)[4, 4].tolist()


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.ppm"])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0, 0), (128, 0), (129, 1), (300, 1), (32768, 128), (51400, 200), (65535, 255)],
)
def test_16_bit_grey_is_scaled_and_not_clipped(name, value, wanted, tmp_path):
    path = tmp_path / name
    if name.endswith("ppm"):  # Pillow 10 does not write this one
        path.write_bytes(b"P5 16 16 65535\n" + struct.pack(">H", value) * 256)
    else:
        save(Image.fromarray(np.full((16, 16), value, "uint16")), path)
    assert read_image(path, SMALL)[4, 4].tolist() == [wanted] * 3


def test_big_endian_16_bit_grey_is_scaled_too(tmp_path):
    path = tmp_path / "big.tif"
    grey = Image.frombytes("I;16B", (16, 16), struct.pack(">H", 51400) * 256)
    assert centre(grey, path) == [200] * 3


def test_8_and_1_bit_grey_keep_their_values(tmp_path):
    assert centre(Image.new("L", (16, 16), 77), tmp_path / "l.png") == [77] * 3
    for value in (0, 255):
        for name in ("bit.png", "bit.tif", "bit.bmp", "bit.ppm"):
            image = Image.new("1", (16, 16), value)
            assert centre(image, tmp_path / name) == [value] * 3


def test_what_is_transparent_lies_over_white(tmp_path):
    size = (16, 16)
    cases = {
        "clear.png": (Image.new("RGBA", size, (10, 20, 30, 0)), {}, [255] * 3),
        "solid.png": (Image.new("RGBA", size, (10, 20, 30, 255)), {}, [10, 20, 30]),
        "half.png": (Image.new("RGBA", size, (255, 0, 0, 128)), {}, [255, 127, 127]),
        "grey.png": (Image.new("LA", size, (0, 128)), {}, [127] * 3),
        "clear.webp": (Image.new("RGBA", size, (9, 9, 9, 0)), {}, [255] * 3),
        "key.png": (Image.new("RGB", size, "red"), {"transparency": (255, 0, 0)}, None),
        "grey_key.png": (Image.new("L", size, 7), {"transparency": 7}, None),
        "bit_key.png": (Image.new("1", size, 0), {"transparency": 0}, None),
    }
    for name, (image, options, wanted) in cases.items():
        got = centre(image, tmp_path / name, **options)
        assert got == (wanted or [255] * 3), name


def test_palettes_are_looked_up_with_their_transparency(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    for name in ("p.png", "p.gif", "p.bmp", "p.tif"):
        assert centre(image, tmp_path / name) == [200, 100, 50], name
    for transparency in (1, b"\xff\x00"):
        path = tmp_path / "clear.png"
        assert centre(image, path, transparency=transparency) == [255] * 3
    assert centre(image, tmp_path / "clear.gif", transparency=1) == [255] * 3


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif"])
def test_cmyk_becomes_rgb(name, tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(centre(image, tmp_path / name), [255, 0, 0], atol=3)


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "moving.webp"])
def test_of_an_animation_the_first_frame_counts(name, tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    options |= {"save_all": True, "append_images": frames[1:]}
    assert centre(frames[0], tmp_path / name, **options) == [255, 0, 0]


def test_a_tiny_image_is_enlarged(tmp_path):
    path = save(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "dot.png")
    got = read_image(path)
    assert got.shape == (224, 224, 3)
    assert (got == (1, 2, 3)).all()


def test_a_file_is_closed_and_left_as_it_was(photos, tmp_path):
    path = save(photos[0], tmp_path / "a.jpg")
    before = path.read_bytes()
    read_image(path)  # an open file would give a ResourceWarning, an error here
    assert path.read_bytes() == before


# Against torchvision


@pytest.fixture
def transforms():
    return pytest.importorskip("torchvision.transforms")


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 232), (97, 101)])
def test_pixels_are_those_of_torchvision(
    photos, tmp_path, transforms, interpolation, size, resize
):
    reference = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
        ]
    )
    wanted = Preprocessing(size, resize, interpolation)
    boxes = [(640, 427), (427, 427), (201, 427), (639, 101), (333, 77), (256, 300)]
    boxes += [(232, 232), (31, 47), (53, 7), (1, 1), (640, 7)]
    for photo in photos:
        for width, height in boxes:
            image = photo.crop((0, 0, width, height))
            for turned in (image, image.transpose(Image.Transpose.ROTATE_90)):
                path = save(turned, tmp_path / "image.png")
                got = read_image(path, wanted)
                np.testing.assert_array_equal(got, np.asarray(reference(turned)))


@pytest.mark.parity
def test_a_read_and_preprocessed_photo_is_torchvisions_input(
    photos, tmp_path, transforms
):
    presets = pytest.importorskip("torchvision.transforms._presets")
    path = save(photos[1], tmp_path / "flower.png")
    preset = presets.ImageClassification(
        crop_size=224,
        resize_size=232,
        interpolation=transforms.InterpolationMode.BILINEAR,
    )
    got = preprocess_input(read_image(path, Preprocessing(224, 232)))
    wanted = preset(photos[1]).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_image_is_no_sharper_than_those_of_the_training(photos, tmp_path):
    small = photos[0].resize((12, 8), Image.Resampling.BILINEAR)
    as_trained = save(small, tmp_path / "small.png")
    sharp = save(photos[0].resize((120, 80)), tmp_path / "sharp.png")
    coarse = Preprocessing(size=32, resize=(8, 32))
    expected = small.resize((48, 32), Image.Resampling.BILINEAR).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(read_image(as_trained, coarse), expected)
    difference = np.abs(
        read_image(sharp, coarse).astype(int) - read_image(as_trained, coarse)
    )
    assert difference.mean() < 2
    assert np.abs(read_image(sharp, Preprocessing(32, 32)) - expected).mean() > 10

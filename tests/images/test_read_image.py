"""read_image gives the pixels of an image, whatever format and mode they are in."""

import struct

import numpy as np
import PIL
import pytest
from helpers import SMALL, save
from image_files import written_formats
from PIL import Image, ImageOps, TiffImagePlugin, TiffTags

from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import read_image, read_rgb, resize_and_crop


def test_a_photo_becomes_a_square_of_rgb(photos, tmp_path):
    path = save(photos[0], tmp_path / "china.png")
    got = read_image(str(path))
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.uint8
    # 640 x 427 resized to 383 x 256; its centre starts at 79.5, rounded to even.
    resized = photos[0].resize((383, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(resized)[16:240, 80:304])
    got[0] = 0  # the array is the caller's own


def test_each_format_is_read_whatever_the_suffix_and_the_file_is_left_as_it_was(
    photos, tmp_path
):
    lossless = {"PNG", "BMP", "TIFF", "PPM"}
    wanted = read_image(save(photos[1], tmp_path / "flower.png")).astype(int)
    for name in written_formats():
        path = save(photos[1], tmp_path / "flower.jpg", format=name)
        before = path.read_bytes()
        # An open file would give a ResourceWarning, an error here.
        difference = np.abs(read_image(path) - wanted).mean()
        assert difference == 0 if name in lossless else 0 < difference < 6, name
        assert path.read_bytes() == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_carried_out(orientation, tmp_path):
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
    wanted = read_image(save(upright, tmp_path / "upright.png"), SMALL).astype(int)
    for suffix in ("png", "jpg", "tif", "webp"):
        path = save(stored, tmp_path / f"stored.{suffix}", exif=exif)
        np.testing.assert_allclose(read_image(path, SMALL), wanted, atol=40)


PILLOW = int(PIL.__version__.split(".")[0])  # before 12 it reads no XMP in some formats
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/'
    '22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    'tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["EXIF", "XMP"])
def test_every_format_is_turned_as_by_pillow(photos, tmp_path, kind, orientation):
    photo, path = photos[0].resize((40, 30)), tmp_path / "image"
    for name in set(written_formats()) & {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"}:
        options = {}
        if kind == "EXIF":
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        elif name in ("JPEG", "WEBP", "AVIF"):  # Pillow writes it into these alone
            options["xmp"] = XMP.format(orientation).encode()
        photo.save(path, name, **options)
        with Image.open(path) as stored:
            wanted = ImageOps.exif_transpose(stored).convert("RGB")
        np.testing.assert_array_equal(read_rgb(path), wanted, err_msg=name)
        if kind == "EXIF" or (options and PILLOW >= 12):
            assert wanted.size == ((30, 40) if orientation >= 5 else (40, 30)), name


@pytest.mark.parametrize(
    ("short", "divisor"), [(71, 1), (70, 2), (36, 2), (35, 4), (18, 4), (17, 8), (8, 8)]
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_large_jpeg_may_be_decoded_with_fewer_pixels(
    short, divisor, number, photos, tmp_path
):
    photo = photos[number].crop((0, 0, 640, 424))
    turned = Image.Exif()
    turned[0x0112] = 6
    preprocessing = Preprocessing(size=short * 7 // 8, resize=short)
    path = save(photo, tmp_path / "a.jpg", exif=turned)
    rgb = read_rgb(path, short=short)
    assert rgb.size == (424 // divisor, 640 // divisor)
    assert rgb.info["divisor"] == divisor
    found = resize_and_crop(rgb, preprocessing).astype(int)
    difference = np.abs(found - read_image(path, preprocessing)).mean()
    assert difference < 1 if divisor > 1 else difference == 0

    # Sides that cannot be divided, and other formats.
    odd = save(photo.crop((0, 0, 639, 423)), tmp_path / "odd.jpg")
    assert read_rgb(odd, short=short).size == (639, 423)
    lossless = save(photo, tmp_path / "a.png")
    assert read_rgb(lossless, short=short).size == photo.size


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0\x2a\0\0\0\xff" * 3,
        b"Exif\0\0neither II nor MM",
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x02",  # ends in a tag
        b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0",  # text
    ],
)
def test_broken_exif_data_do_not_hide_the_image(photos, tmp_path, exif):
    photo = photos[0].resize((96, 64))
    for suffix in ("jpg", "png", "webp"):
        path = save(photo, tmp_path / f"a.{suffix}", exif=exif)
        plain = save(photo, tmp_path / f"b.{suffix}")
        np.testing.assert_array_equal(read_image(path), read_image(plain))


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


@pytest.mark.parametrize(
    ("value", "wanted"), [(0, 0), (128, 0), (129, 1), (51400, 200), (65535, 255)]
)
def test_16_bit_grey_is_scaled_and_not_clipped(value, wanted, tmp_path):
    grey = Image.fromarray(np.full((16, 16), value, "uint16"))
    for suffix in ("png", "tif"):
        assert centre(grey, tmp_path / f"grey.{suffix}") == [wanted] * 3
    pixels = struct.pack(">H", value) * 256
    big = Image.frombytes("I;16B", (16, 16), pixels)
    assert centre(big, tmp_path / "big.tif") == [wanted] * 3
    path = tmp_path / "grey.ppm"  # Pillow 10 does not write it
    path.write_bytes(b"P5 16 16 65535\n" + pixels)
    assert read_image(path, SMALL)[4, 4].tolist() == [wanted] * 3


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([0, 77, 255], "int32", [0, 77, 255]),  # 8-bit values in 32 bits
        ([0, 77, 255], "float32", [0, 77, 255]),
        ([0, 19789, 65535], "int32", [0, 77, 255]),
        ([0, 0.302, 1], "float32", [0, 77, 255]),
        ([0, 0, 1], "float32", [0, 0, 255]),
    ],
)
def test_grey_of_32_bits_is_scaled_as_its_values_mean(values, dtype, wanted, tmp_path):
    pixels = np.repeat(np.array(values, dtype), 10)[np.newaxis].repeat(30, 0)
    path = save(Image.fromarray(pixels), tmp_path / "grey.tif")
    found = np.asarray(read_rgb(path))
    assert found[15, ::10, 0].tolist() == wanted
    assert (found == found[..., :1]).all()


def test_8_and_1_bit_grey_keep_their_values(tmp_path):
    assert centre(Image.new("L", (16, 16), 77), tmp_path / "l.png") == [77] * 3
    for value in (0, 255):
        for name in ("bit.png", "bit.tif", "bit.bmp", "bit.ppm"):
            image = Image.new("1", (16, 16), value)
            assert centre(image, tmp_path / name) == [value] * 3


def test_transparent_images_lie_over_white(tmp_path):
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


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for name in ("cmyk.jpg", "cmyk.tif"):
        rgb = centre(image, tmp_path / name)
        np.testing.assert_allclose(rgb, [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    for name in ("moving.gif", "moving.png", "moving.webp"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        assert centre(frames[0], tmp_path / name, **options, **lossless) == [255, 0, 0]


def test_the_name_of_weights_is_no_preprocessing(tmp_path):
    path = save(Image.new("RGB", (4, 4)), tmp_path / "image.png")
    with pytest.raises(TypeError, match="such as weights_preprocessing gives"):
        read_image(path, "resnext50_32x4d.imagenet")


def test_a_tiny_image_is_enlarged(tmp_path):
    path = save(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "dot.png")
    got = read_image(path)
    assert got.shape == (224, 224, 3)
    assert (got == (1, 2, 3)).all()


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


def test_an_image_is_no_sharper_than_those_of_the_training(photos, tmp_path):
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

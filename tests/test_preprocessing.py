"""Normalised input, and pictures read from files."""

import io
import re
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.applications.imagenet_utils import preprocess_input as keras_preprocess
from PIL import Image
from sklearn.datasets import load_sample_images

from resnext_keras.preprocessing import (
    FORMATS,
    IMAGENET,
    ImageError,
    Preprocessing,
    preprocess_input,
    read_image,
)

SMALL = Preprocessing(size=8, resize=10)


@pytest.fixture(scope="module")
def photos():
    """Two photos of 640 x 427 pixels, china.jpg and flower.jpg."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def pixels(shape=(2, 5, 4, 3), dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def save(image, path, **options):
    image.save(path, **options)
    return path


# preprocess_input


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 5, 4, 3)])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int64", "bool", "float16", "float32", "float64", "bfloat16"]
)
def test_arrays_get_the_values_and_dtype_of_keras_applications(shape, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = pixels(shape, dtype)
    for data_format, axes in [("channels_last", None), ("channels_first", -3)]:
        if axes:
            x = np.ascontiguousarray(np.moveaxis(x, -1, axes))
        got = preprocess_input(x, data_format)
        assert isinstance(got, np.ndarray)
        # keras.applications turns bfloat16 arrays into float32.
        wanted = keras_preprocess(x.copy(), data_format, mode="torch")
        if x.dtype.kind == "V":
            assert got.dtype == x.dtype
            np.testing.assert_allclose(got.astype("float32"), wanted, atol=0.05)
        else:
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "bfloat16"])
def test_tensors_give_what_arrays_give_in_their_own_dtype(dtype):
    array = pixels()
    got = preprocess_input(keras.ops.convert_to_tensor(array, dtype=dtype))
    is_float = "float" in dtype
    assert keras.backend.standardize_dtype(got.dtype) == (
        dtype if is_float else "float32"
    )
    got = keras.ops.convert_to_numpy(keras.ops.cast(got, "float32"))
    tolerance = {"float16": 5e-3, "bfloat16": 5e-2}.get(dtype, 1e-6)
    np.testing.assert_allclose(
        got, preprocess_input(array.astype("float64")), atol=tolerance
    )


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_the_callers_array_is_never_changed(dtype):
    x = pixels(dtype=dtype)
    before = x.copy()
    x.flags.writeable = False
    got = preprocess_input(x)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(got, x)


def test_integers_become_the_configured_float():
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        assert preprocess_input(pixels()).dtype == "float64"
        got = preprocess_input(keras.ops.convert_to_tensor(pixels()))
        assert keras.backend.standardize_dtype(got.dtype) == "float64"
    finally:
        keras.config.set_floatx(floatx)


def test_the_configured_data_format_holds_unless_told_otherwise():
    x = pixels((2, 3, 5, 4))
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(
            preprocess_input(x), preprocess_input(x, data_format="channels_first")
        )
    finally:
        keras.config.set_image_data_format(before)


def test_pillow_images_and_nested_lists_count_as_arrays():
    x = pixels((5, 4, 3))
    wanted = preprocess_input(x)
    np.testing.assert_array_equal(preprocess_input(Image.fromarray(x)), wanted)
    np.testing.assert_array_equal(preprocess_input(x.tolist()), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("as_layer", [True, False])
def test_it_works_inside_a_functional_model(dtype, as_layer, tmp_path):
    inputs = keras.Input((None, None, 3), dtype=dtype)
    if as_layer:
        outputs = keras.layers.Lambda(preprocess_input)(inputs)
    else:
        outputs = preprocess_input(inputs)
    model = keras.Model(inputs, outputs)
    x = pixels(dtype=dtype)
    wanted = preprocess_input(x)
    np.testing.assert_allclose(model.predict(x, verbose=0), wanted, atol=1e-6)
    if not as_layer:  # Keras does not load a Lambda without safe_mode=False
        path = tmp_path / "model.keras"
        model.save(path)
        again = keras.models.load_model(path)
        np.testing.assert_allclose(again.predict(x, verbose=0), wanted, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")
def test_it_works_inside_a_tf_data_map():
    import tensorflow as tf

    x = pixels()
    dataset = tf.data.Dataset.from_tensor_slices(x).map(preprocess_input)
    for got, wanted in zip(dataset, preprocess_input(x), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "data_format"),
    [
        ((4, 3), None),
        ((1, 2, 5, 4, 3), None),
        ((), None),
        ((5, 4, 1), None),
        ((2, 5, 4, 4), None),
        ((3, 5, 4), "channels_last"),
        ((5, 4, 3), "channels_first"),
        ((2, 5, 4, 3), "channels_first"),
    ],
)
def test_a_wrong_shape_is_refused(shape, data_format):
    for x in (np.zeros(shape), keras.ops.zeros(shape)):
        with pytest.raises(ValueError, match=re.escape(f"Received: x.shape={shape}")):
            preprocess_input(x, data_format)


def test_an_unknown_data_format_is_refused():
    with pytest.raises(ValueError, match="Received: data_format='channels_middle'"):
        preprocess_input(pixels(), "channels_middle")


# Preprocessing


def test_the_first_generation_was_evaluated_at_224_from_256():
    assert Preprocessing(size=224, resize=256, interpolation="bilinear") == IMAGENET


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0, "resize": 256},
        {"size": 224.0, "resize": 256},
        {"size": True, "resize": 256},
        {"size": 224, "resize": -1},
        {"size": 224, "resize": 223},
        {"size": 224, "resize": 256, "interpolation": "nearest"},
        {"size": 224, "resize": 256, "interpolation": None},
    ],
)
def test_an_impossible_preprocessing_is_refused(values):
    with pytest.raises(ValueError, match=r"Expected .* Received: "):
        Preprocessing(**values)


# read_image: pictures


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
    path = save(photos[0], tmp_path / "picture.jpg", format="PNG")
    np.testing.assert_array_equal(
        read_image(path), read_image(save(photos[0], tmp_path / "picture.png"))
    )


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_carried_out(orientation, name, tmp_path):
    colours = np.zeros((64, 96, 3), "uint8")
    colours[:32, :48], colours[:32, 48:] = (255, 255, 255), (255, 0, 0)
    colours[32:, :48] = (0, 0, 255)
    upright = Image.fromarray(colours)
    # How a camera held this way stores the picture: the inverse of what undoes it.
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


def test_broken_exif_data_do_not_hide_the_picture(photos, tmp_path):
    path = save(photos[0], tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\0\xff" * 3)
    np.testing.assert_array_equal(
        read_image(path), read_image(save(photos[0], tmp_path / "b.jpg"))
    )


def centre(image, path, **options):
    """The centre pixel of a picture that was written to a file and read again."""
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


def test_a_tiny_picture_is_enlarged(tmp_path):
    path = save(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "dot.png")
    got = read_image(path)
    assert got.shape == (224, 224, 3)
    assert (got == (1, 2, 3)).all()


def test_a_file_is_closed_and_left_as_it_was(photos, tmp_path):
    path = save(photos[0], tmp_path / "a.jpg")
    before = path.read_bytes()
    read_image(path)  # an open file would give a ResourceWarning, an error here
    assert path.read_bytes() == before


# read_image: everything else


def refused(path, found, preprocessing=SMALL):
    """Checks the one error that is promised, and hands back its message."""
    with pytest.raises(ImageError) as caught:
        read_image(path, preprocessing)
    message = str(caught.value)
    assert message.startswith("Expected a picture (JPEG, PNG")
    assert repr(str(path)) in message
    assert re.search(found, message.partition("Found: ")[2]), message
    return message


def test_what_is_no_picture_is_named(tmp_path):
    refused(tmp_path / "missing.jpg", "No such file")
    refused(tmp_path, "^a folder$")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "^an empty file$")
    (tmp_path / "text.jpg").write_text("<!DOCTYPE html>")
    refused(tmp_path / "text.jpg", "begins with b'<!DOCTYPE html>'$")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    refused(tmp_path / "link.jpg", "No such file")
    refused(Path("/dev/null"), "no regular file")
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
def test_a_truncated_picture_is_refused(name, photos, tmp_path):
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


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    path = save(Image.new("L", (40, 30), 9), tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert (read_image(path, SMALL) == 9).all()
        assert warnings.filters == before
    assert not caught


def test_threads_that_read_at_once_leave_the_warning_filters_alone(tmp_path):
    paths = [save(Image.new("L", (30, 30), i), tmp_path / f"{i}.png") for i in range(8)]
    before = list(warnings.filters)
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
    assert warnings.filters == before


def test_a_picture_without_pixels_or_of_absurd_aspect_is_refused(tmp_path):
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


def test_wrong_arguments_are_no_matter_of_the_file(photos, tmp_path):
    path = save(photos[0], tmp_path / "a.png")
    with pytest.raises(TypeError, match="Received: preprocessing=224"):
        read_image(path, 224)
    with pytest.raises(TypeError, match="NoneType"):
        read_image(None)


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
    sources += [(Image.fromarray(pixels((30, 40), "uint16")), "PNG")]
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


def test_broken_files_give_a_picture_or_the_one_error(photos, tmp_path, monkeypatch):
    # Flipped sizes must not make this test allocate hundreds of megabytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    path = tmp_path / "broken"
    pictures, errors = 0, []
    for content in broken_files(photos):
        path.write_bytes(content)
        try:
            assert read_image(path, SMALL).shape == (8, 8, 3)
            pictures += 1
        except ImageError as error:
            errors.append(str(error))
    assert all("Found: " in error for error in errors)
    assert min(pictures, len(errors)) > 100  # the flips hit headers and pixels


# Against torchvision


@pytest.fixture
def transforms():
    # triton, which torch imports where it finds it, and TensorFlow bring an LLVM
    # each; both in one process crash it.
    sys.modules.setdefault("triton", None)
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
            for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
                path = save(picture, tmp_path / "picture.png")
                got = read_image(path, wanted)
                np.testing.assert_array_equal(got, np.asarray(reference(picture)))


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

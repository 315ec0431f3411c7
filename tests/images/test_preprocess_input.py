"""preprocess_input gives what keras.applications gives; Preprocessing is checked."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.applications.imagenet_utils import preprocess_input as keras_preprocess
from PIL import Image

import resnext_keras as rk
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.images.preprocessing import IMAGENET, Preprocessing, preprocess_input


def pixels(shape=(2, 5, 4, 3), dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


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


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_callers_array_is_never_changed(dtype):
    x = pixels(dtype=dtype)
    before = x.copy()
    x.flags.writeable = False
    got = preprocess_input(x)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(got, x)


def test_integers_become_the_configured_float():
    floatx = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        assert preprocess_input(pixels()).dtype == "float16"
        got = preprocess_input(keras.ops.convert_to_tensor(pixels()))
        assert keras.backend.standardize_dtype(got.dtype) == "float16"
    finally:
        keras.config.set_floatx(floatx)


def test_the_configured_data_format_is_the_default():
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
def test_it_works_inside_a_functional_model(dtype, tmp_path):
    inputs = keras.Input((None, None, 3), dtype=dtype)
    model = keras.Model(inputs, preprocess_input(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = keras.layers.Lambda(preprocess_input)
    x = pixels(dtype=dtype)
    wanted = preprocess_input(x)
    for function in (model, loaded, keras.Model(inputs, layer(inputs))):
        found = keras.ops.convert_to_numpy(function(x))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_it_works_inside_a_tf_data_map():
    x = pixels()
    dataset = tf.data.Dataset.from_tensor_slices(x).map(preprocess_input)
    for got, wanted in zip(dataset, preprocess_input(x), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "data_format"),
    [
        ((4, 3), None),
        ((1, 2, 5, 4, 3), None),
        ((5, 4, 0), None),
        ((3, 224, 224), "channels_last"),
        ((8, 1, 64, 64), "channels_last"),
        ((8, 64, 64, 4), "channels_first"),
        ((3, 5, 4), "channels_last"),
        ((2, 5, 4, 3), "channels_first"),
    ],
)
def test_a_wrong_shape_is_refused(shape, data_format):
    for x in (np.zeros(shape), keras.ops.zeros(shape)):
        with pytest.raises(ValueError, match=re.escape(f"Received: x.shape={shape}")):
            preprocess_input(x, data_format)


# Other numbers of channels


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_other_channels_repeat_rgb_as_the_kernels_do(channels, data_format):
    rgb = keras_preprocess(np.zeros((1, 3)), "channels_last", mode="torch")[0]
    white = keras_preprocess(np.full((1, 3), 255.0), "channels_last", mode="torch")[0]
    for value, normalised in ((0, rgb), (255, white)):
        shape = (2, 9, 8, channels)
        expected = np.tile(normalised, 2)[:channels]
        if channels == 1:  # the kernels are added
            expected = normalised.mean(keepdims=True)
        x, expected = np.full(shape, value, "float64"), np.broadcast_to(expected, shape)
        if data_format == "channels_first":
            x, expected = (np.moveaxis(array, -1, 1) for array in (x, expected))
        np.testing.assert_allclose(preprocess_input(x, data_format), expected)
        tensor = preprocess_input(
            keras.ops.convert_to_tensor(x, "float32"), data_format
        )
        np.testing.assert_allclose(tensor, expected, rtol=1e-5)


def test_images_of_32_pixels_may_have_any_number_of_channels():
    for shape in ((32, 32, 200), (2, 40, 33, 64)):
        assert preprocess_input(np.zeros(shape)).shape == shape
    with pytest.raises(ValueError, match=r"Received: x\.shape=\(31, 40, 64\)"):
        preprocess_input(np.zeros((31, 40, 64)))


def test_a_network_for_grey_images_sees_what_the_one_for_rgb_sees():
    digits, labels = held_out_digits()
    pixels = as_network_sees(digits, rk.weights_preprocessing("digits"))
    scores = []
    for channels in (3, 1):
        model = rk.ResNeXt(
            "resnext11_8x4d",
            weights="digits",
            input_shape=(32, 32, channels),
            classes=10,
        )
        x = preprocess_input(pixels[..., :channels], "channels_last")
        scores.append(model.predict(x, verbose=0))
    assert np.mean(scores[0].argmax(1) == scores[1].argmax(1)) > 0.99
    assert np.mean(scores[1].argmax(1) == labels.astype(int)) > 0.97


# Preprocessing


def test_the_first_generation_was_evaluated_at_224_from_256():
    assert Preprocessing(size=224, resize=256, interpolation="bilinear") == IMAGENET


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0, "resize": 256},
        {"size": 224.0, "resize": 256},
        {"size": 224, "resize": -1},
        {"size": 224, "resize": 223},
        {"size": 224, "resize": 256, "interpolation": "nearest"},
        {"size": 32, "resize": (0, 32)},
        {"size": 32, "resize": (32, 8)},
    ],
)
def test_an_impossible_preprocessing_is_refused(values):
    with pytest.raises(ValueError, match=r"Expected .* Received: "):
        Preprocessing(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.5, 0.5)},
        {"mean": "0.5"},
        {"std": (0, 1, 1)},
        {"std": (1, 1, np.nan)},
    ],
)
def test_mean_and_deviation_are_three_numbers(values):
    with pytest.raises(ValueError, match=r"Expected `(mean|std)` .* Received: "):
        Preprocessing(224, 256, **values)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_weights_may_have_a_mean_and_deviation_of_their_own(data_format):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    x = pixels()
    wanted = (x / 255 - np.array(mean)) / np.array(std)
    if data_format == "channels_first":
        x, wanted = (np.moveaxis(array, -1, 1) for array in (x, wanted))
    reading = Preprocessing(224, 256, mean=mean, std=list(std))
    for images in (x, keras.ops.convert_to_tensor(x)):
        got = preprocess_input(images, data_format, reading)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert Preprocessing(**json.loads(json.dumps(reading.as_json()))) == reading

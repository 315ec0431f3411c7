"""What `weights=` promises of good files: each number arrives in its place."""

import re

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from helpers import dtype_policy
from safetensors.numpy import save_file
from weight_files import (
    CLASSES,
    TINY,
    assert_same,
    build,
    drawn_model,
    keras_values,
    numbers,
    torch_state,
    variables,
)

import resnext_keras
from resnext_keras.models.specs import get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError

# Its tensors are those of a row of the table.
LISTED = get_spec("resnext11_8x4d")


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """A .weights.h5 file with a classifier."""
    path = tmp_path_factory.mktemp("own") / "tiny.weights.h5"
    drawn_model().save_weights(path)
    return path


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory):
    """The same numbers as a torch user saves them."""
    path = tmp_path_factory.mktemp("torch") / "tiny.safetensors"
    save_file(torch_state(), path)
    return path


def features(values):
    return {k: v for k, v in values.items() if not k.startswith("predictions/")}


# Files of our own


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_own_weights_come_back_exactly(own_file, as_type):
    before = own_file.read_bytes()
    assert_same(numbers(build(as_type(own_file))), keras_values())
    assert own_file.read_bytes() == before


def test_weights_saved_after_training_come_back_exactly(tmp_path):
    model = drawn_model()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    model.fit(x, np.arange(4), batch_size=2, verbose=0)
    path = tmp_path / "trained.weights.h5"
    model.save_weights(path)
    with h5py.File(path) as file:
        assert "optimizer" in file
    expected = numbers(model)
    assert not np.array_equal(
        expected["conv1_bn/moving_mean"], keras_values()["conv1_bn/moving_mean"]
    )
    assert_same(numbers(build(path)), expected)


def test_frozen_layers_come_back_exactly(tmp_path):
    model = drawn_model()
    for layer in model.layers[:12]:
        layer.trainable = False
    model.get_layer("conv3_block1_2_bn").trainable = False
    path = tmp_path / "frozen.weights.h5"
    model.save_weights(path)
    again = build(path)
    assert_same(numbers(again), keras_values())
    assert len(again.trainable_weights) > len(model.trainable_weights)


@pytest.mark.parametrize("pooling", [None, "avg"])
def test_a_classifier_is_left_out_without_the_top(own_file, torch_file, pooling):
    for path in (own_file, torch_file):
        model = build(path, include_top=False, pooling=pooling)
        assert_same(numbers(model), features(keras_values()))


def test_a_file_without_classifier_serves_only_a_network_without(tmp_path):
    own, torch = tmp_path / "notop.weights.h5", tmp_path / "notop.safetensors"
    drawn_model(include_top=False).save_weights(own)
    save_file(torch_state(classes=None), torch)
    for path in (own, torch):
        model = build(path, include_top=False)
        assert_same(numbers(model), features(keras_values()))
        with pytest.raises(WeightsError, match="or include_top=False"):
            build(path)


def test_another_number_of_classes_gets_a_new_classifier(own_file, torch_file, caplog):
    for path in (own_file, torch_file):
        caplog.clear()
        model = build(path, classes=7)
        found = numbers(model)
        assert found.pop("predictions/kernel").shape == (512, 7)
        assert not found.pop("predictions/bias").any()
        assert_same(found, features(keras_values()))
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        message = (
            rf"{re.escape(str(path))} has {CLASSES} classes, not 7: .* new classifier"
        )
        assert re.search(message, record.message)


def test_a_file_for_rgb_serves_other_channels(torch_file, own_file, caplog):
    """As timm's `adapt_input_conv` does it."""
    rgb = keras_values()["conv1_conv/kernel"]
    red, green, blue = rgb[:, :, :1], rgb[:, :, 1:2], rgb[:, :, 2:]
    stems = {
        1: red + green + blue,
        2: np.concatenate([red, green], axis=2) * 1.5,
        4: np.concatenate([rgb, red], axis=2) * 0.75,
        7: np.concatenate([rgb, rgb, red], axis=2) * np.float32(3 / 7),
    }
    for channels, stem in stems.items():
        for path in (torch_file, own_file):
            found = numbers(build(path, channels=channels))
            np.testing.assert_allclose(found.pop("conv1_conv/kernel"), stem, 1e-6, 1e-7)
            expected = keras_values()
            del expected["conv1_conv/kernel"]
            assert_same(found, expected)
            assert caplog.records.pop().message.endswith("it is adapted to them.")
            assert not caplog.records


@pytest.mark.parity
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("architecture", ["resnext50_32x4d", "seresnext26d_32x4d"])
def test_other_channels_and_classes_are_those_of_timm(
    architecture, channels, tmp_path, relative_error
):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file as save_torch_file

    path = tmp_path / "rgb.safetensors"
    save_torch_file(timm.create_model(architecture).state_dict(), path)
    reference = timm.create_model(
        architecture,
        pretrained=True,
        in_chans=channels,
        num_classes=7,
        pretrained_cfg_overlay={"file": str(path)},
    )
    images = np.random.default_rng(1).normal(size=(1, 64, 64, channels))
    images = images.astype("float32")
    with torch.no_grad():
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected = reference.eval().forward_features(batch).permute(0, 2, 3, 1)
    model = resnext_keras.ResNeXt(
        architecture, weights=path, input_shape=(64, 64, channels), classes=7
    )
    features = keras.Model(model.input, model.get_layer("avg_pool").input)
    assert relative_error(features.predict(images, verbose=0), expected) <= 1e-4


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_weights_as_they_are(own_file, tmp_path, name):
    with dtype_policy(name):
        model = build(own_file)
    assert_same(numbers(model), keras_values())
    model.save_weights(tmp_path / "mixed.weights.h5")
    assert_same(numbers(build(tmp_path / "mixed.weights.h5")), keras_values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_network_and_a_full_one_read_each_others_files(
    own_file, torch_file, tmp_path, dtype
):
    rounded = {k: v.astype(dtype) for k, v in keras_values().items()}
    path = tmp_path / "half.weights.h5"
    with dtype_policy(dtype):
        for source in (own_file, torch_file):
            model = build(source)
            assert {v.dtype for v in variables(model).values()} == {dtype}
            assert_same(numbers(model), rounded)
        model.save_weights(path)
        assert_same(numbers(build(path)), rounded)
    assert_same(
        numbers(build(path)), {k: v.astype("float32") for k, v in rounded.items()}
    )


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_floating_types_in_h5(own_file, tmp_path, dtype):
    path = tmp_path / "other.weights.h5"
    path.write_bytes(own_file.read_bytes())
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            for key, dataset in list(group["vars"].items()):
                data = dataset[...]
                del group["vars"][key]
                group["vars"][key] = data.astype(dtype)
    assert_same(
        numbers(build(path)),
        {k: v.astype(dtype).astype("float32") for k, v in keras_values().items()},
    )


def test_layer_names_stored_as_bytes(own_file, tmp_path):
    path = tmp_path / "bytes.weights.h5"
    path.write_bytes(own_file.read_bytes())
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs["name"] = np.bytes_(group["vars"].attrs["name"])
    assert_same(numbers(build(path)), keras_values())


# The state_dict of torchvision and timm


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_a_torch_state_of_any_floating_type(tmp_path, dtype):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    path = tmp_path / "model.safetensors"
    save_file(
        {
            k: v if k.endswith("num_batches_tracked") else v.astype(dtype)
            for k, v in torch_state().items()
        },
        path,
    )
    before = path.read_bytes()
    assert_same(
        numbers(build(path)),
        {k: v.astype(dtype).astype("float32") for k, v in keras_values().items()},
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("features", "head"),
    [
        ("module.", "module."),  # DataParallel
        ("_orig_mod.", "_orig_mod."),  # torch.compile
        ("module._orig_mod.", "module._orig_mod."),
        ("backbone.", "head."),  # mmpretrain
        ("module.backbone.", "module.head."),
    ],
)
def test_a_wrapped_torch_state(tmp_path, features, head):
    path = tmp_path / "wrapped.safetensors"
    state = {
        (head if key.startswith("fc.") else features) + key: value
        for key, value in torch_state().items()
    }
    save_file(state, path)
    assert_same(numbers(build(path)), keras_values())


@pytest.mark.parametrize("classes", [10, 3, None])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_file_of_the_table_is_identified(tmp_path, classes, channels):
    path = tmp_path / "listed.safetensors"
    save_file(torch_state(LISTED, classes, channels), path)
    found = resolve(path)
    assert (found.spec, found.channels, found.classes) == (LISTED, channels, classes)


def test_what_is_not_in_the_table_is_not_identified(own_file, torch_file):
    for path in (own_file, torch_file):
        with pytest.raises(
            WeightsError, match=r"resnext50_32x4d.*Received: "
        ) as caught:
            resolve(path)
        assert str(path) in str(caught.value)


# All or nothing


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_a_number_that_is_none_is_found_before_anything_changes(tmp_path, bad, suffix):
    path = tmp_path / f"bad{suffix}"
    state = torch_state()
    state["fc.bias"][-1] = bad  # the last variable of all
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        model = drawn_model()
        model.get_layer("predictions").bias.assign(state["fc.bias"])
        model.save_weights(path)
    message = rf"finite .* predictions/bias, .*{re.escape(str(path))}; nothing was"
    with pytest.raises(WeightsError, match=message):
        build(path)
    model = build()
    before = numbers(model)
    with (
        open_weights(path, variable_shapes(TINY, 3, CLASSES)) as tensors,
        pytest.raises(WeightsError, match=message),
    ):
        assign(model, tensors)
    assert_same(numbers(model), before)


def test_a_number_too_large_for_the_variables_is_refused(tmp_path):
    path = tmp_path / "large.safetensors"
    state = {k: v.astype("float64") for k, v in torch_state().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for large, dtype in [(1e300, "float32"), (1e5, "float16")]:
        state["bn1.bias"][0] = large
        save_file(state, path)
        with (
            dtype_policy(dtype),
            pytest.raises(WeightsError, match=f"range of {dtype} in conv1_bn/beta"),
        ):
            build(path)

"""Each number of a good weight file arrives in its variable, or none does."""

import re
from pathlib import Path

import h5py
import keras
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
    edited_copy,
    keras_values,
    numbers,
    read,
    torch_state,
    variables,
    without_classifier,
)

import resnext_keras
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError


@pytest.fixture
def edited(good_weights, tmp_path):
    """Edits a copy of the good .weights.h5 file; gives its path."""
    source, path = good_weights[".weights.h5"], tmp_path / "edited.weights.h5"
    return lambda edit: edited_copy(source, path, edit)


def converted(values, *dtypes):
    for dtype in dtypes:
        values = {name: value.astype(dtype) for name, value in values.items()}
    return values


def test_weights_come_back_exactly(good_weights):
    for path, as_type in zip(good_weights.values(), (str, Path), strict=True):
        before = path.read_bytes()
        assert_same(numbers(build(as_type(path))), keras_values())
        assert path.read_bytes() == before


def test_weights_of_a_compiled_and_partly_frozen_network_come_back(tmp_path):
    model = drawn_model()
    for layer in model.layers[:12]:
        layer.trainable = False
    model.get_layer("conv3_block1_2_bn").trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "trained.weights.h5"
    model.save_weights(path)
    with h5py.File(path) as file:
        assert "optimizer" in file
    again = build(path)
    assert_same(numbers(again), keras_values())
    assert len(again.trainable_weights) > len(model.trainable_weights)


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_a_network_without_classifier(good_weights, tmp_path, suffix):
    path = tmp_path / f"notop{suffix}"
    if suffix == ".safetensors":
        save_file(torch_state(classes=None), path)
    else:
        drawn_model(include_top=False).save_weights(path)
    for source in (good_weights[suffix], path):
        model = build(source, include_top=False, pooling="avg")
        assert_same(numbers(model), without_classifier(keras_values()))
    with pytest.raises(WeightsError, match="or include_top=False"):
        build(path)


def test_another_number_of_classes_gets_a_new_classifier(good_weights, caplog):
    path = good_weights[".safetensors"]
    values = numbers(build(path, classes=7))
    assert values.pop("predictions/kernel").shape == (512, 7)
    assert not values.pop("predictions/bias").any()
    assert_same(values, without_classifier(keras_values()))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    message = rf"{re.escape(str(path))} has {CLASSES} classes, not 7: .* new classifier"
    assert re.search(message, record.message)


def test_the_first_convolution_is_adapted_to_other_channels(good_weights, caplog):
    """As timm's `adapt_input_conv` does it."""
    rgb = keras_values()["conv1_conv/kernel"]
    red, green, blue = rgb[:, :, :1], rgb[:, :, 1:2], rgb[:, :, 2:]
    kernels = {
        1: red + green + blue,
        2: np.concatenate([red, green], axis=2) * 1.5,
        7: np.concatenate([rgb, rgb, red], axis=2) * np.float32(3 / 7),
    }
    for channels, kernel in kernels.items():
        values = numbers(build(good_weights[".safetensors"], channels=channels))
        np.testing.assert_allclose(values.pop("conv1_conv/kernel"), kernel, 1e-6, 1e-7)
        expected = keras_values()
        del expected["conv1_conv/kernel"]
        assert_same(values, expected)
        assert caplog.records.pop().message.endswith("it is adapted to them.")
        assert not caplog.records


@pytest.mark.parity
@pytest.mark.parametrize(
    ("architecture", "channels"),
    [("resnext50_32x4d", 1), ("seresnext26d_32x4d", 2), ("seresnext26d_32x4d", 6)],
)
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


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("mixed_bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
    ],
)
def test_networks_of_any_precision_read_each_others_files(
    good_weights, tmp_path, policy, dtype
):
    rounded = converted(keras_values(), dtype)
    path = tmp_path / "saved.weights.h5"
    with dtype_policy(policy):
        model = build(good_weights[".safetensors"])
        assert {v.dtype for v in variables(model).values()} == {dtype}
        assert_same(numbers(model), rounded)
        model.save_weights(path)
        assert_same(numbers(build(path)), rounded)
    assert_same(numbers(build(path)), converted(rounded, "float32"))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_a_state_dict_of_any_floating_type(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    state = torch_state()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = value.astype(dtype)
    save_file(state, path)
    assert_same(numbers(build(path)), converted(keras_values(), dtype, "float32"))


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_floating_types_and_names_as_bytes_in_hdf5(edited, dtype):
    """As other programs may write such a file."""

    def edit(file):
        for group in file["layers"].values():
            group = group["vars"]
            group.attrs["name"] = np.bytes_(group.attrs["name"])
            for key, dataset in list(group.items()):
                data = dataset[...]
                del group[key]
                group[key] = data.astype(dtype)

    values = numbers(build(edited(edit)))
    assert_same(values, converted(keras_values(), dtype, "float32"))


@pytest.mark.parametrize(
    ("features", "head"),
    [
        ("module.", "module."),  # DataParallel
        ("_orig_mod.", "_orig_mod."),  # torch.compile
        ("module._orig_mod.", "module._orig_mod."),
        ("backbone.", "head."),  # mmpretrain
        ("module.backbone.", "module.head."),
        ("net.", "net."),  # Lightning
        ("model.encoder._orig_mod.", "model.encoder._orig_mod."),
    ],
)
def test_the_prefixes_of_wrappers_are_removed(tmp_path, features, head):
    path = tmp_path / "wrapped.safetensors"
    state = {
        (head if key.startswith("fc.") else features) + key: value
        for key, value in torch_state().items()
    }
    save_file(state, path)
    assert_same(read(path), keras_values())


def test_what_is_beside_the_network_is_left_out_and_named(tmp_path, caplog):
    state = {f"encoder.{key}": value for key, value in torch_state().items()}
    others = {f"decoder.{n}.weight": np.ones(3, "float32") for n in range(4)}
    counters = {"encoder.total_ops": np.ones(1), "n_averaged": np.ones(1, "float32")}
    path = tmp_path / "model.safetensors"
    save_file(state | others | counters, path)
    assert_same(read(path), keras_values())
    assert f"Other tensors in {path} are left out: 'decoder.0.weight" in caplog.text
    assert "and 2 more" in caplog.text


def test_the_classifier_of_another_part_is_not_the_networks(tmp_path):
    state = {
        f"backbone.body.{key}": value
        for key, value in torch_state().items()
        if not key.startswith("fc.")
    }
    for part in ("roi_heads.fc", "classifier.fc", "aux.layer1.0.conv2"):
        state |= {f"{part}.{name}": np.ones(5, "f4") for name in ("weight", "bias")}
    path = tmp_path / "detector.safetensors"
    save_file(state, path)
    assert resolve(path, TINY).classes is None
    values = numbers(build(path, include_top=False))
    assert_same(values, without_classifier(keras_values()))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("model.", "ema_model.module."),  # Lightning
        ("student.backbone.", "teacher.backbone."),
        ("module.", "module.ema."),
    ],
)
def test_of_two_networks_the_averaged_one_is_taken(tmp_path, caplog, first, second):
    path, state = tmp_path / "two.safetensors", torch_state()
    zeros = {f"{first}{key}": np.zeros_like(value) for key, value in state.items()}
    save_file(zeros | {f"{second}{k}": v for k, v in state.items()}, path)
    assert_same(read(path), keras_values())
    assert (
        f"averaged weights {second!r} in {path} are used, not {first!r}" in caplog.text
    )


def test_two_networks_of_which_none_is_averaged_are_refused(tmp_path, refused):
    path, state = tmp_path / "two.safetensors", torch_state()
    both = {f"{p}.{k}": v for p in ("query", "key") for k, v in state.items()}
    save_file(both, path)
    refused(path, "one network, or one with averaged weights, .*'key.', 'query.'")


@pytest.mark.parametrize(
    ("suffix", "bad"),
    [(".weights.h5", np.nan), (".safetensors", np.inf), (".safetensors", -np.inf)],
)
def test_a_number_that_is_not_finite_is_found_before_anything_changes(
    edited, tmp_path, bad, suffix
):
    state = torch_state()
    state["fc.bias"][-1] = bad  # in the last of all variables
    if suffix == ".safetensors":
        path = tmp_path / "bad.safetensors"
        save_file(state, path)
    else:
        path = edited(lambda f: f["layers/dense/vars/1"].write_direct(state["fc.bias"]))
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


@pytest.mark.parametrize(("large", "dtype"), [(1e300, "float32"), (1e5, "float16")])
def test_a_number_too_large_for_the_variables_is_refused(tmp_path, large, dtype):
    path = tmp_path / "large.safetensors"
    state = {k: v.astype("float64") for k, v in torch_state().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    state["bn1.bias"][0] = large
    save_file(state, path)
    with (
        dtype_policy(dtype),
        pytest.raises(WeightsError, match=f"range of {dtype} in conv1_bn/beta"),
    ):
        build(path)

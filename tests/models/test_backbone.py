"""Any network of the family is a backbone: cut, frozen and trained in part."""

import copy
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from elsewhere import randomised

from resnext_keras import ResNeXt, ResNeXtSpec, feature_pyramid, fold_batch_norm, freeze
from resnext_keras.models.backbone import stage_of
from resnext_keras.models.blocks import add_relu, linear_decay

SPEC = ResNeXtSpec("tiny", (1, 2, 1, 1), 2, 2)
IMAGES = np.random.default_rng(0).normal(size=(4, 64, 96, 3)).astype("float32")


def tiny(**options):
    options = {"include_top": False, "weights": None} | options
    return randomised(ResNeXt(SPEC, **options))


@pytest.fixture(scope="module")
def network():
    """A network that no test changes."""
    return tiny()


@pytest.mark.parametrize(("include_top", "fold"), [(False, False), (True, True)])
def test_a_pyramid_has_the_last_maps_of_each_stage(include_top, fold, relative_error):
    model = tiny(include_top=include_top, input_shape=(None, None, 3))
    pyramid = feature_pyramid(fold_batch_norm(model) if fold else model)
    maps = pyramid(IMAGES)  # not `predict`: to build a graph takes longer
    assert {level: m.shape[1:] for level, m in maps.items()} == {
        "C2": (16, 24, 256),
        "C3": (8, 12, 512),
        "C4": (4, 6, 1024),
        "C5": (2, 3, 2048),
    }
    ends = ["conv2_block1", "conv3_block2", "conv4_block1", "conv5_block1"]
    outputs = [model.get_layer(f"{block}_out").output for block in ends]
    expected = keras.Model(model.input, outputs)(IMAGES)
    for level, cut in zip(maps, expected, strict=True):
        assert relative_error(maps[level], cut) <= 1e-5


def test_a_pyramid_of_some_levels_is_no_larger_than_they_need(network):
    pyramid = feature_pyramid(network, ("C4", "C3"))
    assert list(pyramid.output) == ["C4", "C3"]
    assert max(filter(None, (stage_of(layer.name) for layer in pyramid.layers))) == 4
    assert feature_pyramid(network, "C2").output.keys() == {"C2"}


def loaded(model, path):
    model.save(path)
    return keras.models.load_model(path)


def cloned(model, _):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def from_json(model, _):
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    return again


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize(
    "again",
    [
        loaded,
        cloned,
        from_json,
        pytest.param(lambda model, _: copy.deepcopy(model), id="copied"),
        pytest.param(lambda model, _: fold_batch_norm(model), id="folded"),
    ],
)
def test_the_pyramid_of_keras_hub_is_kept(
    pyramid, again, network, tmp_path, relative_error
):
    model = feature_pyramid(network) if pyramid else network
    found = again(model, tmp_path / "network.keras")
    maps = keras.Model(found.input, found.pyramid_outputs)(IMAGES)
    expected = feature_pyramid(network)(IMAGES)
    assert list(maps) == ["P2", "P3", "P4", "P5"]
    for level, cut in zip(maps, expected.values(), strict=True):
        assert relative_error(maps[level], cut) <= 1e-5


def test_a_fresh_process_finds_the_pyramid_in_a_file(network, tmp_path):
    network.save(tmp_path / "network.keras")
    code = (
        "import sys, keras, resnext_keras\n"
        "print(*keras.models.load_model(sys.argv[1]).pyramid_outputs)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "network.keras"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["P2", "P3", "P4", "P5"], done.stderr[-3000:]


@pytest.mark.parametrize(
    ("spec", "output_stride", "levels"),
    [
        (SPEC, 16, {"P2": 256, "P3": 512, "P4": 2048}),
        (SPEC, 4, {"P2": 2048}),
        (replace(SPEC, pooled_shortcut=True), 8, {"P2": 256, "P3": 2048}),
        (replace(SPEC, anti_aliased=True), 16, {"P2": 256, "P3": 512, "P4": 2048}),
        ("resnext11_8x4d", None, {"P0": 256, "P1": 512, "P2": 1024}),
    ],
)
def test_keras_hubs_levels_are_named_after_their_strides(spec, output_stride, levels):
    model = ResNeXt(spec, False, None, pooling="avg", output_stride=output_stride)
    maps = keras.Model(model.input, model.pyramid_outputs)(IMAGES[:1])
    # The deepest of each stride, by its channels.
    assert {level: found.shape[1:] for level, found in maps.items()} == {
        level: (64 >> int(level[1]), 96 >> int(level[1]), channels)
        for level, channels in levels.items()
    }


def test_weights_of_a_model_around_a_plain_functional_one_load(
    network, tmp_path, relative_error
):
    """Files have the names of classes, and older ones that of Keras' own."""
    image = keras.Input(IMAGES.shape[1:])
    plain = keras.Model(network.input, network.output)
    keras.Sequential([image, plain]).save_weights(tmp_path / "older.weights.h5")
    model = keras.Sequential([image, ResNeXt(SPEC, False, None)])
    model.load_weights(tmp_path / "older.weights.h5")
    assert relative_error(model(IMAGES), network(IMAGES)) <= 1e-5


def test_wrong_levels_and_stages_are_refused_and_nothing_frozen(network):
    for levels in ((), ["C1"], "C6", ("C2", "P3"), ["conv2"]):
        with pytest.raises(ValueError, match=r"C2, C3, C4, C5\. Received: levels="):
            feature_pyramid(network, levels)
    for until in ("conv6", "C4", "", None, 4):
        with pytest.raises(ValueError, match=r"conv1, .*conv5\. Received: until="):
            freeze(network, until)
    assert all(layer.trainable for layer in network.layers)


@pytest.mark.parametrize("function", [feature_pyramid, lambda m: freeze(m, "conv2")])
def test_a_model_of_another_family_is_refused(function):
    other = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(2, 3)])
    for wrong in (other, None, "resnext50"):
        with pytest.raises(ValueError, match="names like 'conv3_block1_out'"):
            function(wrong)


def test_a_network_within_a_model_is_found_and_named():
    model = keras.Sequential([tiny(name="backbone", pooling="avg")])
    with pytest.raises(ValueError, match="layer 'backbone' is one"):
        feature_pyramid(model)


def values(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


@pytest.mark.parametrize("nested", [False, True])
def test_frozen_stages_keep_their_weights_and_statistics_in_training(nested):
    backbone = tiny(pooling="avg", input_shape=(32, 48, 3))
    head = keras.layers.Dense(3, activation="softmax", name="head")
    if nested:
        model = keras.Sequential([backbone, head])
    else:
        model = keras.Model(backbone.input, head(backbone.output))
    freeze(model, until="conv4")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = values(model)
    model.fit(IMAGES[:, :32, :48], np.arange(4) % 3, batch_size=4, verbose=0)
    for path, value in values(model).items():
        stage = stage_of(path.split("/")[-2])
        is_frozen = stage is not None and stage <= 4
        assert np.array_equal(value, before[path]) == is_frozen, path


def test_a_frozen_network_gives_in_training_what_it_predicts(relative_error):
    model = tiny()
    freeze(model, until="conv5")
    found = model(IMAGES, training=True)
    assert relative_error(found, model(IMAGES)) <= 1e-5
    assert not model.trainable_variables


def test_freezing_leaves_the_later_stages_as_they_were():
    model = tiny()
    model.get_layer("conv5_block1_3_bn").trainable = False
    freeze(model, until="conv1")
    frozen = {
        layer.name for layer in model.layers if layer.weights and not layer.trainable
    }
    assert frozen == {"conv1_conv", "conv1_bn", "conv5_block1_3_bn"}


def test_training_drops_the_branch_of_some_images_and_weighs_the_others_more():
    keras.utils.set_random_seed(0)
    shortcut, branch = keras.Input((2, 3, 4)), keras.Input((2, 3, 4))
    model = keras.Model(
        [shortcut, branch], add_relu(shortcut, branch, "block", drop_path_rate=0.25)
    )
    x, y = np.random.default_rng(0).normal(size=(2, 2000, 2, 3, 4)).astype("float32")
    found = keras.ops.convert_to_numpy(model([x, y], training=True))
    dropped = np.isclose(found, np.maximum(x, 0), atol=1e-5).all((1, 2, 3))
    kept = np.isclose(found, np.maximum(x + y / 0.75, 0), atol=1e-5).all((1, 2, 3))
    assert (dropped ^ kept).all()
    assert abs(dropped.mean() - 0.25) < 0.04
    found = model.predict([x, y], verbose=0)
    np.testing.assert_allclose(found, np.maximum(x + y, 0), atol=1e-5)


def test_later_blocks_are_dropped_more_as_in_timm():
    model = tiny(drop_path_rate=0.2)
    rates = {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    }
    # timm: rate * index of the block / (number of blocks - 1)
    assert rates == {
        "conv3_block1_drop_path": pytest.approx(0.05),
        "conv3_block2_drop_path": pytest.approx(0.1),
        "conv4_block1_drop_path": pytest.approx(0.15),
        "conv5_block1_drop_path": pytest.approx(0.2),
    }
    assert linear_decay(0.5, 1) == [0.0]
    for wrong in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"from 0 to below 1\. Received: drop_pa"):
            ResNeXt(SPEC, False, None, drop_path_rate=wrong)


def test_dropping_changes_training_alone_and_weights_fit_either_network(
    network, tmp_path, relative_error
):
    expected = network(IMAGES)
    weights, model = tmp_path / "first.weights.h5", network
    for rate, name in ((0.5, "second"), (0, "third")):
        model.save_weights(weights)
        model = ResNeXt(SPEC, False, weights, drop_path_rate=rate)
        np.testing.assert_array_equal(model(IMAGES), expected)
        assert relative_error(fold_batch_norm(model)(IMAGES), expected) <= 1e-5
        weights = tmp_path / f"{name}.weights.h5"

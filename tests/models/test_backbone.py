"""Any network of the family is a backbone: cut, frozen and trained in part."""

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

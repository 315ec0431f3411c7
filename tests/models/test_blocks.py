"""The blocks are those of the paper."""

import keras
import numpy as np
import pytest
from elsewhere import randomised
from keras import layers

from resnext_keras import ResNeXtSpec
from resnext_keras.models.blocks import conv_block, identity_block

CARDINALITY, GROUP_WIDTH, FILTERS = 32, 4, 256
SPEC = ResNeXtSpec("paper", (1,), CARDINALITY, GROUP_WIDTH)
NARROW = ResNeXtSpec("narrow", (1, 1), 4, 1)


@pytest.fixture(scope="module")
def grouped():
    """Form (c) of Figure 3, as the networks of this package are built."""
    x = keras.Input((9, 10, FILTERS))
    y = identity_block(x, SPEC, stage=2, name="block")
    return randomised(keras.Model(x, y))


def piece(model, layer, group=None, axis=-1):
    """The weights of a layer, or one group's share of them along an axis."""
    values = model.get_layer(f"block_{layer}").get_weights()
    if group is None:
        return values
    return [np.split(value, CARDINALITY, axis % value.ndim)[group] for value in values]


def conv_bn(x, model, layer, group, filters, kernel_size):
    """One branch's convolution and batch norm, with its share of the weights."""
    conv = layers.Conv2D(filters, kernel_size, padding="same", use_bias=False)
    bn = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    x = bn(conv(x))
    conv.set_weights(piece(model, f"{layer}_conv", group))
    bn.set_weights(piece(model, f"{layer}_bn", group))
    return layers.ReLU()(x)


def branches(x, model):
    """The 32 paths up to their 3x3 convolutions."""
    for group in range(CARDINALITY):
        y = conv_bn(x, model, "1", group, GROUP_WIDTH, 1)
        yield conv_bn(y, model, "2", group, GROUP_WIDTH, 3)


def summed(x, model):
    """Form (a): each path has its own 1x1 expansion, and the paths are added."""
    paths = []
    for group, path in enumerate(branches(x, model)):
        conv = layers.Conv2D(FILTERS, 1, use_bias=False)
        paths.append(conv(path))
        conv.set_weights(piece(model, "3_conv", group, axis=2))
    return layers.Add()(paths)


def concatenated(x, model):
    """Form (b): the paths are concatenated and expanded together."""
    conv = layers.Conv2D(FILTERS, 1, use_bias=False)
    y = conv(layers.Concatenate()(list(branches(x, model))))
    conv.set_weights(piece(model, "3_conv"))
    return y


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", [summed, concatenated])
def test_the_three_forms_of_figure_3_are_one_network(
    grouped, form, training, relative_error
):
    x = keras.Input((9, 10, FILTERS))
    bn = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    y = layers.ReLU()(layers.Add()([x, bn(form(x, grouped))]))
    bn.set_weights(piece(grouped, "3_bn"))
    branched = keras.Model(x, y)

    images = np.random.default_rng(1).normal(size=(3, 9, 10, FILTERS))
    expected = grouped(images.astype("float32"), training=training)
    found = branched(images.astype("float32"), training=training)
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize(("size", "halved"), [((8, 8), (4, 4)), ((9, 7), (5, 4))])
def test_the_stride_is_on_the_3x3_convolution_and_on_the_projection(size, halved):
    x = keras.Input((*size, 16))
    y = conv_block(x, NARROW, stage=3, stride=2, name="conv3_block1")
    assert y.shape == (None, *halved, 512)  # rounded up
    strides = {
        layer.name: layer.strides
        for layer in keras.Model(x, y).layers
        if isinstance(layer, layers.Conv2D)
    }
    assert strides == {
        "conv3_block1_0_conv": (2, 2),
        "conv3_block1_1_conv": (1, 1),
        "conv3_block1_2_conv": (2, 2),
        "conv3_block1_3_conv": (1, 1),
    }


def test_training_moves_each_batch_norm_a_tenth_of_the_way_as_in_torch():
    x = keras.Input((8, 8, 16))
    y = conv_block(x, NARROW, stage=3, stride=2, name="block")
    names = [layer.name for layer in keras.Model(x, y).layers if "_bn" in layer.name]
    assert len(names) == 4
    taps = [keras.Model(x, y).get_layer(name) for name in names]
    model = keras.Model(x, [y, *(norm.input for norm in taps)])
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 16))
    _, *inputs = model(images, training=True)
    for norm, maps in zip(taps, inputs, strict=True):
        maps = keras.ops.convert_to_numpy(maps)
        mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2), ddof=1)
        found = [keras.ops.convert_to_numpy(v) for v in norm.non_trainable_variables]
        np.testing.assert_allclose(found[0], 0.1 * mean, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found[1], 0.9 + 0.1 * variance, rtol=1e-4)

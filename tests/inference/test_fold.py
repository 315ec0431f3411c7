"""Folded batch norm gives the scores of the network, whatever it is part of."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from elsewhere import randomised
from helpers import GOLDEN, dtype_policy
from keras import layers
from random_state import draw_images, draw_state, sample
from safetensors.numpy import save_file
from weight_files import EVERY_OPTION, TINY, build

from resnext_keras import GroupedConv2D, ResNeXt, ResNeXt50, fold_batch_norm

IMAGENET_STEM = dataclasses.replace(TINY, stem="imagenet")
EVERYTHING = dataclasses.replace(IMAGENET_STEM, **EVERY_OPTION)
BACKBONE_NORMS = 9  # of TINY


def backbone(name="tiny", **options):
    return build(include_top=False, pooling="avg", name=name, **options)


def cut(*names, wrap=list, spec=TINY):
    model = build(spec=spec)
    outputs = wrap(model.get_layer(name).output for name in names)
    return keras.Model(model.input, outputs)


def small(network):
    """A functional model of a few layers, from images to feature maps."""
    image = keras.Input((32, 32, 3), name="image")
    return keras.Model(image, network(image), name="small")


def norm(**options):
    return layers.BatchNormalization(epsilon=1e-3, **options)


def adapted():
    images = draw_images(5, (8, 32, 32, 3))
    normalise = layers.Normalization()
    normalise.adapt(images * [1, 2, 3] + [4, 5, 6])
    return normalise


def halved(x):
    return x / 2


def nested(training):
    def network(x):
        x = layers.Rescaling(2.0, offset=-0.5)(adapted()(x))
        x = layers.Lambda(halved)(layers.Lambda(lambda x: x + 1)(x)) * 3
        x = backbone()(x, training=training)
        return layers.Dense(5, activation="softmax")(x)

    return small(network)


def siamese():
    tower = backbone()
    left, right = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    return keras.Model([left, right], layers.Concatenate()([tower(left), tower(right)]))


class WithTrainStep(keras.Model):
    def train_step(self, data):
        return {}


class StandardisedConv2D(layers.Conv2D):
    """Its kernel does not act as it is stored."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))


def used_twice(x):
    x = layers.Conv2D(3, 3, padding="same")(x)
    return layers.Add()([norm()(x), x])


def called_twice(x):
    convolution = layers.Conv2D(3, 3, padding="same")
    return convolution(norm()(convolution(x)))


def two_norms(x):
    x = layers.Conv2D(4, 3)(x)
    return layers.Add()([norm()(x), norm(scale=False)(x)])


def with_precisions(convolution, normalisation):
    return lambda x: norm(dtype=normalisation)(
        layers.Conv2D(4, 3, dtype=convolution)(x)
    )


# Each model, and how many batch norms stay in it.
MODELS = {
    "every option": (lambda: build(spec=EVERYTHING), 0),
    "any size": (lambda: ResNeXt(TINY, False, None), 0),
    "pyramid": (
        lambda: cut("conv3_block1_out", "conv2_block1_out", spec=EVERYTHING),
        0,
    ),
    "dict": (
        lambda: cut(
            *("predictions", "conv1_relu"), wrap=lambda t: dict(zip("ba", t, strict=1))
        ),
        0,
    ),
    "list of one": (lambda: cut("conv1_relu"), 0),
    "a norm is an output": (lambda: cut("conv1_bn", "conv2_block1_1_bn"), 0),
    "a convolution is an output": (
        lambda: cut("predictions", "conv3_block1_2_conv", wrap=tuple),
        1,
    ),
    "Sequential": (
        lambda: keras.Sequential([backbone(), layers.Dense(5, "softmax")]),
        0,
    ),
    "Sequential of nested": (
        lambda: keras.Sequential([nested(None), layers.Dense(2)]),
        0,
    ),
    "nested, always training": (lambda: nested(training=True), BACKBONE_NORMS),
    "shared by two inputs": (siamese, 0),
    "class of its own": (
        lambda: WithTrainStep(inputs=(m := build()).input, outputs=m.output),
        0,
    ),
    "no scale": (lambda: small(lambda x: norm(scale=False)(layers.Conv2D(4, 3)(x))), 0),
    "no centre": (
        lambda: small(lambda x: norm(center=False)(layers.Conv2D(4, 3)(x))),
        0,
    ),
    "groups": (
        lambda: small(
            lambda x: norm()(GroupedConv2D(6, 3, groups=3, dilation_rate=2)(x))
        ),
        0,
    ),
    "no convolution": (lambda: small(lambda x: norm()(norm()(x))), 2),
    "an operation": (lambda: small(lambda x: norm()(layers.Conv2D(4, 3)(x) * 2)), 1),
    "depthwise": (lambda: small(lambda x: norm()(layers.DepthwiseConv2D(3)(x))), 1),
    "activation between": (
        lambda: small(lambda x: norm()(layers.Conv2D(4, 3, activation="relu")(x))),
        1,
    ),
    "other axis": (lambda: small(lambda x: norm(axis=1)(layers.Conv2D(4, 3)(x))), 1),
    "convolution of another kind": (
        lambda: small(lambda x: norm()(StandardisedConv2D(4, 3)(x))),
        1,
    ),
    "used twice": (lambda: small(used_twice), 1),
    "called twice": (lambda: small(called_twice), 1),
    "two norms": (lambda: small(two_norms), 2),
    "always training": (
        lambda: small(lambda x: norm()(layers.Conv2D(4, 3)(x), training=True)),
        1,
    ),
    "other precision": (lambda: small(with_precisions("float32", "float16")), 1),
}


# Folding reads the graph, which is the same on every backend; a few kinds show that.
ON_EVERY_BACKEND = ("every option", "Sequential of nested", "groups", "other precision")


def all_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


def names(model):
    return {
        layer.name
        for layer in all_layers(model)
        if not isinstance(layer, layers.BatchNormalization)
    }


def norms(model):
    found = (isinstance(x, layers.BatchNormalization) for x in all_layers(model))
    return sum(found)


def outputs_of(model, images):
    """On TensorFlow without a graph: to build one takes longer than to run it once."""
    if keras.config.backend() == "tensorflow":
        return model(images)
    return model.predict_on_batch(images)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=[] if case in ON_EVERY_BACKEND else pytest.mark.tensorflow
        )
        for case in MODELS
    ],
)
def test_a_folded_model_gives_the_same_without_batch_norm(case, relative_error):
    make, left = MODELS[case]
    model = randomised(make())
    for layer in all_layers(model):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    images = draw_images(1, (3, 32, 32, 3))
    if len(model.inputs) == 2:
        images = [images, images[::-1]]
    weights, config, before = model.get_weights(), model.get_config(), norms(model)

    folded = fold_batch_norm(model)

    assert norms(folded) == left
    new = names(folded) - names(model)
    assert names(folded) - new == names(model)
    # A `Sequential` model does not count its input among its layers.
    assert len(new) == ("Sequential" in case)
    assert [tensor.shape for tensor in folded.inputs] == [x.shape for x in model.inputs]
    found, expected = outputs_of(folded, images), outputs_of(model, images)
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(*map(keras.tree.flatten, (found, expected)), strict=True):
        assert relative_error(one, other) <= 1e-5
    # The model itself is as it was, but for statistics that it moves at each call.
    assert model.get_config() == config
    assert norms(model) == before
    if "always training" not in case:
        for one, other in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        ("mixed_float16", 1e-2),
        ("mixed_bfloat16", 8e-2),
        # On JAX there is none unless asked for, and on torch Keras' norm has none.
        pytest.param("float64", 1e-12, marks=pytest.mark.tensorflow),
    ],
)
def test_other_precisions_give_the_same_within_theirs(
    policy, tolerance, relative_error
):
    with dtype_policy(policy):
        model = randomised(build(spec=EVERYTHING, classifier_activation=None))
    folded = fold_batch_norm(model)
    assert norms(folded) == 0
    for layer in folded.layers[1:]:
        assert layer.dtype_policy == model.get_layer(layer.name).dtype_policy
    images = draw_images(1, (3, 32, 32, 3))
    found, expected = outputs_of(folded, images), outputs_of(model, images)
    assert found.dtype == expected.dtype
    assert relative_error(found, expected) <= tolerance


@pytest.mark.tensorflow
def test_resnext50_gives_torchvisions_logits(resnext50_file, relative_error):
    model = ResNeXt50(
        weights=resnext50_file, input_shape=(161, 193, 3), classifier_activation=None
    )
    outputs = {"logits": model.output, "conv4": model.get_layer("conv4_block6_out")}
    outputs["conv4"] = outputs["conv4"].output
    folded = fold_batch_norm(keras.Model(model.input, outputs))
    assert norms(folded) == 0
    found = outputs_of(folded, draw_images(161, (2, 161, 193, 3)))
    golden = np.load(GOLDEN / "resnext50_161x193.npz")
    for name in outputs:
        assert relative_error(sample(found[name]), np.ravel(golden[name])) <= 1e-4


@pytest.mark.tensorflow
def test_a_variant_gives_timms_logits(tmp_path, relative_error):
    golden = np.load(GOLDEN / "family" / "seresnext26t_32x4d.npz")
    height, width = golden["size"]
    save_file(draw_state(json.loads(str(golden["state"]))), tmp_path / "w.safetensors")
    model = ResNeXt(
        "seresnext26t_32x4d",
        weights=tmp_path / "w.safetensors",
        input_shape=(height, width, 3),
        classifier_activation=None,
    )
    images = draw_images(height, (2, height, width, 3))
    found = outputs_of(fold_batch_norm(model), images)
    assert relative_error(found, golden["logits"]) <= 1e-4


def test_layers_above_a_folded_network_train_as_above_the_frozen_one(relative_error):
    images, labels = draw_images(3, (4, 32, 32, 3)), np.arange(4)
    below = randomised(backbone())
    below.trainable = False
    heads = []
    for frozen in (below, fold_batch_norm(below)):
        head = layers.Dense(5, kernel_initializer="zeros")
        model = keras.Sequential([frozen, head])
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(images, labels, epochs=3, verbose=0)
        heads.append(head.get_weights()[0])
    assert np.abs(heads[0]).max() > 0
    assert relative_error(heads[1], heads[0]) <= 1e-4


def test_its_weights_are_frozen_and_folding_again_changes_nothing():
    once = fold_batch_norm(build())
    assert not once.trainable_variables
    twice = fold_batch_norm(once)
    assert twice.get_config() == once.get_config()
    for one, other in zip(twice.get_weights(), once.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_augmentation_is_the_identity_until_it_is_trained():
    augmentation = layers.Pipeline([layers.RandomFlip(), layers.RandomZoom(0.5)])
    inner = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomBrightness(0.5)])
    folded = fold_batch_norm(small(lambda x: inner(layers.Dropout(0)(augmentation(x)))))
    images = draw_images(1, (3, 32, 32, 3))
    found = keras.ops.convert_to_numpy(folded(images))
    np.testing.assert_array_equal(found, images)
    trained = keras.ops.convert_to_numpy(folded(images, training=True))
    assert np.abs(trained - images).max() > 1e-3


def test_adapters_of_low_rank_are_merged(relative_error):
    model = randomised(build())
    for name in ("conv2_block1_1_conv", "conv2_block1_2_conv", "predictions"):
        layer = model.get_layer(name)
        layer.enable_lora(2, lora_alpha=3)
        layer.lora_kernel_b.assign(draw_images(2, layer.lora_kernel_b.shape) / 10)
    images = draw_images(1, (3, 32, 32, 3))
    found = outputs_of(fold_batch_norm(model), images)
    assert relative_error(found, outputs_of(model, images)) <= 1e-5


class Subclassed(keras.Model):
    def call(self, images):
        return images


@pytest.mark.parametrize(
    "model",
    [Subclassed(), keras.Sequential([layers.Conv2D(4, 3)]), layers.Conv2D(4, 3), None],
)
def test_a_model_without_a_graph_is_refused(model):
    with pytest.raises(ValueError, match=r"Expected a functional model.*Received"):
        fold_batch_norm(model)

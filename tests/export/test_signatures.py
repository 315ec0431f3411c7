"""What the signatures of exported models give, however the models are built."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import randomised
from exported_network import IMAGES, NAMES, READING, SIGNATURES, build
from keras import layers

from resnext_keras import feature_pyramid
from resnext_keras.images.read import SAMPLE_PHOTO

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("pooling", [None, "max"])
def test_a_backbone_gives_features_and_a_pyramid(reloaded, pooling, relative_error):
    backbone = build(include_top=False, pooling=pooling, input_shape=(None, None, 3))
    signatures = reloaded(backbone, preprocessing=READING).signatures
    images = np.random.default_rng(3).normal(size=(2, 40, 56, 3)).astype("float32")
    maps = {
        name: backbone.get_layer(name).output
        for name in ("conv2_block1_out", "conv3_block1_out")
    }
    expected = keras.Model(backbone.input, maps)(images)
    found = signatures["pyramid"](images=tf.constant(images))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert relative_error(found[name], value) <= 1e-5
    features = signatures["features"](images=tf.constant(images))["features"]
    if pooling is None:
        expected = expected["conv3_block1_out"].numpy().mean((1, 2))
    else:
        expected = backbone(images)
    assert relative_error(features, expected) <= 1e-5
    answer = signatures["serving_default"](
        image_bytes=tf.constant([SAMPLE_PHOTO.read_bytes()] * 2 + [b"x"])
    )
    assert answer["features"].shape == (3, features.shape[1])
    assert answer["valid"].numpy().tolist() == [True, True, False]
    assert not answer["features"].numpy()[2].any()


def test_a_list_of_maps_in_any_order_is_a_pyramid(reloaded, relative_error):
    backbone = build(include_top=False, input_shape=(None, None, 3))
    names = ("conv3_block1_out", "conv2_block1_out")
    model = keras.Model(backbone.input, [backbone.get_layer(n).output for n in names])
    signatures = reloaded(model).signatures
    maps = model(IMAGES)
    for signature in ("predict", "pyramid"):
        found = signatures[signature](images=tf.constant(IMAGES))
        assert found.keys() == set(names)
        for name, expected in zip(names, maps, strict=True):
            assert relative_error(found[name], expected) <= 1e-5
    found = signatures["features"](images=tf.constant(IMAGES))["features"]
    assert relative_error(found, maps[0].numpy().mean((1, 2))) <= 1e-5


def test_the_levels_of_a_feature_pyramid_keep_their_names(reloaded, relative_error):
    model = feature_pyramid(build(include_top=False), ("C3", "C2"))
    signatures = reloaded(model).signatures
    for signature in ("predict", "pyramid"):
        found = signatures[signature](images=tf.constant(IMAGES))
        assert found.keys() == {"C2", "C3"}
        for level, expected in model(IMAGES).items():
            assert relative_error(found[level], expected) <= 1e-5


def test_a_head_of_ones_own_is_a_classifier(reloaded, relative_error):
    backbone = build(include_top=False, pooling="avg")
    model = keras.Sequential(
        [backbone, layers.Dropout(0.5), layers.Dense(3), layers.Softmax()]
    )
    model.build((None, 32, 32, 3))
    signatures = reloaded(model, class_names=NAMES[:3]).signatures
    found = signatures["predict"](images=tf.constant(IMAGES))["predictions"]
    assert relative_error(found, model(IMAGES)) <= 1e-5
    found = signatures["features"](images=tf.constant(IMAGES))["features"]
    assert relative_error(found, backbone(IMAGES)) <= 1e-5
    assert "pyramid" not in signatures
    answer = signatures["serving_default"](
        image_bytes=tf.constant([SAMPLE_PHOTO.read_bytes()])
    )
    assert answer["classes"].shape == (1, 3)  # no more than there are


def small_backbone():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))


def with_a_moved_head():
    first, second = small_backbone(), small_backbone()
    head = layers.Dense(5, activation="softmax")
    head(first.output)
    return keras.Model(second.input, head(second.output))


def with_operations_behind():
    backbone = small_backbone()
    return keras.Model(
        backbone.input, keras.ops.softmax(layers.Dense(5)(backbone.output)) * 0.5
    )


def with_a_named_output():
    backbone = small_backbone()
    return keras.Model(backbone.input, {"odds": layers.Dense(5)(backbone.output)})


@pytest.mark.parametrize(
    "build", [with_a_moved_head, with_operations_behind, with_a_named_output]
)
def test_a_classifier_is_known_however_it_is_built(reloaded, build, relative_error):
    model = randomised(build())
    loaded = reloaded(model, class_names=NAMES)
    (expected,) = keras.tree.flatten(model(IMAGES))
    found = loaded.signatures["predict"](images=tf.constant(IMAGES))
    assert relative_error(found["predictions"], expected) <= 1e-5
    assert set(loaded.signatures) == SIGNATURES
    network = loaded.signatures["features"]
    operations = [
        operation.type
        for graph in (network.graph, *network.graph._functions.values())
        for operation in getattr(graph, "graph", graph).get_operations()
    ]
    assert "Rsqrt" not in operations  # batch norm is folded


def test_class_names_make_a_classifier(reloaded):
    backbone = small_backbone()
    total = keras.ops.cumsum(backbone.output, axis=-1)[:, :5]
    signatures = reloaded(
        keras.Model(backbone.input, total), class_names=NAMES
    ).signatures
    answer = signatures["serving_default"](
        image_bytes=tf.constant([SAMPLE_PHOTO.read_bytes()])
    )
    assert answer["classes"].shape == (1, 5)


def test_sigmoids_give_all_classes_and_a_single_one_both(reloaded):
    backbone, image = small_backbone(), tf.constant([SAMPLE_PHOTO.read_bytes()])

    def answer(units, names):
        # Each score is sigmoid(1).
        options = {"kernel_initializer": "zeros", "bias_initializer": "ones"}
        scores = layers.Dense(units, "sigmoid", **options)(backbone.output)
        model = keras.Model(backbone.input, scores)
        loaded = reloaded(model, class_names=names, top=2, overwrite=True)
        found = loaded.signatures["serving_default"](image_bytes=image)
        names = [name.decode() for name in found["classes"].numpy()[0]]
        return names, found["scores"].numpy()[0]

    names, scores = answer(7, list("abcdefg"))
    assert names == list("abcdefg")
    np.testing.assert_allclose(scores, [0.7310586] * 7, rtol=1e-5)
    names, scores = answer(1, ["no", "yes"])
    assert names == ["yes", "no"]
    np.testing.assert_allclose(scores, [0.7310586, 0.2689414], rtol=1e-5)


def test_several_heads_are_given_by_their_names(reloaded, relative_error):
    backbone = small_backbone()
    heads = [layers.Dense(n, name=f"head{n}")(backbone.output) for n in (2, 3)]
    model = keras.Model(backbone.input, heads)
    signatures = reloaded(model).signatures
    assert set(signatures) == {"serving_default", "predict", "predict_uint8"}
    answer = signatures["serving_default"](
        image_bytes=tf.constant([b"", SAMPLE_PHOTO.read_bytes()])
    )
    assert answer["head2"].shape == (2, 2)
    assert answer["head3"].shape == (2, 3)
    assert answer["valid"].numpy().tolist() == [False, True]
    found = signatures["predict"](images=tf.constant(IMAGES))
    assert relative_error(found["head3"], model(IMAGES)[1]) <= 1e-5

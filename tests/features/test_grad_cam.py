"""Grad-CAM shows the evidence for a class, as torch computes it."""

import keras
import numpy as np
import pytest
from elsewhere import randomised
from helpers import reference_network

import resnext_keras
from resnext_keras.features.class_activation import grad_cam
from resnext_keras.images.draw import overlay
from resnext_keras.models.runtime import has_onednn

pytestmark = pytest.mark.tensorflow

SPEC = resnext_keras.ResNeXtSpec(
    "tiny", depths=(1, 1, 1, 1), cardinality=4, group_width=4, squeeze_excite=True
)


def tiny(activation="softmax", shape=(64, 96, 3), **options):
    keras.utils.set_random_seed(1)
    model = resnext_keras.ResNeXt(
        SPEC,
        weights=None,
        classes=7,
        input_shape=shape,
        classifier_activation=activation,
        **options,
    )
    randomised(model)
    # Small kernels give most classes no heat anywhere.
    kernel = np.random.default_rng(4).normal(
        size=model.get_layer("predictions").kernel.shape
    )
    model.get_layer("predictions").kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).normal(size=(3, 64, 96, 3)).astype("float32")


def test_the_last_maps_give_the_class_activation_maps(model, images):
    """Zhou et al., CVPR 2016: what Grad-CAM is of maps that only a mean follows."""
    layer = model.get_layer("conv5_block1_out").output
    maps, scores = keras.Model(model.input, [layer, model.output])(images)
    kernel = model.get_layer("predictions").get_weights()[0]
    maps = np.maximum(np.asarray(maps) @ kernel, 0)  # (batch, h, w, classes)
    assert (maps.max(axis=(1, 2)) > 0).sum() >= 6
    maps /= maps.max(axis=(1, 2), keepdims=True).clip(1e-9)
    best = np.asarray(scores).argmax(1)
    cases = [(None, best), ([6, 0, 3], [6, 0, 3])]
    for classes, numbers in [
        *cases,
        *((number, [number] * 3) for number in range(7)),
        (np.uint8([6, 0, 2]), [6, 0, 2]),  # as labels often are
    ]:
        found = grad_cam(model, images, classes)
        assert found.shape == (3, 2, 3)
        assert found.dtype == np.float32
        expected = [maps[row, ..., number] for row, number in enumerate(numbers)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_logit_counts_whatever_the_activation(model, images, activation):
    other = tiny(activation)
    other.set_weights(model.get_weights())
    layer = "conv3_block1_2_conv"
    np.testing.assert_allclose(
        grad_cam(other, images, 1, layer), grad_cam(model, images, 1, layer), atol=1e-6
    )


def test_a_backbone_within_another_model_gives_the_same(model, images):
    backbone = resnext_keras.ResNeXt(
        SPEC, False, weights=None, input_shape=(64, 96, 3), pooling="avg"
    )
    backbone.set_weights(model.get_weights()[:-2])
    backbone.trainable = False
    layers = [keras.layers.Dropout(0.5), keras.layers.Dense(7, activation="softmax")]
    nested = keras.Sequential([backbone, *layers])
    nested.build((None, 64, 96, 3))
    layers[1].set_weights(model.get_weights()[-2:])
    before = nested.predict(images, verbose=0)
    for layer in (None, "conv4_block1_out"):
        np.testing.assert_allclose(
            grad_cam(nested, images, 3, layer),
            grad_cam(model, images, 3, layer),
            atol=1e-5,
        )
    assert not nested.layers[0].trainable
    np.testing.assert_array_equal(nested.predict(images, verbose=0), before)


@pytest.mark.skipif(
    not has_onednn(), reason="on a CPU TensorFlow runs channels_first with oneDNN alone"
)
def test_channels_first_gives_the_same(model, images):
    keras.config.set_image_data_format("channels_first")
    try:
        other = tiny(shape=(3, 64, 96))
        other.set_weights(model.get_weights())
        found = grad_cam(other, images.transpose(0, 3, 1, 2), 2, "conv4_block1_out")
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(
        found, grad_cam(model, images, 2, "conv4_block1_out"), atol=1e-4
    )


def test_without_evidence_for_a_class_the_map_is_0(model, images):
    model = tiny()
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([-np.abs(kernel), bias])
    assert not grad_cam(model, images, 2).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "conv4_block1_ou"}, "Did you mean conv4_block1_out"),
        ({"layer": "avg_pool"}, "with feature maps.*'conv5_block1_out'.*avg_pool"),
        ({"layer": "predictions"}, r"with feature maps.*\(None, 7\)"),
        ({"classes": 7}, "from 0 to 6.*classes=7"),
        ({"classes": -1}, "from 0 to 6"),
        ({"classes": [1, 2]}, "each of the 3 images"),
    ],
)
def test_wrong_arguments_are_refused(model, images, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        grad_cam(model, images, **arguments)
    assert "\n" not in str(caught.value)


def test_only_classifiers_and_batches_are_taken(model, images):
    backbone = keras.Model(model.input, model.get_layer("avg_pool").output)
    with pytest.raises(ValueError, match="Expected a classifier"):
        grad_cam(backbone, images)
    with pytest.raises(ValueError, match=r"images.shape=\(64, 96, 3\)"):
        grad_cam(model, images[0])
    with pytest.raises(ValueError, match=r"shape"):
        grad_cam(model, images[..., :2])
    assert "call" not in vars(model.get_layer("conv5_block1_out"))  # as before


def test_an_overlay_changes_the_hot_places_alone():
    image = np.full((32, 32, 3), 90, "uint8")
    heat = np.zeros((4, 4))
    np.testing.assert_array_equal(np.asarray(overlay(image, heat)), image)
    heat[0, 0] = 1
    drawn = np.asarray(overlay(image, heat, 256)).astype(int)
    assert drawn.shape == (256, 256, 3)
    assert drawn[5, 5].min() > 130
    assert (drawn[200:, 200:] == 90).all()
    for broken in (heat - 1, heat[0], heat * np.nan):
        with pytest.raises(ValueError, match="`heat`"):
            overlay(image, broken)
    with pytest.raises(ValueError, match="`image`"):
        overlay(image / 255, heat)


@pytest.mark.parity
# torch warns of a broken CUDA where there is none, and only in a gradient.
@pytest.mark.filterwarnings("ignore:CUDA initialization")
@pytest.mark.parametrize(
    ("layer", "name"),
    [("conv5_block3_out", "layer4.2"), ("conv4_block2_2_conv", "layer3.1.conv2")],
)
def test_any_layer_gives_what_torch_gives(layer, name, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    network = reference_network("torchvision", "resnext50_32x4d")
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    images = np.random.default_rng(3).normal(size=(2, 96, 130, 3)).astype("float32")
    maps = []
    network.get_submodule(name).register_forward_hook(lambda *a: maps.append(a[2]))
    logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    gradients = []
    for number in range(40):  # Of random classes most have no heat at all.
        (gradient,) = torch.autograd.grad(
            logits[:, number].sum(), maps[0], retain_graph=True
        )
        gradients.append(gradient)
    gradients = torch.stack(gradients).mean(dim=(3, 4))
    heat = torch.einsum("bchw,nbc->nbhw", maps[0], gradients).relu().detach().numpy()
    largest = heat.max(axis=(2, 3), keepdims=True)
    hot = np.flatnonzero((largest > 0).all(axis=(1, 2, 3)))[:3]
    assert hot.size == 3

    model = resnext_keras.ResNeXt50(
        weights=tmp_path / "weights.safetensors", input_shape=(96, 130, 3)
    )
    for number in hot:
        found = grad_cam(model, images, int(number), layer)
        expected = heat[number] / largest[number]
        np.testing.assert_allclose(found, expected, atol=1e-4)

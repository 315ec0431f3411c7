"""The network gives what torchvision's gives, from the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, dtype_policy, reference_network
from random_state import draw_images, sample
from weight_files import torch_name

import resnext_keras


@pytest.mark.parametrize(("height", "width"), [(224, 224), (161, 193)])
def test_logits_and_every_stage_equal_torchvisions(
    resnext50_file, relative_error, height, width
):
    model = resnext_keras.ResNeXt50(
        weights=resnext50_file,
        input_shape=(height, width, 3),
        classifier_activation=None,
    )
    maps = resnext_keras.feature_pyramid(model).output
    outputs = {f"conv{level[1]}": output for level, output in maps.items()}
    network = keras.Model(model.input, outputs | {"logits": model.output})
    found = network.predict(draw_images(height, (2, height, width, 3)), verbose=0)
    golden = np.load(GOLDEN / f"resnext50_{height}x{width}.npz")
    for name in golden:
        assert relative_error(sample(found[name]), np.ravel(golden[name])) <= 1e-4, name


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        ("float64", 1e-5),
        # float32 has kernels of its own, and here, where a ReLU that flips moves many
        # gradients by a few hundredths, only gross errors show; make_torchvision.py
        # explains it.
        pytest.param("float32", 0.2, marks=pytest.mark.long),
    ],
)
def test_loss_and_every_gradient_equal_torchvisions_in_training(
    resnext50_file, relative_error, dtype, precision
):
    with dtype_policy(dtype):
        model = resnext_keras.ResNeXt50(
            weights=resnext50_file,
            input_shape=(64, 64, 3),
            classifier_activation=None,
        )
    images = tf.constant(draw_images(64, (4, 64, 64, 3)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=True)
        loss = keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                np.arange(4) * 250, logits, from_logits=True
            )
        )
    variables = {
        f"{layer.name}/{variable.name}": variable.value
        for layer in model.layers
        for variable in layer.trainable_variables
    }
    gradients, image_gradient = tape.gradient(loss, (variables, images))

    golden = dict(np.load(GOLDEN / "resnext50_training.npz"))
    assert abs(loss - golden.pop("loss")) <= precision / 10 * loss
    assert relative_error(sample(image_gradient), golden.pop("images")) <= precision
    assert golden.keys() == {torch_name(name) for name in gradients}
    for name, gradient in gradients.items():
        expected = golden[torch_name(name)]
        assert relative_error(sample(gradient, 50), expected) <= precision, name


@pytest.mark.parity
@pytest.mark.parametrize(
    ("library", "architecture", "height", "width"),
    [
        ("torchvision", "resnext50_32x4d", 97, 130),
        ("torchvision", "resnext101_64x4d", 65, 111),
        ("timm", "resnext101_32x4d", 80, 64),
    ],
)
def test_any_weights_give_the_logits_of_torchvision_and_timm(
    library, architecture, height, width, tmp_path, relative_error
):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    reference = reference_network(library, architecture)
    path = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), path)

    images = np.random.default_rng(height).normal(size=(2, height, width, 3))
    images = images.astype("float32")
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model = resnext_keras.ResNeXt(
        architecture,
        weights=path,
        input_shape=(height, width, 3),
        classifier_activation=None,
    )
    assert relative_error(model.predict(images, verbose=0), expected) <= 1e-4

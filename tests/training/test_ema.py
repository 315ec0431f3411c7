"""The moving average of the weights and the loss of a run are those of torch."""

import numpy as np
import pytest
import tensorflow as tf
from weight_files import SMALLEST

from resnext_keras import ResNeXt, preprocess_input
from resnext_keras.training.callbacks import EMA
from resnext_keras.training.distribution import Devices
from resnext_keras.training.recipes import Recipe
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import Batches, run_phases
from resnext_keras.training.transforms.mixup import mix

CLASSES = 6


def network():
    return ResNeXt(SMALLEST, weights=None, classes=CLASSES, classifier_activation=None)


def test_the_average_is_the_mean_of_the_first_steps_then_decays():
    span, rng = 4, np.random.default_rng(0)
    model = network()
    average, expected = EMA(model, 1 - 1 / span), None
    for step in range(3 * span):
        values = [rng.normal(size=weight.shape) for weight in model.weights]
        model.set_weights(values)
        average.on_train_batch_end(step)
        rate = 1 / min(step + 1, span)
        expected = (
            values
            if expected is None
            else [e + rate * (v - e) for e, v in zip(expected, values, strict=True)]
        )
    with average.in_place():
        for found, wanted in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], values[0], rtol=1e-6)


def as_module(torch, weights):
    """A module of such parameters and buffers, and its tensors in their order."""
    module = torch.nn.Module()
    for number, weight in enumerate(weights):
        tensor = torch.zeros(tuple(weight.shape))
        if weight.trainable:
            module.register_parameter(f"w{number}", torch.nn.Parameter(tensor))
        else:
            module.register_buffer(f"w{number}", tensor)
    return module, [getattr(module, f"w{n}") for n in range(len(weights))]


@pytest.mark.parity
def test_the_average_is_torchs_mean_of_the_first_steps_and_its_moving_one_then():
    torch = pytest.importorskip("torch")
    swa = torch.optim.swa_utils
    span, steps, rng = 4, 9, np.random.default_rng(0)
    model = network()
    weights, ours = model.weights, EMA(model, 1 - 1 / span)
    module, tensors = as_module(torch, weights)
    mean = swa.AveragedModel(module, use_buffers=True)
    moving = swa.AveragedModel(
        module, multi_avg_fn=swa.get_ema_multi_avg_fn(1 - 1 / span), use_buffers=True
    )
    for step in range(steps):
        for weight, tensor in zip(weights, tensors, strict=True):
            value = rng.normal(size=weight.shape).astype("float32")
            weight.assign(value)
            tensor.data.copy_(torch.tensor(value))
        ours.on_train_batch_end(step)
        if step < span:
            mean.update_parameters(module)
            moving.load_state_dict(mean.state_dict())
        else:
            moving.update_parameters(module)
        for number, found in enumerate(ours.averages):
            expected = getattr(moving.module, f"w{number}").detach().numpy()
            np.testing.assert_allclose(
                np.asarray(found), expected, rtol=1e-5, atol=1e-6, err_msg=f"{step}"
            )


@pytest.mark.parametrize(
    ("smoothing", "mixup", "cutmix"),
    [(0.0, 0.0, 0.0), (0.1, 1.0, 0.0), (0.1, 0.0, 1.0)],
)
@pytest.mark.parity
def test_the_loss_of_a_run_is_torchs_cross_entropy(tmp_path, smoothing, mixup, cutmix):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).integers(0, 256, (CLASSES, 32, 32, 3), "uint8")
    labels = np.eye(CLASSES, dtype="float32")
    images, labels = mix(
        tf.constant(images), tf.constant(labels), mixup, cutmix, [5, 1]
    )
    is_mixed = labels.numpy().max() < 1
    assert is_mixed == bool(mixup or cutmix)
    model = network()
    logits = np.asarray(model(preprocess_input(images.numpy()), training=True))
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(
        torch.tensor(logits), torch.tensor(labels.numpy())
    )
    recipe = Recipe("", "", 1, CLASSES, 0.1, label_smoothing=smoothing)
    batch = tf.data.Dataset.from_tensors((images, labels))
    progress = run_phases(
        model,
        Settings("data", SMALLEST, None, (Phase(recipe),)),
        Batches(lambda phase, first_step: batch, batch, lambda phase: 1),
        tmp_path,
        devices=Devices(),
        verbose=0,
    )
    assert progress["history"][0]["loss"] == pytest.approx(float(expected), rel=1e-5)

"""The moving average of the weights and the loss of a run are those of torch."""

import contextlib

import keras
import numpy as np
import pytest
from run_data import image_folder
from scipy.special import log_softmax
from weight_files import SMALLEST

import resnext_keras as rk
from resnext_keras.training.callbacks import EMA
from resnext_keras.training.recipes import Recipe

SPAN = 4
DECAY = 1 - 1 / SPAN


def small_network():
    """Weights, and the statistics of batch norm."""
    layers = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((3,)), *layers])


def test_the_average_is_the_mean_of_the_first_steps_then_decays():
    model, rng = small_network(), np.random.default_rng(0)
    average, batch, seen = EMA(model, DECAY), -1, 0
    expected = [np.zeros(weight.shape) for weight in model.weights]
    average.on_epoch_begin(0)
    for steps in (1, 1, 1, 1, 1, 3, 1):  # three in one execution count three times
        values = [rng.normal(size=weight.shape) for weight in model.weights]
        model.set_weights(values)
        batch += steps
        average.on_train_batch_end(batch)
        for _ in range(steps):
            seen += 1
            rate = 1 / min(seen, SPAN)
            pairs = zip(expected, values, strict=True)
            expected = [mean + rate * (value - mean) for mean, value in pairs]
    with average.in_place():
        for weight, mean in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(weight, mean, rtol=1e-4, atol=1e-5)
    for weight, value in zip(model.get_weights(), values, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-6)


def as_module(torch, weights):
    """A module with such parameters and buffers, and its tensors in their order."""
    module = torch.nn.Module()
    for number, weight in enumerate(weights):
        tensor = torch.zeros(tuple(weight.shape))
        if weight.trainable:
            module.register_parameter(f"w{number}", torch.nn.Parameter(tensor))
        else:
            module.register_buffer(f"w{number}", tensor)
    return module, [getattr(module, f"w{n}") for n in range(len(weights))]


@pytest.mark.parity
def test_the_average_is_that_of_torch():
    """Torch's mean of the first steps, then its moving average, with buffers."""
    torch = pytest.importorskip("torch")
    swa = torch.optim.swa_utils
    model, rng = small_network(), np.random.default_rng(0)
    weights, ours = model.weights, EMA(model, DECAY)
    module, tensors = as_module(torch, weights)
    mean = swa.AveragedModel(module, use_buffers=True)
    moving = swa.AveragedModel(
        module, multi_avg_fn=swa.get_ema_multi_avg_fn(DECAY), use_buffers=True
    )
    for step in range(9):
        for weight, tensor in zip(weights, tensors, strict=True):
            value = rng.normal(size=weight.shape).astype("float32")
            weight.assign(value)
            tensor.data.copy_(torch.tensor(value))
        ours.on_train_batch_end(step)
        if step < SPAN:
            mean.update_parameters(module)
            moving.load_state_dict(mean.state_dict())
        else:
            moving.update_parameters(module)
        for number, average in enumerate(ours.averages):
            expected = getattr(moving.module, f"w{number}").detach().numpy()
            np.testing.assert_allclose(
                np.asarray(average), expected, rtol=1e-5, atol=1e-6, err_msg=f"{step}"
            )


@pytest.mark.parametrize(
    ("smoothing", "mixup", "cutmix"),
    [
        pytest.param(0.0, 0.0, 0.0, marks=pytest.mark.parity),
        pytest.param(0.1, 1.0, 0.0, marks=pytest.mark.parity),
        (0.1, 0.0, 1.0),
    ],
)
def test_the_loss_of_a_run_is_the_cross_entropy(
    tmp_path, request, smoothing, mixup, cutmix
):
    """With label smoothing as torch has it; the default run computes it by SciPy."""
    image_folder(tmp_path / "data" / "train", 4)
    image_folder(tmp_path / "data" / "val", 1)
    expected, runs = [], []

    def compute(logs):
        """The loss of the first batch, which follows from the seed."""
        with contextlib.closing(runs[0].training_batches(0, 0)) as batches:
            images, labels = batches[0]
        is_mixed = ((labels > 0) & (labels < 1)).any()
        assert is_mixed == bool(mixup or cutmix)
        logits = np.asarray(callback.model(images, training=True))
        smoothed = (1 - smoothing) * labels + smoothing / labels.shape[1]
        expected.append(-(smoothed * log_softmax(logits, axis=-1)).sum(-1).mean())
        if request.node.get_closest_marker("parity"):
            torch = pytest.importorskip("torch")
            loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
            torchs = loss(torch.tensor(logits), torch.tensor(labels))
            assert float(torchs) == pytest.approx(expected[0], rel=1e-6)

    callback = keras.callbacks.LambdaCallback(on_train_begin=compute)
    mixed = {"label_smoothing": smoothing, "mixup": mixup, "cutmix": cutmix}
    result = rk.train(
        tmp_path / "data",
        tmp_path / "run",
        SMALLEST,
        Recipe("", "", 1, 8, 0.1, **mixed),
        callbacks=callback,
        on_start=runs.append,
        verbose=0,
    )
    assert result.history[0]["loss"] == pytest.approx(expected[0], rel=1e-5)

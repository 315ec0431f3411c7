"""The moving average of the weights and the loss of a run are those of torch."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax
from weight_files import SMALLEST

from resnext_keras import ResNeXt, preprocess_input
from resnext_keras.training.callbacks import EMA
from resnext_keras.training.distribution import Devices
from resnext_keras.training.recipes import Recipe
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import Batches, run_phases
from resnext_keras.training.transforms.mixup import mix

CLASSES, SPAN = 6, 4
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


class OneBatch(keras.utils.PyDataset):
    """The same batch in each epoch."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, step):
        return self.batch

    def close(self):
        """Has nothing to close."""


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
    images = np.random.default_rng(0).integers(0, 256, (CLASSES, 32, 32, 3), "uint8")
    labels = np.eye(CLASSES, dtype="float32")
    images, labels = mix(images, labels, mixup, cutmix, np.random.default_rng(5))
    assert (labels.max() < 1) == bool(mixup or cutmix)
    model = ResNeXt(SMALLEST, weights=None, classes=CLASSES, classifier_activation=None)
    logits = np.asarray(model(preprocess_input(images), training=True))
    smoothed = (1 - smoothing) * labels + smoothing / CLASSES
    expected = -(smoothed * log_softmax(logits, axis=-1)).sum(-1).mean()
    if request.node.get_closest_marker("parity"):
        torch = pytest.importorskip("torch")
        loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        torchs = loss(torch.tensor(logits), torch.tensor(labels))
        assert float(torchs) == pytest.approx(expected, rel=1e-6)
    recipe = Recipe("", "", 1, CLASSES, 0.1, label_smoothing=smoothing)
    batch = OneBatch(images, labels)
    progress = run_phases(
        model,
        Settings("data", SMALLEST, None, (Phase(recipe),)),
        Batches(lambda phase, first_step: batch, batch, lambda phase: 1),
        tmp_path,
        devices=Devices(),
        verbose=0,
    )
    assert progress["history"][0]["loss"] == pytest.approx(expected, rel=1e-5)

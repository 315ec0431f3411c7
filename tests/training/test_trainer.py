"""A training run saves its state, resumes bit for bit, and ends in order."""

import contextlib
import errno
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_data import Stop, StopError, history_rows, image_folder
from safetensors.numpy import load_file
from weight_files import SMALLEST, TINY

import resnext_keras as rk
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    TrainingError,
    checkpoint_arrays,
    read_progress,
    restore,
    save_checkpoint,
)
from resnext_keras.weights.run_folder import BEST

STEPS = 3  # of an epoch, of 24 images

OPTIONS = {"epochs": 2, "batch_size": 8, "checkpoint_seconds": 0, "verbose": 0}

# With everything that has a state.
STATEFUL = {
    **OPTIONS,
    "accumulate": 2,
    "deterministic": True,
    "recipe_changes": {"drop_path": 0.2, "ema_span": 0.2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 images to train on, 8 to validate on."""
    folder = tmp_path_factory.mktemp("data")
    image_folder(folder / "train", 12)
    image_folder(folder / "val", 4)
    return folder


@pytest.fixture(
    scope="module", params=["train", pytest.param("finetune", marks=pytest.mark.long)]
)
def train(request, data, tmp_path_factory):
    """A function that trains in a folder, in one phase or in two."""
    if request.param == "train":
        return lambda folder, **options: rk.train(data, folder, TINY, **options)
    weights = random_weights(tmp_path_factory.mktemp("weights"), TINY)
    return lambda folder, **options: rk.finetune(data, folder, TINY, weights, **options)


def random_weights(folder, spec):
    """A weight file to fine-tune."""
    network = rk.ResNeXt(spec, weights=None, input_shape=(32, 32, 3), classes=3)
    network.save_weights(folder / "random.weights.h5")
    return folder / "random.weights.h5"


@pytest.fixture(autouse=True)
def _any_order():
    yield
    # There is no public way back from `deterministic`.
    from tensorflow.python.framework import config

    config.disable_op_determinism()


def last_and_best_weights(folder):
    """The arrays of the last checkpoint, and the best weights."""
    network = rk.ResNeXt(TINY, weights=folder, classes=2)
    return [*load_file(folder / CHECKPOINT).values(), *network.get_weights()]


# At the end of an epoch, and in the next; with two phases, between these.
def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, train):
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    result = train(unbroken, **STATEFUL)
    for steps in (2 * STEPS, 2):
        with pytest.raises(StopError):
            train(stopped, **STATEFUL, resume=True, callbacks=Stop(steps))
    train(stopped, **STATEFUL, resume=True)
    assert history_rows(stopped) == history_rows(unbroken)
    weights, expected = map(last_and_best_weights, (stopped, unbroken))
    for one, other in zip(weights, expected, strict=True):
        assert one.tobytes() == other.tobytes()
    # The best weights have the highest accuracy, then the lowest loss.
    metrics = result.evaluation.metrics
    epochs = [(row["val_accuracy"], -row["val_loss"]) for row in result.history]
    best = metrics["top_1"], -metrics["cross_entropy"]
    assert max(epochs) == pytest.approx(best, rel=1e-4)


@pytest.mark.long  # half precision is emulated on most processors
def test_half_precision_scales_its_loss(data, tmp_path):
    optimizers = []
    seen = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: optimizers.append(seen.model.optimizer)
    )
    options = {**STATEFUL, "precision": "mixed_float16"}
    rk.train(data, tmp_path / "run", TINY, **options, callbacks=seen)
    (optimizer,) = optimizers
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.dynamic_scale.value) > 1
    weights = last_and_best_weights(tmp_path / "run")
    assert all(np.isfinite(weight).all() for weight in weights)
    rk.train(data, tmp_path / "run", TINY, **options, resume=True)


def test_frozen_stages_learn_in_the_second_phase_and_a_callback_may_end_a_phase(
    data, tmp_path
):
    states, folder = [], tmp_path / "run"

    class EndPhase(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.add()

        def on_epoch_end(self, epoch, logs=None):
            self.add()
            self.model.stop_training = True

        def add(self):
            weights = self.model.weights
            states.append({weight.path: np.array(weight) for weight in weights})

    options = OPTIONS | {"epochs": 4, "weights": random_weights(tmp_path, SMALLEST)}
    rk.finetune(data, folder, SMALLEST, **options, callbacks=EndPhase())
    assert [row["phase"] for row in history_rows(folder)] == ["1", "2"]
    start, first, _, second = states
    for path in start:
        is_frozen = path.startswith(("conv1", "conv2"))
        assert np.array_equal(first[path], start[path]) == is_frozen, path
        is_frozen = path.startswith("conv1")
        assert np.array_equal(second[path], first[path]) == is_frozen, path

    checkpoint = (folder / CHECKPOINT).read_bytes()
    rk.finetune(data, folder, SMALLEST, **options, resume=True)  # is finished
    assert (folder / CHECKPOINT).read_bytes() == checkpoint


class Metrics(Stop):
    """Also sets the validation metrics."""

    def __init__(self, accuracies, losses, steps):
        super().__init__(steps)
        self.accuracies, self.losses, self.epochs = accuracies, losses, []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch + 1)
        logs |= {"val_accuracy": self.accuracies[epoch], "val_loss": self.losses[epoch]}


@pytest.mark.parametrize(
    "steps", [math.inf, pytest.param(2 * STEPS + 1, marks=pytest.mark.long)]
)
def test_a_phase_ends_early_at_the_same_epoch_however_often_it_is_resumed(
    data, tmp_path, caplog, steps
):
    folder = tmp_path / "run"
    options = OPTIONS | {"epochs": 15, "patience": 2, "resume": True}
    options["weights"] = random_weights(tmp_path, SMALLEST)
    accuracies = (0.6, 0.6, 0.6, 0.4, 0.1, 0.2, 0.1, 0.2, 0.9)
    losses, epochs = (1.2, 1.0, 1.1, 0.9, 1.0, 1.0, 1.0, 1.0, 0.5), []
    done = False
    while not done:
        metrics = Metrics(accuracies, losses, steps)
        with contextlib.suppress(StopError):
            rk.finetune(data, folder, SMALLEST, **options, callbacks=metrics)
            done = True
        epochs += metrics.epochs
    assert epochs == list(range(1, 9))
    rows = history_rows(folder)
    assert [row["phase"] for row in rows] == [*"11112222"]
    assert [row["since_best"] for row in rows] == [*"00120012"]
    assert read_progress(folder / CHECKPOINT)["best"]["epoch"] == 2
    # TensorFlow may warn that it compiles often.
    assert [line for line in caplog.messages if line.startswith("Phase")] == [
        "Phase 1 ends early, after epoch 4: its best was epoch 2 (patience: 2)",
        "Phase 2 ends early, after epoch 8: its best was epoch 6 (patience: 2)",
    ]


# NaN


def spoil(variables):
    """Makes the last of some variables NaN."""
    variables[-1].assign_add(np.full(variables[-1].shape, np.nan))


def test_a_loss_of_nan_ends_the_run_and_leaves_the_last_good_state(data, tmp_path):
    def spoil_sixth(step, logs):
        if callback.model.optimizer.iterations == 5:
            spoil(callback.model.trainable_variables)

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=spoil_sixth)
    message = "^Step 6, in epoch 2 of phase 1: .*NaN.* of step 5 of phase 1, is"
    with pytest.raises(TrainingError, match=message):
        rk.train(data, tmp_path / "run", SMALLEST, **OPTIONS, callbacks=callback)
    assert read_progress(tmp_path / "run" / CHECKPOINT)["step"] == 5


def test_an_epoch_that_ends_in_nan_leaves_no_best_weights(data, tmp_path):
    """The losses of its steps are finite."""

    def spoil_weights(step, logs):
        if step == STEPS - 1:
            spoil(callback.model.trainable_variables)

    def spoil_optimizer(epoch, logs):  # which validation does not see
        callback.model.optimizer.variables[-1].assign_add(np.nan)

    options = OPTIONS | {"checkpoint_seconds": 1e9}
    for callback, reason in (
        (
            keras.callbacks.LambdaCallback(on_train_batch_end=spoil_weights),
            "the validation loss is NaN",
        ),
        (
            keras.callbacks.LambdaCallback(on_epoch_end=spoil_optimizer),
            "momentum is NaN",
        ),
    ):
        folder = tmp_path / reason[:3]
        message = f"^Step {STEPS}, in epoch 1 of phase 1: .*{reason}.*no check"
        with pytest.raises(TrainingError, match=message):
            rk.train(data, folder, SMALLEST, **options, callbacks=callback)
        assert not (folder / CHECKPOINT).exists()
        assert not (folder / BEST).exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_continue(
    data, tmp_path, monkeypatch
):
    folder, written, write_bytes = tmp_path / "run", [], Path.write_bytes

    def fill_disk(file, content):
        written.append(file)
        if len(written) == 2:
            write_bytes(file, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(file, content)

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    message = r"disk of '.*run'. Make room, then continue with resume=True: its files"
    with pytest.raises(OSError, match=message):
        rk.train(data, folder, SMALLEST, **OPTIONS)
    assert read_progress(folder / CHECKPOINT)["step"] == 1
    assert not list(folder.glob(".writing-*"))


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / CHECKPOINT
    other = rk.ResNeXt(SMALLEST, weights=None, input_shape=(32, 32, 3), classes=2)
    changed = {key: w + 1 for key, w in checkpoint_arrays(other.weights).items()}
    save_checkpoint(path, changed, {"step": 1})
    before = other.get_weights()
    for variables in (other.variables[1:], [*other.variables, other.variables[0]]):
        with pytest.raises(TrainingError, match="checkpoint of the same network"):
            restore(path, variables)
    for weight, expected in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="Expected a checkpoint"):
        read_progress(path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM\nwhen allocating"),
            r"^A step does not fit in memory. Lower the batch .* ResourceExhausted\w+$",
        ),
        (ValueError("bedroom/1.jpg"), "^bedroom"),
    ],
)
def test_a_step_that_does_not_fit_in_memory_says_what_to_lower(
    data, tmp_path, monkeypatch, error, message
):
    def fit(*_, **__):
        raise error

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(ValueError, match=message):
        rk.train(data, tmp_path / "run", SMALLEST, **OPTIONS)

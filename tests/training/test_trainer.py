"""A training run saves its state, resumes bit for bit, and ends in order."""

import contextlib
import dataclasses
import errno
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import dtype_policy
from run_data import history_rows
from weight_files import SMALLEST, TINY

from resnext_keras import ResNeXt
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    NotFiniteError,
    TrainingError,
    TrainingState,
    read_progress,
    restore,
    save_checkpoint,
)
from resnext_keras.training.distribution import Devices
from resnext_keras.training.network import with_preprocessing
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import Batches, run_phases
from resnext_keras.weights.checkpoint import BEST

CLASSES, STEPS = 7, 4


def settings(spec=TINY, phases=1, **changes):
    """Phases of two epochs, with everything that has a state."""
    options = {"epochs": 2, "batch_size": 8, "drop_path": 0.2, "ema_span": 0.2}
    recipe = adjusted(RECIPES["cifar"], **options | changes)
    frozen = (Phase(recipe, "conv2"), Phase(recipe))
    return Settings("data", spec, None, frozen[2 - phases :], accumulate=2)


def network(spec=TINY):
    keras.utils.set_random_seed(0)
    return ResNeXt(
        spec,
        weights=None,
        input_shape=(32, 32, 3),
        classes=CLASSES,
        classifier_activation=None,
        drop_path_rate=0.2,
    )


class RandomBatches(keras.utils.PyDataset):
    """Pixels and classes that are a function of the phase and the step."""

    def __init__(self, phase, first_step, steps=1000):
        super().__init__()
        self.phase, self.first_step, self.steps = phase, first_step, steps

    def __len__(self):
        return self.steps

    def close(self):
        """Has nothing to close."""

    def __getitem__(self, index):
        rng = np.random.default_rng((self.phase, self.first_step + index))
        pixels = rng.integers(0, 256, (8, 32, 32, 3), "uint8")
        return pixels, np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, 8)]


BATCHES = Batches(RandomBatches, RandomBatches(9, 0, 2), lambda phase: STEPS)


class StopError(Exception):
    """Ends a run in the middle."""


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    tf.config.experimental.enable_op_determinism()
    yield
    # There is no public way back.
    from tensorflow.python.framework import config

    config.disable_op_determinism()


def run(
    folder,
    settings,
    resume=False,
    batches=BATCHES,
    model=None,
    callbacks=(),
    seconds=0,
):
    """Trains; returns the weights that the run ends with."""
    folder.mkdir(exist_ok=True)
    model = model or network(settings.spec)
    options = {"devices": Devices(), "callbacks": callbacks, "resume": resume}
    options |= {"seconds": seconds, "verbose": 0}
    run_phases(model, settings, batches, folder, **options)
    return model.get_weights()


def best(folder):
    """A network with the best weights of a run."""
    model = network()
    model.load_weights(folder / BEST)
    return model


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.long)])
def unbroken(request, tmp_path_factory):
    """Folder, settings and last weights of a run that is never stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    to = settings(phases=request.param)
    return folder, to, run(folder, to)


# At the end of an epoch, and in the next; with two phases, between these.
def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(
    tmp_path, monkeypatch, unbroken
):
    unbroken_folder, to, expected = unbroken
    last = len(to.phases) * 2 * STEPS
    for steps in (last - STEPS, 2):
        ends = iter([False] * steps + [True])

        def on_train_batch_begin(self, batch, logs=None, ends=ends):
            if next(ends):
                raise StopError

        with monkeypatch.context() as patch:
            patch.setattr(TrainingState, "on_train_batch_begin", on_train_batch_begin)
            with pytest.raises(StopError):
                run(tmp_path, to, resume=True)
    weights = run(tmp_path, to, resume=True)
    assert history_rows(tmp_path) == history_rows(unbroken_folder)
    kept = [best(folder).get_weights() for folder in (tmp_path, unbroken_folder)]
    for resumed, whole in ((weights, expected), kept):
        for one, other in zip(resumed, whole, strict=True):
            assert one.tobytes() == other.tobytes()


def test_the_best_weights_have_the_highest_accuracy_then_the_lowest_loss(unbroken):
    folder, _, _ = unbroken
    model = with_preprocessing(best(folder))
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    loss, accuracy = model.evaluate(BATCHES.validation, verbose=0)
    epochs = [
        (float(row["val_accuracy"]), -float(row["val_loss"]))
        for row in history_rows(folder)
    ]
    assert max(epochs) == pytest.approx((accuracy, -loss), rel=1e-5)


@pytest.mark.long  # half precision is emulated on most processors
def test_half_precision_scales_its_loss(tmp_path):
    optimizers = []
    seen = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: optimizers.append(seen.model.optimizer)
    )
    with dtype_policy("mixed_float16"):
        model = network()
    to = dataclasses.replace(settings(), precision="mixed_float16")
    weights = run(tmp_path, to, model=model, callbacks=[seen])
    (optimizer,) = optimizers
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.dynamic_scale.value) > 1
    assert all(np.isfinite(weight).all() for weight in weights)
    run(tmp_path, to, resume=True)  # reads its checkpoint


def test_frozen_stages_learn_in_the_second_phase_and_a_callback_may_end_a_phase(
    tmp_path,
):
    states = [network(SMALLEST).get_weights()]

    class EndPhase(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append([np.array(weight) for weight in model.weights])
            self.model.stop_training = True

    to, model = settings(SMALLEST, phases=2, drop_path=0.0), network(SMALLEST)
    run(tmp_path, to, model=model, callbacks=[EndPhase()])
    assert [row["phase"] for row in history_rows(tmp_path)] == ["1", "2"]
    for weight, *values in zip(model.weights, *states, strict=True):
        start, first, second = values
        is_frozen = weight.path.startswith(("conv1", "conv2"))
        assert np.array_equal(first, start) == is_frozen, weight.path
        assert not np.array_equal(second, first), weight.path

    checkpoint = (tmp_path / CHECKPOINT).read_bytes()
    run(tmp_path, to, resume=True)  # is finished
    assert (tmp_path / CHECKPOINT).read_bytes() == checkpoint


class Figures(keras.callbacks.Callback):
    """Sets the validation figures, and stops the run before its n-th step."""

    def __init__(self, accuracies, steps=math.inf):
        super().__init__()
        self.accuracies, self.steps, self.epochs = accuracies, steps, []

    def on_train_batch_begin(self, batch, logs=None):
        self.steps -= 1
        if self.steps < 0:
            raise StopError

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch + 1)
        logs |= {"val_accuracy": self.accuracies[epoch], "val_loss": 1.0}


@pytest.mark.parametrize("steps", [math.inf, 3])
def test_a_phase_ends_early_at_the_same_epoch_however_often_it_is_resumed(
    tmp_path, caplog, steps
):
    to = settings(SMALLEST, phases=2, epochs=5)
    to = dataclasses.replace(to, patience=2)
    accuracies, epochs = (0.5, 0.6, 0.6, 0.4, 0.1, 0.2, 0.1, 0.2, 0.9), []
    done = False
    while not done:
        figures = Figures(accuracies, steps)
        with contextlib.suppress(StopError):
            run(tmp_path, to, resume=True, callbacks=[figures])
            done = True
        epochs += figures.epochs
    assert epochs == list(range(1, 9))
    rows = history_rows(tmp_path)
    assert [row["phase"] for row in rows] == [*"11112222"]
    assert [row["since_best"] for row in rows] == [*"00120012"]
    assert read_progress(tmp_path / CHECKPOINT)["best"]["epoch"] == 2
    assert caplog.messages == [
        "Phase 1 ends early, after epoch 4: its best was epoch 2 (patience: 2)",
        "Phase 2 ends early, after epoch 8: its best was epoch 6 (patience: 2)",
    ]


def test_a_loss_of_nan_ends_the_run_and_leaves_the_last_good_state(tmp_path):
    class Spoilt(RandomBatches):
        def __getitem__(self, index):
            pixels, labels = super().__getitem__(index)
            is_spoilt = self.first_step + index >= 5
            return pixels, labels * np.float32(np.nan if is_spoilt else 1)

    batches = dataclasses.replace(BATCHES, training=Spoilt)
    message = "^Step 6, in epoch 2 of phase 1: .*NaN.* of step 5 of phase 1, is"
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, settings(SMALLEST), batches=batches)
    assert read_progress(tmp_path / CHECKPOINT)["step"] == 5


def test_a_last_step_that_spoils_the_weights_leaves_no_best_weights(tmp_path):
    """The loss of the step itself is finite."""

    class Exploding(RandomBatches):
        def __getitem__(self, index):
            pixels, labels = super().__getitem__(index)
            is_last = self.first_step + index == STEPS - 1
            return pixels, labels * np.float32(1e30 if is_last else 1)

    batches = dataclasses.replace(BATCHES, training=Exploding)
    message = (
        f"^Step {STEPS}, in epoch 1 of phase 1: the validation loss is NaN.*no check"
    )
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, settings(SMALLEST), batches=batches, seconds=1e9)
    assert not list(tmp_path.iterdir())


def test_weights_of_nan_never_replace_the_best(tmp_path):
    """Though validation does not see it, as in a moving average."""

    def spoil(epoch, logs):
        callback.model.optimizer.variables[-1].assign_add(np.nan)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=spoil)
    with pytest.raises(
        TrainingError, match="is NaN or infinite; no checkpoint has been"
    ):
        run(tmp_path, settings(SMALLEST), callbacks=[callback], seconds=1e9)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path, variable = tmp_path / CHECKPOINT, keras.Variable([1.0, 2.0])
    save_checkpoint(path, [variable], {"step": 1})
    infinite = keras.Variable([1.0, np.inf], name="gamma")
    with pytest.raises(NotFiniteError, match=r"^gamma is NaN or infinite"):
        save_checkpoint(path, [infinite], {"step": 2})
    write_bytes = Path.write_bytes

    def fill_disk(file, content):
        write_bytes(file, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, [variable], {"step": 3})
    assert read_progress(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(tmp_path):
    path, other = tmp_path / CHECKPOINT, network(SMALLEST)
    save_checkpoint(path, [keras.Variable(w + 1) for w in other.weights], {"step": 1})
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
    tmp_path, monkeypatch, error, message
):
    def fit(*_, **__):
        raise error

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, settings(SMALLEST))

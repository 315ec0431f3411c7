"""A run of training keeps its state, goes on from it bit for bit, and ends in order."""

import csv
import dataclasses
import errno
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import dtype_policy

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    EMA,
    HISTORY,
    NotFiniteError,
    TrainingError,
    TrainingState,
    read_progress,
    restore,
    save_checkpoint,
)
from resnext_keras.training.distribution import Devices
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import Batches, run_phases, with_preprocessing
from resnext_keras.weights.checkpoint import BEST

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")

CLASSES, STEPS = 7, 4


def settings(phases=2, accumulate=1, **changes):
    """Two phases of two epochs, with all that has a state."""
    recipe = adjusted(
        RECIPES["cifar"],
        **{"epochs": 2, "batch_size": 8, "drop_path": 0.2, "ema_span": 0.2} | changes,
    )
    frozen = (Phase(recipe, "conv2"), Phase(recipe))
    return Settings("data", TINY, None, frozen[:phases], accumulate=accumulate)


def network():
    keras.utils.set_random_seed(0)
    return ResNeXt(
        TINY,
        weights=None,
        input_shape=(32, 32, 3),
        classes=CLASSES,
        classifier_activation=None,
        drop_path_rate=0.2,
    )


def dataset(phase, first_step, size=8):
    """Pixels and classes that are a function of the phase and the step."""

    def batch(step):
        seed = tf.stack([step, tf.constant(phase, tf.int64)])
        pixels = tf.random.stateless_uniform((size, 32, 32, 3), seed, 0, 256, tf.int32)
        labels = tf.random.stateless_uniform((size,), seed, 0, CLASSES, tf.int32)
        return tf.cast(pixels, tf.uint8), tf.one_hot(labels, CLASSES)

    return tf.data.Dataset.range(first_step, 1000).map(batch)


BATCHES = Batches(dataset, dataset(9, 0).take(2), lambda phase: STEPS)


class StopError(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    tf.config.experimental.enable_op_determinism()
    yield
    # There is no public way back.
    from tensorflow.python.framework import config

    config.disable_op_determinism()


def run(folder, to, resume=False, batches=BATCHES):
    """The weights that a run ends with."""
    folder.mkdir(exist_ok=True)
    model = network()
    run_phases(
        model,
        to,
        batches,
        folder,
        devices=Devices(),
        resume=resume,
        seconds=0,
        verbose=0,
    )
    return model.get_weights()


@pytest.fixture
def stop(monkeypatch):
    """From now on a run is ended after so many steps, as if it were killed."""

    def after(steps):
        ends = iter([False] * steps + [True])

        def on_train_batch_begin(self, batch, logs=None):
            if next(ends):
                raise StopError

        monkeypatch.setattr(TrainingState, "on_train_batch_begin", on_train_batch_begin)

    return after


def rows(folder):
    """Of the history, without the times."""
    with (folder / HISTORY).open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def best(folder):
    """The weights that were kept."""
    model = network()
    model.load_weights(folder / BEST)
    return model.get_weights()


# In an epoch and again; at the end of a phase, and in the next.
@pytest.mark.parametrize(
    "stops", [(2, 4), pytest.param((8, 2), marks=pytest.mark.long)]
)
def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(
    tmp_path, stops, stop, unbroken
):
    folder, to = tmp_path / "run", settings(accumulate=2)
    for steps in stops:
        stop(steps)
        with pytest.raises(StopError):
            run(folder, to, resume=True)
    stop(1000)
    for found, expected in zip(
        run(folder, to, resume=True), unbroken["weights"], strict=True
    ):
        assert found.tobytes() == expected.tobytes()
    assert rows(folder) == unbroken["rows"]
    for found, expected in zip(best(folder), unbroken["best"], strict=True):
        assert found.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    weights = run(folder, settings(accumulate=2))
    return {
        "weights": weights,
        "rows": rows(folder),
        "best": best(folder),
    }


def test_a_run_stopped_between_two_epochs_counts_the_next_from_nothing(tmp_path, stop):
    to = settings(phases=1)
    stop(STEPS)
    with pytest.raises(StopError):
        run(tmp_path, to)
    stop(1000)
    run(tmp_path, to, resume=True)
    whole = tmp_path / "whole"
    run(whole, to)
    assert rows(tmp_path) == rows(whole)


@pytest.mark.long  # half precision is emulated on most processors
def test_half_precision_scales_its_loss(tmp_path):
    scaled = []

    class Seen(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            scaled.append(self.model.optimizer)

    with dtype_policy("mixed_float16"):
        model = network()
    to = dataclasses.replace(settings(phases=1), precision="mixed_float16")
    options = {"devices": Devices(), "seconds": 0, "verbose": 0}
    run_phases(model, to, BATCHES, tmp_path, callbacks=[Seen()], **options)
    (optimizer,) = scaled
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.dynamic_scale.value) > 1
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    model = network()
    run_phases(model, to, BATCHES, tmp_path, resume=True, **options)  # is read again


def test_a_callback_that_stops_training_ends_its_phase_alone(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    to = settings()
    model = network()
    options = {"devices": Devices(), "callbacks": [Stop()], "verbose": 0}
    run_phases(model, to, BATCHES, tmp_path, **options)
    assert [row["phase"] for row in rows(tmp_path)] == ["1", "2"]
    kept = (tmp_path / CHECKPOINT).read_bytes()
    run_phases(network(), to, BATCHES, tmp_path, resume=True, **options)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_a_run_that_is_finished_is_left_as_it_is(tmp_path):
    to = settings(phases=1, epochs=1)
    run(tmp_path, to)
    kept = (tmp_path / CHECKPOINT).read_bytes()
    run(tmp_path, to, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_frozen_stages_learn_in_the_second_phase_alone(tmp_path):
    start = network()
    before = {weight.path: weight.numpy() for weight in start.weights}
    one = settings(phases=1, epochs=1)
    model = network()
    run_phases(model, one, BATCHES, tmp_path, devices=Devices(), verbose=0)
    for weight in model.weights:
        is_frozen = weight.path.startswith(("conv1", "conv2"))
        assert np.array_equal(weight.numpy(), before[weight.path]) == is_frozen
    both = settings(phases=2, epochs=1)
    other = tmp_path / "both"
    other.mkdir()
    model = network()
    run_phases(model, both, BATCHES, other, devices=Devices(), verbose=0)
    for weight in model.weights:
        assert not np.array_equal(weight.numpy(), before[weight.path]), weight.path


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    run(tmp_path, settings(phases=1, epochs=3, ema_span=0.0))
    highest = max(float(row["val_accuracy"]) for row in rows(tmp_path))
    model = network()
    model.load_weights(tmp_path / BEST)
    labels, logits = [], []
    for pixels, truth in BATCHES.validation:
        logits.append(with_preprocessing(model).predict_on_batch(pixels))
        labels.append(truth)
    right = np.concatenate(logits).argmax(-1) == np.concatenate(labels).argmax(-1)
    assert right.mean() == pytest.approx(highest)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_good_state(
    tmp_path,
):
    def spoilt(phase, first_step):
        data = dataset(phase, first_step).enumerate(first_step)
        return data.map(
            lambda step, batch: (batch[0], batch[1] * (1.0 if step < 5 else np.nan))
        )

    batches = dataclasses.replace(BATCHES, training=spoilt)
    with pytest.raises(TrainingError, match=r"^Step 6, in epoch 2 of phase 1: .*NaN"):
        run(tmp_path, settings(phases=1), batches=batches)
    assert read_progress(tmp_path / CHECKPOINT)["step"] == 5


def test_a_state_that_is_no_number_is_not_kept(tmp_path):
    path = tmp_path / "state.safetensors"
    good, bad = keras.Variable([1.0, 2.0]), keras.Variable([1.0, np.inf])
    save_checkpoint(path, [good], {"step": 1})
    with pytest.raises(NotFiniteError, match="is NaN or infinite"):
        save_checkpoint(path, [bad], {"step": 2})
    assert read_progress(path)["step"] == 1


def test_a_full_disk_is_an_error_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    to = settings(phases=1)
    written = Path.write_bytes
    states = []

    def fill(file, state):
        states.append(state)
        written(file, state[:1000] if len(states) == 3 else state)
        if len(states) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, to)
    assert (tmp_path / CHECKPOINT).read_bytes() == states[1]
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT}


def test_a_step_that_does_not_fit_in_memory_says_what_to_lower(tmp_path, monkeypatch):
    def fit(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(TrainingError, match=r"Lower the batch size .*accumulate"):
        run(tmp_path, settings(phases=1))


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(tmp_path):
    model = network()
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model.variables, {"step": 1})
    other = ResNeXt(TINY, weights=None, classes=3)
    before = other.get_weights()
    with pytest.raises(TrainingError, match="checkpoint of the same network"):
        restore(path, other.variables)
    for found, expected in zip(other.get_weights(), before, strict=True):
        assert np.array_equal(found, expected)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="Expected a checkpoint"):
        read_progress(path)


def test_the_average_of_steps_that_are_run_at_once_spans_as_many():
    model = network()
    average = EMA(model, decay=0.9)
    before = [weight.numpy() for weight in model.weights]
    average.on_epoch_begin(0)
    average.on_train_batch_end(19)  # of twenty steps
    for weight in model.weights:
        weight.assign(weight + 1)
    average.on_train_batch_end(22)
    for found, expected in zip(average.averages, before, strict=True):
        np.testing.assert_allclose(found, expected + 1 - 0.9**3, rtol=1e-5, atol=1e-5)


def test_the_average_is_of_all_steps_first_and_of_the_last_ones_then():
    model = network()
    average = EMA(model, decay=2 / 3)
    average.on_epoch_begin(0)
    states = []
    for step in range(5):
        for weight in model.weights:
            weight.assign(weight + step)
        states.append([weight.numpy() for weight in model.weights])
        average.on_train_batch_end(step)
    for number, found in enumerate(average.averages):
        expected = np.mean([state[number] for state in states[:3]], axis=0)
        for state in states[3:]:
            expected = expected * (2 / 3) + state[number] / 3
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    last = model.get_weights()
    averages = [variable.numpy() for variable in average.averages]
    with average.in_place():
        for weight, expected in zip(model.get_weights(), averages, strict=True):
            np.testing.assert_array_equal(weight, expected)
    for weight, expected in zip(model.get_weights(), last, strict=True):
        np.testing.assert_array_equal(weight, expected)

"""A run of training as one worker, in a process of its own.

Arguments: a folder, the name of the run, and options as JSON. Writes the history and
the weights of each worker into the folder; goes on from the last checkpoint there.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.training.distribution import find_devices

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")
BATCH, STEPS, EPOCHS, HELD_OUT = 8, 3, 3, 11


class Checkpoint(keras.callbacks.Callback):
    """Written by the chief at each epoch's end; and the death of a worker."""

    def __init__(self, path, devices, dies_in=None):
        self.path, self.devices, self.dies_in = path, devices, dies_in

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1 and self.dies_in == [self.devices.worker, self.epoch]:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.devices.is_chief:
            writing = self.path.with_name("writing.weights.h5")
            with self.devices.alone():
                self.model.save_weights(writing)
            os.replace(writing, self.path.with_name(f"{epoch}.weights.h5"))


def batches(devices, count):
    """The worker's share of the training batches, and of the images held out."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (BATCH * STEPS + HELD_OUT, 32, 32, 3), "uint8")
    labels = rng.integers(0, 5, len(images)).astype("int32")
    rows = BATCH // devices.workers
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    train = data.take(BATCH * STEPS).batch(rows, drop_remainder=True)
    train = train.shard(devices.workers, devices.worker).repeat()
    held_out = data.skip(BATCH * STEPS).shard(devices.workers, devices.worker)
    held_out = devices.evenly(held_out.batch(rows), HELD_OUT, rows)
    return train.skip(count), held_out


def build(devices, options):
    with devices.scope():
        keras.utils.set_random_seed(0)
        network = ResNeXt(
            TINY,
            weights=None,
            input_shape=(32, 32, 3),
            classes=5,
            drop_path_rate=options.get("drop_path_rate", 0.0),
        )
        inputs = keras.Input((32, 32, 3), dtype="uint8")
        model = keras.Model(inputs, network(keras.layers.Rescaling(1 / 64, -2)(inputs)))
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            "sparse_categorical_crossentropy",
            weighted_metrics=["accuracy"],
            steps_per_execution=options.get("steps_per_execution", 1),
        )
        model.optimizer.build(model.trainable_variables)
    return model


def main():
    folder, name, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if virtual := options.get("virtual_devices"):
        (cpu,) = tf.config.list_physical_devices("CPU")
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [device] * virtual)
    keras.config.set_floatx(options.get("floatx", "float32"))
    devices = find_devices()
    model = build(devices, options)
    written = sorted(folder.glob("[0-9].weights.h5"))
    if written:
        model.load_weights(written[-1])
    begun = len(written)
    train, held_out = batches(devices, begun * STEPS)
    history = devices.fit(
        model,
        train,
        epochs=EPOCHS,
        initial_epoch=begun,
        steps_per_epoch=STEPS,
        validation_data=held_out,
        callbacks=[Checkpoint(folder / "checkpoint", devices, options.get("dies_in"))],
        verbose=2 if devices.is_chief else 0,
    )
    seeds = [v for v in model.variables if v.name == "seed_generator_state"]
    np.savez(
        folder / f"{name}-{devices.worker}.npz",
        *model.get_weights(),
        **history.history,
        replicas=devices.replicas,
        seeds=[int(s) for v in seeds for s in np.ravel(v.numpy())],
    )
    if name == "compiled":
        print(_compiled_step(devices, model))


def _compiled_step(devices, model):
    """What XLA makes of a training step on all devices."""
    import jax

    images, labels = np.zeros((BATCH, 32, 32, 3), "uint8"), np.zeros(BATCH, "int32")
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    data = [
        jax.device_put(a, devices.strategy.get_data_layout(a.shape).backend_layout)
        for a in (images, labels)
    ]
    with devices.scope():
        step = jax.jit(model.train_step).lower(tuple(state), tuple(data))
    return step.compile().as_text()


if __name__ == "__main__":
    main()

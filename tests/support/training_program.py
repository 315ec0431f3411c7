"""Training on the devices of a process of its own.

Arguments: a folder, the name of the file to write there, and options as JSON. The file
has the history and the weights.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.training.distribution import find_devices

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")
BATCH, STEPS, EPOCHS, HELD_OUT = 8, 3, 3, 11


def batches(devices):
    """The training batches, and those of the images held out."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (BATCH * STEPS + HELD_OUT, 32, 32, 3), "uint8")
    labels = rng.integers(0, 5, len(images)).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    train = data.take(BATCH * STEPS).batch(BATCH, drop_remainder=True).repeat()
    held_out = data.skip(BATCH * STEPS).batch(BATCH)
    return train, devices.pad_last_batch(held_out, HELD_OUT, BATCH)


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
    train, held_out = batches(devices)
    history = devices.fit(
        model,
        train,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=held_out,
        shuffle=False,
        verbose=0,
    )
    seeds = [
        np.ravel(copy.numpy())
        for variable in model.variables
        if variable.name == "seed_generator_state" and virtual
        for copy in devices.strategy.experimental_local_results(variable.value)
    ]
    np.savez(
        folder / f"{name}.npz",
        *model.get_weights(),
        **history.history,
        replicas=devices.replicas,
        seeds=seeds,
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

"""Trains on one device and on all devices of this process, which is to be the same.

Arguments: a folder, which gets `start.npz`, `one.npz` and `all.npz` with the weights
and the history; the number of epochs; and the number of virtual devices of TensorFlow.
On JAX the program prints the training step on all devices, as XLA compiles it.
"""

import io
import sys
from pathlib import Path

import keras
import numpy as np
from image_files import encoded
from PIL import Image
from weight_files import TINY

from resnext_keras import ResNeXt
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.data.dataset import ImageDataset, Unreadable
from resnext_keras.training.data.pipeline import TrainingBatches, ValidationBatches
from resnext_keras.training.distribution import Devices, find_devices
from resnext_keras.training.recipes import Recipe

BATCH, STEPS, HELD_OUT, CLASSES = 8, 3, 11, 5


def batches(devices, epochs):
    """The training batches, and those of the images held out."""
    rng = np.random.default_rng(0)
    count = BATCH * STEPS + HELD_OUT
    files = [
        encoded(Image.fromarray(rng.integers(0, 255, (32, 32, 3), "uint8")), "PNG")
        for _ in range(count)
    ]
    labels, names = rng.integers(0, CLASSES, count), [str(n) for n in range(count)]
    whole = ImageDataset(
        tuple(names[:CLASSES]), labels, names, lambda n: io.BytesIO(files[n])
    )
    reading = Preprocessing(32, 32)
    train = TrainingBatches(
        whole.subset(np.arange(BATCH * STEPS)),
        Recipe("", "", 1, BATCH, 0.1, crop="pad"),
        reading,
        seed=0,
        steps=epochs * STEPS,
        unreadable=Unreadable(1),
    )
    held_out = whole.subset(np.arange(BATCH * STEPS, count))
    pad = devices.replicas > 1
    return train, ValidationBatches(
        held_out, reading, BATCH, pad=pad, unreadable=Unreadable(1)
    )


def build(devices, drop_path_rate=0.0):
    """A compiled model, always with the same weights."""
    with devices.scope():
        keras.utils.set_random_seed(0)
        network = ResNeXt(
            TINY,
            weights=None,
            input_shape=(32, 32, 3),
            classes=CLASSES,
            drop_path_rate=drop_path_rate,
        )
        inputs = keras.Input((32, 32, 3), dtype="uint8")
        model = keras.Model(inputs, network(keras.layers.Rescaling(1 / 64, -2)(inputs)))
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            "categorical_crossentropy",
            weighted_metrics=["accuracy"],
        )
        model.optimizer.build(model.trainable_variables)
    return model


def fit(devices, model, epochs):
    """Trains a model of `build`; returns its history."""
    train, held_out = batches(devices, epochs)
    history = devices.fit(
        model,
        train,
        epochs=epochs,
        steps_per_epoch=STEPS,
        validation_data=held_out,
        shuffle=False,
        verbose=0,
    )
    return history.history


def replica_seeds(devices):
    """The seeds of drop path, of one replica after the other."""
    model = build(devices, drop_path_rate=0.2)
    fit(devices, model, epochs=1)
    return [
        np.ravel(copy.numpy())
        for variable in model.variables
        if variable.name == "seed_generator_state"
        for copy in devices.strategy.experimental_local_results(variable.value)
    ]


def compiled_step(devices, model):
    """What XLA makes of a training step on all devices."""
    import jax

    images = np.zeros((BATCH, 32, 32, 3), "uint8")
    labels = np.zeros((BATCH, CLASSES), "float32")
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


def main():
    folder, epochs, virtual = Path(sys.argv[1]), *map(int, sys.argv[2:])
    if virtual:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [device] * virtual)
    keras.config.set_floatx("float64")  # so that rounding hides no mistake
    devices = find_devices()
    np.savez(folder / "start.npz", *build(Devices()).get_weights())
    for name, some in (("one", Devices()), ("all", devices)):
        model = build(some)
        history = fit(some, model, epochs)
        np.savez(folder / f"{name}.npz", *model.get_weights(), **history)
    print("replicas:", devices.replicas)
    if virtual:
        np.save(folder / "seeds.npy", replica_seeds(devices))
    else:
        print(compiled_step(devices, model))


if __name__ == "__main__":
    main()

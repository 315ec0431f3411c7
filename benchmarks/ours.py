"""This package's networks on the backend that Keras runs on, and the floor.

`python ours.py MODEL SIZE` prints what the other contenders need to know.
"""

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np
from worker import RATE, randomise_batch_norm

sys.path.insert(1, str(Path(__file__).parents[1]))  # the checkout's resnext_keras

import resnext_keras as rk
from resnext_keras.models.flops import stage_costs
from resnext_keras.models.specs import get_spec
from resnext_keras.weights.loading import open_file

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch


def model(work, stock=False, jit_compile="auto"):
    """The model as it is, or with Keras' own layers only (`stock`)."""
    set_up(work)
    network = build(work)
    if stock:
        values = network.get_weights()
        network = keras.models.clone_model(network, clone_function=stock_layer)
        network.set_weights(values)
    images, labels = map(keras.ops.convert_to_tensor, (work.images, work.labels))
    if work.task == "predict":
        return prediction(network, images, labels, jit_compile)
    # Keras' own is not to be slow by our optimizer, nor ours by Keras'.
    optimizer = (keras.optimizers.SGD if stock else rk.SGD)(RATE, momentum=0.9)
    return training(network, images, labels, jit_compile, optimizer)


def predictor(work, engine):
    """A `Predictor`, from and to NumPy arrays."""
    set_up(work)
    keras.config.set_dtype_policy("float32")  # `Predictor` changes the precision
    predict = rk.Predictor(build(work), engine, work.batch, precision=work.precision)
    if predict.precision != work.precision:
        raise ValueError(f"no fast {work.precision} here")
    return lambda: predict(work.images)


def matrix_product(work, side):
    """One product of two square matrices: `2 * side**3` operations."""
    set_up(work)
    values = np.random.default_rng(0).normal(size=(side, side)).astype("float32")
    dtype = "float32" if work.precision == "tf32" else work.precision
    matrix = keras.ops.convert_to_tensor(values, dtype=dtype)
    return lambda: float(keras.ops.matmul(matrix, matrix)[0, 0])


def agreement(work, folder):
    """Compares a prediction and a training step with those of `peers.reference`.

    The gradients are read off the weights after the very step that is timed, at a rate
    so large that the weights themselves do not round them.

    Returns:
        The largest difference of a logit by the largest logit; and of the gradient of
        a kernel or bias that differs most the norm of the difference by its norm, and
        its name.
    """
    set_up(work)
    network = build(work, weights=Path(folder, "weights.pth"))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    images, labels = map(keras.ops.convert_to_tensor, (work.images, work.labels))
    logits = np.asarray(prediction(network, images, labels, "auto")())
    expected = np.load(Path(folder, "logits.npy"))
    rate = 2.0**20
    names = [variable.path for variable in network.trainable_variables]
    before = list(map(keras.ops.convert_to_numpy, network.trainable_variables))
    after = training(network, images, labels, "auto", rk.SGD(rate, momentum=0.9))()
    errors = []
    with open_file(Path(folder, "gradients.pth")) as gradients:
        for name, start, end in zip(names, before, after, strict=True):
            gradient = gradients[name].read()
            found = (start - keras.ops.convert_to_numpy(end)) / rate
            errors.append(np.linalg.norm(found - gradient) / np.linalg.norm(gradient))
    worst = int(np.argmax(errors))  # or the first NaN
    return {
        "logits": float(np.abs(logits - expected).max() / np.abs(expected).max()),
        "gradients": float(errors[worst]),
        "worst_gradient": names[worst],
    }


def set_up(work):
    """The precision and the threads. float32 means it, not a GPU's TF32."""
    if work.precision in ("bfloat16", "float16"):
        keras.config.set_dtype_policy(f"mixed_{work.precision}")
    tf32 = work.precision == "tf32"
    if BACKEND == "tensorflow":
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    elif BACKEND == "jax":  # which has a thread for each processor
        precision = "tensorfloat32" if tf32 else "highest"
        jax.config.update("jax_default_matmul_precision", precision)
    else:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_num_threads(work.threads)


def prediction(network, images, labels, jit_compile):
    """Logits, copied to the host."""
    if BACKEND == "tensorflow":
        function = tf.function(lambda images: network(images, training=False))
        return lambda: function(images).numpy()
    if BACKEND == "jax":
        state = variables(network)
        function = jax.jit(
            lambda state, images: network.stateless_call(
                *state, images, training=False
            )[0]
        )
        return lambda: np.asarray(function(state, images))

    forward = torch.compile(network) if jit_compile is True else network

    def predict():
        with torch.inference_mode():
            return forward(images, training=False).cpu()

    return predict


def training(network, images, labels, jit_compile, optimizer):
    """A step on the cross-entropy, which returns the weights."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if BACKEND == "jax":
        return jax_training(network, optimizer, loss, images, labels)
    network.compile(optimizer, loss, jit_compile=jit_compile)
    # As `train` and `finetune` do; otherwise Keras traces the step twice.
    optimizer.build(network.trainable_variables)

    def train():
        network.train_on_batch(images, labels)
        if BACKEND == "tensorflow":
            tf.test.experimental.sync_devices()
        elif images.is_cuda:
            torch.cuda.synchronize()
        return network.trainable_variables

    return train


def jax_training(network, optimizer, loss, images, labels):
    """The step of Keras' guide for JAX, which keeps the state on the device.

    `train_on_batch` copies the state to Keras' variables and back at each step,
    which `fit` does once an epoch.
    """
    if keras.config.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)

    def loss_and_others(trainable, others, slots, images, labels):
        logits, others = network.stateless_call(
            trainable, others, images, training=True
        )
        value = loss(labels, logits)
        with keras.StatelessScope(zip(optimizer.variables, slots, strict=True)):
            return optimizer.scale_loss(value), others

    gradient = jax.value_and_grad(loss_and_others, has_aux=True)

    def step(state, images, labels):
        (trainable, others), slots = state
        (_, others), gradients = gradient(trainable, others, slots, images, labels)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, others), slots

    step = jax.jit(step, donate_argnums=0)
    state = variables(network), [v.value for v in optimizer.variables]

    def train():
        nonlocal state
        state = jax.block_until_ready(step(state, images, labels))
        return state[0][0]

    return train


def variables(network):
    """The values that learn, and the others."""
    return (
        [v.value for v in network.trainable_variables],
        [v.value for v in network.non_trainable_variables],
    )


def build(work, weights=None):
    """The network without softmax, as torch's have none; with random batch norm."""
    network = rk.ResNeXt(
        rk.ResNeXtSpec(**work.spec),
        weights=weights,
        input_shape=(work.size, work.size, 3),
        classes=work.classes,
        classifier_activation=None,
    )
    if weights is None:
        randomise_batch_norm(network)
    return network


def stock_layer(layer):
    """The layer of Keras that a layer of this package derives from."""
    keras_own = (c for c in type(layer).__mro__ if c.__module__.startswith("keras."))
    return next(keras_own).from_config(layer.get_config())


def describe(name: str, size: int) -> dict:
    """The network and the device, for the report and for the other contenders."""
    spec = get_spec(name)
    size = size or spec.image_size
    network = rk.ResNeXt(spec, weights=None, input_shape=(size, size, 3))
    device, device_name = find_device()
    return {
        "model": spec.name,
        "spec": dataclasses.asdict(spec),
        "classes": spec.classes,
        "size": size,
        "multiply_adds": sum(cost.multiply_adds for cost in stage_costs(network)),
        "device": device,
        "device_name": device_name,
    }


def find_device() -> tuple[str, str]:
    """`"cpu"` or `"gpu"`, and the name of the GPU."""
    if BACKEND == "jax":
        device = jax.devices()[0]
        return device.platform, "" if device.platform == "cpu" else device.device_kind
    if BACKEND == "torch":
        has_gpu = torch.cuda.is_available()
        return ("gpu", torch.cuda.get_device_name()) if has_gpu else ("cpu", "")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu", ""
    details = tf.config.experimental.get_device_details(gpus[0])
    return "gpu", details.get("device_name", "GPU")


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1], int(sys.argv[2]))))

"""The networks of this package."""

import keras
import tensorflow as tf
from inputs import batch

import resnext_keras as rk

tf.config.experimental.enable_tensor_float_32_execution(False)


def model(work, stock=False, jit_compile="auto"):
    """The plain model, called as a graph or trained as `compile()` does it."""
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    images, labels = map(tf.constant, batch(work))
    network = build(work)
    if stock:
        network = keras.models.clone_model(network, clone_function=stock_layer)
    if work.task == "predict":
        function = tf.function(lambda images: network(images, training=False))
        return lambda: function(images).numpy()
    network.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return lambda: network.train_on_batch(images, labels)


def predictor(work, engine):
    """A `Predictor`, which gets and gives NumPy arrays."""
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    images, _ = batch(work)
    predict = rk.Predictor(build(work), engine, work.batch)
    return lambda: predict(images)


def build(work):
    """The network with random weights, which gives logits as torch's do."""
    return rk.ResNeXt(
        rk.ResNeXtSpec(**work.spec),
        weights=None,
        input_shape=(work.size, work.size, 3),
        classes=work.classes,
        classifier_activation=None,
    )


def stock_layer(layer):
    """A layer as Keras has it, where this package has one of its own."""
    keras_own = (c for c in type(layer).__mro__ if c.__module__.startswith("keras."))
    return next(keras_own).from_config(layer.get_config())

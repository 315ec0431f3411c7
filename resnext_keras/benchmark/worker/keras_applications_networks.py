"""ResNeXt of keras-applications 1.0.8, which runs under the Keras of before."""

import tensorflow as tf
import tf_keras
from inputs import batch
from keras_applications import resnext

tf.config.experimental.enable_tensor_float_32_execution(False)

NAMES = {"resnext50_32x4d": "ResNeXt50", "resnext101_32x4d": "ResNeXt101"}


def model(work):
    """The network, called as a graph or trained as `compile()` does it."""
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    images, labels = map(tf.constant, batch(work))
    network = getattr(resnext, NAMES[work.spec["name"]])(
        weights=None,
        input_shape=(work.size, work.size, 3),
        classes=work.classes,
        # It calls through these, since it belongs to no Keras of its own.
        backend=tf_keras.backend,
        layers=tf_keras.layers,
        models=tf_keras.models,
        utils=tf_keras.utils,
    )
    if work.task == "predict":
        function = tf.function(lambda images: network(images, training=False))
        return lambda: function(images).numpy()
    network.compile(
        tf_keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy"
    )
    return lambda: network.train_on_batch(images, labels)

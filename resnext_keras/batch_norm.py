"""BatchNormalization: Keras' layer, trained by TensorFlow's own fused kernel."""

import keras
from keras import layers

from resnext_keras.layers import has_onednn, on_accelerator

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# What the fused kernel takes; its statistics are float32 for all of them.
_DTYPES = ("float32", "float16", "bfloat16")


@keras.saving.register_keras_serializable(package="resnext_keras")
class BatchNormalization(layers.BatchNormalization):
    """A `keras.layers.BatchNormalization` that is fast to train.

    Same arguments, weights, configuration and results. Keras computes a training
    batch's statistics, and the gradient through them, in some twenty passes over
    the feature maps; TensorFlow has one kernel for each of the two, on a CPU with
    oneDNN and on a GPU, which takes a ReLU that follows along. Where it has not,
    and in prediction, where such a kernel is slow and cannot be folded away, this
    is Keras' layer.
    """

    def call(self, inputs, training=None, mask=None):
        if training and self.trainable and mask is None and self._is_fused(inputs):
            return self._train(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _is_fused(self, inputs) -> bool:
        """Whether the fused kernel computes what this layer is configured to."""
        if keras.config.backend() != "tensorflow" or len(inputs.shape) != 4:
            return False
        last = self.axis % 4 == 3
        return (
            (on_accelerator() or (has_onednn() and last))
            and (last or self.axis % 4 == 1)
            and self.scale
            and self.center
            and not self.synchronized
            and not getattr(self, "renorm", False)
            and inputs.dtype.name in _DTYPES
            and self.variable_dtype == "float32"
        )

    def _train(self, inputs):
        """Normalises by the batch's statistics, and counts them in the moving ones."""
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.zeros(0),  # none in training
            variance=tf.zeros(0),
            epsilon=self.epsilon,
            data_format="NHWC" if self.axis % 4 == 3 else "NCHW",
            is_training=True,
        )
        # The kernel's variance is that of the population that the batch is a
        # sample of; Keras keeps the batch's own.
        count = tf.cast(tf.size(inputs) // tf.size(mean), tf.float32)
        variance *= (count - 1) / count
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs

"""Batch normalization as in Keras, but faster to train on a CPU."""

import keras
from keras import layers, ops

from resnext_keras.models.runtime import (
    has_fast_kernels,
    is_exporting,
    on_accelerator,
)

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# Types that TensorFlow's kernel takes; its statistics are float32 for all of them.
_DTYPES = ("float32", "float16", "bfloat16")


@keras.saving.register_keras_serializable(package="resnext_keras")
class BatchNormalization(layers.BatchNormalization):
    """A `keras.layers.BatchNormalization` that is fast on any CPU.

    Arguments, weights and configuration are the same. So are the results, with one
    exception: the moving variance averages the unbiased variance of the batches, as
    in PyTorch, where the published weights come from. With a mask or `renorm`, which
    only Keras has, the layer is Keras' own.

    Keras computes the statistics of a training batch, and the gradient through them,
    in some twenty passes over the feature maps. This layer does it as follows:

    - Training where kernels are fast: TensorFlow's kernel, which takes one pass for
      each and fuses a following ReLU. On a CPU it gets each row of an image as an
      image of its own, because oneDNN works on whole images, and rows fit in the cache.
    - Training elsewhere: operations of its own, with half of Keras' passes.
    - Prediction: TensorFlow's kernel, which TensorFlow fuses with the convolution
      before it or the ReLU after it. Exported graphs never contain it, so that they are
      the same for all processors.
    - Frozen layers of a network in training: Keras' own code, which keeps less for the
      gradient.
    - Other backends: Keras' own code, with the unbiased moving variance.

    In prediction on TensorFlow there are no gradients by the moving statistics.
    """

    def call(self, inputs, training=None, mask=None):
        # Keras before 3.14 has no `renorm`.
        if mask is not None or getattr(self, "renorm", False):
            return super().call(inputs, training=training, mask=mask)
        is_ours = self._is_ours(inputs)
        if training and self.trainable:
            return self._train(inputs) if is_ours else self._train_as_keras(inputs)
        if is_ours and not training and not is_exporting():
            return self._by_kernel(inputs, training=False)[0]
        return super().call(inputs, training=training)

    def _is_ours(self, inputs) -> bool:
        """Whether TensorFlow's kernel and `_train` support this configuration."""
        if keras.config.backend() != "tensorflow" or len(inputs.shape) != 4:
            return False
        axis = self.axis % 4
        return (
            (axis == 3 or (axis == 1 and on_accelerator()))
            and self.scale
            and self.center
            and not self.synchronized
            and inputs.dtype.name in _DTYPES
            and self.variable_dtype == "float32"
        )

    def _by_kernel(self, inputs, training):
        """The normalised batch, and the mean and variance that normalised it.

        In training they are the batch's, so the kernel takes none, and the variance
        that it returns is unbiased.
        """
        moving = (self.moving_mean, self.moving_variance)
        mean, variance = (tf.zeros(0), tf.zeros(0)) if training else moving
        by_rows = training and not on_accelerator()
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=_rows(inputs) if by_rows else inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            data_format="NHWC" if self.axis % 4 == 3 else "NCHW",
            is_training=training,
        )
        if by_rows:
            outputs = tf.reshape(outputs, tf.shape(inputs))
        return outputs, mean, variance

    def _train(self, inputs):
        """Normalises by the batch's statistics, and updates the moving ones."""
        if has_fast_kernels():
            outputs, mean, variance = self._by_kernel(inputs, training=True)
        else:
            x = tf.cast(inputs, tf.float32)
            scale, offset = map(tf.convert_to_tensor, (self.gamma, self.beta))
            outputs, mean, variance = _by_products(x, scale, offset, self.epsilon)
            outputs = tf.cast(outputs, inputs.dtype)
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            updated = moving * self.momentum + batch * (1 - self.momentum)
            # An empty batch has no statistics.
            moving.assign(tf.where(tf.size(inputs) > 0, updated, moving))
        return outputs

    def _train_as_keras(self, inputs):
        """Trains by Keras' layer, then corrects its update of the moving variance."""
        kept = ops.multiply(self.moving_variance, self.momentum)
        outputs = super().call(inputs, training=True)
        counted = ops.subtract(self.moving_variance, kept)
        # A count may be too large for float16.
        dtype = keras.backend.result_type(counted.dtype, "float32")
        factor = _bessel(ops.cast(self._count(inputs), dtype))
        self.moving_variance.assign(kept + counted * ops.cast(factor, counted.dtype))
        return outputs

    def _count(self, inputs):
        """Number of values of a channel that are normalised together."""
        shape = list(ops.shape(inputs))
        del shape[self.axis]
        count = ops.cast(ops.prod(shape), "float32")
        replica = tf.distribute.get_replica_context() if self.synchronized else None
        return replica.all_reduce("SUM", count) if replica else count


def _rows(x):
    """The rows of all images, as images of one row: (batch * H, 1, W, channels)."""
    shape = tf.shape(x)
    return tf.reshape(x, (shape[0] * shape[1], 1, shape[2], x.shape[3]))


def _bessel(count):
    """Factor from the biased to the unbiased variance of `count` values.

    It is 1 for a single value, where both variances are 0.
    """
    return count / ops.maximum(count - 1, 1)


def _by_products(x, scale, offset, epsilon):
    """The normalised batch, its mean and its unbiased variance, by plain operations.

    Source of the gradients: Ioffe and Szegedy, "Batch Normalization: Accelerating
    Deep Network Training by Reducing Internal Covariate Shift", 2015, section 3.
    """
    count = tf.maximum(tf.size(x) // tf.size(scale), 1)  # an empty batch has none
    count = tf.cast(count, x.dtype)

    @tf.custom_gradient
    def normalise(x, scale, offset):
        mean = _channel_sums(x) / count
        centred = x - mean
        variance = _channel_sums(centred * centred) / count
        inverse = tf.math.rsqrt(variance + epsilon)
        factor = scale * inverse

        def gradients(dy, *_):  # The moving statistics have no gradients.
            doffset = _channel_sums(dy)
            dscale = _channel_sums(dy * centred) * inverse
            slope = dscale * inverse / count
            dx = factor * (dy - (slope * centred + doffset / count))
            return dx, dscale, doffset

        outputs = factor * centred + offset
        return (outputs, mean, variance * _bessel(count)), gradients

    return normalise(x, scale, offset)


def _channel_sums(x):
    """Sum over all pixels for each channel, (channels,).

    It is a matrix product with ones: XLA would sum columns on one core, in an order
    that is bad for the cache, and take five times as long. There are two rows of
    ones, because XLA would treat a product with one row as such a sum.
    """
    pixels = tf.reshape(x, (-1, x.shape[-1]))
    return tf.matmul(tf.ones((2, tf.shape(pixels)[0]), x.dtype), pixels)[0]

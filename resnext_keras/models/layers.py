"""Convolutions, ReLU and pooling that are fast on each backend and device."""

import keras
import numpy as np
from keras import layers

from resnext_keras.models.runtime import (
    has_fast_bfloat16,
    has_fast_kernels,
    is_exporting,
    is_never_empty,
    may_be_empty,
    on_accelerator,
)

if keras.config.backend() == "tensorflow":
    import tensorflow as tf
elif keras.config.backend() == "jax":
    import jax


@keras.saving.register_keras_serializable(package="resnext_keras")
class Conv2D(layers.Conv2D):
    """A `keras.layers.Conv2D` that trains 1x1 convolutions fast on any CPU.

    Arguments, weights, configuration and results are those of Keras' layer. A 1x1
    convolution is a matrix product, whose gradients TensorFlow computes in less time:
    four fifths in bfloat16 and somewhat less in float32 with oneDNN, less than half
    without. So calls with `training=True` (as in `fit`) use the product on a CPU.
    """

    _training = False  # whether the present call is in training

    def call(self, inputs, training=None):
        self._training = training is True
        if (
            not self.use_bias
            or self.data_format == "channels_last"
            or keras.config.backend() != "tensorflow"
        ):
            return super().call(inputs)
        # Keras adds the bias along the wrong axis if the width equals its length.
        outputs = self.convolution_op(inputs, self.kernel)
        return self.activation(tf.nn.bias_add(outputs, self.bias, "NCHW"))

    def convolution_op(self, inputs, kernel):
        is_product = (
            self.kernel_size == (1, 1)
            and self.groups == 1
            and self.data_format == "channels_last"
        )
        if (
            self._training
            and is_product
            and keras.config.backend() == "tensorflow"
            and not on_accelerator()
        ):
            if max(self.strides) > 1:
                # Averages of one pixel each: the same as slicing, in half the time.
                inputs = tf.nn.avg_pool2d(inputs, 1, self.strides, "VALID")
            return tf.tensordot(inputs, tf.squeeze(kernel, (0, 1)), 1)
        outputs = super().convolution_op(inputs, kernel)
        if self.groups > 1 or keras.config.backend() != "tensorflow":
            return outputs
        how = self.strides, self.padding.upper(), self.dilation_rate, self.data_format
        return _of_no_images(outputs, inputs, kernel, *how)


@keras.saving.register_keras_serializable(package="resnext_keras")
class GroupedConv2D(Conv2D):
    """A `keras.layers.Conv2D` with fast grouped convolutions that export cleanly.

    Arguments, weights, configuration and results are those of Keras' layer. On
    TensorFlow, Keras compiles a grouped convolution with XLA: on a CPU its gradient
    takes tens of times as long as that of a dense convolution, and exported graphs
    contain a call of XLA. This layer uses TensorFlow's own grouped convolution, and
    adds the gradient that TensorFlow lacks on some CPUs. Where kernels are slow, it
    uses several dense convolutions of a few groups each, except in graphs that are
    exported for prediction. On other backends it is Keras' layer; on JAX under
    `keras.distribution.DataParallel` each device convolves its own images.

    Shapes:
        inputs: (batch, H, W, channels), or (batch, channels, H, W) under
            `data_format="channels_first"`; `channels` is a multiple of `groups`.
        kernel: (kernel height, kernel width, channels / groups, filters).
    """

    def convolution_op(self, inputs, kernel):
        if self.groups > 1 and keras.config.backend() == "jax":
            return _each_its_own(super().convolution_op, inputs, kernel)
        if self.groups == 1 or keras.config.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        kernel = tf.convert_to_tensor(kernel)
        channels_first = self.data_format == "channels_first"
        if channels_first:
            # TensorFlow's CPU kernels support only NHWC. On a GPU, TensorFlow's
            # layout optimiser removes the transpositions.
            inputs = tf.transpose(inputs, (0, 2, 3, 1))
        channels = self.groups * kernel.shape[2]
        inputs = tf.ensure_shape(inputs, (None, None, None, channels))
        outputs = _conv(
            inputs,
            kernel,
            self.strides,
            self.padding.upper(),
            self.dilation_rate,
            self._training,
        )
        return tf.transpose(outputs, (0, 3, 1, 2)) if channels_first else outputs


def _each_its_own(convolution, inputs, kernel):
    """The convolution on JAX; under `DataParallel` each device convolves its images.

    XLA would split a grouped convolution between devices by groups, not by images:
    each device would gather and convolve the whole batch, forward and backward
    (openxla/xla#47945).
    """
    distribution = keras.distribution.distribution()
    kernel = keras.ops.convert_to_tensor(kernel)
    if (
        not isinstance(distribution, keras.distribution.DataParallel)
        or inputs.shape[0] % distribution.num_model_replicas
    ):
        return convolution(inputs, kernel)
    images = jax.sharding.PartitionSpec(distribution.batch_dim_name)
    return jax.shard_map(
        convolution,
        mesh=distribution.device_mesh.backend_mesh,
        in_specs=(images, jax.sharding.PartitionSpec()),
        out_specs=images,
    )(inputs, kernel)


@keras.saving.register_keras_serializable(package="resnext_keras")
class MaxPooling2D(layers.MaxPooling2D):
    """A `keras.layers.MaxPooling2D` that trains in less memory after padding.

    Arguments, configuration and results are those of Keras' layer.
    """

    def call(self, inputs, training=None):
        if keras.config.backend() != "tensorflow" or on_accelerator():
            return super().call(inputs)
        return _pads_again(super().call, training is True, inputs)


@keras.saving.register_keras_serializable(package="resnext_keras")
class ReLU(layers.ReLU):
    """A `keras.layers.ReLU` that TensorFlow fuses with our batch norm in training.

    Arguments, configuration and results are those of Keras' layer. In training on a
    CPU, `BatchNormalization` reshapes the output of its kernel. The ReLU comes before
    that here, since TensorFlow fuses it only with the kernel's own output.
    """

    def call(self, inputs):
        if keras.config.backend() == "tensorflow" and tf.is_symbolic_tensor(inputs):
            op = _source(inputs)
            if op.type == "Reshape" and op.inputs[0].op.type == "FusedBatchNormV3":
                return tf.reshape(super().call(op.inputs[0]), op.inputs[1])
        return super().call(inputs)


# All below is for TensorFlow, with images in NHWC and kernels in HWIO layout.


def _source(x):
    """The operation that computed the symbolic tensor x."""
    op = x.op
    while op.type in ("Identity", "EnsureShape"):
        op = op.inputs[0].op
    return op


def _pads_again(function, training, x, *weights):
    """`function(x, *weights)`, with gradients that compute a padding of x again.

    The backward pass keeps the output of the ReLU before the padding anyway. Without
    this it would also keep the padded copy: in ResNeXt-50 10 MB for each image.
    """
    padding = training and _padding_of(x)
    if not padding:
        return function(x, *weights)

    @tf.custom_gradient
    def call(x, *weights):
        def gradients(dy):
            with tf.control_dependencies([dy]):  # or TensorFlow would reuse the first
                again = tf.pad(*padding)
            with tf.GradientTape() as tape:
                tape.watch((again, *weights))
                y = function(again, *weights)
            return tape.gradient(y, (again, *weights), dy)

        return function(x, *weights), gradients

    return call(x, *weights)


def _padding_of(x):
    """Input and border of the padding that gave x; None if x is not padded."""
    if not tf.is_symbolic_tensor(x):
        return None
    op = _source(x)
    return op.inputs if op.type == "Pad" else None


def _conv(x, kernel, strides, padding, dilations, training):
    """Grouped convolution that has gradients on every device, with or without XLA."""
    arguments = strides, padding, dilations
    is_fast = has_fast_kernels()
    if on_accelerator():
        return _plain_conv(x, kernel, *arguments)
    # oneDNN has the gradients too, in float32 on any CPU.
    is_bfloat16 = x.dtype == tf.bfloat16 and has_fast_bfloat16()
    if is_fast and (x.dtype == tf.float32 or is_bfloat16):
        return _pads_again(
            lambda x, kernel: _plain_conv(x, kernel, *arguments), training, x, kernel
        )
    if not is_fast and (training or not is_exporting()):
        return _dense_conv(x, kernel, *arguments)

    # Exported networks have the single operation, for the fast kernels of other
    # machines. TensorFlow's gradient of it does not run on every CPU.
    @tf.custom_gradient
    def conv(x, kernel):
        def gradients(dy):
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                y = _dense_conv(x, kernel, *arguments)
            return tape.gradient(y, (x, kernel), dy)

        return _plain_conv(x, kernel, *arguments), gradients

    return conv(x, kernel)


def _plain_conv(x, kernel, strides, padding, dilations):
    """Grouped convolution as a single operation of TensorFlow."""
    y = tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)
    y = _of_no_images(y, x, kernel, strides, padding, dilations)
    is_onednn = has_fast_kernels() and not on_accelerator()
    if is_onednn and is_never_empty():
        return y  # in `Predictor`, which runs on this machine
    # Keeps TensorFlow from fusing the convolution with a following bias or activation:
    # of its fused kernels only oneDNN's support groups.
    return tf.ensure_shape(y, (None, None, None, kernel.shape[-1]))


def _of_no_images(y, x, kernel, strides, padding, dilations, layout="channels_last"):
    """The convolution y of x, in the right shape for an empty batch too.

    oneDNN gives the convolution of an empty batch the shape of its input (seen in
    TensorFlow 2.21). `MirroredStrategy` makes such batches where the last one has
    fewer images than there are devices.
    """
    is_repaired = has_fast_kernels() and not on_accelerator() and may_be_empty()
    if x.shape[0] or not is_repaired:
        return y
    axes = (2, 3) if layout == "channels_first" else (1, 2)
    shape = [-1, kernel.shape[-1], kernel.shape[-1], kernel.shape[-1]]
    for axis, size, stride, dilation in zip(
        axes, kernel.shape[:2], strides, dilations, strict=True
    ):
        side = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        if padding == "VALID":
            side -= (size - 1) * dilation
        shape[axis] = (side - 1) // stride + 1
    if x.shape[0] == 0:
        # Unlike a constant, this has gradients: zeros.
        total = tf.reduce_sum(x) + tf.reduce_sum(kernel)
        return tf.broadcast_to(total, (0, *shape[1:]))
    # TensorFlow would find that y has a constant shape, and drop the reshape.
    whole = tf.compat.v1.placeholder_with_default(tf.stack(shape), 4)

    # TensorFlow's own gradient would give dy the wrong shape again. Without a reshape
    # TensorFlow would fuse the gradients of kernel and bias, which fails too.
    @tf.custom_gradient
    def reshape(y):
        return tf.reshape(y, whole), lambda dy: tf.reshape(dy, whole)

    return tf.ensure_shape(reshape(y), y.shape)


# Limits of one dense convolution: with fewer groups there are too many small
# convolutions, with more the kernel has too many zeros. Measured with conv2 to conv5
# of ResNeXt-50, for one image and for eight.
_MAX_DENSE_GROUPS = 4
_MAX_DENSE_CHANNELS = 32


def _dense_conv(x, kernel, strides, padding, dilations):
    """Grouped convolution as several dense convolutions of a few groups each.

    Without oneDNN they take half the time of the grouped convolution, and TensorFlow
    has their gradients.
    """
    if max(dilations) > 1:
        # TensorFlow has no gradients of dilated convolutions on CPUs. An output pixel
        # depends on every n-th input pixel only: with these subsets as a batch the
        # convolution needs no dilation.
        return tf.nn.with_space_to_batch(
            x,
            dilations,
            padding,
            lambda classes, _, padding: _dense_conv(
                classes, kernel, strides, padding, (1, 1)
            ),
            filter_shape=kernel.shape[:2],
        )
    depth = kernel.shape[2]
    groups = x.shape[-1] // depth
    count = max(1, min(_MAX_DENSE_GROUPS, _MAX_DENSE_CHANNELS // depth))
    while groups % count:
        count -= 1
    # Each kernel is repeated for all groups of its dense convolution, and the mask
    # keeps the copy of its own group.
    own = np.kron(np.eye(count), np.ones((depth, kernel.shape[-1] // groups)))
    mask = tf.constant(np.tile(own, groups // count), kernel.dtype)
    kernels = tf.tile(kernel, (1, 1, count, 1)) * mask
    outputs = [
        tf.nn.conv2d(part, dense, strides, padding)
        for part, dense in zip(
            tf.split(x, groups // count, axis=-1),
            tf.split(kernels, groups // count, axis=-1),
            strict=True,
        )
    ]
    return tf.concat(outputs, axis=-1)

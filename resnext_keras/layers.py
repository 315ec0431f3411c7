"""GroupedConv2D: the one place that knows how a backend runs a grouped convolution."""

import keras
from keras import layers

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="resnext_keras")
class GroupedConv2D(layers.Conv2D):
    """A `keras.layers.Conv2D` whose groups are fast to train and clean to export.

    Same arguments, weights, configuration and results as `Conv2D`. On
    TensorFlow, Keras sends a grouped convolution through XLA, whose gradient
    on a CPU takes tens of times as long as the dense one and whose call stays
    in exported graphs; this layer is TensorFlow's own grouped convolution,
    with a gradient that works wherever the convolution does. On other
    backends it is `Conv2D`.

    Shapes:
        inputs: (batch, H, W, channels), or (batch, channels, H, W) under
            `data_format="channels_first"`; `channels` is a multiple of `groups`.
        kernel: (kernel height, kernel width, channels / groups, filters).
    """

    def convolution_op(self, inputs, kernel):
        if self.groups == 1 or keras.config.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        kernel = tf.convert_to_tensor(kernel)
        channels_first = self.data_format == "channels_first"
        if channels_first:
            # TensorFlow's CPU kernels know only NHWC; on a GPU its layout
            # optimiser cancels the transpositions.
            inputs = tf.transpose(inputs, (0, 2, 3, 1))
        channels = self.groups * kernel.shape[2]
        inputs = tf.ensure_shape(inputs, (None, None, None, channels))
        outputs = _conv(
            inputs, kernel, self.strides, self.padding.upper(), self.dilation_rate
        )
        return tf.transpose(outputs, (0, 3, 1, 2)) if channels_first else outputs


# All below is for TensorFlow, with images in NHWC and kernels in HWIO layout.


def _conv(x, kernel, strides, padding, dilations):
    """Grouped convolution of any configuration."""
    if _on_accelerator():
        return _tensorflows_conv(x, kernel, strides, padding, dilations)
    if padding == "SAME":
        x = _pad_same(x, kernel.shape[:2], strides, dilations)
    if max(dilations) == 1:
        return _valid_conv(x, kernel, strides)
    # An output pixel of a dilated convolution sees one residue class of the
    # input's pixels: with the classes as a batch it is an ordinary convolution.
    return tf.nn.with_space_to_batch(
        x,
        dilations,
        "VALID",
        lambda classes, *_: _valid_conv(classes, kernel, strides),
        filter_shape=kernel.shape[:2],
    )


def _tensorflows_conv(x, kernel, strides, padding, dilations=1):
    y = tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)
    # Keeps TensorFlow from fusing the convolution with a bias or activation that
    # follows: without oneDNN its fused kernel for CPUs knows no groups.
    return tf.ensure_shape(y, (None, None, None, kernel.shape[-1]))


def _on_accelerator():
    """Whether TensorFlow's own gradients of a grouped convolution are to be used.

    They are the fastest on a GPU or TPU. On a CPU they exist only where oneDNN
    is on, and XLA there compiles them to something 14 times as slow as ours.
    """
    return any(d.device_type != "CPU" for d in tf.config.list_logical_devices())


def _pad_same(x, kernel_size, strides, dilations):
    """Zero borders with which a "VALID" convolution gives what "SAME" would."""
    borders = [(0, 0)]
    for axis, size, stride, dilation in zip(
        (1, 2), kernel_size, strides, dilations, strict=True
    ):
        length = _length(x, axis)
        reach = (size - 1) * dilation + 1
        total = tf.maximum((-(-length // stride) - 1) * stride + reach - length, 0)
        borders.append((total // 2, total - total // 2))
    return tf.pad(x, [*borders, (0, 0)])


def _length(x, axis):
    """Length of an axis: a number where it is known, else a tensor."""
    return x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]


def _valid_conv(x, kernel, strides):
    """Grouped "VALID" convolution with gradients that need neither oneDNN nor XLA."""

    @tf.custom_gradient
    def conv(x, kernel):
        def gradient(dy):
            return (
                _input_gradient(dy, kernel, x, strides),
                _kernel_gradient(dy, x, kernel.shape, strides),
            )

        return _tensorflows_conv(x, kernel, strides, "VALID"), gradient

    return conv(x, kernel)


def _input_gradient(dy, kernel, x, strides):
    """Convolves the output's gradient with the turned kernels.

    Between its pixels the gradient first gets the zeros that the stride has
    skipped, and around them a border with which the result covers all of `x`.
    """
    height, width, depth, filters = kernel.shape
    groups = x.shape[-1] // depth
    turned = tf.reshape(kernel, (height, width, depth, groups, filters // groups))
    turned = tf.transpose(turned[::-1, ::-1], (0, 1, 4, 3, 2))
    turned = tf.reshape(turned, (height, width, filters // groups, groups * depth))
    if max(strides) > 1:
        dy = _put_zeros_between(dy, strides)
    borders = [(0, 0), (0, 0), (0, 0), (0, 0)]
    for axis, size in ((1, height), (2, width)):
        rest = _length(x, axis) - _length(dy, axis)
        borders[axis] = (size - 1, tf.maximum(rest, 0))
    dx = _valid_conv(tf.pad(dy, borders), turned, (1, 1))
    # Longer than x only where a stride is wider than the kernel.
    return dx[:, : _length(x, 1), : _length(x, 2)]


def _put_zeros_between(dy, strides):
    """Puts stride - 1 zeros after each row and column."""
    down, across = strides
    dy = tf.pad(
        dy[:, :, None, :, None],
        [(0, 0), (0, 0), (0, down - 1), (0, 0), (0, across - 1), (0, 0)],
    )
    batch, height, _, width, _, channels = (_length(dy, axis) for axis in range(6))
    return tf.reshape(dy, (batch, height * down, width * across, channels))


# Channels of one dense kernel gradient: with fewer the convolutions are too
# many, with more too much of each is off the diagonal (ResNeXt-50 on two CPUs).
_CHUNK_CHANNELS = 32


def _kernel_gradient(dy, x, kernel_shape, strides):
    """Dense kernel gradients of a few groups at a time, and of them the diagonal."""
    height, width, depth, filters = kernel_shape
    groups = x.shape[-1] // depth
    chunk = max(1, _CHUNK_CHANNELS // depth)
    while groups % chunk:
        chunk -= 1
    diagonal = []
    for x_part, dy_part in zip(
        tf.split(x, groups // chunk, axis=-1),
        tf.split(dy, groups // chunk, axis=-1),
        strict=True,
    ):
        dense = tf.raw_ops.Conv2DBackpropFilter(
            input=x_part,
            filter_sizes=(height, width, chunk * depth, filters * chunk // groups),
            out_backprop=dy_part,
            strides=(1, *strides, 1),
            padding="VALID",
        )
        blocks = tf.reshape(
            dense, (height, width, chunk, depth, chunk, filters // groups)
        )
        diagonal.append(
            tf.reshape(tf.einsum("hwidio->hwdio", blocks), (height, width, depth, -1))
        )
    return tf.concat(diagonal, axis=-1)

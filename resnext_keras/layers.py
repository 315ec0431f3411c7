"""GroupedConv2D: the one place that knows how a backend runs a grouped convolution."""

import keras
from keras import layers

from resnext_keras import onednn

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    try:  # No public function tells whether oneDNN's kernels are on.
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:

        def IsMklEnabled():
            return False

    else:
        onednn.tell_if_off(IsMklEnabled())


def has_onednn() -> bool:
    """Whether TensorFlow runs oneDNN's kernels on the CPU."""
    return IsMklEnabled()


def on_accelerator() -> bool:
    """Whether TensorFlow has a GPU or TPU to run on."""
    return any(d.device_type != "CPU" for d in tf.config.list_logical_devices())


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
    # On a CPU TensorFlow's own gradients for the input exist only with oneDNN, and
    # XLA compiles those for the kernel to something that makes a training step 14
    # times as slow.
    if on_accelerator():
        return _tensorflows_conv(x, kernel, strides, padding, dilations)
    if max(dilations) == 1:
        return _cpu_conv(x, kernel, strides, padding)
    # An output pixel of a dilated convolution sees one residue class of the
    # input's pixels: with the classes as a batch it is an ordinary convolution.
    return tf.nn.with_space_to_batch(
        x,
        dilations,
        padding,
        lambda classes, _, padding: _cpu_conv(classes, kernel, strides, padding),
        filter_shape=kernel.shape[:2],
    )


def _tensorflows_conv(x, kernel, strides, padding, dilations=1):
    y = tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)
    # Keeps TensorFlow from fusing the convolution with a bias or activation that
    # follows: without oneDNN its fused kernel for CPUs knows no groups.
    return tf.ensure_shape(y, (None, None, None, kernel.shape[-1]))


def _cpu_conv(x, kernel, strides, padding):
    """Grouped convolution with gradients that any CPU has, with XLA or without."""

    @tf.custom_gradient
    def conv(x, kernel):
        def gradients(dy):
            return _gradients(dy, x, kernel, strides, padding)

        return _tensorflows_conv(x, kernel, strides, padding), gradients

    return conv(x, kernel)


# Groups of one dense gradient: fewer make too many small convolutions, more too
# much that lies off the diagonal. Measured with conv2 to conv5 of ResNeXt-50.
_MAX_CHUNK_GROUPS = 4
_MAX_CHUNK_CHANNELS = 32


def _gradients(dy, x, kernel, strides, padding):
    """Gradients for `x` and `kernel`, as dense ones of a few groups at a time."""
    height, width, depth, _ = kernel.shape
    groups = x.shape[-1] // depth
    chunk = max(1, min(_MAX_CHUNK_GROUPS, _MAX_CHUNK_CHANNELS // depth))
    while groups % chunk:
        chunk -= 1
    options = {"strides": (1, *strides, 1), "padding": padding}
    # oneDNN has a grouped kernel for this one, in single precision on any CPU.
    grouped_dx = has_onednn() and x.dtype == tf.float32
    dx, dkernel = [], []
    for x_part, kernel_part, dy_part in zip(
        *(tf.split(tensor, groups // chunk, axis=-1) for tensor in (x, kernel, dy)),
        strict=True,
    ):
        dense = tf.raw_ops.Conv2DBackpropFilter(
            input=x_part,
            filter_sizes=(height, width, chunk * depth, kernel_part.shape[-1]),
            out_backprop=dy_part,
            **options,
        )
        dkernel.append(_diagonal_blocks(dense, chunk))
        if not grouped_dx:
            dx_part = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x_part),
                filter=_block_diagonal(kernel_part, chunk),
                out_backprop=dy_part,
                **options,
            )
            dx.append(dx_part)
    if grouped_dx:
        dx = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **options
        )
    else:
        dx = tf.concat(dx, axis=-1)
    return dx, tf.concat(dkernel, axis=-1)


def _diagonal_blocks(dense, groups):
    """Of a dense kernel (h, w, g * i, g * o) the part that a grouped one has."""
    height, width, inputs, outputs = dense.shape
    blocks = tf.reshape(
        dense, (height, width, groups, inputs // groups, groups, outputs // groups)
    )
    blocks = tf.einsum("hwgigo->hwigo", blocks)
    return tf.reshape(blocks, (height, width, inputs // groups, outputs))


def _block_diagonal(kernel, groups):
    """The dense kernel (h, w, g * i, g * o) that a grouped one stands for."""
    height, width, depth, outputs = kernel.shape
    blocks = tf.reshape(kernel, (height, width, depth, groups, outputs // groups))
    eye = tf.eye(groups, dtype=kernel.dtype)
    dense = tf.einsum("hwigo,fg->hwfigo", blocks, eye)
    return tf.reshape(dense, (height, width, groups * depth, outputs))

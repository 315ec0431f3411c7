"""Convolutions give what their definitions give, gradients too."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import OTHER_KERNELS

from resnext_keras import GroupedConv2D
from resnext_keras.models.layers import Conv2D, MaxPooling2D
from resnext_keras.models.runtime import has_onednn, on_accelerator

CONFIGURATIONS = [
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "valid", "strides": 2},
    {"kernel_size": 3, "padding": "same", "strides": 2},
    {"kernel_size": (2, 4), "padding": "same", "strides": (1, 2)},
    {"kernel_size": (2, 4), "padding": "valid", "strides": 3},
    {"kernel_size": 1, "padding": "valid", "strides": 2},
    {"kernel_size": 3, "padding": "valid", "dilation_rate": (1, 3)},
    {"kernel_size": (2, 3), "padding": "same", "dilation_rate": (3, 2)},
]
SIZES = [(8, 9), (7, 11)]
# Groups, input channels, filters: from one group to as many as channels.
CHANNELS = [(1, 4, 6), (3, 9, 3), (8, 32, 32), (16, 16, 16), (4, 64, 128)]


def loop_over_groups(layer):
    """The definition: each group of filters sees its own channels."""

    def convolution(x, kernel):
        outputs = [
            tf.nn.convolution(
                part,
                weights,
                layer.strides,
                layer.padding.upper(),
                dilations=layer.dilation_rate,
            )
            for part, weights in zip(
                tf.split(x, layer.groups, axis=-1),
                tf.split(kernel, layer.groups, axis=-1),
                strict=True,
            )
        ]
        return tf.concat(outputs, axis=-1)

    return convolution


def output_and_gradients(function, x, kernel):
    """The output, and the gradients of an uneven sum of it, by TensorFlow."""
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        y = function(x, kernel)
        total = tf.reduce_sum(tf.sin(0.3 * y))
    return [y, *tape.gradient(total, (x, kernel))]


def on_any_backend(function, *arrays):
    """`output_and_gradients` of a function of Keras, on the backend that it runs."""
    backend = keras.config.backend()
    tensors = tuple(keras.ops.convert_to_tensor(array) for array in arrays)
    if backend == "tensorflow":
        return output_and_gradients(function, *tensors)

    def total_and_output(*tensors):
        y = function(*tensors)
        return keras.ops.sum(keras.ops.sin(0.3 * y)), y

    if backend == "jax":
        import jax

        differentiate = jax.value_and_grad(total_and_output, (0, 1), has_aux=True)
        (_, y), gradients = differentiate(*tensors)
    else:
        import torch

        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        total, y = total_and_output(*tensors)
        gradients = torch.autograd.grad(total, tensors)
    return [y, *gradients]


def built(configuration, size, channels, **options):
    """A layer with its input and its kernel."""
    groups, depth, filters = channels
    layer = GroupedConv2D(filters, groups=groups, **configuration, **options)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, *size, depth)), "float32")
    kernel_size = keras.layers.Conv2D(1, **configuration).kernel_size
    kernel = rng.normal(size=(*kernel_size, depth // groups, filters))
    return layer, x, tf.constant(kernel, "float32")


def assert_equal(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        a, b = (keras.ops.convert_to_numpy(array) for array in (a, b))
        assert a.shape == b.shape
        assert np.abs(a - b).max() / (np.abs(b).max() or 1.0) <= tolerance


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_output_and_gradients_are_those_of_a_loop_over_groups(configuration):
    # Elsewhere it is Keras' layer, and JAX compiles each shape.
    few = keras.config.backend() != "tensorflow"
    for channels in CHANNELS[1:3] if few else CHANNELS:
        for size in SIZES[:1] if few else SIZES:
            layer, x, kernel = built(configuration, size, channels)
            expected = output_and_gradients(loop_over_groups(layer), x, kernel)
            assert_equal(on_any_backend(layer.convolution_op, x, kernel), expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_graphs_for_training_give_the_same(configuration):
    """Of images of any size, and compiled with XLA."""
    for channels in CHANNELS[1:]:
        layer, x, kernel = built(configuration, SIZES[0], channels)
        layer._training = True  # as its `call` sets it
        expected = output_and_gradients(loop_over_groups(layer), x, kernel)
        function = functools.partial(output_and_gradients, layer.convolution_op)
        free = tf.TensorSpec((None, None, None, x.shape[-1]))
        signature = [free, tf.TensorSpec(kernel.shape)]
        assert_equal(
            tf.function(function, input_signature=signature)(x, kernel), expected
        )
        if channels == CHANNELS[2]:
            assert_equal(tf.function(function, jit_compile=True)(x, kernel), expected)


@pytest.mark.long
@pytest.mark.tensorflow
def test_gradients_need_no_particular_kernels():
    """The rest of this file again, with oneDNN's kernels off where they are on here."""
    rest = ("-n", "0", "-k", "not particular_kernels")
    inner = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *rest, str(Path(__file__))],
        env=os.environ | OTHER_KERNELS,
        capture_output=True,
        text=True,
    )
    assert inner.returncode == 0, inner.stdout[-3000:]
    assert " passed" in inner.stdout


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_channels_first_gives_the_same(configuration):
    layer, x, kernel = built(configuration, (9, 12), (2, 4, 6))
    first, _, _ = built(configuration, (9, 12), (2, 4, 6), data_format="channels_first")
    y, dx, dkernel = map(
        keras.ops.convert_to_numpy,
        on_any_backend(first.convolution_op, np.moveaxis(x, -1, 1), kernel),
    )
    found = [np.moveaxis(y, 1, -1), np.moveaxis(dx, 1, -1), dkernel]
    assert_equal(found, on_any_backend(layer.convolution_op, x, kernel))


# Of Conv2D's kernels for channels_first TensorFlow has none on a CPU without oneDNN.
@pytest.mark.parametrize("kind", [GroupedConv2D, *[Conv2D] * has_onednn()])
def test_a_bias_belongs_to_the_channels_of_images_as_wide_as_they_are_many(kind):
    options = {"padding": "same", "bias_initializer": "normal", "activation": "relu"}
    last, first = (
        kind(8, 3, data_format=f"channels_{place}", groups=2, **options)
        for place in ("last", "first")
    )
    x = np.random.default_rng(0).normal(size=(2, 5, 8, 4)).astype("float32")
    expected = last(x)
    first.build((None, 4, 5, 8))
    first.set_weights(last.get_weights())
    found = keras.ops.convert_to_numpy(first(np.moveaxis(x, -1, 1)))
    assert_equal([np.moveaxis(found, 1, -1)], [expected])


@pytest.mark.tensorflow
@pytest.mark.parametrize("activation", [None, "relu", "elu"])
def test_bias_and_activation_work_in_a_graph_whose_channels_may_be_unknown(activation):
    # TensorFlow would fuse the three into a kernel that knows no groups.
    options = {"activation": activation, "bias_initializer": "random_normal"}
    layer, x, kernel = built(CONFIGURATIONS[2], (9, 12), (2, 4, 6), **options)
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    expected = loop_over_groups(layer)(x, kernel) + layer.bias
    expected = keras.activations.get(activation)(expected)
    for shape in (x.shape, (None,) * 4):
        function = tf.function(layer, input_signature=[tf.TensorSpec(shape)])
        assert_equal([function(x)], [expected])


@pytest.mark.tensorflow
@pytest.mark.parametrize("configuration", CONFIGURATIONS[1::3], ids=str)
def test_second_derivatives_are_those_of_a_loop_over_groups(configuration):
    layer, x, kernel = built(configuration, (8, 9), (2, 4, 6))

    @tf.function  # eager TensorFlow has no second derivative of a dense one
    def penalty(function, x, kernel):
        return output_and_gradients(
            lambda x, kernel: output_and_gradients(function, x, kernel)[1], x, kernel
        )

    found = penalty(layer.convolution_op, x, kernel)
    expected = penalty(loop_over_groups(layer), x, kernel)
    assert_equal(found, expected, tolerance=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_give_the_same_within_their_precision(dtype):
    tolerance = {"float16": 1e-2, "bfloat16": 8e-2, "float64": 1e-12}[dtype]
    for configuration in CONFIGURATIONS[:3]:
        layer, x, kernel = built(configuration, (8, 9), (2, 8, 8))
        x, kernel = tf.cast(x, dtype), tf.cast(kernel, dtype)
        found = output_and_gradients(layer.convolution_op, x, kernel)
        assert {tensor.dtype for tensor in found} == {tf.as_dtype(dtype)}
        exact = output_and_gradients(
            loop_over_groups(layer), tf.cast(x, "float64"), tf.cast(kernel, "float64")
        )
        assert_equal([tf.cast(t, "float64") for t in found], exact, tolerance)


def of_layer(layer, x, training=True):
    """Output and gradients of a layer that is called."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        total = tf.reduce_sum(tf.sin(0.3 * y))
    return [y, *tape.gradient(total, [x, *(v.value for v in layer.variables)])]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "strides": 2, "use_bias": False},
        {"padding": "valid", "strides": (3, 1), "activation": "relu"},
        {"groups": 2},
        {"kernel_size": 3, "padding": "same", "strides": 2},
        pytest.param(
            {"data_format": "channels_first", "bias_initializer": "ones"},
            marks=pytest.mark.skipif(
                not has_onednn(), reason="TensorFlow has no such kernel"
            ),
        ),
    ],
    ids=str,
)
def test_a_dense_convolution_is_keras_own(options):
    options = {"filters": 6, "kernel_size": 1, "bias_initializer": "normal"} | options
    pair = [kind(**options) for kind in (Conv2D, keras.layers.Conv2D)]
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 8, 11, 4)), "float32")
    if options.get("data_format"):
        x = tf.transpose(x, (0, 3, 1, 2))
    for layer in pair:
        layer.build(x.shape)
    pair[0].set_weights(pair[1].get_weights())
    expected = of_layer(pair[1], x)
    assert_equal(of_layer(pair[0], x), expected)
    assert_equal(of_layer(pair[0], x, training=False), expected)
    compiled = tf.function(of_layer, jit_compile=True)
    assert_equal(compiled(pair[0], x), expected)
    assert pair[0].get_config() | {"name": ""} == pair[1].get_config() | {"name": ""}


@pytest.mark.tensorflow
def test_a_dense_convolution_of_1x1_stays_one_in_exports():
    layer = Conv2D(6, 1)
    layer.build((None, None, None, 4))

    def operations(**options):
        function = tf.function(functools.partial(layer, **options))
        graph = function.get_concrete_function(tf.TensorSpec((None, 8, 8, 4))).graph
        return {operation.type for operation in graph.get_operations()}

    assert "Conv2D" in operations()
    assert "Conv2D" in operations(training=False)
    assert ("MatMul" in operations(training=True)) != on_accelerator()


def test_weights_and_configuration_are_those_of_conv2d():
    options = {"filters": 6, "kernel_size": 3, "groups": 2, "name": "conv"}
    ours, keras_own = GroupedConv2D(**options), keras.layers.Conv2D(**options)
    assert ours.get_config() == keras_own.get_config()
    x = np.random.default_rng(0).normal(size=(2, 8, 9, 4)).astype("float32")
    keras_own.build(x.shape)
    ours.build(x.shape)
    ours.set_weights(keras_own.get_weights())
    assert_equal([ours(x)], [keras_own(x)])
    assert ours.compute_output_shape(x.shape) == ours(x).shape


@pytest.mark.tensorflow
def test_no_call_into_xla_is_left_in_a_graph():
    layer, x, kernel = built(CONFIGURATIONS[0], (8, 9), (2, 4, 6))
    graph = tf.function(layer.convolution_op).get_concrete_function(x, kernel).graph
    assert {"Conv2D"} <= {operation.type for operation in graph.get_operations()}
    assert not [o for o in graph.get_operations() if "PartitionedCall" in o.type]
    assert b"_XlaMustCompile" not in graph.as_graph_def().SerializeToString()


def padded_and_convolved():
    """Twice a padding and what needs it, as in the stem and at a stage's beginning."""
    inputs = keras.Input((None, None, 8))
    x = keras.layers.ZeroPadding2D(1)(keras.ops.relu(inputs))
    x = MaxPooling2D(3, strides=2)(x)
    x = keras.layers.ZeroPadding2D(1)(x)
    return keras.Model(inputs, GroupedConv2D(16, 3, strides=2, groups=4)(x))


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_pads_again_in_the_backward_pass_and_gives_the_same(jit_compile):
    model = padded_and_convolved()
    images = tf.random.stateless_normal((2, 11, 14, 8), seed=(0, 0))

    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(tf.sin(model(images, training=True)))
        return tape.gradient(total, [images, *model.trainable_weights])

    found = tf.function(gradients, jit_compile=jit_compile)(images)
    assert_equal(found, gradients(images))  # eagerly there is no graph to look into


@pytest.mark.tensorflow
def test_training_keeps_no_padded_copy(monkeypatch):
    """ReLU's gradient keeps the maps before the padding anyway."""
    # The graph is looked into, not run: that of fast kernels on any machine.
    monkeypatch.setattr("resnext_keras.models.layers.has_fast_kernels", lambda: True)
    model = padded_and_convolved()

    @tf.function(input_signature=[tf.TensorSpec((2, 11, 14, 8))])
    def gradients(images):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.sin(model(images, training=True)))
        return tape.gradient(total, model.trainable_weights[0])

    def takers(tensor):
        for op in tensor.consumers():
            if op.type in ("Identity", "IdentityN", "EnsureShape"):
                yield from takers(
                    op.outputs[[t.ref() for t in op.inputs].index(tensor.ref())]
                )
            else:
                yield op.type

    graph = gradients.get_concrete_function().graph
    pads = [op for op in graph.get_operations() if op.type == "Pad"]
    forward = [op for op in pads if not op.control_inputs]
    assert len(forward) == 2
    assert len(pads) > 2
    for op in forward:
        assert set(takers(op.outputs[0])) <= {"Conv2D", "MaxPool", "Shape"}

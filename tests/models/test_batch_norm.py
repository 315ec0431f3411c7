"""BatchNormalization is Keras' layer, but for speed and torch's moving variance."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import dtype_policy
from keras.ops import convert_to_numpy

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.models import batch_norm
from resnext_keras.models.batch_norm import BatchNormalization

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")

KERAS = keras.layers.BatchNormalization

SHAPE = (4, 5, 7, 16)
# Options of the layer, and the shape of the batch.
CONFIGURATIONS = [
    ({}, SHAPE),
    ({}, (1, 3, 3, 8)),
    ({}, (2, 1, 1, 4)),
    ({"momentum": 0.9, "epsilon": 1e-5}, SHAPE),
    ({"axis": 3, "gamma_initializer": "random_normal"}, SHAPE),
    ({"axis": 1}, SHAPE),
    ({"axis": 2}, SHAPE),
    ({"scale": False}, SHAPE),
    ({"center": False}, SHAPE),
    ({"gamma_regularizer": "l2", "beta_constraint": "non_neg"}, SHAPE),
    ({"dtype": "float64"}, SHAPE),
]


@pytest.fixture(params=[True, False], ids=["fast kernels", "slow kernels"])
def kernels(request, monkeypatch):
    """Both ways to train, whichever is the faster one here."""
    monkeypatch.setattr(batch_norm, "has_fast_kernels", lambda: request.param)
    if not request.param:
        monkeypatch.setattr(batch_norm, "on_accelerator", lambda: False)
    return request.param


def twins(options, shape, seed=0):
    """This layer and Keras' with the same random weights."""
    rng = np.random.default_rng(seed)
    pair = [kind(**options) for kind in (BatchNormalization, KERAS)]
    for layer in pair:
        layer.build(shape)
    values = [rng.uniform(0.5, 2, w.shape) for w in pair[0].weights]
    for layer in pair:
        layer.set_weights(values)
    return pair


def trained(layer, x):
    """Output, gradients and moving statistics of one training batch."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        uneven = tf.sin(tf.range(tf.size(y), dtype=tf.float32))
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * tf.reshape(uneven, y.shape))
    sources = [x, *(v.value for v in layer.trainable_variables)]
    gradients = tape.gradient(loss, sources)
    return [y, *gradients, *(v.value for v in layer.non_trainable_variables)]


def trained_as_in_torch(layer, x):
    """Of Keras' layer; its moving variance then counts the unbiased variance."""
    kept = layer.moving_variance.numpy() * layer.momentum
    *results, variance = trained(layer, x)
    count = x.shape.num_elements() / x.shape[layer.axis]
    return [*results, kept + (variance - kept) * count / (count - 1)]


@pytest.mark.tensorflow
@pytest.mark.parametrize(("options", "shape"), CONFIGURATIONS, ids=str)
def test_a_training_batch_gives_what_keras_gives(options, shape, kernels):
    dtype = options.get("dtype", "float32")
    x = tf.constant(np.random.default_rng(1).normal(3, 2, shape), dtype)
    ours, theirs = twins(options, shape)
    both = trained(ours, x), trained_as_in_torch(theirs, x)
    for found, expected in zip(*both, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(4, 6, 5, 16), (2, 1, 1, 16)])
def test_moving_statistics_are_those_of_torch(shape, kernels):
    torch = pytest.importorskip("torch")
    ours, _ = twins({"momentum": 0.9, "epsilon": 1e-5}, shape)
    theirs = torch.nn.BatchNorm2d(shape[-1])
    weights = ("weight", "bias", "running_mean", "running_var")
    values = map(torch.tensor, ours.get_weights())
    theirs.load_state_dict(dict(zip(weights, values, strict=True)), strict=False)
    rng = np.random.default_rng(1)
    for _ in range(3):
        x = rng.normal(3, 2, shape).astype("float32")
        ours(x, training=True)
        theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(ours.moving_mean, theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.running_var, rtol=1e-5)


@pytest.mark.skipif(
    keras.config.backend() == "torch",
    reason="Keras' layer there takes the difference of two large numbers",
)
def test_a_large_mean_does_not_spoil_the_variance(kernels):
    x = np.random.default_rng(0).normal(1000, 0.5, (8, 9, 9, 16)).astype("float32")
    layer = BatchNormalization(momentum=0.0)
    y = layer(x, training=True)
    exact = x.astype("float64")
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-3)
    normalised = (exact - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(convert_to_numpy(y), normalised, atol=1e-2)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_statistics_of_half_precision_maps_are_computed_in_single(policy, kernels):
    x = np.random.default_rng(0).normal(300, 30, (8, 16, 16, 8)).astype("float32")
    with dtype_policy(policy):
        layer = BatchNormalization(momentum=0.0)
    half = keras.ops.cast(x, layer.compute_dtype)
    y = layer(half, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    exact = convert_to_numpy(half).astype("float64")
    np.testing.assert_allclose(layer.moving_mean, exact.mean((0, 1, 2)), rtol=1e-4)
    variance = exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-3)


def differentiated(layer, x, training):
    """Output, its gradients, and a second derivative."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
        gradients = inner.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        steepness = tf.reduce_sum(tf.cast(gradients[0], tf.float32) ** 2)
    return [y, *gradients, outer.gradient(steepness, x)]


HALVES = {"mixed_float16": 2**-9, "mixed_bfloat16": 2**-7}


@pytest.mark.tensorflow
@pytest.mark.parametrize("kernels", [False], indirect=True, ids=["slow kernels"])
@pytest.mark.parametrize(
    ("options", "jit_compile"),
    [({}, True), ({}, False), ({"epsilon": 1e-7}, False), ({"axis": 1}, False)]
    + [({"dtype": policy}, False) for policy in HALVES],
    ids=str,
)
def test_in_prediction_it_gives_what_keras_gives(kernels, options, jit_compile):
    shape = (2, 4, 5, 8)
    ours, theirs = twins(options, shape)
    x = tf.constant(np.random.default_rng(0).normal(size=shape), ours.compute_dtype)
    function = tf.function(differentiated, jit_compile=jit_compile)
    results = [function(layer, x, training=False) for layer in (ours, theirs)]
    tolerance = HALVES.get(options.get("dtype"), 2e-6)
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        found, expected = (tf.cast(y, tf.float32).numpy() for y in (found, expected))
        largest = np.abs(expected).max()
        assert 0 < largest < np.inf
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)
    for found, expected in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(found, expected)  # moving statistics too


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"renorm": True}], ids=["mask", "renorm"])
def test_with_a_mask_or_renorm_it_is_keras_layer(options, training):
    if not options.keys() <= inspect.signature(KERAS).parameters.keys():
        pytest.skip("BatchNormalization has renorm since Keras 3.14")
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, SHAPE).astype("float32")
    mask = None if options else rng.random(SHAPE[:3]) < 0.5
    ours, theirs = twins(options, SHAPE)
    found, expected = (
        convert_to_numpy(layer(x, training=training, mask=mask))
        for layer in (ours, theirs)
    )
    np.testing.assert_array_equal(found, expected)
    for found, expected in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(*map(convert_to_numpy, (found, expected)))


def test_moving_statistics_in_half_precision_average_large_batches():
    """The number of values is above 65504, the largest in half precision."""
    x = np.random.default_rng(0).normal(3, 2, (8, 112, 112, 2)).astype("float16")
    layer = BatchNormalization(momentum=0.0, dtype="float16")
    layer(x, training=True)
    variance = x.astype("float64").var((0, 1, 2))
    np.testing.assert_allclose(
        convert_to_numpy(layer.moving_variance), variance, rtol=2e-3
    )


def test_when_frozen_it_is_keras_layer(kernels):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype("float32")
    ours, theirs = twins({}, x.shape)
    ours.trainable = theirs.trainable = False
    found, expected = (
        convert_to_numpy(layer(x, training=True)) for layer in (ours, theirs)
    )
    np.testing.assert_array_equal(found, expected)
    for found, expected in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def network():
    model = ResNeXt(TINY, weights=None, classes=5)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, KERAS):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    return model


@pytest.mark.tensorflow
def test_a_network_predicts_as_with_keras_layer(kernels, network, monkeypatch):
    """With convolutions and ReLUs beside it, with which TensorFlow fuses it."""
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    found = tf.function(lambda x: network(x, training=False))(x)
    monkeypatch.setattr(BatchNormalization, "call", KERAS.call)
    expected = tf.function(lambda x: network(x, training=False))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.tensorflow
def test_the_fused_kernel_is_taken_where_it_is_faster(kernels, network, monkeypatch):
    """In prediction, and in training where kernels are fast; never in an export."""

    def count(training):
        function = tf.function(lambda x: network(x, training=training))
        graph = function.get_concrete_function(tf.TensorSpec((None, 32, 32, 3))).graph
        return [op.type for op in graph.get_operations()].count("FusedBatchNormV3")

    norms = 1 + 2 * 4  # of `TINY`
    assert count(training=True) == (norms if kernels else 0)
    assert count(training=False) == norms
    # Exports are the same on any processor.
    monkeypatch.setattr(batch_norm, "is_exporting", lambda: True)
    assert count(training=False) == 0


@pytest.mark.tensorflow
def test_in_training_the_kernel_is_fused_with_the_relu(kernels, network):
    """TensorFlow fuses them where the ReLU takes the very output of the kernel."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def train(x):
        return network(x, training=True)

    operations = train.get_concrete_function().graph.get_operations()
    sources = [op.inputs[0].op.type for op in operations if op.type == "Relu"]
    after_norms = 1 + 2 * 2  # of `TINY`; the last one of each block takes a sum
    assert sources.count("FusedBatchNormV3") == (after_norms if kernels else 0)


@pytest.mark.tensorflow
def test_it_compiles_with_xla():
    x = tf.constant(np.random.default_rng(1).normal(3, 2, (4, 5, 7, 16)), "float32")
    ours, theirs = twins({}, x.shape)
    found = tf.function(trained, jit_compile=True)(ours, x)
    for one, other in zip(found, trained_as_in_torch(theirs, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_are_those_of_keras(kernels, training):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), tf.float32)
    results = [differentiated(layer, x, training) for layer in twins({}, x.shape)]
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

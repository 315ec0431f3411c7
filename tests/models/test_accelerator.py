"""Where a GPU or TPU is visible, graphs contain TensorFlow's own kernels alone.

No test runs on one: they look into the graphs, with a device added to the list.
"""

import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import dtype_policy
from keras import layers
from weight_files import EVERY_OPTION

from resnext_keras import ResNeXt, ResNeXtSpec, fold_batch_norm
from resnext_keras.models.batch_norm import BatchNormalization
from resnext_keras.models.runtime import (
    has_fast_bfloat16,
    has_onednn,
    without_empty_batches,
)

pytestmark = pytest.mark.tensorflow

DEPTHS, CARDINALITY = (1, 1), 4
BLOCKS = sum(DEPTHS)
PLAIN = ResNeXtSpec("plain", DEPTHS, CARDINALITY, 4)
EVERYTHING = ResNeXtSpec("all", DEPTHS, CARDINALITY, 4, **EVERY_OPTION)
# What takes the place of slow kernels of a CPU, and calls of functions or into XLA.
DETOURS = {"Split", "SplitV", "Concat", "ConcatV2", "Transpose", "Einsum"}
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "XlaLaunch"}


@pytest.fixture
def visible(monkeypatch):
    """Makes a device visible beside the CPU."""

    def device(kind):
        devices = [
            tf.config.LogicalDevice(f"/device:{kind}:0", kind) for kind in ("CPU", kind)
        ]
        monkeypatch.setattr(
            tf.config,
            "list_logical_devices",
            lambda wanted=None: [d for d in devices if wanted in (None, d.device_type)],
        )

    return device


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 32, 32, 3)).astype("float32")
    return tf.constant(images), tf.constant(rng.integers(0, 5, 8))


def compiled(spec=PLAIN, **options):
    """The same network each time, ready to be trained."""
    keras.utils.set_random_seed(0)
    model = ResNeXt(spec, weights=None, input_shape=(32, 32, 3), classes=5)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        **options,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def step_of(model, **options):
    """A whole training step: forward, loss, gradients, update, statistics."""
    return tf.function(lambda *batch: model.train_step(batch), **options)


def operations(function, *arguments):
    """The operations of a graph, by type."""
    found = collections.defaultdict(list)
    for operation in function.get_concrete_function(*arguments).graph.get_operations():
        found[operation.type].append(operation)
    return found


def grouped(convolutions, kernels):
    """Those of some operations whose kernel has fewer channels than the images."""
    return [
        operation
        for operation, kernel in zip(convolutions, kernels, strict=True)
        if operation.inputs[0].shape[-1] == CARDINALITY * kernel.shape[2]
    ]


@pytest.mark.parametrize(("kind", "spec"), [("GPU", PLAIN), ("TPU", EVERYTHING)])
def test_the_graph_has_one_grouped_convolution_a_block(visible, batch, kind, spec):
    visible(kind)
    model = compiled(spec, jit_compile=False)
    count = sum(isinstance(layer, layers.Conv2D) for layer in model.layers)
    for found in (
        operations(tf.function(model), batch[0]),
        operations(step_of(model), *batch),
    ):
        forward = found["Conv2D"]
        assert len(forward) == count
        kernels = [operation.inputs[1] for operation in forward]
        assert len(grouped(forward, kernels)) == BLOCKS
        assert not (DETOURS | CALLS) & found.keys()
    for_kernels, for_images = (
        found["Conv2DBackpropFilter"],
        found["Conv2DBackpropInput"],
    )
    assert len(for_kernels) == len(for_images) == count
    kernels = [operation.outputs[0] for operation in for_kernels]
    assert len(grouped(for_kernels, kernels)) == BLOCKS


@pytest.mark.parametrize("kind", ["CPU", "GPU"])
def test_only_onednn_may_fuse_a_grouped_convolution_with_its_bias(visible, batch, kind):
    """Of TensorFlow's fused kernels only those of oneDNN support groups."""
    visible(kind)
    network = fold_batch_norm(compiled())
    with without_empty_batches():  # as in `Predictor`
        found = operations(tf.function(network), batch[0])["Conv2D"]
    kernels = [operation.inputs[1] for operation in found]
    convolutions = grouped(found, kernels)
    # Without oneDNN a CPU has dense convolutions in their place.
    assert len(convolutions) == (BLOCKS if kind == "GPU" or has_onednn() else 0)
    for convolution in convolutions:
        users = {operation.type for operation in convolution.outputs[0].consumers()}
        assert ("EnsureShape" in users) == (kind == "GPU")


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_one_kernel_in_the_layout_of_the_images(visible, training):
    visible("GPU")
    norm = BatchNormalization(axis=1)
    norm.build((None, 3, 4, 4))
    function = tf.function(lambda images: norm(images, training=training))
    images = tf.TensorSpec((None, 3, 4, 4))
    (kernel,) = operations(function, images)["FusedBatchNormV3"]
    assert kernel.get_attr("data_format") == b"NCHW"
    assert kernel.get_attr("is_training") == training


def test_a_tpu_has_fast_bfloat16(visible):
    visible("TPU")
    assert has_fast_bfloat16()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_on_a_cpu_alone_only_slow_kernels_are_avoided(visible, batch, jit_compile):
    visible("CPU")
    step = step_of(compiled(jit_compile=False), jit_compile=jit_compile)
    avoided = bool(DETOURS & operations(step, *batch).keys())
    assert avoided == (jit_compile or not has_onednn())


@pytest.mark.parametrize(
    ("kind", "policy"), [("CPU", "float32"), ("TPU", "mixed_bfloat16")]
)
def test_a_whole_training_step_is_one_program_of_static_shapes(
    visible, batch, kind, policy
):
    visible(kind)
    with dtype_policy(policy):
        step = step_of(compiled(), jit_compile=True)
    program = step.experimental_get_compiler_ir(*batch)(stage="hlo")
    assert not re.search(r"\[[^]]*<=", program)  # a length that varies
    assert not re.search(r"\b(custom-call|infeed|outfeed|send|recv)\(", program)
    if kind != "CPU":
        counts = collections.Counter(
            re.findall(
                rf"convolution\(.*(feature|batch)_group_count={CARDINALITY}\b", program
            )
        )
        # Forward and for the images; for the kernels.
        assert counts == {"feature": 2 * BLOCKS, "batch": BLOCKS}


@pytest.mark.parametrize(
    "jit_compile",
    [
        pytest.param(True, marks=pytest.mark.long),
        pytest.param(
            False,
            marks=pytest.mark.skipif(
                not has_onednn(), reason="on a CPU only oneDNN has these kernels"
            ),
        ),
    ],
)
def test_training_gives_what_it_gives_on_a_cpu(visible, batch, jit_compile):
    images, labels = map(np.asarray, batch)

    def losses(**options):
        model = compiled(**options)
        return [float(model.train_on_batch(images, labels)) for _ in range(3)]

    expected = losses(run_eagerly=True)
    visible("GPU")
    assert losses(jit_compile=jit_compile) == pytest.approx(expected, rel=1e-3)


def test_statistics_softmax_and_loss_are_in_single_precision(visible, batch):
    visible("GPU")
    with dtype_policy("mixed_float16"):
        model = compiled(jit_compile=False)
    assert {variable.dtype for variable in model.variables} <= {"float32", "int32"}
    graph = operations(step_of(model), *batch)

    def types(kind, *outputs):
        return [
            operation.outputs[output].dtype.name
            for operation in graph[kind]
            for output in outputs or (0,)
        ]

    norms = sum(isinstance(x, layers.BatchNormalization) for x in model.layers)
    assert types("FusedBatchNormV3") == ["float16"] * norms
    # Mean and variance of the batch; gradients for scale and offset.
    assert types("FusedBatchNormV3", 1, 2) == ["float32"] * 2 * norms
    assert types("FusedBatchNormGradV3", 1, 2) == ["float32"] * 2 * norms
    assert types("Softmax") == ["float32"]
    assert types("SparseSoftmaxCrossEntropyWithLogits") == ["float32"]
    for kind in ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"):
        assert set(types(kind)) == {"float16"}

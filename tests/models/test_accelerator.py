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

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.models.runtime import has_onednn

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


@pytest.fixture(scope="module")
def cpu_model(batch):
    """A network trained for three steps on the CPU; its scores before, its losses."""
    images, labels = map(np.asarray, batch)
    model = compiled(jit_compile=False)
    scores = np.asarray(model(images))
    losses = [float(model.train_on_batch(images, labels)) for _ in range(3)]
    return model, scores, losses


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
def test_training_gives_what_it_gives_on_a_cpu(visible, batch, cpu_model, jit_compile):
    visible("GPU")
    model = compiled(jit_compile=jit_compile)
    images, labels = map(np.asarray, batch)
    losses = [float(model.train_on_batch(images, labels)) for _ in range(3)]
    assert losses == pytest.approx(cpu_model[2], rel=1e-3)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_statistics_softmax_and_loss_are_in_single_precision(visible, batch, half):
    visible("GPU")
    with dtype_policy(f"mixed_{half}"):
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
    assert types("FusedBatchNormV3") == [half] * norms
    # Mean and variance of the batch; gradients for scale and offset.
    assert types("FusedBatchNormV3", 1, 2) == ["float32"] * 2 * norms
    assert types("FusedBatchNormGradV3", 1, 2) == ["float32"] * 2 * norms
    assert types("Softmax") == ["float32"]
    assert types("SparseSoftmaxCrossEntropyWithLogits") == ["float32"]
    for kind in ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"):
        assert set(types(kind)) == {half}


# Most processors emulate float16.
@pytest.mark.parametrize(
    "half", ["bfloat16", pytest.param("float16", marks=pytest.mark.long)]
)
def test_mixed_precision_gives_the_numbers_of_float32(
    batch, cpu_model, relative_error, half
):
    images, labels = map(np.asarray, batch)
    exact, expected, _ = cpu_model
    with dtype_policy(f"mixed_{half}"):
        mixed = compiled(jit_compile=False)
        features = ResNeXt(PLAIN, include_top=False, weights=None, pooling="avg")
    assert features.output.dtype == half
    scores = np.asarray(mixed(images))
    assert scores.dtype == "float32"
    # In half precision the sum of five scores would be off by some thousandths.
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)
    assert relative_error(scores, expected) <= 2e-2
    for _ in range(3):
        mixed.train_on_batch(images, labels)
    for one, other in zip(mixed.layers, exact.layers, strict=True):
        if isinstance(one, layers.BatchNormalization):
            for name in ("moving_mean", "moving_variance"):
                found, expected = getattr(one, name), getattr(other, name)
                assert relative_error(found, expected) <= 2e-2, f"{one.name}/{name}"

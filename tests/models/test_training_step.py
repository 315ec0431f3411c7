"""A training step gives the same eagerly, compiled and in mixed precision."""

import keras
import numpy as np
import pytest
from helpers import COMPILED, dtype_policy
from weight_files import EVERY_OPTION

from resnext_keras import ResNeXt, ResNeXtSpec

TINY = ResNeXtSpec("tiny", (1,), 4, 4, stem="cifar")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 32, 32, 3)).astype("float32"), rng.integers(0, 5, 8)


@pytest.fixture(scope="module")
def start():
    """The weights that every run starts from."""
    keras.utils.set_random_seed(0)
    return ResNeXt(TINY, weights=None, classes=5).get_weights()


def trained(batch, start, policy="float32", **options):
    """A network after three steps of SGD, and their losses."""
    with dtype_policy(policy):
        model = ResNeXt(TINY, weights=None, classes=5)
    model.set_weights(start)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        **options,
    )
    return model, [float(model.train_on_batch(*batch)) for _ in range(3)]


@pytest.fixture(scope="module")
def expected(batch, start):
    """The network and the losses in float32, run eagerly."""
    return trained(batch, start, run_eagerly=True)


@pytest.mark.parametrize("jit_compile", ["auto", COMPILED])  # "auto" is False on a CPU
def test_compiled_training_is_eager_training(batch, start, expected, jit_compile):
    _, losses = trained(batch, start, jit_compile=jit_compile)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-3)
    assert losses[-1] < losses[0]


# To compile it again takes long; most processors emulate float16.
COMPILED_TOO = pytest.param(True, marks=[*COMPILED.marks, pytest.mark.long])
HALF = pytest.param("mixed_float16", 1e-3, marks=pytest.mark.long)


@pytest.mark.parametrize("jit_compile", ["auto", COMPILED_TOO])
@pytest.mark.parametrize(("policy", "precision"), [("mixed_bfloat16", 3e-3), HALF])
def test_mixed_precision_is_float32_within_its_precision(
    batch, start, expected, relative_error, policy, precision, jit_compile
):
    model, losses = trained(batch, start, policy=policy, jit_compile=jit_compile)
    np.testing.assert_allclose(losses, expected[1], rtol=precision)
    for mine, other in zip(model.layers, expected[0].layers, strict=True):
        if isinstance(mine, keras.layers.BatchNormalization):
            for name in ("moving_mean", "moving_variance"):
                error = relative_error(getattr(mine, name), getattr(other, name))
                assert error <= 2e-2, f"{mine.name}/{name}"
    scores = keras.ops.convert_to_numpy(model(batch[0]))
    assert scores.dtype == "float32"
    # In half precision the sum of five scores would be off by some thousandths.
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)
    features = keras.Model(model.input, model.get_layer("conv2_block1_out").output)
    assert features.output.dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["plain", "every option"])
def test_every_parameter_gets_a_gradient(batch, options):
    spec = ResNeXtSpec("two_stages", (1, 1), 4, 4, **options)
    model = ResNeXt(spec, weights=None, input_shape=(32, 32, 3), classes=5)
    start = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.train_on_batch(*batch)
    for variable, before in zip(model.weights, start, strict=True):
        assert np.abs(np.asarray(variable) - before).max() > 0, variable.path

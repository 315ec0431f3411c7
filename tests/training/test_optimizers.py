"""The optimizer steps as torch's does, at the rates of torchvision's script."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
from weight_files import SMALLEST

from resnext_keras import ResNeXt
from resnext_keras.training.optimizers import NOT_DECAYED, SGD, build_optimizer
from resnext_keras.training.optimizers import schedule as rate_schedule
from resnext_keras.training.recipes import RECIPES, Recipe, adjusted, get_recipe

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

STEPS = 10

# The variables of a linear layer and a batch norm.
SHAPES = {"kernel": (4, 3), "bias": (4,), "gamma": (4,), "beta": (4,)}

PLAIN = Recipe("", "", epochs=1, batch_size=8, learning_rate=0.1, momentum=0.0)

WAYS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    {"weight_decay": 0.1},
]


def drawn(rng):
    """Numbers for each variable."""
    return {n: rng.normal(size=s).astype("float32") for n, s in SHAPES.items()}


@pytest.fixture(scope="module")
def start():
    return drawn(np.random.default_rng(0))


@pytest.fixture(scope="module")
def gradients():
    rng = np.random.default_rng(1)
    return [drawn(rng) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def rates():
    """Rises and falls, by up to a hundred times from one step to the next."""
    return 10.0 ** np.random.default_rng(2).uniform(-3, -1, STEPS)


def walk(optimizer, start, gradients, rates):
    """The variables after each step."""
    variables = [keras.Variable(value, name=name) for name, value in start.items()]
    optimizer.build(variables)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = float(rate)
        tensors = [keras.ops.convert_to_tensor(gradient[name]) for name in start]
        optimizer.apply(tensors, variables)
        yield {v.name: keras.ops.convert_to_numpy(v.value).copy() for v in variables}


def assert_same_walk(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) == STEPS
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name in SHAPES:
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=f"{step} {name}"
            )


def torch_walk(start, gradients, rates, *, groups=None, clip=None, **options):
    """The same by `torch.optim.SGD`; `groups` is a function that splits parameters."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    parameters = dict(zip(SHAPES, module.parameters(), strict=True))
    for name, parameter in parameters.items():
        parameter.data = torch.tensor(start[name])
    parameter_groups = groups(module) if groups else module.parameters()
    optimizer = torch.optim.SGD(parameter_groups, 1.0, **options)
    for gradient, rate in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        yield {n: p.detach().numpy().copy() for n, p in parameters.items()}


# Steps


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_steps_are_those_that_torch_documents(start, gradients, rates, options):
    momentum, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    weights, buffers = dict(start), dict.fromkeys(SHAPES, 0.0)
    expected = []
    for gradient, rate in zip(gradients, rates, strict=True):
        for name in SHAPES:
            step = gradient[name] + decay * weights[name]
            buffers[name] = momentum * buffers[name] + step
            ahead = step + momentum * buffers[name]
            step = ahead if options.get("nesterov") else buffers[name]
            weights[name] = weights[name] - rate * step
        expected.append(dict(weights))
    assert_same_walk(walk(SGD(**options), start, gradients, rates), expected)


def without_batch_norm(module):
    """The groups that torchvision's train.py makes of --norm-weight-decay 0.0."""
    split = pytest.importorskip("torchvision.ops._utils").split_normalization_params
    norm, others = split(module)
    return [{"params": norm, "weight_decay": 0.0}, {"params": others}]


@pytest.mark.parity
@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("extra", ["", "clip", "norm_weight_decay"])
def test_steps_are_those_of_torch(start, gradients, rates, options, extra):
    theirs, clipnorm = {}, None
    if extra == "clip":
        theirs, clipnorm = {"clip": 1.0}, 1.0
    elif extra == "norm_weight_decay":
        theirs = {"groups": without_batch_norm}
    ours = SGD(**options, global_clipnorm=clipnorm)
    if extra == "norm_weight_decay":
        ours.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    expected = torch_walk(start, gradients, rates, **theirs, **options)
    assert_same_walk(walk(ours, start, gradients, rates), expected)


# In a compiled model


def built(recipe, **options):
    return build_optimizer(recipe, **{"steps_per_epoch": STEPS} | options)


def compiled(optimizer, model):
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("norm_weight_decay", [True, False])
def test_weights_decay_by_rate_and_decay_alone_without_a_gradient(norm_weight_decay):
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((3,)), *layers])
    decay = 0.5
    recipe = dataclasses.replace(
        PLAIN, weight_decay=decay, norm_weight_decay=norm_weight_decay
    )
    model.compile(built(recipe), lambda truth, logits: 0.0 * keras.ops.sum(logits))
    for variable in model.trainable_variables:
        variable.assign(variable + 1.0)  # no variable is 0
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.train_on_batch(np.ones((2, 3), "float32"), np.ones((2, 4), "float32"))
    assert {variable.name for variable in model.trainable_variables} == SHAPES.keys()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        decays = norm_weight_decay or variable.name not in ("gamma", "beta")
        expected = value * (1 - recipe.learning_rate * decay * decays)
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


def test_parts_of_a_batch_are_the_batch():
    """Their gradients' mean, one step, and the rate of that step."""
    rng = np.random.default_rng(0)
    count, parts, size = 6, 4, 3
    inputs = rng.normal(size=(count, parts * size, 7)).astype("float32")
    truths = np.eye(5, dtype="float32")[rng.integers(0, 5, (count, parts * size))]
    recipe = dataclasses.replace(
        PLAIN, batch_size=parts * size, momentum=0.9, weight_decay=0.01, warmup=0.4
    )

    def run(optimizer, pieces):
        keras.utils.set_random_seed(0)
        head = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5)])
        compiled(optimizer, head)
        for x, y in zip(inputs, truths, strict=True):
            for piece in np.split(np.arange(len(x)), pieces):
                head.train_on_batch(x[piece], y[piece])
            yield [value.copy() for value in head.get_weights()]

    whole = run(built(recipe, steps_per_epoch=count), 1)
    in_parts = built(recipe, steps_per_epoch=count * parts, accumulate=parts)
    assert in_parts.gradient_accumulation_steps == parts
    for found, expected in zip(run(in_parts, parts), whole, strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
def test_a_step_begins_with_no_copies_of_the_weights():
    """TensorFlow runs all that waits for no gradient at once, and keeps it."""
    optimizer = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer.build([variable])

    @tf.function(input_signature=[tf.TensorSpec((3,))])
    def step(gradient):
        optimizer.apply([gradient], [variable])

    waiting = set()
    for op in step.get_concrete_function().graph.get_operations():  # each after its own
        before = {tensor.op for tensor in op.inputs} | set(op.control_inputs)
        if op.name == "gradient" or before & waiting:
            waiting.add(op)
        elif op.type != "ReadVariableOp":  # which copies nothing
            assert all(tensor.shape != (3,) for tensor in op.outputs), op.name
    assert len(waiting) > 2


CONTINUE = """
import sys
import numpy as np, keras, resnext_keras
model = keras.models.load_model(sys.argv[1])
model.run_eagerly = True  # is faster for two steps
with np.load(sys.argv[2]) as batch:
    for _ in range(2):
        model.train_on_batch(batch["x"], batch["y"])
np.savez(sys.argv[3], *model.get_weights())
"""


def test_a_process_that_only_imports_the_package_continues_a_saved_model(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 32, 32, 3)).astype("float32")
    labels = np.eye(5, dtype="float32")[rng.integers(0, 5, 8)]
    recipe = adjusted(RECIPES["torchvision2"], epochs=1, batch_size=8, weight_decay=0.9)
    recipe = dataclasses.replace(recipe, learning_rate=0.1, nesterov=True)
    network = ResNeXt(SMALLEST, weights=None, classes=5, classifier_activation=None)
    model = compiled(built(recipe), network)
    model.run_eagerly = True
    model.train_on_batch(images, labels)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "batch.npz", x=images, y=labels)
    paths = [tmp_path / name for name in ("model.keras", "batch.npz", "after.npz")]
    subprocess.run([sys.executable, "-c", CONTINUE, *paths], check=True)
    for _ in range(2):
        model.train_on_batch(images, labels)
    with np.load(tmp_path / "after.npz") as after:
        pairs = zip(after.values(), model.get_weights(), strict=True)
        for weight, expected in pairs:
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


# Rates


def rates_of(recipe, updates, at):
    rate = rate_schedule(recipe, updates)
    return [float(rate(step)) for step in at]


def torch_schedule(optimizer, recipe, warmup):
    """The schedule of torchvision's references/classification/train.py."""
    from torch.optim import lr_scheduler

    if recipe.milestones:
        milestones = [round(share * recipe.epochs) for share in recipe.milestones]
        return lr_scheduler.MultiStepLR(optimizer, milestones)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs - warmup)
    if not warmup:
        return cosine
    rise = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, cosine], milestones=[warmup])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "warmup"),
    [("torchvision2", 5), ("torchvision2", 0), ("paper", 0), ("cifar", 0)],
)
def test_each_epoch_begins_at_the_rate_of_torchvision(name, warmup):
    torch = pytest.importorskip("torch")
    recipe = get_recipe(name)
    recipe = dataclasses.replace(recipe, warmup=warmup / recipe.epochs)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], recipe.learning_rate)
    scheduler, expected = torch_schedule(optimizer, recipe, warmup), []
    for _ in range(recipe.epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    steps = 1251  # of ImageNet's 1,281,167 images in batches of 1024
    at = [epoch * steps for epoch in range(recipe.epochs)]
    rates = rates_of(recipe, recipe.epochs * steps, at)
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)


RISE = 0.01 + 0.99 * np.arange(4) / 4  # from a hundredth of the highest rate
SCHEDULES = [
    ({"warmup": 0.25}, [*RISE, *(1 + np.cos(np.pi * np.arange(12) / 12)) / 2]),
    ({"milestones": (0.5, 0.75)}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    (
        {"milestones": (0.5, 0.75), "warmup": 0.25},
        [*RISE, *[1] * 4, *[0.1] * 4, *[0.01] * 4],
    ),
]


@pytest.mark.parametrize(("options", "expected"), SCHEDULES, ids=str)
def test_the_rate_rises_along_a_line_and_falls_along_a_cosine_or_in_steps(
    options, expected
):
    recipe = dataclasses.replace(PLAIN, learning_rate=2.0, **options)
    steps = range(len(expected))
    rates = rates_of(recipe, len(expected), steps)
    np.testing.assert_allclose(rates, 2 * np.array(expected), rtol=1e-5)
    saved = keras.saving.serialize_keras_object(rate_schedule(recipe, len(expected)))
    loaded = keras.saving.deserialize_keras_object(saved)
    assert [float(loaded(step)) for step in steps] == rates


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_a_run_of_a_few_steps_has_rates_too(updates):
    recipe = dataclasses.replace(PLAIN, learning_rate=1.0, warmup=0.95)
    assert 0 < rates_of(recipe, updates, [0])[0] <= 1
    recipe = dataclasses.replace(recipe, milestones=(0.3, 0.6, 0.9), warmup=0.0)
    assert rates_of(recipe, updates, [0])[0] == 1


def test_an_optimizer_has_the_numbers_of_its_recipe():
    recipe = get_recipe("torchvision2")
    optimizer = built(recipe, accumulate=2)
    for name in ("momentum", "nesterov", "weight_decay"):
        assert getattr(optimizer, name) == getattr(recipe, name)
    optimizer.build([])
    # At the start a hundredth of the highest.
    assert float(optimizer.learning_rate) == pytest.approx(0.01 * recipe.learning_rate)

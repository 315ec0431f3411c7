"""Small networks, and weights for them drawn from a seed, in two formats."""

import h5py
import numpy as np
from random_state import draw

import resnext_keras
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve

TINY = resnext_keras.ResNeXtSpec("tiny", (1, 1), 2, 4, stem="cifar")
CLASSES = 5

# The network whose state torch has written to tests/golden/torch_files.tar.xz.
SMALLEST = resnext_keras.ResNeXtSpec("smallest", (1,), 2, 4, stem="cifar")

# What a spec can have beyond the paper's network.
EVERY_OPTION = {
    "stem_filters": (8, 12, 16),
    "pooled_shortcut": True,
    "squeeze_excite": True,
    "anti_aliased": True,
}

# The network of tests/golden/keras_applications_4x4d.h5, with as many classes.
KERAS_APPLICATIONS = resnext_keras.ResNeXtSpec("keras_applications_4x4d", (2,), 4, 4)

TORCH_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def torch_name(name):
    """The name in a torchvision `state_dict` of a variable of ours."""
    layer, variable = name.split("/")
    if layer == "predictions":
        module = "fc"
    elif layer in ("conv1_conv", "conv1_bn"):
        module = {"conv1_conv": "conv1", "conv1_bn": "bn1"}[layer]
    else:
        stage, block, number, kind = layer.split("_")
        module = f"layer{int(stage[4:]) - 1}.{int(block[5:]) - 1}."
        module += f"{kind}{number}" if number != "0" else "downsample."
        module += {"0conv": "0", "0bn": "1"}.get(number + kind, "")
    return f"{module}.{TORCH_VARIABLES[variable]}"


def torch_state(spec=TINY, classes=CLASSES, channels=3):
    """What torchvision's `state_dict` of that network would hold, its counters too."""
    state = {}
    for name, shape in variable_shapes(spec, channels, classes).items():
        if len(shape) == 4:
            height, width, depth, filters = shape
            shape = (filters, depth, height, width)
        key = torch_name(name)
        state[key] = draw(key, shape[::-1] if len(shape) == 2 else shape)
        if key.endswith("running_var"):
            counter = key.replace("running_var", "num_batches_tracked")
            state[counter] = np.array(7, "int64")
    return state


def keras_values(spec=TINY, classes=CLASSES, channels=3):
    """The same numbers, by the names and in the layout of our variables."""
    state = torch_state(spec, classes, channels)
    values = {}
    for name in variable_shapes(spec, channels, classes):
        value = state[torch_name(name)]
        if value.ndim == 4:
            value = np.moveaxis(value, (2, 3, 1, 0), (0, 1, 2, 3))
        values[name] = value.T if value.ndim == 2 else value
    return values


def build(weights=None, spec=TINY, classes=CLASSES, channels=3, **options):
    """The network with these weights; a file with a classifier is the default."""
    return resnext_keras.ResNeXt(
        spec,
        weights=weights,
        classes=classes,
        input_shape=(32, 32, channels),
        **options,
    )


def read(path, spec=TINY, classes=CLASSES):
    """The numbers that a network gets from a file, without building the network."""
    with resolve(path, spec).open(variable_shapes(spec, 3, classes)) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def edited_copy(source, path, edit):
    """Copies an HDF5 file, and edits the copy; gives its path."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def without_counters(state):
    """A `state_dict` without batch norm's counters of batches."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def without_classifier(values):
    """The values of the variables before the classifier."""
    return {k: v for k, v in values.items() if not k.startswith("predictions/")}


def variables(model):
    """The variables of a network by name."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def numbers(model):
    """The values of a network's variables by name."""
    return {name: variable.numpy() for name, variable in variables(model).items()}


def drawn_model(**options):
    """A network with weights and batch statistics drawn from a seed."""
    model = build(**options)
    named = {k: v for k, v in options.items() if k in ("spec", "classes", "channels")}
    values = keras_values(**named)
    for name, variable in variables(model).items():
        variable.assign(values[name])
    return model


def assert_same(actual, expected):
    """Exactly equal, name by name."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

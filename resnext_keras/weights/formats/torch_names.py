"""Converts names and layouts between torch's `state_dict` and this package.

The names in torch are those of torchvision and timm.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.tensors import LazyTensor, WeightsError

# Prefixes from wrappers: torch's DataParallel and compile, and mmpretrain.
PREFIXES = re.compile(r"(module\.|_orig_mod\.|backbone\.|head\.(?=fc\.))*")

# The number of batches that torch's batch norm has seen; Keras has no such counter.
IGNORED = re.compile(r".*\.num_batches_tracked")

# Layers here and in torch, which counts stages from 1 and blocks from 0.
LAYERS = {
    "conv1_1_conv": "conv1.0",
    "conv1_1_bn": "conv1.1",
    "conv1_2_conv": "conv1.3",
    "conv1_2_bn": "conv1.4",
    "conv1_bn": "bn1",
    "conv{}_block{}_1_conv": "layer{}.{}.conv1",
    "conv{}_block{}_1_bn": "layer{}.{}.bn1",
    "conv{}_block{}_2_conv": "layer{}.{}.conv2",
    "conv{}_block{}_2_bn": "layer{}.{}.bn2",
    "conv{}_block{}_3_conv": "layer{}.{}.conv3",
    "conv{}_block{}_3_bn": "layer{}.{}.bn3",
    "conv{}_block{}_se_reduce": "layer{}.{}.se.fc1",
    "conv{}_block{}_se_expand": "layer{}.{}.se.fc2",
    "predictions": "fc",
}
# Torch numbers the layers of the stem and of the shortcut, so the numbers change if two
# convolutions (True in STEMS) or a pooling (True in SHORTCUTS) come first.
STEMS = {False: {"conv1_conv": "conv1"}, True: {"conv1_conv": "conv1.6"}}
SHORTCUTS = {
    False: {
        "conv{}_block{}_0_conv": "layer{}.{}.downsample.0",
        "conv{}_block{}_0_bn": "layer{}.{}.downsample.1",
    },
    True: {
        "conv{}_block{}_0_conv": "layer{}.{}.downsample.1",
        "conv{}_block{}_0_bn": "layer{}.{}.downsample.2",
    },
}

BN_VARIABLES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
VARIABLES = {"kernel": "weight", "bias": "bias"}

# Torch's kernels are (filters, channels of one group, height, width) and
# (outputs, inputs).
KERAS_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def keras_tensors(state: Mapping[str, LazyTensor], path: Path) -> dict[str, LazyTensor]:
    """Converts a `state_dict` to this package's names and Keras' layout.

    Returns the tensors by `"{layer}/{variable}"`, without the counters of batches.

    Raises:
        WeightsError: A name is not one of a ResNeXt, or two names are of the same
            variable.
    """
    keys = {key: PREFIXES.sub("", key, count=1) for key in state}
    layers = LAYERS | STEMS["conv1.6.weight" in keys.values()]
    layers |= SHORTCUTS[any(".downsample.2." in key for key in keys.values())]
    patterns = [
        (re.compile(_pattern(theirs, r"([1-9])", r"(0|[1-9][0-9]?)")), ours)
        for ours, theirs in layers.items()
    ]
    stored = {}
    for key, bare in keys.items():
        if IGNORED.fullmatch(bare):
            continue
        name = _keras_name(bare, patterns)
        if name is None:
            raise WeightsError(
                "Expected the state_dict of a torchvision or timm ResNeXt in "
                f"{path}; found a tensor {key!r:.100}."
            )
        if name in stored:
            raise WeightsError(f"Expected {name} once in {path}, found it twice.")
        stored[name] = _transposed(name, state[key], KERAS_AXES)
    return stored


def torch_tensors(
    tensors: Mapping[str, LazyTensor], spec: ResNeXtSpec
) -> dict[str, LazyTensor]:
    """Converts the tensors of a spec's network to torch's names and layout."""
    layers = LAYERS | STEMS[len(spec.stem_filters) > 1]
    layers |= SHORTCUTS[spec.pooled_shortcut]
    patterns = [
        (re.compile(_pattern(ours, "([0-9]+)", "([0-9]+)")), theirs)
        for ours, theirs in layers.items()
    ]
    return {
        _torch_name(name, patterns): _transposed(name, tensor, TORCH_AXES)
        for name, tensor in tensors.items()
    }


def _pattern(template: str, stage: str, block: str) -> str:
    """A regular expression for a layer's name, with groups for stage and block."""
    return re.escape(template).replace(r"\{\}", stage, 1).replace(r"\{\}", block)


def _keras_name(key: str, patterns) -> str | None:
    """`"conv3_block1_3_conv/kernel"` for `"layer2.0.conv3.weight"`."""
    layer_key, _, variable_key = key.rpartition(".")
    for pattern, ours in patterns:
        if match := pattern.fullmatch(layer_key):
            layer = ours.format(*(int(number) + 1 for number in match.groups()))
            variables = BN_VARIABLES if layer.endswith("_bn") else VARIABLES
            for variable, theirs in variables.items():
                if theirs == variable_key:
                    return f"{layer}/{variable}"
    return None


def _torch_name(name: str, patterns) -> str:
    """`"layer2.0.conv3.weight"` for `"conv3_block1_3_conv/kernel"`."""
    layer, _, variable = name.partition("/")
    for pattern, theirs in patterns:
        if match := pattern.fullmatch(layer):
            layer_key = theirs.format(*(int(number) - 1 for number in match.groups()))
            return f"{layer_key}.{(BN_VARIABLES | VARIABLES)[variable]}"
    raise ValueError(f"Expected a variable of a ResNeXt. Received: name={name!r}")


def _transposed(name: str, tensor: LazyTensor, kernel_axes) -> LazyTensor:
    """A tensor with its axes in the order of the other layout, if it is a kernel."""
    axes = kernel_axes.get(len(tensor.shape)) if name.endswith("/kernel") else None
    if axes is None:
        return tensor
    return LazyTensor(
        tuple(tensor.shape[axis] for axis in axes),
        tensor.dtype,
        tensor.path,
        lambda: tensor.read().transpose(axes),
    )

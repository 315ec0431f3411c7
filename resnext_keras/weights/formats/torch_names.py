"""Converts names and layouts between torch's `state_dict` and this package.

The names in torch are those of torchvision and timm.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from resnext_keras.arguments import few
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.tensors import LazyTensor, WeightsError

# Each network has this tensor. What is before its name is the prefix of a wrapper:
# `module.` of DataParallel, `_orig_mod.` of compile, `backbone.` of mmpretrain and
# mmdetection, `backbone.body.` of torchvision's detectors, `model.` of Lightning,
# `encoder.` of segmentation models, or several of them.
ANCHOR = re.compile(r"(.*\.|)layer1\.0\.conv1\.weight")

# Names of averaged weights: of timm, torchvision, Lightning and mean teachers.
AVERAGED = re.compile(r"(?i)(?:.*[._])?(ema|swa|averaged?|teacher)(?:[._].*)?")

# Counters: of batches by batch norm (Keras has none), of operations by thop.
IGNORED = re.compile(r"(.*\.)?(num_batches_tracked|total_ops|total_params)")

# mmpretrain's classifier is beside its backbone.
OTHER_HEAD = re.compile(r"(?:.*\.)?head\.(fc\.(?:weight|bias))")

logger = logging.getLogger(__name__)

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

# timm's names in its `legacy_seresnext` networks, which have those of Caffe's layers.
CAFFE_LAYERS = {
    "conv1_conv": "layer0.conv1",
    "conv1_bn": "layer0.bn1",
    "conv{}_block{}_se_fc1": "layer{}.{}.se_module.fc1",
    "conv{}_block{}_se_fc2": "layer{}.{}.se_module.fc2",
    "predictions": "last_linear",
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


def preferred(
    names: Collection[str], path: Path, averages: re.Pattern[str] = AVERAGED
) -> str:
    """The name of the averaged weights among those of several networks in a file.

    Args:
        names: Keys or prefixes, at least one.
        path: The file, for messages.
        averages: What names of averaged weights look like.

    Returns:
        The only name, or the only one of averaged weights. The log says which.

    Raises:
        WeightsError: There are several.
    """
    averaged = [name for name in names if averages.fullmatch(name)]
    if len(names) == 1:
        return next(iter(names))
    if len(averaged) != 1:
        raise WeightsError(
            f"Expected one network, or one with averaged weights, in {path}; found "
            f"{', '.join(map(repr, sorted(names)))}. Save the state_dict of one by "
            "itself: torch.save(model.state_dict(), path)."
        )
    others = ", ".join(repr(name) for name in names if name != averaged[0])
    logger.warning(
        "The averaged weights %r in %s are used, not %s.", averaged[0], path, others
    )
    return averaged[0]


def keras_tensors(state: Mapping[str, LazyTensor], path: Path) -> dict[str, LazyTensor]:
    """Converts a `state_dict` to this package's names and Keras' layout.

    The names may have a common prefix. Tensors without it, such as those of a decoder
    or a counter of averages, are left out, and the log names some.

    Returns the tensors by `"{layer}/{variable}"`, without the counters of batches.

    Raises:
        WeightsError: A name is not one of a ResNeXt, or there are several networks.
    """
    keys = _without_prefix(state, path)
    layers = LAYERS | STEMS["conv1.6.weight" in keys.values()]
    layers |= SHORTCUTS[any(".downsample.2." in key for key in keys.values())]
    if "layer0.conv1.weight" in keys.values():
        layers |= CAFFE_LAYERS
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
        stored[name] = _transposed(name, state[key], KERAS_AXES)
    return stored


def _without_prefix(state: Mapping[str, LazyTensor], path: Path) -> dict[str, str]:
    """The keys of the network's tensors, and their names without the prefix."""
    prefixes = [match[1] for key in state if (match := ANCHOR.fullmatch(key))]
    prefix = preferred(prefixes, path) if prefixes else ""
    keys = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    others = [key for key in state if key not in keys]
    if not any(name.startswith(("fc.", "last_linear.")) for name in keys.values()):
        heads = {key: match[1] for key in state if (match := OTHER_HEAD.fullmatch(key))}
        if len(heads) == 2:
            keys |= heads
            others = [key for key in others if key not in heads]
    if others := [key for key in others if not IGNORED.fullmatch(key)]:
        listed = few(f"{key:.100}" for key in others)
        logger.warning("Other tensors in %s are left out: %s.", path, listed)
    return keys


def torch_tensors(
    tensors: Mapping[str, LazyTensor], spec: ResNeXtSpec
) -> dict[str, LazyTensor]:
    """Converts the tensors of a spec's network to torch's names and layout."""
    patterns = _torch_patterns(spec)
    return {
        _torch_name(name, patterns): _transposed(name, tensor, TORCH_AXES)
        for name, tensor in tensors.items()
    }


def torch_layer(layer: str, spec: ResNeXtSpec) -> str:
    """Torch's name of a layer, as `"fc"` for `"predictions"`."""
    name = _torch_name(f"{layer}/kernel", _torch_patterns(spec))
    return name.removesuffix(".weight")


def _torch_patterns(spec: ResNeXtSpec) -> list[tuple[re.Pattern, str]]:
    layers = LAYERS | STEMS[len(spec.stem_filters) > 1]
    layers |= SHORTCUTS[spec.pooled_shortcut]
    if spec.caffe_form:
        layers |= CAFFE_LAYERS
    return [
        (re.compile(_pattern(ours, "([0-9]+)", "([0-9]+)")), theirs)
        for ours, theirs in layers.items()
    ]


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

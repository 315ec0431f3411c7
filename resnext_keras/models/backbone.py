"""Cuts and freezes a network as the backbone of a detector or a segmenter."""

import re
from collections.abc import Iterable

import keras

from resnext_keras.models.graph import all_layers, source_of

_IN_STAGE = re.compile(r"(?:conv|pool)(\d+)_\w+")
_BLOCK_OUTPUT = re.compile(r"conv(\d+)_block\d+_out")


def stage_of(layer_name: str) -> int | None:
    """The number of the stage that a layer belongs to, counted as in the paper.

    `"conv3_block1_out"` belongs to stage 3. The stem is stage 1. None for layers
    outside the stages.
    """
    match = _IN_STAGE.fullmatch(layer_name)
    return int(match[1]) if match else None


def stage_outputs(model) -> dict:
    """The last layer of each stage except the stem, by the number of the stage.

    Empty for a model that is not a network of this family.
    """
    return {
        int(match[1]): layer  # The last block of a stage overwrites the earlier ones.
        for layer in model.layers
        if (match := _BLOCK_OUTPUT.fullmatch(layer.name))
    }


@keras.saving.register_keras_serializable(package="resnext_keras")
class Functional(keras.Model):
    """A functional model that KerasHub takes as an image encoder.

    Keras names the weights of a model inside another one after its class. The name of
    Keras' own class keeps the files of both interchangeable.
    """

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """The last feature maps of each stride: `"P3"` for stride 8, or 2 ** 3."""
        return {
            f"P{_stride(layer.output).bit_length() - 1}": layer.output
            for layer in stage_outputs(self).values()  # The last of a stride stays.
        }


def feature_pyramid(
    model: keras.Model, levels: Iterable[str] | None = None
) -> keras.Model:
    """Makes a model that outputs the last feature maps of a network's stages.

    Args:
        model: A network of this family, with any weights and input size, with or
            without its classifier. The pyramid shares its layers.
        levels: Names of stages as in feature pyramid networks, `"C2"` for conv2 and
            so on; None for all. The strides of C2 to C5 are 4, 8, 16 and 32 (in
            CIFAR networks 1, 2 and 4 for C2 to C4). No stride exceeds the
            `output_stride` that the network was built with.

    Returns:
        A functional `keras.Model`. Its output is a dict of the feature maps by
        level, (batch, ceil(H / stride), ceil(W / stride), channels). Its
        `pyramid_outputs` have the keys of KerasHub, as those of `ResNeXt`.

    Raises:
        ValueError: The model is not a network of this family, or has no such level.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017,
    section 3.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", False, None, input_shape=(64, 64, 3))
        >>> pyramid = rk.feature_pyramid(network, ("C3", "C4"))
        >>> pyramid(np.zeros((1, 64, 64, 3), "float32"))["C3"].shape
        TensorShape([1, 32, 32, 512])
    """
    _check_network(model)
    available = {f"C{stage}": layer for stage, layer in stage_outputs(model).items()}
    levels = list(available) if levels is None else levels
    levels = [levels] if isinstance(levels, str) else list(levels)
    if not levels or not set(levels) <= set(available):
        raise ValueError(
            f"Expected `levels` to be some of {', '.join(available)}. "
            f"Received: levels={levels!r}"
        )
    outputs = {level: available[level].output for level in levels}
    return Functional(model.input, outputs, name=f"{model.name}_pyramid")


def freeze(model: keras.Model, until: str) -> None:
    """Freezes the first stages of a network.

    Training then changes neither their weights nor the moving statistics of their
    batch norm, and batch norm uses these statistics. The other layers stay as they
    are; `layer.trainable = True` unfreezes a layer. As always in Keras, compile the
    model after this call, not before.

    Args:
        model: A network of this family, or a model that has one as a layer.
        until: The last stage to freeze, from `"conv1"` (the stem) to `"conv5"`
            (everything except the classifier).

    Raises:
        ValueError: The model contains no network of this family, or no such stage;
            nothing is frozen then.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", weights=None, classes=10)
        >>> rk.freeze(network, until="conv3")
        >>> network.get_layer("conv3_block1_1_conv").trainable
        False
    """
    stages = {layer: stage_of(layer.name) for layer in all_layers(model)}
    names = [f"conv{stage}" for stage in sorted({1, *filter(None, stages.values())})]
    if not any(stages.values()):
        _check_network(model)
    if until not in names:
        raise ValueError(
            f"Expected `until` to be one of {', '.join(names)}. "
            f"Received: until={until!r}"
        )
    for layer, stage in stages.items():
        if stage is not None and stage <= int(until.removeprefix("conv")):
            layer.trainable = False


def _stride(tensor) -> int:
    """Ratio of the size of the images to that of feature maps: a power of two."""
    stride = 1
    while True:
        layer, sources = source_of(tensor)
        stride *= max(getattr(layer, "strides", (1,)))
        if not sources:
            return stride
        tensor = sources[0]  # Both branches of a block have its stride.


def _check_network(model):
    """Raises unless a model is a network of this family; hints at one inside it."""
    if isinstance(model, keras.Model) and stage_outputs(model):
        return
    nested = getattr(model, "layers", [])
    inside = [
        layer.name
        for layer in nested
        if isinstance(layer, keras.Model) and stage_outputs(layer)
    ]
    hint = f" The model's layer {inside[0]!r} is one." if inside else ""
    raise ValueError(
        "Expected a network of this family, whose layers have names like "
        f"'conv3_block1_out'.{hint} Received: model={model!r}"
    )

"""Names and shapes of every variable of a spec, without building the network.

Plain Python: weight files are compared with these shapes before Keras allocates any
memory, and the tables of the command line count parameters with them.
"""

import math

from resnext_keras.models.specs import SE_REDUCTION, ResNeXtSpec

Shapes = dict[str, tuple[int, ...]]


def variable_shapes(
    spec: ResNeXtSpec, channels: int = 3, classes: int | None = 1000
) -> Shapes:
    """Shape of each variable, in the order in which the network creates them.

    Args:
        spec: The `ResNeXtSpec`.
        channels: Channels of the input images.
        classes: Outputs of the classifier; None for a network without it.

    Returns:
        The shape of each variable by its name, `"{layer}/{variable}"`, such as
        `"conv3_block2_1_conv/kernel"`. Convolution kernels are (height, width,
        channels of one group, filters).
    """
    shapes = {}
    for name, kernel_size, filters in spec.stem_convolutions:
        shapes |= _conv_bn(name, kernel_size, channels, filters)
        channels = filters
    for stage, depth in zip(spec.stages, spec.depths, strict=True):
        width, filters = spec.widths(stage)
        group = width // spec.cardinality
        for block in range(1, depth + 1):
            name = f"conv{stage}_block{block}"
            shapes |= _conv_bn(f"{name}_1", 1, channels, width)
            shapes |= _conv_bn(f"{name}_2", 3, group, width)
            if block == 1:
                shapes |= _conv_bn(f"{name}_0", 1, channels, filters)
            shapes |= _conv_bn(f"{name}_3", 1, width, filters)
            if spec.squeeze_excite:
                narrow = filters // SE_REDUCTION
                first, second = spec.excitation
                shapes |= _conv_bias(f"{name}_se_{first}", filters, narrow)
                shapes |= _conv_bias(f"{name}_se_{second}", narrow, filters)
            channels = filters
    if classes is not None:
        shapes["predictions/kernel"] = (channels, classes)
        shapes["predictions/bias"] = (classes,)
    return shapes


def count_parameters(shapes: Shapes) -> int:
    """Number of parameters, batch-norm statistics included, as `count_params()`."""
    return sum(map(math.prod, shapes.values()))


def _conv_bn(name: str, kernel_size: int, depth: int, filters: int) -> Shapes:
    return {f"{name}_conv/kernel": (kernel_size, kernel_size, depth, filters)} | {
        f"{name}_bn/{variable}": (filters,)
        for variable in ("gamma", "beta", "moving_mean", "moving_variance")
    }


def _conv_bias(name: str, depth: int, filters: int) -> Shapes:
    return {f"{name}/kernel": (1, 1, depth, filters), f"{name}/bias": (filters,)}

"""Counts parameters and multiply-adds, stage by stage."""

import math
from dataclasses import dataclass

import keras

from resnext_keras.models.backbone import stage_of


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage for one image.

    Attributes:
        stage: `"conv1"` to `"conv5"`, or `"classifier"`.
        output_shape: Shape of its output, without the batch.
        parameters: Number of parameters, batch-norm statistics included.
        multiply_adds: Number of multiply-adds of the convolutions and of the
            classifier (the paper's FLOPs).
    """

    stage: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def stage_costs(model: keras.Model) -> list[StageCost]:
    """Counts parameters and multiply-adds of each stage of a network.

    Args:
        model: A network of this package with a fixed input size.

    Returns:
        A `StageCost` for each stage, in order.

    Raises:
        ValueError: The height or width of the images is not fixed.
    """
    if None in model.input_shape[1:]:
        raise ValueError(
            "Expected a network with a fixed input size. "
            f"Received: model.input_shape={model.input_shape}"
        )
    stages = {}
    for layer in model.layers:
        if stage := stage_of(layer.name):
            stages.setdefault(f"conv{stage}", []).append(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            stages.setdefault("classifier", []).append(layer)
    return [
        StageCost(
            stage,
            tuple(layers[-1].output.shape[1:]),
            sum(layer.count_params() for layer in layers),
            sum(map(_multiply_adds, layers)),
        )
        for stage, layers in stages.items()
    ]


def _multiply_adds(layer) -> int:
    """Each value of a kernel is used once for each pixel of the output."""
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2D):
        places = math.prod(layer.output.shape[1:]) // layer.filters
        return math.prod(layer.kernel.shape) * places
    return 0

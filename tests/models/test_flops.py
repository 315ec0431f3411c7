"""The cost of a network is that of the paper's Table 1."""

import math

import pytest

from resnext_keras import ResNeXt, ResNeXt50, stage_costs


def test_resnext50_costs_what_is_published():
    costs = stage_costs(ResNeXt50(weights=None))
    # Table 1 of the paper: the output of each stage, 25.0 million parameters and
    # 4.2 billion multiply-adds; 4.23 as torchvision counts them.
    assert [(cost.stage, cost.output_shape) for cost in costs] == [
        ("conv1", (56, 56, 64)),
        ("conv2", (56, 56, 256)),
        ("conv3", (28, 28, 512)),
        ("conv4", (14, 14, 1024)),
        ("conv5", (7, 7, 2048)),
        ("classifier", (1000,)),
    ]
    assert sum(cost.parameters for cost in costs) == 25_097_128
    assert round(sum(cost.multiply_adds for cost in costs) / 1e9, 2) == 4.23


def test_multiply_adds_follow_the_definition():
    model = ResNeXt("resnext11_8x4d", weights=None, classes=10)
    by_stage = {cost.stage: cost.multiply_adds for cost in stage_costs(model)}
    assert by_stage["conv1"] == 32 * 32 * 64 * (3 * 3 * 3)
    # Reduce, grouped 3x3 with 4 channels a group, projection, expand.
    kernels = 64 * 32 + 3 * 3 * 4 * 32 + 64 * 256 + 32 * 256
    assert by_stage["conv2"] == 32 * 32 * kernels
    assert by_stage["classifier"] == math.prod((1024, 10))


def test_a_free_size_has_no_cost():
    with pytest.raises(ValueError, match="fixed input size"):
        stage_costs(ResNeXt("resnext11_8x4d", include_top=False, weights=None))

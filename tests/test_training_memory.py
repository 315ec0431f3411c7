"""A step that cannot fit in memory is refused before it is tried."""

import math
import os

import keras
import pytest

from resnext_keras import ResNeXt
from resnext_keras.specs import ARCHITECTURES
from resnext_keras.training.checkpoint import TrainingError
from resnext_keras.training.memory import BYTES, check_memory, numbers_per_image

SPEC = ARCHITECTURES["resnext50_32x4d"]


@pytest.mark.parametrize(
    ("name", "size"), [("resnext50_32x4d", 64), ("resnext11_8x4d", 32)]
)
def test_numbers_are_those_that_the_convolutions_give(name, size):
    model = ResNeXt(name, weights=None, input_shape=(size, size, 3))
    counted = sum(
        math.prod(layer.output.shape[1:])
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    assert numbers_per_image(ARCHITECTURES[name], size) == counted


def test_a_step_beyond_the_memory_says_what_would_fit():
    needed = numbers_per_image(SPEC, 224) * BYTES
    assert needed == pytest.approx(125e6, rel=0.02)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = int(memory // needed)
    check_memory(SPEC, 224, fitting, half=False)
    check_memory(SPEC, 224, 2 * fitting - 2, half=True)
    with pytest.raises(TrainingError, match=rf"enough for {fitting}\. Lower --batch"):
        check_memory(SPEC, 224, fitting + 1, half=False)

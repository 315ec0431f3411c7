"""A step that cannot fit in memory is refused before it is tried."""

import math
import os

import keras
import pytest

from resnext_keras import ResNeXt
from resnext_keras.models import runtime as devices
from resnext_keras.models.runtime import main_memory
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.training.checkpoint import TrainingError
from resnext_keras.training.memory import (
    BYTES,
    bytes_per_image,
    check_memory,
    numbers_per_image,
)

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
    fitting = int(main_memory() // needed)
    check_memory(SPEC, 224, fitting, half=False)
    check_memory(SPEC, 224, 2 * fitting - 2, half=True)
    with pytest.raises(TrainingError, match=rf"enough for {fitting} .*lower --batch"):
        check_memory(SPEC, 224, fitting + 1, half=False)


# Measured of ResNeXt-50 by `train_on_batch`, as the growth of the largest
# resident set from a batch to one of 16 or 32 images more.
@pytest.mark.parametrize(("frozen", "measured"), [(5, 15.2e6), (3, 45.2e6)])
def test_stages_that_do_not_learn_keep_nothing(frozen, measured):
    needed = bytes_per_image(SPEC, 224, half=False, frozen=frozen)
    assert needed == pytest.approx(measured, rel=0.1)


def test_a_container_has_the_memory_that_it_is_given(tmp_path, monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "MEMORY_LIMITS", (tmp_path / "none", limit))
    for text, expected in (("max\n", machine), ("1000000\n", 1000000)):
        limit.write_text(text)
        assert main_memory() == expected
    with pytest.raises(TrainingError, match=r"enough for 0 .*: 1, .*; lower --size"):
        check_memory(SPEC, 224, 1, half=True)

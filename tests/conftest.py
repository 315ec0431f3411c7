"""What several tests share."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))


@pytest.fixture(scope="session")
def resnext50_state():
    """The state of torchvision's ResNeXt-50 that the goldens were made with."""
    from random_state import draw_state

    return draw_state(json.loads((GOLDEN / "resnext50_state_shapes.json").read_text()))


@pytest.fixture(scope="session")
def resnext50_file(resnext50_state, tmp_path_factory):
    """That state as a safetensors file, as torch users save it."""
    path = tmp_path_factory.mktemp("weights") / "resnext50.safetensors"
    save_file(resnext50_state, path)
    return path


@pytest.fixture
def relative_error():
    """Largest difference of two arrays, by the largest value of the second."""

    def error(found, expected):
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape
        return np.abs(found - expected).max() / np.abs(expected).max()

    return error

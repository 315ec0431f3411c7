"""What several tests call; fixtures are in conftest.py."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from resnext_keras.images.preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
GOLDEN = ROOT / "tests" / "golden"

# An environment of the model server's own may have its package.
KSERVE_PYTHON = os.environ.get("KSERVE_PYTHON", sys.executable)

SMALL = Preprocessing(size=8, resize=10)


# For `jit_compile`. On torch Keras' compiled steps warn, and warnings are errors here.
COMPILED = pytest.param(
    True,
    marks=pytest.mark.skipif(
        keras.config.backend() == "torch", reason="Keras' torch.compile warns"
    ),
)


def save(image, path, **options):
    """Writes an image and returns its path."""
    image.save(path, **options)
    return path


@contextlib.contextmanager
def dtype_policy(name):
    """Context manager: sets the dtype policy of all layers that are built."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def reference_network(library, architecture, seed=0, **options):
    """Torchvision's or timm's network with random batch norm.

    timm's gammas at the end of each block begin at 0, which would hide the block.
    """
    torch = pytest.importorskip("torch")
    models = pytest.importorskip(library)
    create = models.create_model if library == "timm" else models.models.get_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create(architecture, **options).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.3, 3.0)
    return network


NO_KSERVE = "kserve and tensorflow are not in the Python that KSERVE_PYTHON names"


def has_kserve():
    """Whether the model server can be started."""
    tried = [KSERVE_PYTHON, "-c", "import kserve"]
    return subprocess.run(tried, capture_output=True).returncode == 0

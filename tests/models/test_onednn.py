"""TensorFlow's oneDNN kernels are on, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

from resnext_keras.models.runtime import VARIABLE

pytestmark = pytest.mark.tensorflow

IS_ON = """
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
print(IsMklEnabled())
"""


def run(program, environment=None):
    kept = {k: v for k, v in os.environ.items() if k != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", program + IS_ON],
        env=kept | {"TF_CPP_MIN_LOG_LEVEL": "3"} | (environment or {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1] == "True", done.stderr


def test_importing_the_package_turns_them_on():
    found, said = run("import resnext_keras")
    assert found
    assert "oneDNN kernels" not in said


@pytest.mark.parametrize("value", ["0", "1"])
def test_what_the_user_has_decided_stays(value):
    found, said = run("import resnext_keras", {VARIABLE: value})
    assert found == (value == "1")
    assert "oneDNN kernels" not in said


def test_after_tensorflow_it_says_once_how_to_get_them():
    # As on a processor where TensorFlow leaves them off by itself.
    program = """
import os
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
import tensorflow
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
assert not IsMklEnabled()
del os.environ["TF_ENABLE_ONEDNN_OPTS"]
import numpy as np
import resnext_keras
spec = resnext_keras.ResNeXtSpec("tiny", (1,), 2, 4, stem="cifar")
for _ in range(2):
    model = resnext_keras.ResNeXt(spec, weights=None, classes=2)
    model.predict(np.zeros((1, 32, 32, 3)), verbose=0)
"""
    found, said = run(program)
    assert not found
    assert said.count("set TF_ENABLE_ONEDNN_OPTS=1") == 1

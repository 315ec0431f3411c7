"""TensorFlow's oneDNN kernels are on, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

IS_ON = """
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
print(IsMklEnabled())
"""


def run(program, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", program + IS_ON],
        env=kept | environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1] == "True", done.stderr


@pytest.mark.parametrize(("value", "on"), [(None, True), ("1", True), ("0", False)])
def test_importing_the_package_turns_them_on_unless_the_user_has_not(value, on):
    environment = {} if value is None else {"TF_ENABLE_ONEDNN_OPTS": value}
    found, said = run("import resnext_keras", **environment)
    assert found == on
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

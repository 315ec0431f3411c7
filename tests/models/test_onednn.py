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
# As on a processor where TensorFlow leaves them off by itself.
TENSORFLOW_FIRST = """
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


@pytest.mark.parametrize(
    ("program", "setting", "is_on", "messages"),
    [
        pytest.param("import resnext_keras", {}, True, 0, marks=pytest.mark.long),
        pytest.param(
            "import resnext_keras", {VARIABLE: "0"}, False, 0, marks=pytest.mark.long
        ),
        (TENSORFLOW_FIRST, {}, False, 1),
    ],
    ids=["by default", "the user's setting", "after TensorFlow"],
)
def test_importing_the_package_turns_them_on(program, setting, is_on, messages):
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | setting
    done = subprocess.run(
        [sys.executable, "-c", program + IS_ON],
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(is_on)
    assert done.stderr.count("set TF_ENABLE_ONEDNN_OPTS=1") == messages

"""Loading a file takes at most 1.5 times its size of memory."""

import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(
    not STATUS.exists(), reason="Linux has the peak of a process's own memory"
)

# The growth of a process that has built one network already, which warms up
# TensorFlow; in bytes. (`resource` would begin with the peak of the parent.)
GROWTH = """
import sys
import resnext_keras

def peak():
    lines = open("/proc/self/status").read().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

first = resnext_keras.ResNeXt50(weights=None)
before = peak()
{}
print(peak() - before)
"""
LOADING = "second = resnext_keras.ResNeXt50(weights=sys.argv[1])"
CONVERTING = "predict = resnext_keras.Predictor(first, sys.argv[1])"


def growth(code, argument):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH.format(code), str(argument)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.long
def test_safetensors(resnext50_file):
    size = resnext50_file.stat().st_size
    assert 0.9 * size <= growth(LOADING, resnext50_file) <= 1.5 * size


@pytest.mark.parity
@pytest.mark.parametrize("zip_", [True, False], ids=["zip", "legacy"])
def test_torch_files(resnext50_state, tmp_path, zip_):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    state = {name: torch.from_numpy(value) for name, value in resnext50_state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=zip_)
    assert growth(LOADING, path) <= 1.5 * path.stat().st_size


@pytest.mark.parity
def test_conversion_for_onnx_runtime():
    pytest.importorskip("onnxruntime")
    # Without frequent collections 6.1 GB: tf2onnx copies the network for each step.
    assert growth(CONVERTING, "onnxruntime") <= 3.5e9

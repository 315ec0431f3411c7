"""Loading a file takes no more memory than 1.5 times the file."""

import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="peak memory is asked of POSIX")

# The growth of a process that has built one network already, which warms up
# TensorFlow; in bytes, where Linux counts in kilobytes.
GROWTH = """
import resource, sys
import resnext_keras

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

first = resnext_keras.ResNeXt50(weights=None)
before = peak()
second = resnext_keras.ResNeXt50(weights=sys.argv[1])
print(peak() - before)
"""


def growth(path):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_safetensors(resnext50_file):
    size = resnext50_file.stat().st_size
    assert 0.9 * size <= growth(resnext50_file) <= 1.5 * size


@pytest.mark.parity
@pytest.mark.parametrize("zip_", [True, False], ids=["zip", "legacy"])
def test_torch_files(resnext50_state, tmp_path, zip_):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    state = {name: torch.from_numpy(value) for name, value in resnext50_state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=zip_)
    assert growth(path) <= 1.5 * path.stat().st_size

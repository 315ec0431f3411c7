"""torchvision's networks, as ONNX Runtime and OpenVINO read torch's export of them."""

import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from inputs import batch


def onnxruntime(work):
    """ONNX Runtime on the file that torch wrote."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    with exported(work) as path:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    images = channels_first(work)
    return lambda: session.run(None, {"images": images})


def openvino(work):
    """OpenVINO on the file that torch wrote."""
    import openvino

    # By itself it computes in bfloat16 on processors that have it.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": work.threads}
    with exported(work) as path:
        compiled = openvino.compile_model(openvino.convert_model(path), "CPU", options)
    images = channels_first(work)
    return lambda: compiled(images)


def channels_first(work):
    images, _ = batch(work)
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


@contextlib.contextmanager
def exported(work):
    """The file, written by a process of its own, whose memory is not measured."""
    # Windows does not remove a file that is still mapped.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.onnx")
        program = [sys.executable, __file__, json.dumps(vars(work)), path]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it crashed").splitlines()[-1])
        yield path


def export(work, path):
    import torch
    from torch_networks import build

    # Of the old exporter, the only one that needs no further package.
    warnings.simplefilter("ignore", DeprecationWarning)
    images = torch.from_numpy(channels_first(work))
    torch.onnx.export(
        build(work).eval(), (images,), path, input_names=["images"], dynamo=False
    )


if __name__ == "__main__":
    export(SimpleNamespace(**json.loads(sys.argv[1])), sys.argv[2])

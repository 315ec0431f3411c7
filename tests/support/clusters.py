"""Several processes on one machine that train together."""

import os
import socket
import subprocess
import sys

PATIENCE = 900  # seconds; each takes some 30 where nothing else runs

ALONE = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def launched(arguments, environment=None):
    """A process of Python, without a GPU."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | ALONE | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*processes):
    """What each printed; none is left running."""
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return outputs


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cluster_of_jax(workers=2):
    """The environment of each process."""
    port = _free_port()
    for index in range(workers):
        yield {
            "KERAS_BACKEND": "jax",
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(workers),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }

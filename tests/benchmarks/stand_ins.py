"""Contenders for test_run.py, made in the worker's process."""

import os
import time
from pathlib import Path


def sleeper(work, seconds):
    return lambda: time.sleep(seconds)


def recorder(work, mark, path):
    """Appends its mark, its process and its environment to a file at each call."""

    def call():
        threads, backend = os.environ["OMP_NUM_THREADS"], os.environ["KERAS_BACKEND"]
        with Path(path).open("a") as file:
            print(mark, os.getpid(), threads, backend, file=file)

    return call


def holder(work, size):
    """Holds some bytes of memory while it is built."""
    held = b"x" * size
    return lambda: time.sleep(0.01 * bool(held))


def failure(work):
    raise OSError("out of order\nand more")


def crash(work):
    print("nothing to see", flush=True)
    os._exit(3)

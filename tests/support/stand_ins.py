"""Contenders that test_benchmark.py sends into a race, made in the worker's process."""

import os
import time
from pathlib import Path


def sleeper(work, seconds):
    return lambda: time.sleep(seconds)


def recorder(work, mark, path):
    """Writes down which process it was, and how often it was called."""

    def call():
        with Path(path).open("a") as file:
            print(mark, os.getpid(), file=file)

    return call


def holder(work, size):
    """Holds some bytes of memory while it is built."""
    held = b"x" * size
    return lambda: len(held)


def failure(work):
    raise OSError("out of order\nand more")


def crash(work):
    print("nothing to see", flush=True)
    os._exit(3)


def settings(work, path):
    """Writes down what it was asked for, and the variables of its process."""
    names = ("OMP_NUM_THREADS", "KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
    variables = {name: os.environ[name] for name in names}
    Path(path).write_text(repr(vars(work) | variables))
    return lambda: None

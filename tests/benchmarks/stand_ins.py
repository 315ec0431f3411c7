"""Contenders for test_benchmark_run.py, made in the worker's process."""

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


def one_other_weight(work, folder):
    """Compares a network in which one number is another."""

    def change(network):
        kernel = network.get_layer("conv3_block1_1_conv").kernel
        values = kernel.numpy()
        values[0, 0, 0, 0] += 1
        kernel.assign(values)

    return _compare_changed(change, work, folder)


def other_labels(work, folder):
    """Compares a training step towards other labels."""
    work.labels = work.labels[::-1].copy()
    return _compare_changed(lambda network: None, work, folder)


def _compare_changed(change, work, folder):
    import ours

    build = ours.build

    def build_changed(*arguments, **options):
        network = build(*arguments, **options)
        change(network)
        return network

    ours.build = build_changed
    return ours.agreement(work, folder)

"""Times one contender in a process of its own: `python worker.py REQUEST`.

It imports nothing but NumPy before the contender's module: other frameworks would
count as its memory, and torch and TensorFlow crash in one process where triton is
installed. The contender's module has a function that takes the request and the
contender's options. It returns a function without arguments, which makes one
prediction or training step and returns when the device has finished; for the task
"check" it returns the answer itself.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(1, str(Path(__file__).parents[1]))  # the checkout's resnext_keras

MOST_SECONDS = 10
"""Seconds after which no more calls follow."""

BATCH_NORM = ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.3, 3.0))
"""Limits of the random scale, offset, mean and variance of each batch norm. Those of a
new network would leave nothing to add after a convolution. Frameworks drop an addition
of zeros, so that the network would not be timed as it is used."""

RATE = 1e-6
"""The learning rate, so small that every step computes the same. A single image would
be learnt in some steps; then gradients are denormal numbers, with which a step of torch
takes thirty times as long."""


def main(request: str) -> None:
    """Prints the times as JSON on the last line, or the reason of a failure.

    Args:
        request: A JSON object: `maker`, as "module:function", and its `options`;
            `spec`, the fields of a `ResNeXtSpec`; `task`, "predict", "train" or
            "check"; `batch`, `size` in pixels, `classes`; `precision`, "float32",
            "bfloat16", "float16" or "tf32"; `device`, "cpu" or "gpu"; `threads`; and
            the number of `calls`, more while they take fewer than `seconds`.
    """
    try:
        answer = measure(SimpleNamespace(**json.loads(request)))
    except Exception as error:  # a library can raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        answer = {"reason": f"{type(error).__name__}: {' '.join(lines[:1])}"[:200]}
    print()  # a library may have left its line open
    print(json.dumps(answer))


def measure(work) -> dict:
    """Builds the contender, calls it once, then times its calls."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(work.batch, work.size, work.size, 3))
    work.images = images.astype("float32")
    work.labels = rng.integers(0, work.classes, work.batch)
    module, function = work.maker.split(":")

    if os.environ.get("KERAS_BACKEND") != "jax":
        sys.modules["jax"] = None  # TensorFlow would import it, as memory of 0.2 GB.
    start = time.perf_counter()
    call = getattr(importlib.import_module(module), function)(work, **work.options)
    if work.task == "check":
        return call
    call()
    first = time.perf_counter() - start
    seconds = []
    while len(seconds) < work.calls or sum(seconds) < work.seconds:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > MOST_SECONDS:
            break
    gpu = peak_device_memory() if work.device == "gpu" else None
    return {
        "seconds": seconds,
        "first_seconds": [first],
        "peak_bytes": [size for size in [peak_memory()] if size],
        "device_peak_bytes": [size for size in [gpu] if size],
    }


def randomise_batch_norm(network) -> None:
    """Sets each batch norm of a Keras model at random, within `BATCH_NORM`."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if hasattr(layer, "moving_variance"):
            shape = layer.moving_variance.shape
            layer.set_weights([rng.uniform(*limits, shape) for limits in BATCH_NORM])


def peak_memory() -> int | None:
    """Peak memory of this process in bytes; None where the system does not report it.

    Not `ru_maxrss`: on Linux that begins with the memory of the parent process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1024


def peak_device_memory() -> int | None:
    """Peak memory of the GPU's tensors in bytes, as the framework in use reports it."""
    if torch := sys.modules.get("torch"):
        return torch.cuda.max_memory_allocated()
    if jax := sys.modules.get("jax"):
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if tf := sys.modules.get("tensorflow"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None


if __name__ == "__main__":
    main(sys.argv[1])

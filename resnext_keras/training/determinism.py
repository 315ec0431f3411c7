"""The same bits in each run, by what a backend has for it."""

import os

import keras
import tensorflow as tf

backend = keras.config.backend()
if backend == "jax":
    import jax
elif backend == "torch":
    import torch

XLA_FLAG = "--xla_gpu_deterministic_ops=true"


def check_deterministic() -> None:
    """Checks that it can be had.

    Raises:
        ValueError: JAX runs on a GPU and was not told as it started.
    """
    if backend != "jax" or jax.default_backend() != "gpu":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if XLA_FLAG not in flags:
        raise ValueError(
            f"Expected {XLA_FLAG} in the environment's XLA_FLAGS, without which JAX "
            f"adds up in any order on a GPU. Received: XLA_FLAGS={flags!r}"
        )


def make_deterministic() -> None:
    """Has this process compute the same bits in each run, as far as it can.

    On processors JAX does. Of torch an operation that cannot says so.
    """
    tf.config.experimental.enable_op_determinism()  # reads images on all backends
    if backend == "torch":
        # What torch asks for of cuBLAS, which is read as it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)

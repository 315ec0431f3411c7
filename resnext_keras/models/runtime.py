"""The devices and kernels that Keras runs on.

Import this module before TensorFlow and Keras. It turns on TensorFlow's oneDNN
kernels, and TensorFlow reads that switch when it is loaded. By default they are off on
processors without AVX-512, where a training step then takes 1.5 times as long.
"""

import contextlib
import contextvars
import functools
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

if "tensorflow" not in sys.modules:
    os.environ.setdefault(VARIABLE, "1")

import keras  # noqa: E402 - after the switch is set

logger = logging.getLogger(__name__)


def warn_if_onednn_is_off(is_on: bool) -> None:
    """Logs how to turn oneDNN on, unless the user has set the switch.

    Args:
        is_on: Whether TensorFlow uses oneDNN.
    """
    if not is_on and VARIABLE not in os.environ:
        logger.warning(
            "TensorFlow was imported without its oneDNN kernels, which make ResNeXt "
            "faster on this processor. Import resnext_keras before tensorflow and "
            "keras, or set %s=1.",
            VARIABLE,
        )


if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    # TensorFlow has no public function for these two checks.
    try:  # whether oneDNN's kernels are on
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:

        def IsMklEnabled():
            return False

    else:
        warn_if_onednn_is_off(IsMklEnabled())
    try:  # whether XLA will compile the function that is being traced
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:

        def GraphOrParentsInXlaContext(graph):
            return False  # Most training on a CPU runs without XLA.


def check_backend() -> None:
    """Raises a `ValueError` if Keras does not run on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras to run on TensorFlow. "
            f"Received: keras.config.backend()={keras.config.backend()!r}"
        )


def has_onednn() -> bool:
    """Whether Keras runs on TensorFlow with oneDNN's kernels on the CPU."""
    return keras.config.backend() == "tensorflow" and IsMklEnabled()


def on_accelerator() -> bool:
    """Whether TensorFlow has a GPU or TPU to run on."""
    return any(d.device_type != "CPU" for d in tf.config.list_logical_devices())


def has_fast_bfloat16() -> bool:
    """Whether the TPU, the GPU, or else the processor computes in bfloat16.

    A processor needs AVX512-BF16 or AMX. False where that is not known: on other
    systems than Linux, and without oneDNN.
    """
    if tf.config.list_logical_devices("TPU"):
        return True
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    return has_onednn() and _processor_has_bfloat16()


@functools.cache
def _processor_has_bfloat16() -> bool:
    # OpenVINO and TensorFlow only tell of AVX-512, where bfloat16 may be emulated.
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def has_fast_kernels() -> bool:
    """Whether TensorFlow's own operations and their gradients are fast.

    True on a GPU or TPU, and on a CPU with oneDNN. False where XLA compiles for a CPU,
    as with `compile(jit_compile=True)`, since XLA does not use oneDNN.
    """
    if on_accelerator():
        return True
    graph = tf.compat.v1.get_default_graph()
    return has_onednn() and not GraphOrParentsInXlaContext(graph)


# Modules that trace graphs for export; there is no public way to detect this. Graphs
# of an exporter that is not in this list contain the workarounds for slow CPUs and the
# kernel of batch norm: the same results, where the other runtime knows them.
_EXPORTERS = (
    "keras.src.export",
    "tensorflow.python.saved_model",
    "tf2onnx",
    "openvino",
)


def is_exporting() -> bool:
    """Whether the function that is being traced is for a file or another runtime."""
    if tf.executing_eagerly():
        return False
    return any(
        str(frame.f_globals.get("__name__")).startswith(_EXPORTERS)
        for frame, _ in traceback.walk_stack(None)
    )


_never_empty = contextvars.ContextVar("never_empty", default=False)


@contextlib.contextmanager
def without_empty_batches() -> Iterator[None]:
    """Context manager: networks that are traced within it get no empty batch.

    They need no repair of its shape, which keeps TensorFlow from fusing a convolution
    with its bias and ReLU.
    """
    token = _never_empty.set(True)
    try:
        yield
    finally:
        _never_empty.reset(token)


def is_never_empty() -> bool:
    """Whether a network is being traced within `without_empty_batches`."""
    return _never_empty.get()


def may_be_empty() -> bool:
    """Whether the network that is being called may get an empty batch."""
    return not is_never_empty() and not is_exporting()

"""What TensorFlow runs on here, what of it is fast, and what is to run elsewhere."""

import contextlib
import os
import traceback
from pathlib import Path

import keras

from resnext_keras import onednn

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    # No public function tells either of these.
    try:  # whether oneDNN's kernels are on
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:

        def IsMklEnabled():
            return False

    else:
        onednn.tell_if_off(IsMklEnabled())
    try:  # whether what is being traced is for XLA
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:

        def GraphOrParentsInXlaContext(graph):
            return False  # More train without XLA than with it on a CPU.


def has_onednn() -> bool:
    """Whether Keras runs on TensorFlow with oneDNN's kernels on the CPU."""
    return keras.config.backend() == "tensorflow" and IsMklEnabled()


# Of a container, by version 2 and 1 of the kernel's control groups.
MEMORY_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def main_memory() -> int | None:
    """Bytes of memory of this machine or container; None where the system is silent."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for path in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            total = min(total, int(Path(path).read_text()))
    return total


def on_accelerator() -> bool:
    """Whether TensorFlow has a GPU or TPU to run on."""
    return any(d.device_type != "CPU" for d in tf.config.list_logical_devices())


def has_fast_kernels() -> bool:
    """Whether TensorFlow's own operations are fast, gradients too.

    They are on a GPU or TPU, and on a CPU with oneDNN; but not where XLA compiles
    for a CPU, as for `compile(jit_compile=True)`, whom oneDNN does not serve.
    """
    if on_accelerator():
        return True
    graph = tf.compat.v1.get_default_graph()
    return has_onednn() and not GraphOrParentsInXlaContext(graph)


# Whose functions trace what is to run elsewhere; no public function tells. Where one
# is missing, its graphs hold a CPU's detours, which are right but slower there.
_EXPORTERS = (
    "keras.src.export",
    "tensorflow.python.saved_model",
    "tf2onnx",
    "openvino",
)


def is_exporting() -> bool:
    """Whether what is being traced is for a file or another runtime."""
    if tf.executing_eagerly():
        return False
    return any(
        str(frame.f_globals.get("__name__")).startswith(_EXPORTERS)
        for frame, _ in traceback.walk_stack(None)
    )

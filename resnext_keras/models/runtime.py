"""The device and the kernels that Keras runs on.

Import this module before TensorFlow and Keras: TensorFlow reads the switch of its
oneDNN kernels when it is loaded. It leaves them off on processors without AVX-512,
which makes a training step 1.6 times as long.
"""

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

if "tensorflow" not in sys.modules:
    os.environ.setdefault(VARIABLE, "1")

import keras  # noqa: E402 - after the switch is set

logger = logging.getLogger(__name__)


def warn_if_onednn_is_off(is_on: bool) -> None:
    """Logs how to turn oneDNN on, unless the user has set the switch.

    Args:
        is_on: Whether TensorFlow uses them.
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

    # No public function answers these two questions.
    try:  # whether oneDNN's kernels are on
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:

        def IsMklEnabled():
            return False

    else:
        warn_if_onednn_is_off(IsMklEnabled())
    try:  # whether what is being traced is for XLA
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:

        def GraphOrParentsInXlaContext(graph):
            return False  # Most training on a CPU runs without XLA.


def has_onednn() -> bool:
    """Whether Keras runs on TensorFlow with oneDNN's kernels on the CPU."""
    return keras.config.backend() == "tensorflow" and IsMklEnabled()


# Limits of a container, in versions 2 and 1 of Linux' control groups.
MEMORY_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def main_memory() -> int | None:
    """Bytes of memory of this machine or container; None where it is not known."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for path in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number
            total = min(total, int(Path(path).read_text()))
    return total


def on_accelerator() -> bool:
    """Whether TensorFlow has a GPU or TPU to run on."""
    return any(d.device_type != "CPU" for d in tf.config.list_logical_devices())


def has_fast_kernels() -> bool:
    """Whether TensorFlow's own operations are fast, gradients too.

    They are on a GPU or TPU, and on a CPU with oneDNN. They are not where XLA compiles
    for a CPU, as with `compile(jit_compile=True)`: XLA does not use oneDNN.
    """
    if on_accelerator():
        return True
    graph = tf.compat.v1.get_default_graph()
    return has_onednn() and not GraphOrParentsInXlaContext(graph)


# Modules that trace graphs for elsewhere; no public function finds them out. The
# graphs of an exporter that is missing here contain the detours for slow CPUs, which
# give the same results more slowly.
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

"""What the numbers of a benchmark depend on besides the networks."""

import os
import platform
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from resnext_keras.models.runtime import main_memory

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}

DISTRIBUTIONS = {"keras_applications": "keras-applications", "tf_keras": "tf-keras"}


def device() -> str:
    """`"gpu"` where TensorFlow has one, or else `"cpu"`."""
    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def describe_machine() -> dict:
    """Processor, its widest vector instructions, processors and bytes of memory."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    facts = dict(
        (part.strip() for part in line.split(":", 1))
        for line in text.splitlines()
        if ":" in line
    )
    flags = facts.get("flags", facts.get("Features", "")).split()
    vectors = next((told for flag, told in VECTORS.items() if flag in flags), "")
    return {
        "processor": facts.get("model name")
        or platform.processor()
        or platform.machine(),
        "vectors": vectors,
        "processors": os.cpu_count(),
        "memory": main_memory(),
        "system": platform.system(),
    }


def versions(packages) -> dict[str, str]:
    """The versions of packages that are installed, by the name that is installed."""
    found = {}
    for package in packages:
        name = DISTRIBUTIONS.get(package, package)
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

"""The networks that are timed: this package's, and those of its peers."""

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

from resnext_keras.models.runtime import VARIABLE

TASKS = ("predict", "train")


@dataclass(frozen=True)
class Contender:
    """One way to run a network.

    Attributes:
        name: What a user calls it.
        label: What a table calls it.
        kind: `"ours"`; `"torch"`, the best of which is what all are compared
            with; or `"other"`.
        maker: Module in `worker/` and its function that makes the network.
        options: Keyword arguments of that function.
        tasks: What it can do, of `TASKS`.
        packages: Packages that it needs besides those of this one.
        extra: The extra of this package that has them.
        programs: Programs that it needs.
        models: Names of the architectures that it has; None for all.
        cpu_only: Whether it has no part where a GPU is used.
        environment: Environment variables of its process.
    """

    name: str
    label: str
    kind: str
    maker: str
    options: dict = field(default_factory=dict)
    tasks: tuple[str, ...] = TASKS
    packages: tuple[str, ...] = ()
    extra: str = "bench"
    programs: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    cpu_only: bool = False
    environment: dict = field(default_factory=lambda: {VARIABLE: "1"})

    def obstacle(self, model: str, device: str) -> str | None:
        """Why it cannot run an architecture here, or None.

        Args:
            model: Name of the architecture.
            device: `"cpu"` or `"gpu"`.
        """
        missing = [p for p in self.packages if not importlib.util.find_spec(p)]
        if missing:
            return (
                f"needs {' and '.join(missing)}: "
                f'pip install "resnext-keras[{self.extra}]"'
            )
        missing = [p for p in self.programs if not shutil.which(p)]
        if missing:
            return f"needs the program {' and '.join(missing)}"
        if self.models is not None and model not in self.models:
            return f"has no {model}"
        if self.cpu_only and device != "cpu":
            return "runs on the processor alone, and the others have a GPU"
        return None


_OURS = ("ours", "ours:model")
_TORCH = ("torch", "torch_networks:model")
_PREDICTION = {"tasks": ("predict",)}
_PREDICTOR = ("ours", "ours:predictor")
_FAST = {"extra": "fast", "cpu_only": True} | _PREDICTION
_TORCH_PACKAGES = {"packages": ("torch", "torchvision")}
_EXPORT = {"cpu_only": True} | _PREDICTION

CONTENDERS = (
    Contender("ours", "resnext_keras, oneDNN on", *_OURS),
    Contender(
        "ours-without-onednn",
        "resnext_keras, oneDNN off",
        *_OURS,
        cpu_only=True,
        environment={VARIABLE: "0"},
    ),
    Contender(
        "ours-jit-compile",
        "resnext_keras, jit_compile",
        *_OURS,
        {"jit_compile": True},
        tasks=("train",),
    ),
    Contender(
        "predictor-tensorflow",
        "Predictor, TensorFlow",
        *_PREDICTOR,
        {"engine": "tensorflow"},
        **_PREDICTION,
    ),
    Contender(
        "predictor-onnxruntime",
        "Predictor, ONNX Runtime",
        *_PREDICTOR,
        {"engine": "onnxruntime"},
        packages=("onnxruntime", "onnx", "tf2onnx"),
        **_FAST,
    ),
    Contender(
        "predictor-openvino",
        "Predictor, OpenVINO",
        *_PREDICTOR,
        {"engine": "openvino"},
        packages=("openvino",),
        **_FAST,
    ),
    Contender("torch", "PyTorch, eager", *_TORCH, **_TORCH_PACKAGES),
    Contender(
        "torch-channels-last",
        "PyTorch, channels_last",
        *_TORCH,
        {"channels_last": True},
        **_TORCH_PACKAGES,
    ),
    Contender(
        "torch-compile",
        "PyTorch, torch.compile",
        *_TORCH,
        {"compiled": True},
        programs=(os.environ.get("CXX", "g++"),),  # which its inductor calls
        **_TORCH_PACKAGES,
    ),
    Contender(
        "torch-onnxruntime",
        "PyTorch, in ONNX Runtime",
        "other",
        "torch_exports:onnxruntime",
        packages=("torch", "torchvision", "onnxruntime"),
        **_EXPORT,
    ),
    Contender(
        "torch-openvino",
        "PyTorch, in OpenVINO",
        "other",
        "torch_exports:openvino",
        packages=("torch", "torchvision", "openvino"),
        **_EXPORT,
    ),
    Contender("keras", "Keras, stock Conv2D", "other", "ours:model", {"stock": True}),
    Contender(
        "keras-applications",
        "keras-applications",
        "other",
        "keras_applications_networks:model",
        packages=("keras_applications", "tf_keras"),
        models=("resnext50_32x4d", "resnext101_32x4d"),
    ),
)

PEERS = tuple(c.name for c in CONTENDERS if c.kind != "ours")


MATRIX_PRODUCT_SIDE = 4096
MATRIX_PRODUCT = Contender(
    "matrix-product",
    "floor",
    "floor",
    "matrix_product:product",
    {"side": MATRIX_PRODUCT_SIDE},
)


def choose(
    peers: Iterable[str], tasks: Iterable[str], model: str, device: str
) -> tuple[list[Contender], dict[str, str]]:
    """Those that can run here of this package's contenders and of some peers.

    Args:
        peers: Names of peers.
        tasks: What they have to do, of `TASKS`.
        model: Name of the architecture.
        device: `"cpu"` or `"gpu"`.

    Returns:
        The contenders, in the order of the table; and of the others the label and
        the reason.
    """
    able, left_out = [], {}
    for contender in CONTENDERS:
        asked_for = contender.kind == "ours" or contender.name in peers
        if not asked_for or not set(contender.tasks) & set(tasks):
            continue
        if reason := contender.obstacle(model, device):
            left_out[contender.label] = reason
        else:
            able.append(contender)
    return able, left_out

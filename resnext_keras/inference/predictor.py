"""`Predictor`: runs a network on the fastest engine that is installed."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.classifier import load_classifier
from resnext_keras.inference.engines import (
    ENGINES,
    FILES,
    Engine,
    ModelOrPath,
    build_engine,
    check_installed,
    check_shape,
    engines_for,
    is_installed,
    only_input,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.models.runtime import check_backend
from resnext_keras.weights.tensors import WeightsError

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

logger = logging.getLogger(__name__)


def check_engine(engine: str) -> None:
    """Raises a `ValueError` if there is no such engine, or Keras is not on TensorFlow.

    It is quick: call it before weights are downloaded.
    """
    check_backend()
    if engine not in ("auto", *ENGINES):
        raise ValueError(
            f"Expected `engine` to be 'auto' or one of {', '.join(ENGINES)}. "
            f"Received: engine={engine!r}"
        )


class Predictor:
    """Runs a network on any number of images, on the fastest engine.

    ```python
    predict = Predictor(model)
    scores = predict(preprocess_input(images))
    ```

    Args:
        model_or_path: A functional or `Sequential` model with one input; or the path
            of a `.keras` file, of the folder of a SavedModel from Keras or
            `export_saved_model`, or of an `.onnx`, `.xml` (OpenVINO) or `.tflite`
            file; or weights as `load_classifier` takes them: the name of a weight set,
            the path of a weight file or the folder of a training run. Batch norm of a
            model is folded, and later changes of its weights have no effect.
        engine: `"openvino"`, `"onnxruntime"`, `"tensorflow"`, or `"litert"` for
            `.tflite` files. `"auto"` takes TensorFlow if it has a GPU, otherwise the
            first engine in this order (the fastest) that is installed and can run the
            network.
        batch_size: Number of images that are run at once, at least 1. A network with a
            fixed batch size is run with that size.

    Attributes:
        engine: The engine that runs the network.
        batch_size: Number of images that are run at once.

    All engines compute in float32 on all cores of the processor, or with the number of
    threads set by `tf.config.threading` or `OMP_NUM_THREADS` (TensorFlow itself reads
    only the former). Only TensorFlow runs models of other dtypes, and uses a GPU. The
    other engines come with the extra `fast`. OpenVINO and ONNX Runtime take some
    seconds to convert a model; an exported file needs no conversion. Several threads
    may share a predictor.

    Raises:
        ValueError: The model, the file or another argument is not as described, the
            file is broken, or the chosen engine cannot run the network.
        ImportError: The chosen engine is not installed.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", weights="digits", classes=10)
        >>> predict = rk.Predictor(network, engine="tensorflow")
        >>> predict(np.zeros((2, 32, 32, 3), "float32")).shape
        (2, 10)
    """

    def __init__(
        self,
        model_or_path: keras.Model | str | os.PathLike,
        engine: str = "auto",
        batch_size: int = 32,
    ):
        check_engine(engine)
        batch_size = positive_integer("batch_size", batch_size)
        source = _source(model_or_path, engine)
        self.engine, self._engine = _build(source, engine)
        self._fixed_size = self._engine.input_shape[0]
        self.batch_size = self._fixed_size or batch_size
        logger.info("The network runs on the engine %s.", self.engine)

    def __call__(self, images: np.ndarray) -> Any:
        """Runs the network on a batch of images.

        Args:
            images: A batch for the model, usually (batch, height, width, 3) from
                `preprocess_input`, with any number of images, even 0.

        Returns:
            The outputs, NumPy arrays of shape (batch, ...), in the structure of the
            model's outputs. Files do not keep this structure: for several outputs an
            `.onnx` file gives a list, other files a dict by name.

        Raises:
            ValueError: The shape does not fit the model.
        """
        images = np.ascontiguousarray(images, self._engine.dtype)
        check_shape(images, self._engine.input_shape)
        batches = [
            self._run(images[start : start + self.batch_size])
            for start in range(0, max(len(images), 1), self.batch_size)
        ]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)

    def _run(self, images):
        """The outputs for one batch."""
        # The graphs run batches of any length without being compiled again, and a
        # shorter batch is faster than a padded one.
        rows = len(images)
        if missing := (self._fixed_size or max(rows, 1)) - rows:
            images = np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
        outputs = self._engine.run(images)
        return keras.tree.map_structure(lambda array: array[:rows], outputs)


def _source(model_or_path, engine: str) -> ModelOrPath:
    """A folded model, or the path of an exported one."""
    model = model_or_path
    if isinstance(model_or_path, (str, os.PathLike)):
        path = Path(model_or_path).expanduser()
        if folder := _saved_model(path):
            return folder
        if path.suffix in FILES and path.is_file():
            return path
        if path.suffix == ".keras" and path.is_file():
            with errors_in_one_line("Keras", "a whole .keras file", str(path)):
                # Keras would say that the file does not exist.
                if not zipfile.is_zipfile(path):
                    raise ValueError("It is not a zip archive.")
                model = keras.models.load_model(path, compile=False)
        else:
            check_installed(engine)  # before weights are downloaded
            try:
                model = load_classifier(weights=model_or_path).model
            except WeightsError as error:
                raise _not_a_model(model_or_path, error) from error
    if not isinstance(model, keras.Model):
        raise _not_a_model(model_or_path)
    model = fold_batch_norm(model)
    only_input(model.inputs)
    return model


def _not_a_model(received, error: Exception | None = None) -> ValueError:
    reason = f" ({error})" if error else ""
    return ValueError(
        "Expected `model_or_path` to be a Keras model, the path of an existing .keras, "
        f"{', '.join(FILES)} file or SavedModel folder, or weights. "
        f"Received: model_or_path={received!r}{reason}"
    )


def _saved_model(path: Path) -> Path | None:
    """The folder of a SavedModel; the highest version in TF Serving's layout."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [file.parent for file in path.glob("*/saved_model.pb")]
    numbered = [folder for folder in versions if folder.name.isdecimal()]
    return max(numbered, key=lambda folder: int(folder.name), default=None)


def _build(source: ModelOrPath, engine: str) -> tuple[str, Engine]:
    """The chosen engine, or for "auto" the first that can run the network."""
    able = engines_for(source)
    if engine != "auto":
        if engine not in able:
            raise ValueError(
                f"Expected `engine` to be one that can run this network: "
                f"{', '.join(able)}. Received: engine={engine!r}"
            )
        return engine, build_engine(engine, source)
    if "tensorflow" in able and tf.config.list_physical_devices("GPU"):
        able = ["tensorflow"]
    installed = [name for name in able if is_installed(name, source)]
    *first, last = installed or able[:1]
    for name in first:
        try:
            return name, build_engine(name, source)
        except Exception as error:  # Converters raise anything.
            logger.warning("The engine %s cannot run this network: %s", name, error)
    return last, build_engine(last, source)

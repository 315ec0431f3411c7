"""One callable for predictions, whatever runs the network."""

import logging
import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.inference.engines import (
    ENGINES,
    FILES,
    Engine,
    Source,
    build_engine,
    check_backend,
    engines_for,
    is_installed,
    only_input,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

logger = logging.getLogger(__name__)


class Predictor:
    """A network as a function of any number of images, on the fastest engine.

    ```python
    predict = Predictor(model)
    scores = predict(preprocess_input(images))
    ```

    Args:
        model_or_path: A functional or `Sequential` model of one input, or the
            path of a `.keras` file, of the folder of a SavedModel that Keras or
            `export_saved_model` has written, or of an `.onnx`, `.xml` (OpenVINO)
            or `.tflite` file. Of a model the batch norm is folded and the weights
            are those of this moment.
        engine: `"openvino"`, `"onnxruntime"` or `"tensorflow"`, or `"litert"` for
            `.tflite` files; `"auto"` takes the first of them that is installed
            and can take the network, which is their order by speed, and
            TensorFlow where it has a GPU.
        batch_size: Number of images that are run at once. A network that has a
            fixed length of its batches is run in those.

    Attributes:
        engine: The engine that was taken.
        batch_size: Number of images that are run at once.

    All engines compute in float32 on all cores of the processor, or in as many
    threads as `tf.config.threading` or else `OMP_NUM_THREADS` says (TensorFlow
    itself heeds the former alone). Only TensorFlow takes models of other types
    and runs on a GPU. OpenVINO and ONNX Runtime come with the extra `fast`, and
    take some seconds to convert a model, which a file of the exported model
    saves. A predictor serves one thread at a time.

    Raises:
        ValueError: The model, the file or another argument is none of the above,
            the file is broken, or the engine asked for cannot run the network.
        ImportError: The engine asked for is not installed.
    """

    def __init__(
        self,
        model_or_path: keras.Model | str | os.PathLike,
        engine: str = "auto",
        batch_size: int = 32,
    ):
        check_backend()
        if engine not in ("auto", *ENGINES):
            raise ValueError(
                f"Expected `engine` to be 'auto' or one of {', '.join(ENGINES)}. "
                f"Received: engine={engine!r}"
            )
        batch_size = positive_integer("batch_size", batch_size)
        source = _source(model_or_path)
        self.engine, self._engine = _build(source, engine)
        self._fixed_size = self._engine.input_shape[0]
        self.batch_size = self._fixed_size or batch_size
        logger.info("The network runs on the engine %s.", self.engine)

    def __call__(self, images: np.ndarray):
        """Predicts.

        Args:
            images: A batch as the model takes it, mostly (batch, H, W, channels)
                from `preprocess_input`; any number of rows, none too.

        Returns:
            The model's output for each row, a NumPy array, or a list, tuple or
            dict of them as the model itself gives it, a dict of one output too. A
            file keeps no structure: of several outputs an `.onnx` file gives a
            list, and the others a dict by their names.

        Raises:
            ValueError: The shape is not one that the model takes.
        """
        images = np.ascontiguousarray(images, self._engine.dtype)
        self._check(images)
        batches = [
            self._run(images[start : start + self.batch_size])
            for start in range(0, max(len(images), 1), self.batch_size)
        ]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)

    def _run(self, images):
        """The outputs for the rows of one batch."""
        # The graphs take batches of any length without being compiled again, and
        # a shorter one is faster than one that is filled up.
        rows = len(images)
        if missing := (self._fixed_size or max(rows, 1)) - rows:
            images = np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
        outputs = self._engine.run(images)
        return keras.tree.map_structure(lambda array: array[:rows], outputs)

    def _check(self, images):
        expected, found = self._engine.input_shape[1:], images.shape[1:]
        if len(found) != len(expected) or any(
            size not in (None, length)
            for size, length in zip(expected, found, strict=True)
        ):
            rest = ", ".join(str(size or "any") for size in expected)
            raise ValueError(
                f"Expected a batch of images of shape (batch, {rest}). "
                f"Received: images.shape={images.shape}"
            )


def _source(model_or_path) -> Source:
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
                if not zipfile.is_zipfile(path):  # which Keras says is not there
                    raise ValueError("It is no zip archive.")
                model = keras.models.load_model(path, compile=False)
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected `model_or_path` to be a Keras model, or the path of a .keras, "
            f"{', '.join(FILES)} file or of a SavedModel's folder that exists. "
            f"Received: model_or_path={model_or_path!r}"
        )
    model = fold_batch_norm(model)
    only_input(model.inputs)
    return model


def _saved_model(path: Path) -> Path | None:
    """The folder of a SavedModel, the newest one where TF Serving finds several."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [file.parent for file in path.glob("*/saved_model.pb")]
    numbered = [folder for folder in versions if folder.name.isdecimal()]
    return max(numbered, key=lambda folder: int(folder.name), default=None)


def _build(source: Source, engine: str) -> tuple[str, Engine]:
    """The engine that is asked for, or the first that can be had."""
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
        except Exception as error:  # Converters raise anything at what they miss.
            logger.warning("The engine %s cannot run this network: %s", name, error)
    return last, build_engine(last, source)

"""`Predictor`: runs a network on the fastest engine that is installed."""

import functools
import logging
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.classifier import load_classifier
from resnext_keras.inference.engines import (
    ENGINES,
    FILES,
    PRECISIONS,
    Engine,
    ModelOrPath,
    build_engine,
    check_fits,
    check_installed,
    check_shape,
    engines_for,
    is_installed,
    only_input,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.inference.quantization import (
    check_converter,
    checked_images,
    quantized,
)
from resnext_keras.models.runtime import check_backend, has_fast_bfloat16
from resnext_keras.weights.tensors import WeightsError

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

logger = logging.getLogger(__name__)


TIMED_BATCH = 8
TIMED_CALLS = 5


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


def check_precision(precision: str, calibration=None, engine: str = "auto") -> None:
    """Raises a `ValueError` if there is no such precision, or an engine lacks it.

    Any other precision than float32 needs Keras on TensorFlow. It is quick, as
    `check_engine`.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise ValueError(
            f"Expected `precision` to be 'auto' or one of {', '.join(PRECISIONS)}. "
            f"Received: precision={precision!r}"
        )
    if calibration is not None and precision != "int8":
        raise ValueError(
            "Expected `calibration` only with precision='int8'. "
            f"Received: precision={precision!r}"
        )
    able = PRECISIONS.get(precision, ENGINES)
    if engine not in ("auto", *able):
        raise ValueError(
            f"Expected `engine` to be one that computes in {precision}: "
            f"{', '.join(able)}. Received: engine={engine!r}"
        )
    if precision != "float32":
        check_backend()
    if precision == "int8":
        check_converter()


def available_precision(precision: str) -> str:
    """The precision, or float32 in place of bfloat16 that would be slow here."""
    if precision not in ("bfloat16", "auto") or has_fast_bfloat16():
        return precision
    if precision == "bfloat16":
        logger.warning("No fast bfloat16 was found here; the network runs in float32.")
    return "float32"


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
        precision: What a float32 network computes in: `"float32"`; `"bfloat16"` on
            OpenVINO or TensorFlow, or float32 where the processor has no fast
            bfloat16; `"int8"` on OpenVINO or ONNX Runtime, for a model or weights; or
            `"auto"`, bfloat16 if one batch takes less time in it than in float32,
            otherwise float32.
        calibration: For `"int8"`, a batch for the model, at least one image; about a
            hundred that resemble those in later use are best.

    Attributes:
        engine: The engine that runs the network.
        batch_size: Number of images that are run at once.
        precision: `"float32"`, `"bfloat16"` or `"int8"`, in which the network is run.
            Parts of a file or a model that have another dtype than float32 keep it.

    All engines compute on all cores of the processor, or with the number of
    threads set by `tf.config.threading` or `OMP_NUM_THREADS` (TensorFlow itself reads
    only the former). Only TensorFlow runs models of other dtypes, and uses a GPU. The
    other engines come with the extra `fast`. OpenVINO and ONNX Runtime take some
    seconds to convert a model; an exported file needs no conversion. Several threads
    may share a predictor.

    Images and outputs have the model's dtypes in any precision. In bfloat16 products
    are rounded to 8 bits and added up in float32, and classifiers stay in float32 on
    TensorFlow. bfloat16 is fast on processors with AVX512-BF16 or AMX, which are found
    on Linux only, and on GPUs since Ampere.

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
        *,
        precision: str = "float32",
        calibration: np.ndarray | None = None,
    ):
        check_engine(engine)
        check_precision(precision, calibration, engine)
        batch_size = positive_integer("batch_size", batch_size)
        if calibration is None and precision == "int8":
            raise ValueError(
                "Expected images for `calibration` with precision='int8'. "
                "Received: calibration=None"
            )
        source = _source(model_or_path, engine)
        precision = available_precision(precision)
        if precision == "auto":
            build = functools.partial(_faster, batch_size=batch_size)
        elif precision == "int8":
            build = functools.partial(_build, write=_in_int8(source, calibration))
        else:
            build = _build
        self.engine, self.precision, self._engine = build(source, engine, precision)
        self._fixed_size = self._engine.input_shape[0]
        self.batch_size = self._fixed_size or batch_size
        logger.info(
            "The network runs on the engine %s in %s.", self.engine, self.precision
        )

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


def _in_int8(source: ModelOrPath, images) -> Callable:
    """What writes a model in int8 for any engine."""
    if isinstance(source, Path):
        raise ValueError(
            "Expected a model or weights with precision='int8'; a file that `quantize` "
            f"wrote is in int8 and needs none. Received: {source}"
        )
    images = checked_images(images, only_input(source.inputs))
    check_fits(source, "onnxruntime")
    return lambda model, engine: quantized(model, images)


def _faster(
    source: ModelOrPath, engine: str, precision: str, batch_size: int
) -> tuple[str, str, Engine]:
    """The faster of float32 and bfloat16, on one batch of up to 8 images."""
    float32 = _build(source, engine, "float32")
    if engine not in ("auto", *engines_for(source, "bfloat16")):
        return float32
    bfloat16 = _build(source, engine, "bfloat16")
    length, *sizes = float32[-1].input_shape
    shape = length or min(batch_size, TIMED_BATCH), *(size or 224 for size in sizes)
    images = np.zeros(shape, float32[-1].dtype)
    return min(
        float32, bfloat16, key=lambda built: seconds_per_image(built[-1].run, images)
    )


def _build(
    source: ModelOrPath, engine: str, precision: str, write: Callable | None = None
) -> tuple[str, str, Engine]:
    """The chosen engine, or for "auto" the first that can run the network."""
    able = engines_for(source, precision)
    if engine not in (able and ["auto", *able]):
        raise ValueError(
            f"Expected `engine` to be one that can run this network in {precision}: "
            f"{', '.join(able) or 'none can'}. Received: engine={engine!r}"
        )
    if engine != "auto":
        return engine, precision, build_engine(engine, source, precision, write)
    if "tensorflow" in able and tf.config.list_physical_devices("GPU"):
        able = ["tensorflow"]
    installed = [name for name in able if is_installed(name, source)]
    *first, last = installed or able[:1]
    for name in first:
        try:
            return name, precision, build_engine(name, source, precision, write)
        except Exception as error:  # Converters raise anything.
            logger.warning("The engine %s cannot run this network: %s", name, error)
    return last, precision, build_engine(last, source, precision, write)


def seconds_per_image(predict: Callable, images: np.ndarray) -> float:
    """Median time for one image in a batch of up to 8.

    Time two models one after the other: the threads of ONNX Runtime spin while they
    wait.
    """
    batch = images[:TIMED_BATCH]
    predict(batch)
    durations = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        predict(batch)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations)) / len(batch)

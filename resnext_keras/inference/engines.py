"""Engines that run a network: OpenVINO, ONNX Runtime, TensorFlow and LiteRT."""

import contextlib
import functools
import gc
import importlib.util
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras import extras
from resnext_keras.inference.errors import NetworkError, errors_in_one_line
from resnext_keras.inference.fold import in_bfloat16
from resnext_keras.models.graph import all_layers, source_of
from resnext_keras.models.runtime import without_empty_batches

CARD_FILE = "model.json"
"""Name of the model card's file in a SavedModel's assets."""

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

INPUT_NAME = "images"  # the input of exported networks

PRECISIONS = {
    "float32": ("openvino", "onnxruntime", "tensorflow", "litert"),
    "bfloat16": ("openvino", "tensorflow"),
    "int8": ("openvino", "onnxruntime"),
}
"""The engines that compute in a precision."""

OPENVINO_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Options of OpenVINO's `compile_model`. By default it computes in bfloat16 where the
processor can, and scores differ by up to 0.01. A file cannot choose this."""

ModelOrPath = keras.Model | Path  # a model, or the folder or file of an exported one

FILES = {
    ".onnx": ("openvino", "onnxruntime"),
    ".xml": ("openvino",),
    ".tflite": ("litert",),
}
"""The engines that run a file, by its suffix."""


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes:
        run: Function from a batch of images, (rows, ...), to the outputs: an array,
            or a list or dict of several.
        input_shape: Shape of the batch, with None for variable lengths.
        dtype: Dtype of the images.
    """

    run: Callable[[np.ndarray], object]
    input_shape: tuple[int | None, ...]
    dtype: np.dtype


def only_input(inputs: list):
    """The one input of a network, or a `NetworkError` if there are several."""
    if len(inputs) != 1:
        raise NetworkError(
            "Expected a network of one input. "
            f"Received: a network of {len(inputs)} inputs"
        )
    return inputs[0]


def check_shape(
    images: np.ndarray, shape: tuple[int | None, ...], least: int = 0
) -> None:
    """Raises a `ValueError` unless images are a batch for an input of this shape."""
    sizes = shape[1:]
    if (
        images.ndim != len(shape)
        or len(images) < least
        or any(n not in (None, m) for n, m in zip(sizes, images.shape[1:], strict=True))
    ):
        rest = ", ".join(str(size or "any") for size in sizes)
        raise ValueError(
            f"Expected {'at least one image' if least else 'images'} of shape (batch, "
            f"{rest}). Received: images.shape={images.shape}"
        )


def engines_for(source: ModelOrPath, precision: str = "float32") -> list[str]:
    """The engines that can run a network, installed or not, fastest first.

    Only TensorFlow runs models of other dtypes than float32, which it keeps, as it
    keeps that of a file. An ONNX file can hold less than 2 GB.
    """
    if isinstance(source, Path):
        # A SavedModel with a card decodes images, which OpenVINO cannot.
        has_card = (source / "assets" / CARD_FILE).is_file()
        folder = ("tensorflow",) if has_card else ("openvino", "tensorflow")
        able = set(FILES.get(source.suffix, folder))
        if precision != "float32":
            able.discard("tensorflow")
    elif any(layer.compute_dtype != "float32" for layer in all_layers(source)):
        able = {"tensorflow"} if precision == "float32" else set()
    else:
        able = {"openvino", "onnxruntime", "tensorflow"}
        if 4 * source.count_params() >= 2**31:
            able.remove("onnxruntime")
    return [engine for engine in PRECISIONS[precision] if engine in able]


def check_fits(model: keras.Model, engine: str) -> None:
    """Raises a `ValueError` if an engine cannot run a network's size or dtype."""
    if engine not in engines_for(model):
        dtypes = sorted({layer.compute_dtype for layer in all_layers(model)})
        raise ValueError(
            "Expected a model in float32 and, except for OpenVINO, of less than 2 GB. "
            f"Received: model={model.name!r} in {' and '.join(dtypes)} "
            f"of {4 * model.count_params() / 1e9:.2f} GB"
        )


def check_installed(engine: str, source: ModelOrPath = Path()) -> None:
    """Raises an `ImportError` if a package that an engine needs is missing."""
    for package in _packages(engine, source):
        optional(package)


def is_installed(engine: str, source: ModelOrPath) -> bool:
    """Whether the packages that an engine needs for a network are installed."""
    return all(map(importlib.util.find_spec, _packages(engine, source)))


def build_engine(
    engine: str,
    source: ModelOrPath,
    precision: str = "float32",
    write: Callable | None = None,
) -> Engine:
    """Prepares a network for an engine.

    Args:
        engine: One of `engines_for(source, precision)`.
        source: A functional model, the folder of a SavedModel from Keras or
            `export_saved_model`, or a file with a suffix of `FILES`; with one input.
        precision: One of `PRECISIONS`.
        write: Context manager that writes a model to a file, in place of `exported`.

    Returns:
        The `Engine`.

    Raises:
        ImportError: A package of the engine is missing.
        ValueError: The network has several inputs or was not exported by Keras, the
            file is broken, or the engine cannot run it.
    """
    check_installed(engine, source)
    if isinstance(source, Path):
        kind = f"{source.suffix} file" if source.is_file() else "SavedModel"
        expected = f"a whole {kind} that {engine} can run"
        with errors_in_one_line(engine, expected, str(source)):
            return ENGINES[engine](source, precision)
    if engine == "tensorflow":
        return ENGINES[engine](source, precision)
    with (
        errors_in_one_line(
            engine,
            f"a model that {engine} can run",
            f"model={source.name!r}",
            *writing_errors(),
        ),
        (write or exported)(source, engine) as path,
    ):
        built = ENGINES[engine](path, precision)
    # Keeping the tensors would keep all of the model's weights in memory.
    structure = keras.tree.map_structure(lambda tensor: 0, source.output)
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        (structure,) = structure  # Keras unpacks a list of one, but not a dict

    def run(images):
        outputs = keras.tree.flatten(built.run(images))
        return keras.tree.pack_sequence_as(structure, outputs)

    return Engine(run, built.input_shape, built.dtype)


def writing_errors() -> tuple[type[Exception], ...]:
    """Exceptions that do not come from the model, as on a full disk."""
    return OSError, tf.errors.OpError


def _packages(engine: str, source: ModelOrPath) -> tuple[str, ...]:
    if engine in ("tensorflow", "auto"):
        return ()
    if engine == "litert":
        return ("ai_edge_litert",)
    if engine == "onnxruntime" and isinstance(source, keras.Model):
        return ("onnxruntime", "onnx", "tf2onnx")
    return (engine,)


# Packages of the engines come with one extra.
optional = functools.partial(extras.optional, extra="fast")


def output_names(model: keras.Model) -> list[str]:
    """A unique name for each output, different from the input's.

    It is the key in a dict of outputs, otherwise the name of the output's layer.
    """
    wanted = [source_of(tensor)[0].name for tensor in model.outputs]
    if isinstance(model.output, dict) and len(model.output) == len(wanted):
        wanted = keras.tree.flatten({key: str(key) for key in model.output})
    names = []
    for number, name in enumerate(wanted):
        names.append(f"{name}_{number}" if name in (INPUT_NAME, *names) else name)
    return names


@contextlib.contextmanager
def exported(
    model: keras.Model, engine: str, names: list[str] | None = None
) -> Iterator[Path]:
    """Context manager: exports a model to a temporary file for an engine.

    This is an ONNX file for `"onnxruntime"`, otherwise a SavedModel. The input is named
    `INPUT_NAME`. The outputs are a list, or with `names` a dict. Errors of tf2onnx and
    ONNX are raised unchanged.
    """
    outputs = dict(zip(names, model.outputs, strict=True)) if names else model.outputs
    flat = keras.Model(model.inputs, outputs, name=model.name)
    image = only_input(model.inputs)
    signature = [keras.InputSpec(shape=image.shape, dtype=image.dtype, name=INPUT_NAME)]
    # Not Keras' export for OpenVINO, which makes all grouped convolutions outputs.
    name, kind = ("model", "tf_saved_model")
    if engine == "onnxruntime":
        name, kind = ("model.onnx", "onnx")
    with (
        # Windows cannot remove a file that is still mapped.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Users cannot act on the converters' warnings.
        path = Path(folder, name)
        with _frequent_collections():
            flat.export(path, kind, verbose=False, input_signature=signature)
        if kind == "onnx":  # tf2onnx only logs what it cannot convert.
            optional("onnx").checker.check_model(str(path))
        yield path


@contextlib.contextmanager
def _frequent_collections() -> Iterator[None]:
    """Context manager: frees tf2onnx's copies of the graph after each of its steps.

    The copies are reference cycles of few objects, which do not trigger a garbage
    collection. For ResNeXt-50 they would add up to 4 GB, and take 10 seconds.
    """
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    if not frozen:
        gc.freeze()  # or each collection would search TensorFlow's 500,000 objects
    gc.set_threshold(700, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen:
            gc.unfreeze()


def _tensorflow(source: ModelOrPath, precision: str) -> Engine:
    if isinstance(source, Path):
        loaded = tf.saved_model.load(source)
        if not hasattr(loaded, "serve"):
            raise NetworkError(
                "Expected a SavedModel with the endpoint `serve`, as Keras exports it. "
                f"Received: {source}"
            )
        spec = only_input(loaded.serve.input_signature)

        def function(images):  # keeps the variables alive, unlike `serve` itself
            return loaded.serve(images)

    else:
        spec = tf.TensorSpec(source.inputs[0].shape, source.inputs[0].dtype)
        network = functools.partial(source, training=False)
        if precision == "bfloat16":
            network = _through_bfloat16(source)
        # One graph for all sizes, so that no call traces again.
        function = tf.function(lambda images: network(images), input_signature=[spec])
        with without_empty_batches():  # `Predictor` pads them
            function.get_concrete_function()

    def run(images):
        outputs = function(tf.constant(images))
        return keras.tree.map_structure(lambda tensor: tensor.numpy(), outputs)

    return Engine(run, tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))


def _through_bfloat16(model: keras.Model) -> Callable:
    """A function with the outputs of a model, in their dtypes, through bfloat16."""
    network = in_bfloat16(model)
    # As constants, so that oneDNN rearranges the kernels once, not in each call.
    weights = [
        [variable.numpy() for variable in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    ]

    def run(images):
        outputs, _ = network.stateless_call(*weights, images, training=False)
        return keras.tree.map_structure(
            lambda output, expected: tf.cast(output, expected.dtype),
            outputs,
            model.output,
        )

    return run


def _onnxruntime(path: Path, precision: str) -> Engine:
    onnxruntime = optional("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    image = only_input(session.get_inputs())
    shape = tuple(n if isinstance(n, int) else None for n in image.shape)
    dtype = image.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)

    def run(images):
        outputs = session.run(None, {image.name: images})
        return outputs[0] if len(outputs) == 1 else outputs

    return Engine(run, shape, np.dtype(dtype))


def _openvino(path: Path, precision: str) -> Engine:
    openvino = optional("openvino")
    options: dict = dict(OPENVINO_FLOAT32)
    if precision == "bfloat16":
        options["INFERENCE_PRECISION_HINT"] = "bf16"
    if threads := _threads():
        options["INFERENCE_NUM_THREADS"] = threads
        # Otherwise all processes would pin their threads to the same first cores.
        options["ENABLE_CPU_PINNING"] = False
    compiled = openvino.Core().compile_model(path, "CPU", options)
    image = only_input(compiled.inputs)
    names = list(map(_name, compiled.outputs))
    # Only Keras' SavedModels show whether a single output was in a dict.
    is_keyed = path.is_dir() and names != ["output_0"]

    def run(images):
        arrays = list(compiled(images).values())
        if path.suffix == ".onnx" and len(arrays) > 1:
            return arrays
        outputs = dict(zip(names, arrays, strict=True))
        return outputs if len(names) == 1 and is_keyed else _in_order(outputs)

    return Engine(
        _one_at_a_time(run),
        tuple(n.get_length() if n.is_static else None for n in image.partial_shape),
        np.dtype(image.element_type.to_dtype()),
    )


def _name(output) -> str:
    """The name of an output of OpenVINO.

    If a tensor is used for several outputs, or is also the input, it has all names.
    """
    name = output.node.friendly_name.removesuffix("/sink_port_0")  # as in ONNX files
    return name if name in output.names else output.any_name


def _litert(path: Path, precision: str) -> Engine:
    interpreter = optional("ai_edge_litert.interpreter").Interpreter(
        str(path), num_threads=_threads() or os.cpu_count()
    )
    runner = interpreter.get_signature_runner()
    name, image = only_input(list(runner.get_input_details().items()))
    shape = tuple(int(n) if n > 0 else None for n in image["shape_signature"])

    details = runner.get_output_details()
    is_int8 = image["dtype"] == np.int8

    def run(images):
        if not is_int8:
            return _in_order(runner(**{name: images}))
        scale, zero_point = image["quantization"]
        values = np.clip(np.round(images / scale + zero_point), -128, 127)
        outputs = runner(**{name: values.astype("int8")})
        for output, values in outputs.items():
            scale, zero_point = details[output]["quantization"]
            # Wider first, since 127 - -128 is no int8.
            outputs[output] = np.float32(scale) * (np.float32(values) - zero_point)
        return _in_order(outputs)

    dtype = np.dtype("float32" if is_int8 else image["dtype"])
    return Engine(_one_at_a_time(run), shape, dtype)


def _one_at_a_time(run: Callable) -> Callable:
    """The function behind a lock, for engines that refuse or mix up parallel calls.

    Each call uses all cores, so that several at once would not be faster.
    """
    lock = threading.Lock()

    def locked(images):
        with lock:
            return run(images)

    return locked


def _in_order(outputs: dict):
    """The only output; or a list if Keras numbered the outputs; or a dict by name."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    # The runtimes sort names as text: "output_10" comes before "output_2".
    numbered = [f"output_{number}" for number in range(len(outputs))]
    if outputs.keys() == set(numbered):
        return [outputs[name] for name in numbered]
    return outputs


def _threads() -> int:
    """Number of threads that the user has set; 0 for one per core."""
    count = tf.config.threading.get_intra_op_parallelism_threads()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return count or (int(first) if first.isdecimal() else 0)


# Fastest first. With ResNeXt-50 OpenVINO takes 0.96 of ONNX Runtime's time, and a
# quarter of its time and a fifth of its memory for the conversion.
ENGINES = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorflow": _tensorflow,
    "litert": _litert,
}

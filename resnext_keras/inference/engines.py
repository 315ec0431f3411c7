"""What runs a network: OpenVINO, ONNX Runtime or TensorFlow, called alike."""

import contextlib
import functools
import gc
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from resnext_keras import extras
from resnext_keras.inference.errors import NetworkError, errors_in_one_line
from resnext_keras.models.graph import source_of

CARD_FILE = "model.json"
"""Name of the file of a model's card, where its format has files for that."""

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

INPUT_NAME = "images"  # in exported networks

Source = keras.Model | Path  # a model, or an exported one: a folder or a file

FILES = {
    ".onnx": ("openvino", "onnxruntime"),
    ".xml": ("openvino",),
    ".tflite": ("litert",),
}
"""Which engines run a file, by its ending."""


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes:
        run: From one batch of images, (rows, ...), to the outputs: an array, or
            a list or dict of several.
        input_shape: Shape of the batch, with None for a length that may vary.
        dtype: Type of the images.
    """

    run: Callable[[np.ndarray], object]
    input_shape: tuple[int | None, ...]
    dtype: np.dtype


def check_backend() -> None:
    """Raises a `ValueError` where Keras runs on another backend than TensorFlow."""
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras to run on TensorFlow. "
            f"Received: keras.config.backend()={keras.config.backend()!r}"
        )


def only_input(inputs: list):
    """The one input of a network; more of them are refused."""
    if len(inputs) != 1:
        raise NetworkError(
            "Expected a network of one input. "
            f"Received: a network of {len(inputs)} inputs"
        )
    return inputs[0]


def engines_for(source: Source) -> list[str]:
    """The engines that can run a network, whether installed or not, fastest first.

    Other than TensorFlow they compute in float32 alone, and a file in ONNX's
    format holds less than 2 GB.
    """
    if isinstance(source, Path):
        # OpenVINO cannot decode images, as the SavedModels with a card do.
        has_card = (source / "assets" / CARD_FILE).is_file()
        folder = ("tensorflow",) if has_card else ("openvino", "tensorflow")
        return list(FILES.get(source.suffix, folder))
    if any(layer.compute_dtype != "float32" for layer in _layers(source)):
        return ["tensorflow"]
    too_large = 4 * source.count_params() >= 2**31
    return ["openvino", *(() if too_large else ("onnxruntime",)), "tensorflow"]


def check_fits(model: keras.Model, engine: str) -> None:
    """Raises a `ValueError` where a network is too large for an engine or its type."""
    if engine not in engines_for(model):
        raise ValueError(
            "Expected a model in float32 and, but for OpenVINO's format, of less than "
            f"2 GB. Received: model={model.name!r} in {model.compute_dtype} "
            f"of {4 * model.count_params() / 1e9:.2f} GB"
        )


def is_installed(engine: str, source: Source) -> bool:
    """Whether the packages are installed that an engine needs for a network."""
    return all(map(importlib.util.find_spec, _packages(engine, source)))


def build_engine(engine: str, source: Source) -> Engine:
    """Prepares a network for an engine.

    Args:
        engine: One of `engines_for(source)`.
        source: A functional model, the folder of a SavedModel that Keras or
            `export_saved_model` has written, or a file of `FILES`; of one input.

    Raises:
        ImportError: A package that the engine needs is not installed.
        ValueError: The network has several inputs, Keras did not export it, the
            file is broken, or the engine cannot run it.
    """
    for package in _packages(engine, source):
        optional(package)
    if isinstance(source, Path):
        kind = f"{source.suffix} file" if source.is_file() else "SavedModel"
        expected = f"a whole {kind} that {engine} can run"
        with errors_in_one_line(engine, expected, str(source)):
            return ENGINES[engine](source)
    if engine == "tensorflow":
        return ENGINES[engine](source)
    with (
        errors_in_one_line(
            engine,
            f"a model that {engine} can run",
            f"model={source.name!r}",
            *writing_errors(),
        ),
        exported(source, engine) as path,
    ):
        built = ENGINES[engine](path)
    # Numbers, since the model's tensors would keep all of its weights in memory.
    structure = keras.tree.map_structure(lambda tensor: 0, source.output)
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        (structure,) = structure  # as Keras gives it, unlike a dict of one

    def run(images):
        outputs = keras.tree.flatten(built.run(images))
        return keras.tree.pack_sequence_as(structure, outputs)

    return Engine(run, built.input_shape, built.dtype)


def writing_errors() -> tuple[type[Exception], ...]:
    """What is raised where a disk is full, say, and tells nothing of a model."""
    return OSError, tf.errors.OpError


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """All layers, of models within the model too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _packages(engine: str, source: Source) -> tuple[str, ...]:
    if engine == "tensorflow":
        return ()
    if engine == "litert":
        return ("ai_edge_litert",)
    if engine == "onnxruntime" and isinstance(source, keras.Model):
        return ("onnxruntime", "onnx", "tf2onnx")
    return (engine,)


# The engines' packages.
optional = functools.partial(extras.optional, extra="fast")


def output_names(model: keras.Model) -> list[str]:
    """A name for each output; none is twice or the input's.

    Of a dict it is the key, else the name of the output's layer.
    """
    found = [source_of(tensor)[0].name for tensor in model.outputs]
    if isinstance(model.output, dict) and len(model.output) == len(found):
        found = keras.tree.flatten({key: str(key) for key in model.output})
    names = []
    for number, name in enumerate(found):
        names.append(f"{name}_{number}" if name in (INPUT_NAME, *names) else name)
    return names


@contextlib.contextmanager
def exported(
    model: keras.Model, engine: str, names: list[str] | None = None
) -> Iterator[Path]:
    """A file of a model for an engine, as long as it is needed.

    Its input is `INPUT_NAME`; its outputs a list, or with `names` a dict of these.
    What tf2onnx or ONNX says of a model that it cannot hold is raised as it is.
    """
    outputs = dict(zip(names, model.outputs, strict=True)) if names else model.outputs
    flat = keras.Model(model.inputs, outputs, name=model.name)
    image = only_input(model.inputs)
    signature = [keras.InputSpec(shape=image.shape, dtype=image.dtype, name=INPUT_NAME)]
    # Keras' own export for OpenVINO makes outputs of all grouped convolutions.
    name, kind = ("model", "tf_saved_model")
    if engine == "onnxruntime":
        name, kind = ("model.onnx", "onnx")
    with (
        # Windows does not remove a file that is still mapped.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # The converters' are no concern of a user.
        path = Path(folder, name)
        with _frequent_collections():
            flat.export(path, kind, verbose=False, input_signature=signature)
        if kind == "onnx":  # tf2onnx leaves what it does not know, and only logs it.
            optional("onnx").checker.check_model(str(path))
        yield path


@contextlib.contextmanager
def _frequent_collections() -> Iterator[None]:
    """Frees the copies of the graph that tf2onnx makes for each of its steps.

    They refer to themselves, and are so few objects that Python lets them be: of
    ResNeXt-50 4 GB, whose pages take 10 seconds.
    """
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    if not frozen:
        gc.freeze()  # TensorFlow's half a million objects are not searched each time.
    gc.set_threshold(700, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen:
            gc.unfreeze()


def _tensorflow(source: Source) -> Engine:
    if isinstance(source, Path):
        loaded = tf.saved_model.load(source)
        if not hasattr(loaded, "serve"):
            raise NetworkError(
                "Expected a SavedModel with the endpoint `serve`, as Keras exports it. "
                f"Received: {source}"
            )
        spec = only_input(loaded.serve.input_signature)

        def function(images):  # which, unlike `serve`, keeps the variables alive
            return loaded.serve(images)

    else:
        spec = tf.TensorSpec(source.inputs[0].shape, source.inputs[0].dtype)
        # One graph for all sizes: with a varying length nothing is traced again.
        function = tf.function(
            lambda images: source(images, training=False), input_signature=[spec]
        )
        function.get_concrete_function()

    def run(images):
        outputs = function(tf.constant(images))
        return keras.tree.map_structure(lambda tensor: tensor.numpy(), outputs)

    return Engine(run, tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))


def _onnxruntime(path: Path) -> Engine:
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


def _openvino(path: Path) -> Engine:
    openvino = optional("openvino")
    # By itself it computes in bfloat16 on processors that have it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads := _threads():
        options["INFERENCE_NUM_THREADS"] = threads
        # Each process would pin its threads to the same cores, the first ones.
        options["ENABLE_CPU_PINNING"] = False
    compiled = openvino.Core().compile_model(path, "CPU", options)
    image = only_input(compiled.inputs)
    names = list(map(_name, compiled.outputs))
    # Of one output Keras tells in its SavedModels alone whether it was in a dict.
    is_keyed = path.is_dir() and names != ["output_0"]

    def run(images):
        arrays = list(compiled(images).values())
        if path.suffix == ".onnx" and len(arrays) > 1:
            return arrays
        outputs = dict(zip(names, arrays, strict=True))
        return outputs if len(names) == 1 and is_keyed else _in_order(outputs)

    return Engine(
        run,
        tuple(n.get_length() if n.is_static else None for n in image.partial_shape),
        np.dtype(image.element_type.to_dtype()),
    )


def _name(output) -> str:
    """The name of one of OpenVINO's outputs.

    A tensor that is several outputs, or the input too, has all of their names.
    """
    name = output.node.friendly_name.removesuffix("/sink_port_0")  # as in ONNX files
    return name if name in output.names else output.any_name


def _litert(path: Path) -> Engine:
    interpreter = optional("ai_edge_litert.interpreter").Interpreter(
        str(path), num_threads=_threads() or os.cpu_count()
    )
    runner = interpreter.get_signature_runner()
    name, image = only_input(list(runner.get_input_details().items()))
    shape = tuple(int(n) if n > 0 else None for n in image["shape_signature"])

    def run(images):
        return _in_order(runner(**{name: images}))

    return Engine(run, shape, np.dtype(image["dtype"]))


def _in_order(outputs: dict):
    """The one output, or a list of those that Keras has numbered, or all by name."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    # The runtimes have the tenth before the second.
    numbered = [f"output_{number}" for number in range(len(outputs))]
    if outputs.keys() == set(numbered):
        return [outputs[name] for name in numbered]
    return outputs


def _threads() -> int:
    """Number of threads that the user wants, 0 for as many as there are cores."""
    count = tf.config.threading.get_intra_op_parallelism_threads()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return count or (int(first) if first.isdecimal() else 0)


# Fastest first: ResNeXt-50 takes OpenVINO 0.96 of ONNX Runtime's time, and a quarter
# of the time and a fifth of the memory to convert.
ENGINES = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorflow": _tensorflow,
    "litert": _litert,
}

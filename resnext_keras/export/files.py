"""Exports networks to files for ONNX Runtime, OpenVINO and LiteRT."""

import functools
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from resnext_keras.export.model_card import make_model_card
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.inference.engines import (
    OPENVINO_FLOAT32,
    check_fits,
    exported,
    only_input,
    optional,
    output_names,
    writing_errors,
)
from resnext_keras.inference.errors import errors_in_one_line
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.inference.quantization import (
    check_converter,
    checked_images,
    quantize_file,
)
from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.graph import head_activation, plain_graph
from resnext_keras.models.runtime import check_backend
from resnext_keras.progress import tracked
from resnext_keras.weights.checkpoint import Checkpoint

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

PRECISIONS = ("float32", "float16", "int8")

CARD = "model_card"  # name of the model card in a file

BESIDE = {".xml": (".bin",)}  # suffixes of files that belong to another, by its suffix


def files_beside(path: Path) -> list[Path]:
    """The files that belong to a file, as `model.bin` to `model.xml`."""
    return [path.with_suffix(suffix) for suffix in BESIDE.get(path.suffix, ())]


def export_file(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    images: np.ndarray | None = None,
    *,
    int8_io: bool = False,
    weights: str | os.PathLike | Checkpoint | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a network to a file for ONNX Runtime, OpenVINO or LiteRT.

    ```python
    export_file(model, "flowers.tflite", "float16", class_names=["daisy", "tulip"])
    ```

    Batch norm is folded. The input is named `images`, and each output after its layer.
    Batches can have any length. In every precision, input and outputs have the model's
    dtype, except with `int8_io`. The file contains a model card (preprocessing, class
    names, licence) as JSON under the name `model_card`: in ONNX's `metadata_props`, in
    OpenVINO's `rt_info`, and as `model_card.json` in a `.tflite` file, which is a zip
    archive too.

    Args:
        model: A functional or built `Sequential` model that takes square RGB images
            from `preprocess_input`, in float32 and, except for OpenVINO, under 2 GB.
            It is not changed.
        path: The file. Its name ends in `.onnx`; in `.xml` for OpenVINO, which also
            writes a `.bin` file with the weights; or in `.tflite` for LiteRT. Pass
            OpenVINO's `compile_model` the `compile_options` of the model card, or it
            computes in bfloat16 where the processor can.
        precision: `"float32"`; `"float16"`, with weights of half the size and
            float32 computation on CPUs; or `"int8"`, with weights of a quarter of the
            size and int8 computation (in LiteRT files the classifier stays in float32).
        images: For int8, a batch for calibration as `quantize` takes it, from
            `preprocess_input`; otherwise None.
        int8_io: Whether input and outputs of a `.tflite` file in int8 are int8 too, for
            processors without floating point. The classifier is int8 then, and scores
            are multiples of 1/256. `quantization` in the model card has the scale and
            zero point of each; `Predictor` converts from and to float32.
        weights: The weights that the model was built with: full name of a weight set,
            path of a file of a listed architecture, or folder of a training run,
            which give the defaults of `preprocessing`, `class_names` and `licence`;
            None for other weights.
        preprocessing: How images are read; see `export_saved_model`.
        class_names: Name of each class; see `export_saved_model`.
        licence: SPDX identifier of the weights' licence; None for that of `weights`.
        overwrite: Whether existing files may be replaced.

    Raises:
        ImportError: A package of the extra `fast` is missing.
        ValueError: An argument is not as described, a file exists, or the format
            does not support an operation of the model. Nothing is written then.
        OSError: Writing failed, as on a full disk. No partial file is left. A killed
            process leaves a folder `.writing-...` beside the file, which may be
            removed.
    """
    check_backend()
    path = output_model(path, precision, overwrite)
    if int8_io and (path.suffix, precision) != (".tflite", "int8"):
        raise ValueError(
            "Expected a .tflite file in int8 for `int8_io`. Received: int8_io=True, "
            f"path={str(path)!r}, precision={precision!r}"
        )
    check_writer(path.suffix, precision, int8_io)
    if (images is None) == (precision == "int8"):
        raise ValueError(
            "Expected `images` if the precision is int8, and only then. "
            f"Received: precision={precision!r}, "
            f"images={'None' if images is None else '...'}"
        )
    graph = plain_graph(model)
    card = make_model_card(graph, weights, preprocessing, class_names, licence)
    if images is not None:
        images = checked_images(images, only_input(graph.inputs))
        if np.abs(images).max() > 10:
            raise ValueError(
                "Expected `images` from `preprocess_input`, from -2.2 to 2.7. "
                f"Received: numbers from {images.min():.3g} to {images.max():.3g}"
            )
    is_openvino = path.suffix == ".xml" and precision != "int8"
    check_fits(graph, "openvino" if is_openvino else "onnxruntime")
    write, content = WRITERS[path.suffix], card.as_json()
    if int8_io:
        write = functools.partial(write, int8_io=True)
    expected = f"a model that a {path.suffix} file supports"
    received, passed = f"model={model.name!r}", writing_errors()
    try:
        with (
            errors_in_one_line("the converter", expected, received, *passed),
            atomic_write(path, *files_beside(path)) as written,
        ):
            write(fold_batch_norm(graph), written, precision, images, content)
    except passed as error:
        raise OSError(f"{path} could not be written: {error}") from error


def output_model(path: str | os.PathLike, precision: str, overwrite: bool) -> Path:
    """Checks precision and path of `export_file`, and returns the path."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"Expected `precision` to be one of {', '.join(PRECISIONS)}. "
            f"Received: precision={precision!r}"
        )
    beside = BESIDE.get(Path(path).suffix, ())
    return output_file(path, tuple(WRITERS), overwrite, beside=beside)


def check_writer(suffix: str, precision: str, int8_io: bool = False) -> None:
    """Raises an `ImportError` if a package that writes such a file is missing."""
    # OpenVINO has no quantizer; it reads the file that ONNX Runtime quantized.
    if suffix == ".onnx" or (suffix == ".xml" and precision == "int8"):
        check_converter()
    if suffix == ".xml":
        optional("openvino")
    if int8_io:
        optional("ai_edge_litert.interpreter")


def _write_onnx(model, target: Path, precision, images, card: dict) -> None:
    onnx = optional("onnx")
    with exported(model, "onnxruntime") as float32:
        if precision == "int8":
            quantize_file(float32, images, target)
            float32 = target
        network = onnx.load(float32)
    if precision == "float16":
        float16 = optional("onnxruntime.transformers.float16")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights near 0
            network = float16.convert_float_to_float16(network, keep_io_types=True)
        # The conversion appends casts at the end, but ONNX requires topological order.
        sorting = optional("onnxruntime.transformers.onnx_model")
        sorting.OnnxModel(network).topological_sort()
    graph = network.graph
    outputs = [output.name for output in graph.output]
    names = dict(zip(outputs, output_names(model), strict=True))
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # The converters leave comments, and operator sets that are not used.
    graph.doc_string = ""
    del network.metadata_props[:]
    used = {node.domain for node in graph.node}
    for imported in [i for i in network.opset_import if i.domain not in used]:
        network.opset_import.remove(imported)
    network.metadata_props.add(key=CARD, value=json.dumps(card))
    onnx.save(network, target)


def _write_openvino(model, target: Path, precision, images, card: dict) -> None:
    openvino = optional("openvino")

    def save(path):
        network = openvino.Core().read_model(path)
        content = card | {"compile_options": OPENVINO_FLOAT32}
        network.set_rt_info(json.dumps(content), CARD)
        try:
            openvino.save_model(network, target, precision == "float16")
        except RuntimeError as error:  # raised on a full disk too
            raise OSError(error) from error

    if precision == "int8":
        onnx = target.with_suffix(".onnx")  # in the temporary folder of `atomic_write`
        _write_onnx(model, onnx, precision, images, card)
        save(onnx)
    else:
        with exported(model, "openvino", output_names(model)) as path:
            save(path)


def _write_litert(
    model, target: Path, precision, images, card: dict, int8_io: bool = False
) -> None:
    with exported(model, "tensorflow", output_names(model)) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if images is not None:
            converter.representative_dataset = functools.partial(_samples, images)
        if int8_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        is_mixed = images is not None and not int8_io
        network = (
            _with_float_classifier(converter, head_activation(model))
            if is_mixed
            else converter.convert()
        )
    if int8_io:
        card = _with_quantization(card, network)
    target.write_bytes(network)
    # A .tflite file can hold other files in a zip archive at its end, see
    # https://ai.google.dev/edge/litert/conversion/tensorflow/metadata.
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(f"{CARD}.json", json.dumps(card))


def _samples(images: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The images one by one, for the calibration."""
    for image in tracked(images, "calibrating"):
        yield [image[None]]


def _with_quantization(card: dict, network: bytes) -> dict:
    """The model card, with scale and zero point of the input and the outputs."""
    litert = optional("ai_edge_litert.interpreter")
    runner = litert.Interpreter(model_content=network).get_signature_runner()
    details = runner.get_input_details() | runner.get_output_details()
    quantization = {
        name: dict(zip(("scale", "zero_point"), tensor["quantization"], strict=True))
        for name, tensor in details.items()
    }
    *steps, last = card["reading"]
    steps += [
        "Divide by the `scale` of the input in `quantization`, add its `zero_point`, "
        "round and clip to -128..127.",
        last.replace("float32", "int8"),
        "An output is (value - `zero_point`) * `scale`.",
    ]
    return card | {"reading": steps, "quantization": quantization}


def _with_float_classifier(converter, activation: str | None) -> bytes:
    """A LiteRT network in int8, except for the classifier.

    In 8 bits the logits of close classes would be equal, and scores below 0.2 % would
    be 0. The logits of the bundled network would have a correlation of 0.9988 with
    float32, instead of 0.9999.
    """
    # Also excludes the sigmoids within a network with squeeze-and-excitation.
    sigmoids = ["LOGISTIC"] if activation == "sigmoid" else []
    # This is the only public way to exclude operations.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=["FULLY_CONNECTED", "SOFTMAX", *sigmoids]
        ),
    )
    return debugger.get_nondebug_quantized_model()


WRITERS = {".onnx": _write_onnx, ".xml": _write_openvino, ".tflite": _write_litert}

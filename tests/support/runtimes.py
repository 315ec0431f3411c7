"""Runs exported files, each with its own runtime and nothing else; a program too."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np


def run(path, images):
    """The outputs of an exported file by name, and its model card."""
    outputs, card = RUNTIMES[Path(path).suffix](str(path), images)
    return outputs, json.loads(card)


def _onnxruntime(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": images}), strict=True))
    return outputs, session.get_modelmeta().custom_metadata_map["model_card"]


def _openvino(path, images):
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    card = network.get_rt_info("model_card").value
    compiled = core.compile_model(network, "CPU", json.loads(card)["compile_options"])
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    found = compiled({"images": images})
    outputs = {output.any_name: found[output] for output in compiled.outputs}
    return outputs, card


def _litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)  # which the runner does not keep alive
    outputs = interpreter.get_signature_runner()(images=images)
    with zipfile.ZipFile(path) as archive:
        return outputs, archive.read("model_card.json")


RUNTIMES = {".onnx": _onnxruntime, ".xml": _openvino, ".tflite": _litert}


def main(path, images, found):
    outputs, card = run(path, np.load(images))
    ours = {"keras", "tensorflow", "torch", "resnext_keras"} & set(sys.modules)
    if ours:
        sys.exit(f"more than the runtime was loaded: {ours}")
    np.savez(found, card=json.dumps(card), **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])

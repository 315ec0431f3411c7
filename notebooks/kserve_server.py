"""Serves a SavedModel with KServe, which speaks TF Serving's REST API.

    python kserve_server.py FOLDER --model_name NAME --http_port PORT

KServe brings the server; here are the forms in which TF Serving writes tensors as
JSON (https://www.tensorflow.org/tfx/serving/api_rest).
"""
# ruff: noqa: E402

import argparse
import asyncio
import base64
import sys

# Neither Keras nor the package that exported the model can be imported. TensorFlow
# imports Keras where it can, but needs it for nothing here.
sys.modules |= dict.fromkeys(("keras", "resnext_keras"))

import kserve
import numpy as np
import tensorflow as tf
from kserve.protocol.rest.server import RESTServer


class SavedModel(kserve.Model):
    """What a SavedModel answers to `NAME:predict`."""

    def __init__(self, name, folder):
        super().__init__(name)
        self.model = tf.saved_model.load(folder)  # Its variables live as long as it.
        self.ready = True

    async def predict(self, payload, headers=None):
        return await asyncio.to_thread(self.answer, payload)

    def answer(self, payload):
        name = payload.get("signature_name", "serving_default")
        signature = self.model.signatures[name]
        specs = signature.structured_input_signature[1]
        values = in_columns(payload, list(specs))
        tensors = {
            key: tf.constant(decoded(values[key]), spec.dtype)
            for key, spec in specs.items()
        }
        found = {key: as_json(value) for key, value in signature(**tensors).items()}
        if "inputs" in payload:
            return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
        rows = zip(*found.values(), strict=True)
        return {
            "predictions": [
                dict(zip(found, row, strict=True)) if len(found) > 1 else row[0]
                for row in rows
            ]
        }


def in_columns(payload, names):
    """The inputs by name, of a request in rows ("instances") or in columns."""

    def by_name(value):
        named = isinstance(value, dict) and set(value) == set(names)
        return value if named else {names[0]: value}

    if "inputs" in payload:
        return by_name(payload["inputs"])
    rows = [by_name(row) for row in payload["instances"]]
    return {name: [row[name] for row in rows] for name in names}


def decoded(value):
    """The same with bytes for {"b64": text}."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [decoded(item) for item in value] if isinstance(value, list) else value


def as_json(tensor):
    values = tensor.numpy()
    return (
        np.char.decode(values.astype("S")).tolist()
        if tensor.dtype == tf.string
        else values.tolist()
    )


class LocalServer(RESTServer):
    """KServe's, which listens on all networks: on this machine's own alone."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.config.host = "127.0.0.1"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("folder")
    arguments = parser.parse_args()
    kserve.model_server.RESTServer = LocalServer
    kserve.ModelServer(enable_grpc=False).start(
        [SavedModel(arguments.model_name, arguments.folder)]
    )

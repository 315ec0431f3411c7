"""Requests that TF Serving sends itself when it loads a model, before any client.

TensorFlow makes much of what it needs when a graph first runs: with such requests
the first client does not wait for it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

MAX_REQUESTS = 1000  # TF Serving refuses to load a model with more.

Inputs = Mapping[str, np.ndarray | Sequence[bytes]]

# What is written of TF Serving's messages, with the numbers of its .proto files
# (tensorflow_serving/apis: prediction_log, predict and model). Their package brings
# gRPC and is bound to one version of TensorFlow. A `TensorProto` within a message is
# written as bytes would be, and so is an entry of a map as a message of this form.
_MESSAGES = {
    "PredictionLog": {"predict_log": (6, "PredictLog")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "Input")},
    "ModelSpec": {"name": (1, str), "signature_name": (3, str)},
    "Input": {"key": (1, str), "value": (2, bytes)},
}


def write_warmup_requests(
    folder: str | os.PathLike,
    model_name: str,
    requests: Sequence[tuple[str, Inputs]],
) -> None:
    """Adds warm-up requests to an exported model, in the place of those it has.

    ```python
    images = [Path("cat.jpg").read_bytes()]
    requests = [("serving_default", {"image_bytes": images * n}) for n in (1, 8)]
    write_warmup_requests("pets/1", "pets", requests)
    ```

    Args:
        folder: That of one version, which holds `saved_model.pb`.
        model_name: Name that the model is served under.
        requests: Of each request the name of the signature, and the inputs by
            name: arrays in the type and shape that it takes, or lists of bytes. At
            most 1,000, of the batch sizes to come.

    Raises:
        ValueError: There are none or too many requests, or no model in the folder.
            Nothing has then been written.

    Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            "Expected a folder that holds `saved_model.pb`. "
            f"Received: folder={str(folder)!r}"
        )
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise ValueError(
            f"Expected from 1 to {MAX_REQUESTS} requests, as TF Serving takes them. "
            f"Received: {len(requests)} requests"
        )
    message = _message_class("PredictionLog")
    records = [_record(message, model_name, *request) for request in requests]
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _record(message, model_name: str, signature: str, inputs: Inputs) -> bytes:
    """A `PredictionLog`."""
    tensors = {
        name: tf.make_tensor_proto(values).SerializeToString()
        for name, values in inputs.items()
    }
    request = {
        "model_spec": {"name": model_name, "signature_name": signature},
        "inputs": [{"key": name, "value": tensors[name]} for name in sorted(tensors)],
    }
    return message(predict_log={"request": request}).SerializeToString()


def _message_class(name: str):
    """The class of one of `_MESSAGES`.

    It is declared in a pool of its own: in the common one it would be in the way of
    TF Serving's own package, if that is imported too.
    """
    file = descriptor_pb2.FileDescriptorProto(name="warmup.proto", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    types = {str: field.TYPE_STRING, bytes: field.TYPE_BYTES}
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            repeated = kind == "Input"
            declared.field.add(
                name=key,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=types.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in types else kind,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

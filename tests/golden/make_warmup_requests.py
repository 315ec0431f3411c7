"""Writes tf_serving_warmup_requests with TF Serving's own package.

    pip install tensorflow tensorflow-serving-api && python make_warmup_requests.py

The file was written with version 2.21.0 of both.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

REQUESTS = [
    ("serving_default", {"image_bytes": [b"\xff\xd8image\0", b""]}),
    ("predict", {"images": np.arange(6, dtype="float32").reshape(1, 1, 2, 3)}),
    ("größer", {"b": np.uint8([7]), "a": np.array([[True, False]])}),
]


def main():
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    path = Path(__file__).with_name("tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in REQUESTS:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="pets", signature_name=signature),
                inputs={name: tf.make_tensor_proto(v) for name, v in inputs.items()},
            )
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()

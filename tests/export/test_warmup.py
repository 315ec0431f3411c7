"""Warm-up requests are those that TF Serving's own package writes."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN
from make_warmup_requests import REQUESTS

from resnext_keras.export.warmup import WARMUP_FILE, write_warmup_requests

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    return tmp_path


def test_the_file_is_that_of_tf_servings_package(exported):
    write_warmup_requests(exported, "pets", REQUESTS[::-1])
    write_warmup_requests(exported, "pets", REQUESTS)
    expected = (GOLDEN / "tf_serving_warmup_requests").read_bytes()
    assert (exported / WARMUP_FILE).read_bytes() == expected


@pytest.mark.parity
def test_tf_servings_package_reads_it_beside_our_declarations(exported):
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    write_warmup_requests(exported, "pets", REQUESTS)
    records = list(tf.data.TFRecordDataset(str(exported / WARMUP_FILE)))
    for record, (signature, inputs) in zip(records, REQUESTS, strict=True):
        request = log.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "pets"
        assert request.model_spec.signature_name == signature
        assert set(request.inputs) == set(inputs)
        for name, values in inputs.items():
            found = tf.make_ndarray(request.inputs[name])
            assert found.tolist() == np.array(values, found.dtype).tolist()
            assert found.dtype == getattr(values, "dtype", object)


@pytest.mark.parametrize("count", [0, 1001])
def test_tf_serving_takes_1_to_1000(exported, count):
    with pytest.raises(ValueError, match=f"1 to 1000 requests.*Received: {count} "):
        write_warmup_requests(exported, "pets", REQUESTS[:1] * count)
    assert not (exported / "assets.extra").exists()


def test_the_folder_must_hold_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds `saved_model.pb`.*Received: folder="):
        write_warmup_requests(tmp_path, "pets", REQUESTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parity
def test_an_exported_model_answers_its_own_for_every_signature(served):
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    signatures = tf.saved_model.load(served).signatures
    asked = set()
    for record in tf.data.TFRecordDataset(str(served / WARMUP_FILE)):
        request = log.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == served.parent.name
        inputs = {
            name: tf.constant(tf.make_ndarray(tensor))
            for name, tensor in request.inputs.items()
        }
        answer = signatures[request.model_spec.signature_name](**inputs)
        assert np.all(answer.get("valid", True))
        asked.add(request.model_spec.signature_name)
    assert asked == set(signatures)

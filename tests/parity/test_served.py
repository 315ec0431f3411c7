"""An exported network answers many clients of a model server at once.

The server is KServe, of `sys.executable` or of the Python that the variable
KSERVE_PYTHON names: an environment with `kserve` and `tensorflow` is enough.
"""

import base64
import contextlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import tensorflow as tf
from helpers import KSERVE_PYTHON, NO_KSERVE, ROOT, has_kserve

pytestmark = [pytest.mark.parity, pytest.mark.tensorflow]

PROGRAM = ROOT / "notebooks" / "kserve_server.py"
CLIENTS, REQUESTS = 8, 1000


@pytest.fixture(scope="module")
def url(served, tmp_path_factory):
    """Where the model is asked for predictions."""
    if not has_kserve():
        pytest.skip(NO_KSERVE)
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(served, log) as url:
        yield url


@contextlib.contextmanager
def running_server(folder, log):
    """KServe on a free port of this machine, until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        KSERVE_PYTHON,
        PROGRAM,
        folder,
        "--model_name=tiny",
        f"--http_port={port}",
    ]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}/v1/models/tiny"
    try:
        until = time.monotonic() + 180
        while not is_ready(url):
            running = server.poll() is None and time.monotonic() < until
            assert running, log.read_text()[-3000:]
            time.sleep(0.1)
        yield f"{url}:predict"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


def is_ready(url):
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(url, timeout=10).json().get("ready")


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def ask(url, bodies):
    """One client's answers to its requests, and how many seconds each took."""
    answers, seconds = [], []
    with requests.Session() as session:
        session.trust_env = False  # No proxy stands before this machine.
        for body in bodies:
            start = time.perf_counter()
            answer = session.post(url, json=body, timeout=60)
            seconds.append(time.perf_counter() - start)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
    return answers, seconds


def rows_of(answer):
    """The predictions of an answer, whether it gives them in rows or in columns."""
    if "predictions" in answer:
        return answer["predictions"]
    columns = answer["outputs"]
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


@pytest.fixture(scope="module")
def expected(served, images):
    """What the signature gives in Python, an image at a time, by its name."""
    run = tf.saved_model.load(served).signatures["serving_default"]
    rows = {}
    for name, content in images.items():
        found = run(image_bytes=tf.constant([content]))
        rows[name] = {key: values.numpy()[0] for key, values in found.items()}
        rows[name]["classes"] = [text.decode() for text in rows[name]["classes"]]
    return rows


def test_1000_requests_of_8_clients_are_answered_as_in_python(url, images, expected):
    rng = np.random.default_rng(0)
    asked = [list(rng.choice(list(images), rng.choice([1, 3]))) for _ in range(1000)]
    forms = [
        lambda names: {"instances": [b64(images[name]) for name in names]},
        lambda names: {
            "instances": [{"image_bytes": b64(images[name])} for name in names]
        },
        lambda names: {"inputs": {"image_bytes": [b64(images[n]) for n in names]}},
    ]
    bodies = [forms[index % 3](names) for index, names in enumerate(asked)]
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        found = list(
            clients.map(
                ask, [url] * CLIENTS, [bodies[n::CLIENTS] for n in range(CLIENTS)]
            )
        )
    duration = time.perf_counter() - start
    for client, (answers, _) in enumerate(found):
        for names, answer in zip(asked[client::CLIENTS], answers, strict=True):
            rows = rows_of(answer)
            assert len(rows) == len(names)
            for name, row in zip(names, rows, strict=True):
                assert_same(row, expected[name], name)
    seconds = np.concatenate([seconds for _, seconds in found])
    assert len(seconds) == REQUESTS
    print(
        f"{REQUESTS / duration:.0f} requests/s of {CLIENTS} clients; latency "
        f"{1e3 * np.median(seconds):.1f} ms in the median, "
        f"{1e3 * np.quantile(seconds, 0.99):.1f} ms in 99 of 100"
    )


def assert_same(row, expected, name):
    assert set(row) == {"classes", "indices", "scores", "valid"} == set(expected)
    assert row["valid"] is bool(expected["valid"]) is ("broken" not in name)
    np.testing.assert_allclose(row["scores"], expected["scores"], atol=1e-5)
    if row["valid"]:
        assert row["classes"] == expected["classes"]
        assert row["indices"] == expected["indices"].tolist()

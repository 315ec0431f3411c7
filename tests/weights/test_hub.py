"""Weights of the Hugging Face hub, from a server here that speaks its protocol.

huggingface_hub reads `HF_ENDPOINT` when it is imported: each test starts a process.
"""

import json
import os
import subprocess
import sys

import pytest
from hub_server import TOKEN, running_hub
from timm_files import FLOWERS, NAMES, timm_folder

import resnext_keras as rk

pytestmark = pytest.mark.tensorflow

# Resolves the weights that are named, each with its own variables of the environment.
PROGRAM = """
import json, os, sys
from resnext_keras.weights.checkpoint import resolve

for weights, variables in json.loads(sys.argv[1]):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        found = resolve(weights)
        found.fetch()
        print(json.dumps([found.name, found.spec.name, found.class_names]))
    except ValueError as error:
        print(json.dumps(str(error)))
    os.environ.clear()
    os.environ.update(before)
"""


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def environment(hub, tmp_path):
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    others = ("HF_", "RESNEXT_KERAS_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    return inherited | names


def python(environment, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done


def resolved(environment, *named):
    """What each name gives: name, architecture and class names, or the error."""
    named = [(n, {}) if isinstance(n, str) else n for n in named]
    lines = python(environment, "-c", PROGRAM, json.dumps(named)).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith(('"', "["))]


def test_a_repository_is_downloaded_once_and_then_found_offline(
    hub, environment, tmp_path
):
    hub.add("me/flowers", timm_folder(tmp_path / "flowers"))
    offline = {"RESNEXT_KERAS_OFFLINE": "1"}
    found = resolved(
        environment,
        "hf://me/flowers",
        "hf://me/flowers@v1",
        ("hf://me/flowers", offline),
        ("hf://me/other", offline),
    )
    named = [FLOWERS.name, list(NAMES)]
    assert found[0] == ["hf://me/flowers", *named]
    assert found[1] == ["hf://me/flowers@v1", *named]
    assert found[2] == found[0]
    assert "downloads are forbidden" in found[3]
    gets = [line for line in hub.requests if line.endswith("model.safetensors")]
    assert [line for line in gets if line.startswith("GET")] == [
        "GET /me/flowers/resolve/main/model.safetensors"
    ]
    again = resolved(environment | {"HF_HUB_OFFLINE": "1"}, "hf://me/flowers")
    assert again == found[:1]


def test_what_cannot_be_had_is_said_in_one_line(hub, environment, tmp_path):
    folder = timm_folder(tmp_path / "flowers")
    hub.add("me/secret", folder, private=True)
    hub.add("me/flowers", folder)
    hub.add("me/empty", folder)
    del hub.files["me/empty"]["model.safetensors"]
    hub.files["me/empty"]["pytorch_model.bin"] = b"a pickle"
    hub.add("me/damaged", folder)
    hub.files["me/damaged"]["model.safetensors"] = b"x" * 1000
    hub.add("me/bert", folder)
    hub.files["me/bert"]["config.json"] = b'{"architecture": "bert"}'
    expected = {
        "hf://me/none": "no such repository, or a private one: set HF_TOKEN",
        "hf://me/secret": "no such repository, or a private one: set HF_TOKEN",
        "hf://me/flowers@v2": "no such revision",
        "hf://me/empty": "as in hf://OWNER/NAME/pytorch_model.bin",
        "hf://me/bert": "the architecture 'bert'",
        "hf://flowers": "hf://OWNER/NAME@REVISION",
        "HF://me/flowers": "A repository of the hub is hf://me/flowers.",
        "hf-hub:me/flowers": "A repository of the hub is hf://me/flowers.",
        "me/flowers": "A repository of the hub is hf://me/flowers.",
    }
    found = resolved(environment, *expected, ("hf://me/secret", {"HF_TOKEN": TOKEN}))
    *refused, secret = found
    for message, part in zip(refused, expected.values(), strict=True):
        assert part in message
        assert "\n" not in message
    assert secret[0] == "hf://me/secret"

    hub.etags["model.safetensors"] = "0" * 64
    (message,) = resolved(environment, "hf://me/damaged")
    assert "with this SHA-256" in message


@pytest.mark.long
def test_a_run_is_pushed_and_used_from_the_hub(hub, environment, tmp_path, photos):
    folder = timm_folder(tmp_path / "flowers")
    photos[1].save(tmp_path / "photo.png")
    command = ("-m", "resnext_keras_cli")
    push = (*command, "push", folder, "me/pushed", "--private")
    assert "set HF_TOKEN" in python(environment, *push, code=1).stderr
    assert not hub.files

    environment["HF_TOKEN"] = TOKEN
    lines = python(environment, *push).stdout.splitlines()
    assert lines[0] == "Uploading to me/pushed (private, if it is new):"
    assert [line.split()[0] for line in lines[1:4]] == sorted(hub.files["me/pushed"])
    assert lines[4].startswith(f"{hub.url}/me/pushed/commit/")
    assert hub.private == {"me/pushed"}

    predict = ("predict", tmp_path / "photo.png", "--weights", "hf://me/pushed")
    answer = json.loads(python(environment, *command, *predict, "--json").stdout)
    ((_, expected),) = rk.load_classifier(weights=folder).predict_each(
        tmp_path / "photo.png"
    )
    scores = {item["name"]: item["score"] for item in answer[0]["predictions"]}
    assert scores == pytest.approx({n: s for _, n, s in expected}, rel=1e-4)


@pytest.mark.long  # huggingface_hub tries for half a minute
def test_a_hub_that_is_away_is_said_in_one_line(environment):
    away = environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    (message,) = resolved(away, "hf://me/flowers")
    assert "no connection to it" in message
    assert "\n" not in message

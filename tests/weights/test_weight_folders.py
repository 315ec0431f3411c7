"""Weight files are looked for on this machine first, and stored in a cache."""

import dataclasses
import errno
import hashlib
import importlib.util
import os
import resource
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from file_server import CONTENT, FILE, SHA256, stored
from weight_files import TINY, assert_same, build, keras_values, numbers

from resnext_keras import Preprocessing, WeightsError
from resnext_keras.classifier import load_classifier
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.weights import download
from resnext_keras.weights.download import fetch, local_path
from resnext_keras.weights.registry import (
    BUNDLED,
    WEIGHT_SETS,
    PublishedAccuracy,
    WeightSet,
)


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_nothing_is_downloaded(wanted, server, cache, monkeypatch, value):
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
    with pytest.raises(WeightsError, match=f"RESNEXT_KERAS_OFFLINE='{value}'") as error:
        fetch(wanted)
    for told in (wanted.name, FILE, wanted.url, str(cache), "by hand"):
        assert told in str(error.value)
    assert server.requests == []
    assert not cache.exists()


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "off"])
def test_offline_can_be_switched_off(wanted, monkeypatch, value):
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
    assert fetch(wanted).read_bytes() == CONTENT


def test_offline_what_is_there_can_be_used(wanted, monkeypatch):
    path = fetch(wanted)
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", "1")
    assert fetch(wanted) == path
    assert fetch(BUNDLED).stat().st_size == BUNDLED.size_bytes


def test_a_cache_that_cannot_be_made_is_named_with_the_remedy(
    wanted, server, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"file/cache.*Set RESNEXT_KERAS_HOME"):
        fetch(wanted)
    assert server.requests == []


@pytest.fixture
def read_only_folder():
    """A folder that this process cannot write to, even if it is root's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_cache_is_named_with_the_remedy(
    wanted, server, monkeypatch, read_only_folder
):
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(read_only_folder))
    with pytest.raises(
        WeightsError, match=r"Permission denied.*RESNEXT_KERAS_HOME"
    ) as e:
        fetch(wanted)
    assert str(read_only_folder) in str(e.value)
    assert server.requests == []


def test_a_full_disk_is_told_and_nothing_is_left(wanted, cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 1, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"too large.*room") as error:
            fetch(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(cache) in str(error.value)
    assert stored(cache) == set()


def test_what_ships_is_looked_for_before_the_cache(wanted, server, cache, monkeypatch):
    in_cache = fetch(wanted)
    shipped = cache.with_name("shipped")
    monkeypatch.setattr(download, "SHIPPED", shipped)
    assert fetch(wanted) == in_cache
    shipped.mkdir()
    copy = Path(shutil.copy(in_cache, shipped))
    assert fetch(wanted) == local_path(wanted) == copy
    assert len(server.requests) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_an_installed_package_does_not_look_beside_itself(
    tmp_path, monkeypatch, installed
):
    bundled = tmp_path / "resnext_keras" / "weights" / "bundled"
    if installed:
        bundled.mkdir(parents=True)  # as in a wheel
    beside = tmp_path / "weights"
    beside.mkdir()
    monkeypatch.setattr(resources, "files", lambda package: tmp_path / package)
    spec = importlib.util.spec_from_file_location("another", download.__file__)
    another = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(another)
    expected = bundled if installed else beside
    assert another.SHIPPED == expected  # noqa: SIM300


@pytest.mark.parametrize("place", ["shipped", "cache"])
def test_a_wrong_file_that_was_there_is_refused_and_left(
    wanted, server, cache, monkeypatch, place
):
    monkeypatch.setattr(download, "SHIPPED", cache.with_name("shipped"))
    path = cache.with_name(place) / FILE
    path.parent.mkdir()
    path.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(
        WeightsError, match=f"{SHA256[:8]}.*{found}.*Delete the file"
    ) as error:
        fetch(wanted)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"something else"
    assert server.requests == []


def test_a_file_that_may_not_be_read_is_named(wanted, monkeypatch):
    path = fetch(wanted)
    denied = PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(download.pooch, "file_hash", Mock(side_effect=denied))
    with pytest.raises(WeightsError, match="cannot be read: Permission") as error:
        fetch(wanted)
    assert str(path) in str(error.value)


def test_a_bundled_file_that_is_missing_has_no_url(cache, monkeypatch):
    monkeypatch.setattr(download, "SHIPPED", cache)
    with pytest.raises(WeightsError, match="Reinstall the package"):
        fetch(BUNDLED)


def test_without_a_setting_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNEXT_KERAS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder().name == "resnext_keras"
    monkeypatch.setenv("RESNEXT_KERAS_HOME", "~/weights")
    assert download.cache_folder() == Path.home() / "weights"


@pytest.fixture
def tiny_set(good_weights, server, cache, monkeypatch):
    """A published set of a small network, 5 classes for images of 48 pixels."""
    content = good_weights[".safetensors"].read_bytes()

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    server.answers = [answer]
    weight_set = WeightSet(
        architecture=TINY.name,
        tag="own",
        format="safetensors",
        file="tiny.own.safetensors",
        licence="Apache-2.0",
        evaluations=(PublishedAccuracy(Preprocessing(48, 56)),),
        source="a test",
        url=server.url("model.safetensors"),
        hash=f"sha256:{hashlib.sha256(content).hexdigest()}",
        classes=5,
    )
    monkeypatch.setitem(WEIGHT_SETS, weight_set.name, weight_set)
    monkeypatch.setitem(ARCHITECTURES, TINY.name, TINY)
    return weight_set


@pytest.mark.parametrize("name", ["own", "tiny.own"])
def test_a_network_gets_the_weights_of_the_name(tiny_set, server, name):
    for _ in range(2):
        assert_same(numbers(build(name)), keras_values())
    assert server.requests == ["/model.safetensors"]


def test_a_classifier_reads_images_as_its_set_wants(tiny_set):
    classifier = load_classifier(weights="tiny.own")
    assert classifier.preprocessing == Preprocessing(48, 56)
    assert classifier.model.input_shape == (None, 48, 48, 3)
    ((best, *_),) = classifier.predict(np.zeros((1, 48, 48, 3), "uint8"))
    assert best[1] in {"0", "1", "2", "3", "4"}


def test_a_set_without_classifier_is_not_downloaded_for_a_network_with_one(
    tiny_set, server, monkeypatch
):
    features = dataclasses.replace(tiny_set, tag="features", classes=None)
    monkeypatch.setitem(WEIGHT_SETS, features.name, features)
    for load in (build, lambda name: load_classifier(weights=name)):
        with pytest.raises(ValueError, match=r"tiny\.features has none"):
            load("tiny.features")
    assert server.requests == []

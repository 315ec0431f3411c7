"""Weight files are found or downloaded, verified, and never left incomplete."""

import dataclasses
import errno
import hashlib
import importlib.util
import io
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from importlib import resources
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pooch
import pytest
from file_server import (
    CONTENT,
    FILE,
    SHA256,
    answer_with,
    cut,
    half_then_wait,
    hung_up,
    other,
    published,
    redirect,
    running_server,
    slow,
    status,
    stored,
)
from weight_files import TINY, assert_same, build, keras_values, numbers

from resnext_keras import (
    Preprocessing,
    WeightsError,
    fetch_weights,
    load_classifier,
)
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.weights import cache as folders
from resnext_keras.weights import download
from resnext_keras.weights.download import fetch
from resnext_keras.weights.registry import (
    BUNDLED,
    WEIGHT_SETS,
    PublishedAccuracy,
    WeightSet,
)

PAUSES = download.PAUSES  # the fixture `cache` sets them to 0


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with running_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, with downloads allowed."""
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNEXT_KERAS_OFFLINE")
    monkeypatch.delenv("RESNEXT_KERAS_MIRROR", raising=False)
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    return tmp_path / "cache"


@pytest.fixture
def wanted(server, cache):
    return published(server.url(FILE))


# Downloads


@pytest.mark.parametrize(
    "hash_",
    [
        f"sha256:{SHA256[:8]}",
        f"sha256:{SHA256}",
        f"md5:{hashlib.md5(CONTENT).hexdigest()}",
    ],
)
def test_a_download_is_verified_kept_and_used_again(wanted, server, cache, hash_):
    wanted = dataclasses.replace(wanted, hash=hash_)
    assert wanted.path is None
    path = fetch(wanted)
    assert path == cache / FILE
    assert path.read_bytes() == CONTENT
    assert fetch(wanted) == wanted.path == path
    assert server.requests == [f"/{FILE}"]
    assert stored(cache) == {FILE}


def test_a_wrong_hash_deletes_the_download(wanted, server, cache):
    server.answers = [other]
    with pytest.raises(WeightsError, match="download was deleted") as error:
        fetch(wanted)
    digest = hashlib.sha256(CONTENT[::-1]).hexdigest()[:8]
    for part in (SHA256[:8], digest, wanted.name, FILE):
        assert part in str(error.value)
    assert stored(cache) == set()
    assert len(server.requests) == 1
    assert fetch(wanted).read_bytes() == CONTENT


def test_without_a_hash_it_has_to_be_a_file_of_the_network(server, cache):
    content = BUNDLED.path.read_bytes()
    name = "unhashed.weights.h5"
    wanted = dataclasses.replace(BUNDLED, url=server.url(name), hash=None, file=name)
    for wrong in (b"<!DOCTYPE html><title>Log in</title>", content[:-100], b""):
        server.answers = [answer_with(wrong)]
        with pytest.raises(
            WeightsError, match=r"download was deleted\. Put .* by hand"
        ):
            fetch(wanted)
        assert stored(cache) == set()
    another = dataclasses.replace(wanted, architecture="resnext50_32x4d")
    server.answers = [answer_with(content)]
    with pytest.raises(WeightsError, match=r"does not fit .*download was deleted"):
        fetch(another)
    server.answers = [answer_with(content)]
    assert fetch(wanted).read_bytes() == content


def test_a_redirection_is_followed(wanted, server):
    server.answers = [redirect(server.url("elsewhere/long-name?key=1"))]
    assert fetch(wanted).read_bytes() == CONTENT


@pytest.mark.parametrize("mirror", ["mirror/of", "mirror/of/"])
def test_a_mirror_is_asked_instead(server, cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", server.url(mirror))
    assert fetch(published("https://no-such-host.invalid/a/b.pth")).is_file()
    assert server.requests == [f"/mirror/of/{FILE}"]


@pytest.mark.parametrize(
    "mirror",
    ["a folder", "file:///tmp", "http://", "http://a..b", f"http://{'a' * 70}"],
)
def test_an_invalid_url_of_a_mirror_is_named(cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", mirror)
    with pytest.raises(WeightsError, match=re.escape(f"{mirror.rstrip('/')}/{FILE}")):
        fetch(published("https://no-such-host.invalid/a/b.pth"))


# Errors of the network


@pytest.mark.parametrize("answer", [cut, hung_up, *map(status, (500, 503, 408, 429))])
def test_temporary_errors_are_tried_again(wanted, server, caplog, answer):
    server.answers = [answer, answer]
    assert fetch(wanted).read_bytes() == CONTENT
    assert len(server.requests) == 3
    assert len(caplog.records) == 2
    assert all("Next try" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("answer", "message"), [(cut, "IncompleteRead"), (status(503), "503")]
)
def test_after_four_tries_the_reason_is_given(
    wanted, server, cache, monkeypatch, answer, message
):
    pauses = []
    monkeypatch.setattr(download, "PAUSES", PAUSES)
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.answers = [answer] * 9
    with pytest.raises(WeightsError, match=message) as error:
        fetch(wanted)
    assert str(error.value).count(wanted.url) == 1
    assert str(cache) in str(error.value)
    assert len(server.requests) == 4
    assert len(pauses) == 3
    assert 1 <= pauses[0] < pauses[1] < pauses[2] <= 30
    assert stored(cache) == set()


@pytest.mark.parametrize("code", [403, 404])
def test_a_missing_file_is_not_tried_again(wanted, server, cache, code):
    server.answers = [status(code)]
    with pytest.raises(WeightsError, match=f"{code}.*by hand.*RESNEXT_KERAS_MIRROR"):
        fetch(wanted)
    assert len(server.requests) == 1
    assert stored(cache) == set()


def test_a_slow_server_is_waited_for(wanted, server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 1)  # the whole takes longer
    server.answers = [slow]
    start = time.monotonic()
    assert fetch(wanted).read_bytes() == CONTENT
    assert time.monotonic() - start > 1
    assert len(server.requests) == 1


def test_a_server_that_falls_silent_is_asked_again(wanted, server, monkeypatch, caplog):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.answers = [half_then_wait]
    assert fetch(wanted).read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert "timed out" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_without_a_network_it_fails_at_once(cache, monkeypatch, host):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("tried again"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens there
        wanted = published(f"http://{host}:{free.getsockname()[1]}/{FILE}")
        with pytest.raises(WeightsError, match="no connection") as error:
            fetch(wanted)
    assert str(error.value).count(wanted.url) == 1
    assert f"Put {FILE} from" in str(error.value)
    assert str(cache) in str(error.value)
    assert "Max retries" not in str(error.value)
    assert len(traceback.format_exception(error.value)) < 10  # none of urllib3


def test_offline_nothing_is_downloaded(wanted, server, cache, monkeypatch):
    for value in ("1", "true", "yes"):
        monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
        message = f"RESNEXT_KERAS_OFFLINE='{value}'"
        with pytest.raises(WeightsError, match=message) as error:
            fetch(wanted)
        for part in (wanted.name, FILE, wanted.url, str(cache), "by hand"):
            assert part in str(error.value)
    assert server.requests == []
    assert not cache.exists()
    assert fetch(BUNDLED).is_file()


def test_offline_can_be_switched_off(wanted, monkeypatch):
    for value in ("", "0", "false", "False", "no", "off"):
        monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
        path = fetch(wanted)
        path.unlink()
    path = fetch(wanted)
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", "1")
    assert fetch(wanted) == path


# What the user sees


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_only_a_terminal_shows_the_progress(wanted, monkeypatch):
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        fetch(wanted).unlink()
        shown = stream.getvalue()
        assert [part in shown for part in (FILE, "100%", "3.15M")] == (
            [stream.isatty()] * 3
        )
    assert shown == ""


def test_a_licence_that_forbids_commercial_use_is_warned_of_once(wanted, server):
    restricted = dataclasses.replace(wanted, licence="CC-BY-NC-4.0")
    for _ in range(2):  # a warning that is an error stays one
        with pytest.raises(UserWarning, match="commercial"):
            fetch(restricted)
    assert server.requests == []
    with pytest.warns(UserWarning, match=r"tv2_in1k.*CC-BY-NC-4\.0.*commercial"):
        fetch(restricted)
    fetch(restricted)
    fetch(wanted)
    with pytest.warns(UserWarning, match="fb_in1k"):
        fetch(dataclasses.replace(restricted, tag="fb_in1k"))


# Several processes


@pytest.fixture
def forkserver():
    """Starts processes without importing the library in each of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnext_keras.weights.download"])
    return context


class QueueHandler(logging.Handler):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def emit(self, record):
        self.queue.put(record.getMessage())


def fetch_elsewhere(weight_set, home, queue):
    """Fetches in another process; the queue gets its log, and the path."""
    os.environ.pop("RESNEXT_KERAS_OFFLINE", None)
    os.environ.update(RESNEXT_KERAS_HOME=home, NO_PROXY="*")
    logging.getLogger("resnext_keras").addHandler(QueueHandler(queue))
    queue.put(fetch(weight_set))


@pytest.mark.long
def test_four_processes_at_once_download_once(wanted, server, cache, forkserver):
    server.answers = [half_then_wait]
    queue = forkserver.Queue()
    processes = [
        forkserver.Process(target=fetch_elsewhere, args=(wanted, str(cache), queue))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    waiting = [queue.get(timeout=60) for _ in range(3)]
    assert waiting == [f"Waiting for another process, which is downloading {FILE}."] * 3
    server.go_on.set()
    assert [queue.get(timeout=60) for _ in range(4)] == [cache / FILE] * 4
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (cache / FILE).read_bytes() == CONTENT
    assert server.requests == [f"/{FILE}"]
    assert stored(cache) == {FILE}


def test_a_killed_download_leaves_nothing_under_the_name(
    wanted, server, cache, forkserver
):
    server.answers = [half_then_wait]
    queue = forkserver.Queue()
    process = forkserver.Process(
        target=fetch_elsewhere, args=(wanted, str(cache), queue)
    )
    process.start()
    part = cache / ".downloads" / FILE
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert wanted.path is None
    assert stored(cache) == {FILE}  # the half, in its own folder
    assert part.is_file()
    assert fetch(wanted).read_bytes() == CONTENT
    assert list(cache.rglob(FILE)) == [cache / FILE]


# Folders


def test_an_impossible_cache_is_named_with_the_remedy(
    wanted, server, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"file/cache.*Set RESNEXT_KERAS_HOME"):
        fetch(wanted)
    assert server.requests == []


def test_a_full_disk_is_an_error_that_leaves_nothing(wanted, cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 1, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"too large.*room") as error:
            fetch(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(cache) in str(error.value)
    assert stored(cache) == set()


def test_several_sets_are_fetched_and_a_wrong_name_is_found_before(
    wanted, server, cache, monkeypatch
):
    monkeypatch.setitem(WEIGHT_SETS, wanted.name, wanted)
    with pytest.raises(WeightsError, match="Expected a weight set"):
        fetch_weights([wanted.name, "nothing"])
    assert not server.requests
    assert fetch_weights([wanted.name, "digits"]) == [cache / FILE, BUNDLED.path]
    assert fetch_weights(wanted.name) == [cache / FILE]
    assert len(server.requests) == 1


def test_bundled_files_are_found_before_those_of_the_cache(
    wanted, server, cache, monkeypatch
):
    in_cache = fetch(wanted)
    shipped = cache.with_name("shipped")
    monkeypatch.setattr(folders, "SHIPPED", shipped)
    assert fetch(wanted) == in_cache
    shipped.mkdir()
    copy = Path(shutil.copy(in_cache, shipped))
    assert fetch(wanted) == wanted.path == copy
    assert len(server.requests) == 1
    with pytest.raises(WeightsError, match="Reinstall the package"):
        fetch(BUNDLED)


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
    spec = importlib.util.spec_from_file_location("another", folders.__file__)
    another = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(another)
    expected = bundled if installed else beside
    assert another.SHIPPED == expected  # noqa: SIM300


@pytest.mark.parametrize("place", ["shipped", "cache"])
def test_a_wrong_file_that_exists_is_refused_and_left_as_it_is(
    wanted, server, cache, monkeypatch, place
):
    monkeypatch.setattr(folders, "SHIPPED", cache.with_name("shipped"))
    path = cache.with_name(place) / FILE
    path.parent.mkdir()
    path.write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()[:8]
    message = f"{SHA256[:8]}.*{digest}.*Delete the file to download it again"
    with pytest.raises(WeightsError, match=message) as error:
        fetch(wanted)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"something else"
    assert server.requests == []


def test_a_file_that_cannot_be_read_is_named(wanted, monkeypatch):
    path = fetch(wanted)
    denied = PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(pooch, "file_hash", Mock(side_effect=denied))
    with pytest.raises(WeightsError, match="cannot be read: Permission") as error:
        fetch(wanted)
    assert str(path) in str(error.value)


def test_without_a_home_the_bundled_weights_work_and_others_say_what_to_set(
    wanted, server, monkeypatch
):
    """As in a container whose user has no entry in passwd."""
    home = Mock(side_effect=RuntimeError("could not determine the home directory"))
    monkeypatch.delenv("RESNEXT_KERAS_HOME")
    monkeypatch.setattr(pooch, "os_cache", home)
    assert fetch(BUNDLED).is_file()
    with pytest.raises(WeightsError, match="without one; set RESNEXT_KERAS_HOME"):
        fetch(wanted)
    assert not server.requests


def test_the_default_cache_is_that_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNEXT_KERAS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders.cache_folder().name == "resnext_keras"
    monkeypatch.setenv("RESNEXT_KERAS_HOME", "~/weights")
    assert folders.cache_folder() == Path.home() / "weights"


# Networks of downloaded weights


@pytest.fixture
def tiny_set(good_weights, server, cache, monkeypatch):
    """A published set of a small network, 5 classes for images of 48 pixels."""
    content = good_weights[".safetensors"].read_bytes()
    server.answers = [answer_with(content)]
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


def test_networks_and_classifiers_get_the_weights_of_the_name(tiny_set, server):
    for name in ("own", "tiny.own"):
        assert_same(numbers(build(name)), keras_values())
    classifier = load_classifier(weights="tiny.own")
    assert server.requests == ["/model.safetensors"]
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

"""Weight files are found or downloaded, verified, and never left half."""

import dataclasses
import hashlib
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
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from file_server import (
    CONTENT,
    cut,
    half_then_wait,
    hung_up,
    other,
    redirect,
    running_server,
    slow,
    status,
)
from weight_files import TINY, assert_same, build, keras_values, numbers

from resnext_keras import Preprocessing, WeightsError
from resnext_keras.prediction import load_classifier
from resnext_keras.specs import ARCHITECTURES
from resnext_keras.weights import (
    WEIGHT_SETS,
    Evaluation,
    WeightSet,
    download,
    fetch,
    local_path,
    registry,
)
from resnext_keras.weights.registry import BUNDLED

FILE = "tiny-weights.pth"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


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


def published(url, **fields):
    """A weight set that is published at a URL."""
    fields = {"file": FILE, "hash": f"sha256:{SHA256[:8]}"} | fields
    return dataclasses.replace(
        WEIGHT_SETS["resnext50_32x4d.tv2_in1k"], url=url, **fields
    )


@pytest.fixture
def wanted(server, cache):
    return published(server.url(FILE))


def stored(cache):
    """The files of the cache, but for locks."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return {path.name for path in files if path.suffix != ".lock"}


def test_a_download_is_kept_and_used_again(wanted, server, cache):
    assert local_path(wanted) is None
    path = fetch(wanted)
    assert path == cache / FILE
    assert path.read_bytes() == CONTENT
    assert fetch(wanted) == local_path(wanted) == path
    assert server.requests == [f"/{FILE}"]
    assert stored(cache) == {FILE}


@pytest.mark.parametrize(
    "hash_", [f"sha256:{SHA256}", f"md5:{hashlib.md5(CONTENT).hexdigest()}", None]
)
def test_any_published_hash_will_do_and_none_too(wanted, hash_):
    assert fetch(dataclasses.replace(wanted, hash=hash_)).read_bytes() == CONTENT


def test_a_redirection_is_followed(wanted, server):
    server.answers = [redirect(server.url("elsewhere/long-name?key=1"))]
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_wrong_hash_deletes_the_download_and_says_so(wanted, server, cache):
    server.answers = [other]
    with pytest.raises(WeightsError, match="download was deleted") as error:
        fetch(wanted)
    for told in (
        SHA256[:8],
        hashlib.sha256(CONTENT[::-1]).hexdigest()[:8],
        wanted.name,
        FILE,
    ):
        assert told in str(error.value)
    assert stored(cache) == set()
    assert len(server.requests) == 1
    assert fetch(wanted).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [cut, hung_up, status(503), status(500)])
def test_what_may_go_better_is_tried_again(wanted, server, caplog, answer):
    server.answers = [answer, answer]
    assert fetch(wanted).read_bytes() == CONTENT
    assert len(server.requests) == 3
    assert len(caplog.records) == 2
    assert all("Next try" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("answer", "told"), [(cut, "IncompleteRead"), (status(503), "503")]
)
def test_after_four_tries_it_is_said_what_was_wrong(
    wanted, server, cache, answer, told
):
    server.answers = [answer] * 9
    with pytest.raises(WeightsError, match=told) as error:
        fetch(wanted)
    assert wanted.url in str(error.value)
    assert str(cache) in str(error.value)
    assert len(server.requests) == 4
    assert stored(cache) == set()


def test_between_tries_it_waits_longer_and_longer(wanted, server, monkeypatch):
    monkeypatch.undo()
    pauses = download.PAUSES
    assert len(pauses) == 3
    assert 1 <= pauses[0] < pauses[1] < pauses[2] <= 30


@pytest.mark.parametrize("code", [403, 404])
def test_what_is_not_there_is_not_tried_again(wanted, server, cache, code):
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
def test_without_a_network_it_is_said_at_once(cache, monkeypatch, host):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("tried again"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens there
        wanted = published(f"http://{host}:{free.getsockname()[1]}/{FILE}")
        with pytest.raises(WeightsError, match="no connection") as error:
            fetch(wanted)
    assert wanted.url in str(error.value)
    assert f"Put {FILE} from" in str(error.value)
    assert str(cache) in str(error.value)
    assert "Max retries" not in str(error.value)


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_nothing_is_downloaded(wanted, server, cache, monkeypatch, value):
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
    with pytest.raises(WeightsError, match=f"RESNEXT_KERAS_OFFLINE='{value}'") as error:
        fetch(wanted)
    for told in (wanted.name, FILE, wanted.url, str(cache), "by hand"):
        assert told in str(error.value)
    assert server.requests == []
    assert not cache.exists()


@pytest.mark.parametrize("value", ["", "0", "false", "False"])
def test_offline_can_be_switched_off(wanted, monkeypatch, value):
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", value)
    assert fetch(wanted).read_bytes() == CONTENT


def test_offline_what_is_there_can_be_used(wanted, monkeypatch):
    path = fetch(wanted)
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", "1")
    assert fetch(wanted) == path
    assert fetch(BUNDLED).stat().st_size == BUNDLED.size_bytes


@pytest.mark.parametrize("mirror", ["mirror/of", "mirror/of/"])
def test_a_mirror_is_asked_instead(server, cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", server.url(mirror))
    assert fetch(published("https://no-such-host.invalid/a/b.pth")).is_file()
    assert server.requests == [f"/mirror/of/{FILE}"]


@pytest.mark.parametrize("mirror", ["a folder", "file:///tmp", "http://"])
def test_a_mirror_that_is_no_url_is_named(cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", mirror)
    with pytest.raises(WeightsError, match=re.escape(f"{mirror.rstrip('/')}/{FILE}")):
        fetch(published("https://no-such-host.invalid/a/b.pth"))


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


def test_folders_are_looked_in_one_after_the_other(wanted, server, cache, monkeypatch):
    in_cache = fetch(wanted)
    folders = [cache.with_name("packaged"), cache.with_name("checkout")]
    monkeypatch.setattr(download, "PACKAGED", folders[0])
    monkeypatch.setattr(download, "CHECKOUT", folders[1])
    for folder in (folders[1], folders[0]):
        assert fetch(wanted) == in_cache
        folder.mkdir()
        in_cache = Path(shutil.copy(in_cache, folder))
        assert fetch(wanted) == local_path(wanted) == in_cache
    assert len(server.requests) == 1


@pytest.mark.parametrize("place", ["checkout", "cache"])
def test_a_wrong_file_that_was_there_is_refused_and_left(
    wanted, server, cache, monkeypatch, place
):
    monkeypatch.setattr(download, "CHECKOUT", cache.with_name("checkout"))
    path = cache.with_name(place) / FILE
    path.parent.mkdir()
    path.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(
        WeightsError, match=f"{SHA256[:8]}.*{found}.*delete it"
    ) as error:
        fetch(wanted)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"something else"
    assert server.requests == []


def test_a_bundled_file_that_is_missing_has_no_url(cache, monkeypatch):
    monkeypatch.setattr(download, "CHECKOUT", cache)
    monkeypatch.setattr(download, "PACKAGED", cache)
    with pytest.raises(WeightsError, match="Install the package anew"):
        fetch(BUNDLED)


def test_without_a_setting_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNEXT_KERAS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder().name == "resnext_keras"
    monkeypatch.setenv("RESNEXT_KERAS_HOME", "~/weights")
    assert download.cache_folder() == Path.home() / "weights"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_progress_with_the_files_name(wanted, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(wanted)
    shown = sys.stderr.getvalue()
    assert FILE in shown
    assert "100%" in shown
    assert "3.15M" in shown


def test_a_file_or_pipe_gets_no_progress(wanted, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fetch(wanted)
    assert sys.stderr.getvalue() == ""


def test_a_licence_against_commercial_use_is_told_before_the_download(
    wanted, server, monkeypatch
):
    monkeypatch.setattr(registry, "_warned", set())
    restricted = dataclasses.replace(wanted, licence="CC-BY-NC-4.0")
    with pytest.warns(UserWarning, match=r"CC-BY-NC-4\.0"):
        fetch(restricted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch(restricted)


@pytest.fixture
def forkserver():
    """Starts processes without importing the library in each of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnext_keras.weights"])
    return context


class QueueHandler(logging.Handler):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def emit(self, record):
        self.queue.put(record.getMessage())


def fetch_elsewhere(weight_set, home, queue):
    """Fetches in another process; the queue gets what it logs, and the path."""
    os.environ.pop("RESNEXT_KERAS_OFFLINE", None)
    os.environ.update(RESNEXT_KERAS_HOME=home, NO_PROXY="*")
    logging.getLogger("resnext_keras").addHandler(QueueHandler(queue))
    queue.put(fetch(weight_set))


def test_eight_processes_at_once_download_once(wanted, server, cache, forkserver):
    server.answers = [half_then_wait]
    queue = forkserver.Queue()
    processes = [
        forkserver.Process(target=fetch_elsewhere, args=(wanted, str(cache), queue))
        for _ in range(8)
    ]
    for process in processes:
        process.start()
    waiting = [queue.get(timeout=60) for _ in range(7)]
    assert waiting == [f"Waiting for another process, which downloads {FILE}."] * 7
    server.go_on.set()
    assert [queue.get(timeout=60) for _ in range(8)] == [cache / FILE] * 8
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
    assert local_path(wanted) is None
    assert stored(cache) == {FILE}  # the half, in its own folder
    assert part.is_file()
    assert fetch(wanted).read_bytes() == CONTENT
    assert list(cache.rglob(FILE)) == [cache / FILE]


@pytest.fixture
def tiny_set(good_weights, server, cache, monkeypatch):
    """A published set of a small network, 5 classes for pictures of 48 pixels."""
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
        evaluations=(Evaluation(Preprocessing(48, 56)),),
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


def test_a_classifier_reads_pictures_as_its_set_wants(tiny_set):
    classifier = load_classifier(weights="tiny.own")
    assert classifier.preprocessing == Preprocessing(48, 56)
    assert classifier.model.input_shape == (None, 48, 48, 3)
    ((best, *_),) = classifier.predict(np.zeros((1, 48, 48, 3), "uint8"))
    assert best[1] in {"0", "1", "2", "3", "4"}

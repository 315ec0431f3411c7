"""Weight files are found or downloaded, verified, and never left half."""

import dataclasses
import hashlib
import io
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
import traceback
import warnings

import pytest
from file_server import (
    CONTENT,
    FILE,
    SHA256,
    cut,
    half_then_wait,
    hung_up,
    other,
    published,
    redirect,
    slow,
    status,
    stored,
)

from resnext_keras import WeightsError
from resnext_keras.weights import download
from resnext_keras.weights.download import fetch, local_path
from resnext_keras.weights.registry import WEIGHT_SETS

PAUSES = download.PAUSES  # the tests wait for less


def test_a_download_is_kept_and_used_again(wanted, server, cache):
    assert local_path(wanted) is None
    path = fetch(wanted)
    assert path == cache / FILE
    assert path.read_bytes() == CONTENT
    assert fetch(wanted) == local_path(wanted) == path
    assert server.requests == [f"/{FILE}"]
    assert stored(cache) == {FILE}


@pytest.mark.parametrize(
    "hash_", [f"sha256:{SHA256}", f"md5:{hashlib.md5(CONTENT).hexdigest()}"]
)
def test_any_published_hash_will_do(wanted, hash_):
    assert fetch(dataclasses.replace(wanted, hash=hash_)).read_bytes() == CONTENT


def answer_with(content):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def test_without_a_hash_it_has_to_be_a_file_of_the_network(server, cache):
    digits = WEIGHT_SETS["resnext11_8x4d.digits"]
    content = local_path(digits).read_bytes()
    name = "unhashed.weights.h5"
    wanted = dataclasses.replace(digits, url=server.url(name), hash=None, file=name)
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


def test_a_file_that_changed_in_the_cache_is_refused_and_left_as_it_is(wanted, server):
    path = fetch(wanted)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(
        WeightsError, match="Delete the file to download it again"
    ) as error:
        fetch(wanted)
    assert str(path) in str(error.value)
    assert path.read_bytes() == CONTENT[::-1]
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [cut, hung_up, *map(status, (500, 503, 408, 429))])
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
    assert str(error.value).count(wanted.url) == 1
    assert str(cache) in str(error.value)
    assert len(server.requests) == 4
    assert stored(cache) == set()


def test_between_tries_it_waits_longer_and_longer(wanted, server, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "PAUSES", PAUSES)
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.answers = [status(503)] * 3
    assert fetch(wanted).read_bytes() == CONTENT
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
    assert str(error.value).count(wanted.url) == 1
    assert f"Put {FILE} from" in str(error.value)
    assert str(cache) in str(error.value)
    assert "Max retries" not in str(error.value)
    assert len(traceback.format_exception(error.value)) < 10  # of urllib3 nothing


@pytest.mark.parametrize("mirror", ["mirror/of", "mirror/of/"])
def test_a_mirror_is_asked_instead(server, cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", server.url(mirror))
    assert fetch(published("https://no-such-host.invalid/a/b.pth")).is_file()
    assert server.requests == [f"/mirror/of/{FILE}"]


@pytest.mark.parametrize(
    "mirror",
    ["a folder", "file:///tmp", "http://", "http://a..b", f"http://{'a' * 70}"],
)
def test_a_mirror_that_is_no_url_is_named(cache, monkeypatch, mirror):
    monkeypatch.setenv("RESNEXT_KERAS_MIRROR", mirror)
    with pytest.raises(WeightsError, match=re.escape(f"{mirror.rstrip('/')}/{FILE}")):
        fetch(published("https://no-such-host.invalid/a/b.pth"))


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


def test_a_licence_against_commercial_use_is_told_once(wanted):
    restricted = dataclasses.replace(wanted, licence="CC-BY-NC-4.0")
    with pytest.warns(UserWarning, match=r"tv2_in1k.*CC-BY-NC-4\.0.*commercial"):
        fetch(restricted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch(restricted)
        fetch(wanted)
    other_set = dataclasses.replace(restricted, tag="fb_in1k")
    with pytest.warns(UserWarning, match="fb_in1k"):
        fetch(other_set)


def test_a_warning_that_is_an_error_stays_one_and_comes_before_the_download(
    wanted, server
):
    restricted = dataclasses.replace(wanted, licence="CC-BY-NC-4.0")
    for _ in range(2):
        with pytest.raises(UserWarning, match="commercial"):
            fetch(restricted)
    assert server.requests == []


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
    assert waiting == [f"Waiting for another process, which is downloading {FILE}."] * 7
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

"""A web server on this machine that answers in any wrong way."""

import contextlib
import dataclasses
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from resnext_keras.weights.registry import WEIGHT_SETS

FILE = "tiny-weights.pth"
CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Gives the answers of `answers`, one for each request, and then `CONTENT`.

    Attributes:
        answers: Functions of a request handler, used up from the front.
        requests: Paths of the requests.
        go_on: Event that `half_then_wait` waits for.
    """

    daemon_threads = True
    block_on_close = False  # a handler may wait for a client that was killed

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests, self.go_on = [], [], threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        pass  # a client may hang up


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        answers = self.server.answers
        (answers.pop(0) if answers else whole)(self)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(server):
    """A server that answers until the end of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running_server():
    """A `FileServer` that answers until the end of the block."""
    with serving(FileServer()) as server:
        try:
            yield server
        finally:
            server.go_on.set()


def answer_with(content, length=None):
    """An answer of this content; its header may promise another length."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(length or len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()

    return answer


HALF = len(CONTENT) // 2
whole = answer_with(CONTENT)
other = answer_with(CONTENT[::-1])
cut = answer_with(CONTENT[:HALF], len(CONTENT))


def hung_up(handler):
    """No answer at all."""


def slow(handler):
    """Bytes all the time, but few of them."""
    step = len(CONTENT) // 6 + 1
    answer_with(b"", len(CONTENT))(handler)
    for start in range(0, len(CONTENT), step):
        handler.server.go_on.wait(0.25)
        handler.wfile.write(CONTENT[start : start + step])


def half_then_wait(handler):
    cut(handler)
    handler.server.go_on.wait(60)
    handler.wfile.write(CONTENT[HALF:])


def status(code):
    return lambda handler: handler.send_error(code)


def redirect(url):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    return answer


def published(url, **fields):
    """A weight set that is published at a URL."""
    fields = {"file": FILE, "hash": f"sha256:{SHA256[:8]}"} | fields
    return dataclasses.replace(
        WEIGHT_SETS["resnext50_32x4d.tv2_in1k"], url=url, **fields
    )


def stored(cache):
    """The names of the files in the cache, without locks."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return {path.name for path in files if path.suffix != ".lock"}

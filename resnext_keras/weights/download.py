"""Downloads and verifies the files of weight sets."""

import contextlib
import functools
import logging
import os
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pooch
from filelock import FileLock, Timeout
from tqdm import tqdm

from resnext_keras.models.specs import get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.cache import SHIPPED, cache_folder, downloads_forbidden
from resnext_keras.weights.loading import open_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.tensors import WeightsError

CHUNK_SIZE = 2**20
TIMEOUT = 30
"""Seconds without data after which a connection counts as broken."""

PAUSES = (1, 4, 16)
"""Seconds to wait before each further try."""

logger = logging.getLogger(__name__)


def fetch(weight_set: WeightSet) -> Path:
    """Downloads the file of a weight set if it is missing, and verifies it.

    If several processes need the file at once, one of them downloads it. The file
    gets its name only when it is complete and verified. After a broken connection the
    download is tried again.
    """
    _warn_of_licence(weight_set)
    path = weight_set.path
    if path is None:
        return _download(weight_set)
    check_hash(weight_set, path, "Delete the file to download it again.")
    return path


@functools.cache  # once per process, unless the warning is raised as an error
def _warn_of_licence(weight_set: WeightSet) -> None:
    """Warns of a licence that forbids commercial use."""
    if weight_set.non_commercial:
        warnings.warn(
            f"The weights {weight_set.name} are under {weight_set.licence}, which "
            "forbids commercial use.",
            UserWarning,
            stacklevel=3,
        )


def check_hash(weight_set: WeightSet, path: Path, remedy: str) -> None:
    """Raises a `WeightsError` unless a file has the published hash, if there is one.

    The error ends with the sentence `remedy`.
    """
    if weight_set.hash is None:
        return
    algorithm, _, expected = weight_set.hash.partition(":")
    try:
        digest = pooch.file_hash(str(path), alg=algorithm)
    except OSError as error:
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}; the file cannot be "
            f"read: {error.strerror or error}."
        ) from error
    digest = digest[: len(expected)]  # publishers give only the first digits
    if digest != expected:
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}, with the {algorithm} "
            f"hash {expected}; found {digest}. {remedy}"
        )


def _download(weight_set: WeightSet) -> Path:
    path = cache_folder() / weight_set.file
    url = _url(weight_set)
    by_hand = f"Put {path.name} from {weight_set.url} into {path.parent} by hand."
    if downloads_forbidden():
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}, since downloads are "
            f"forbidden; found no such file. {by_hand} "
            f"Received: RESNEXT_KERAS_OFFLINE={os.environ['RESNEXT_KERAS_OFFLINE']!r}"
        )
    # In a subfolder of the cache, so that moving the file to its place is atomic.
    part = path.parent / ".downloads" / path.name
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part.with_name(f"{part.name}.lock"), path.name):
            if not os.path.isfile(path):  # or another process has downloaded it
                part.unlink(missing_ok=True)  # left by a killed download
                try:
                    _transfer(url, part, by_hand)
                    _check_download(weight_set, part, by_hand)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"Expected to store {path.name} in {path.parent}, which cannot be written "
            f"to: {error.strerror or error}. Set RESNEXT_KERAS_HOME to a writable "
            "folder with room for the file."
        ) from error
    return path


def _check_download(weight_set: WeightSet, part: Path, by_hand: str) -> None:
    """Raises unless a download is the file of the weight set."""
    remedy = f"The download was deleted. {by_hand}"
    check_hash(weight_set, part, remedy)
    if weight_set.hash is None:  # at least names and shapes must fit
        spec = get_spec(weight_set.architecture)
        try:
            with open_weights(part, variable_shapes(spec, classes=weight_set.classes)):
                pass
        except WeightsError as error:
            raise WeightsError(f"{error} {remedy}") from error


def _url(weight_set: WeightSet) -> str:
    if weight_set.url is None:
        raise WeightsError(
            f"Expected {weight_set.file}, which ships with this package, in {SHIPPED}; "
            "found no such file. Reinstall the package."
        )
    mirror = os.environ.get("RESNEXT_KERAS_MIRROR")
    return f"{mirror.rstrip('/')}/{weight_set.file}" if mirror else weight_set.url


@contextlib.contextmanager
def _locked(lock_path: Path, file: str) -> Iterator[None]:
    """Context manager: holds the lock of a file; logs if it has to wait for it."""
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("Waiting for another process, which is downloading %s.", file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _transfer(url: str, part: Path, by_hand: str) -> None:
    """Downloads a file; tries again after an error that may be temporary."""
    for pause in (*PAUSES, None):
        try:
            return _get(url, part)
        # requests raises OSErrors without errno, and ValueErrors for invalid URLs;
        # OSErrors with errno come from the disk.
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason, may_pass = _reason(error)
            if pause is None or not may_pass:
                mirror = "" if url in by_hand else f" from {url}"
                raise WeightsError(
                    f"Expected to download {part.name}{mirror}; found {reason}. "
                    f"{by_hand} Or set RESNEXT_KERAS_MIRROR to another source."
                ) from None  # the reason is in the message; the trace has 60 lines
            logger.warning("%s: %s. Next try in %s s.", url, reason, pause)
            time.sleep(pause)


def _get(url: str, part: Path) -> None:
    """Downloads a file; raises if it is shorter than announced."""
    # pooch tests the bar's truth value, which a bar without total does not have.
    # disable=None shows the bar on a terminal only.
    bar = tqdm(desc=part.name, total=1, unit="B", unit_scale=True, disable=None)
    with contextlib.ExitStack() as stack, bar:
        download = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=CHUNK_SIZE,
            timeout=TIMEOUT,
            headers={"Accept-Encoding": "identity"},  # the file as it is
            # pooch leaves the connection open when something fails.
            hooks={"response": lambda answer, **_: stack.push(answer)},
        )
        download(url, str(part), None)


def _reason(error: Exception) -> tuple[str, bool]:
    """The reason of an error in one line, and whether it may be temporary."""
    answer = getattr(error, "response", None)
    if answer is not None:
        status = answer.status_code
        # An error of the server, a time-out, or too many requests.
        may_pass = status >= 500 or status in (408, 429)
        return f"HTTP status {status} {answer.reason}", may_pass
    first = error
    while inner := first.__cause__ or first.__context__:
        first = inner
    reason = f"{type(first).__name__}: {first}"
    unconnected = isinstance(
        first, (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
    )
    if unconnected or type(error).__name__ in ("ConnectTimeout", "ProxyError"):
        return f"no connection: {reason}", False
    return reason, isinstance(error, OSError) and not isinstance(error, ValueError)

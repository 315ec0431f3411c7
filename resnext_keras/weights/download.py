"""The file of a weight set: found on this machine, or downloaded and verified."""

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from resnext_keras.models.specs import get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.loading import open_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.tensors import WeightsError

PACKAGE = Path(str(resources.files("resnext_keras")))
PACKAGED = PACKAGE / "weights" / "bundled"
# Only a wheel has that folder; beside its package, `weights` may be anyone's.
SHIPPED = PACKAGED if PACKAGED.is_dir() else PACKAGE.parent / "weights"
"""What ships: in the installed package, or else the `weights/` of a checkout."""

CHUNK_SIZE = 2**20
TIMEOUT = 30
"""Seconds without a byte after which a connection counts as dead."""

PAUSES = (1, 4, 16)
"""Seconds to wait before each further try."""

NO = ("", "0", "f", "false", "n", "no", "off")
"""What `RESNEXT_KERAS_OFFLINE` is set to where downloads are allowed."""

NO_CONNECTION = (ConnectTimeoutError, NewConnectionError, ProxyError, SSLError)

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloads are kept: `RESNEXT_KERAS_HOME`, else the user's cache."""
    home = os.environ.get("RESNEXT_KERAS_HOME")
    return Path(os.path.expanduser(home) if home else pooch.os_cache("resnext_keras"))


def local_path(weight_set: WeightSet) -> Path | None:
    """Where the file of a weight set lies on this machine.

    Looked in are the installed package, or the folder `weights/` of a checkout,
    and then the cache. The file is not verified.

    Args:
        weight_set: A row of the registry.

    Returns:
        The path, or None where there is no such file.
    """
    paths = [folder / weight_set.file for folder in (SHIPPED, cache_folder())]
    return next((path for path in paths if os.path.isfile(path)), None)


def fetch(weight_set: WeightSet) -> Path:
    """The verified file of a weight set, which is downloaded where it is missing.

    One process downloads, however many ask at once, and a file stands under
    its name only when it is whole and verified. A connection that breaks is
    tried again. `RESNEXT_KERAS_OFFLINE=1` forbids downloads, and
    `RESNEXT_KERAS_MIRROR` is the URL of a folder that has the files instead.

    Args:
        weight_set: A row of the registry.

    Returns:
        The path of the file.

    Raises:
        WeightsError: The file cannot be had or stored, or its hash is wrong. A
            file that was there before is never changed.
    """
    _warn_of_licence(weight_set)
    path = local_path(weight_set)
    if path is None:
        return _download(weight_set)
    check_hash(weight_set, path, "It was left as it is: delete it to download it anew.")
    return path


@functools.cache  # once a process; a warning that is raised as an error is not kept
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
    """Reads a file whole and compares its hash with the published one, if any.

    Args:
        weight_set: A row of the registry.
        path: The file.
        remedy: What the error says at its end.

    Raises:
        WeightsError: The hashes differ, or the file cannot be read.
    """
    if weight_set.hash is None:
        return
    algorithm, _, expected = weight_set.hash.partition(":")
    try:
        found = pooch.file_hash(str(path), alg=algorithm)
    except OSError as error:
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}; found that the file "
            f"cannot be read: {error.strerror or error}."
        ) from error
    found = found[: len(expected)]  # of a SHA-256 the first digits are published
    if found != expected:
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}, with the {algorithm} "
            f"{expected}; found {found}. {remedy}"
        )


def _download(weight_set: WeightSet) -> Path:
    path = cache_folder() / weight_set.file
    url = _url(weight_set)
    by_hand = f"Put {path.name} from {weight_set.url} into {path.parent} by hand."
    offline = os.environ.get("RESNEXT_KERAS_OFFLINE", "")
    if offline.lower() not in NO:
        raise WeightsError(
            f"Expected the weights {weight_set.name} in {path}, since downloads are "
            f"forbidden; found no such file. {by_hand} "
            f"Received: RESNEXT_KERAS_OFFLINE={offline!r}"
        )
    # In a folder of the cache, so that it moves into place at once.
    part = path.parent / ".downloads" / path.name
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part.with_name(f"{part.name}.lock"), path.name):
            if not os.path.isfile(path):  # none was faster
                part.unlink(missing_ok=True)  # of a download that was killed
                try:
                    _transfer(url, part, by_hand)
                    _check_download(weight_set, part, by_hand)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"Expected to store {path.name} in {path.parent}; found that it cannot be "
            f"written: {error.strerror or error}. Set RESNEXT_KERAS_HOME to a folder "
            "that can, with room for the file."
        ) from error
    return path


def _check_download(weight_set: WeightSet, part: Path, by_hand: str) -> None:
    """Raises unless a download is what was asked for."""
    remedy = f"The download was deleted. {by_hand}"
    check_hash(weight_set, part, remedy)
    if weight_set.hash is None:  # then it has at least to be a file of this network
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
            "found no such file. Install the package anew."
        )
    mirror = os.environ.get("RESNEXT_KERAS_MIRROR")
    return f"{mirror.rstrip('/')}/{weight_set.file}" if mirror else weight_set.url


@contextlib.contextmanager
def _locked(lock_path: Path, file: str) -> Iterator[None]:
    """Holds the lock of a file, and tells if another process has it."""
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("Waiting for another process, which downloads %s.", file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _transfer(url: str, part: Path, by_hand: str) -> None:
    """Downloads, and tries again what may go better the next time."""
    for pause in (*PAUSES, None):
        try:
            return _get(url, part)
        # Of a URL that cannot be, urllib3's errors and others come through.
        except (requests.RequestException, HTTPError, ValueError) as error:
            errors = list(_causes(error))
            reason = _reason(error, errors[-1])
            unconnected = any(isinstance(e, NO_CONNECTION) for e in errors)
            if unconnected:
                reason = f"no connection: {reason}"
            if unconnected or pause is None or not _may_pass(error):
                mirror = "" if url in by_hand else f" from {url}"
                raise WeightsError(
                    f"Expected to download {part.name}{mirror}; found {reason}. "
                    f"{by_hand} RESNEXT_KERAS_MIRROR names another source."
                ) from None  # the reason is told; its trace is over 60 lines
            logger.warning("%s: %s. Next try in %s s.", url, reason, pause)
            time.sleep(pause)


def _get(url: str, part: Path) -> None:
    """Downloads a file; urllib3 raises if it is shorter than announced."""
    headers = {"Accept-Encoding": "identity"}  # the file as it is
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        answer.raise_for_status()
        total = answer.raw.length_remaining  # None where it is not announced
        # disable=None shows the bar on a terminal only.
        bar = tqdm(desc=part.name, total=total, unit="B", unit_scale=True, disable=None)
        with part.open("wb") as file, bar:
            for chunk in answer.iter_content(CHUNK_SIZE):
                bar.update(file.write(chunk))


def _reason(error: Exception, first: BaseException) -> str:
    """What went wrong, without the URL, which may be long after a redirection."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP status {error.response.status_code} {error.response.reason}"
    return f"{type(first).__name__}: {first}"


def _may_pass(error: Exception) -> bool:
    """Whether an error may be gone the next time: of the server, a cut, a time-out."""
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return status >= 500 or status in (408, 429)  # time-out, too many requests
    return isinstance(
        error,
        (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ),
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those it was made of, down to the first."""
    while error is not None:
        yield error
        inner = (e for e in error.args if isinstance(e, BaseException))
        error = error.__cause__ or next(inner, None)

"""Prepares a process: its output streams, and a quiet import of TensorFlow."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


def ready_streams() -> None:
    """Opens streams that are closed, and lets stdout print any name.

    A closed stream, as with `2>&-`, is None, and the next file that is opened would
    get its number. Letters that are not in stdout's encoding are printed as `?`;
    otherwise they would end the command with an error.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the next file gets the lowest free number
            stream = open(os.devnull, "r+", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def print_progress() -> None:
    """Prints the lines of progress that the library logs.

    They go to a stream of their own, since `quiet_start` hides stderr.
    """
    stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    logger = logging.getLogger("resnext_keras.progress")
    logger.addHandler(logging.StreamHandler(stderr))
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Context manager: hides stderr while the library imports TensorFlow.

    TensorFlow prints lines about processor and GPUs before its own setting can stop
    it. If the import fails, the hidden lines are printed. A terminal shows at once
    that something happens.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        note = b""
        if os.isatty(stderr) and "resnext_keras" not in sys.modules:
            note = b"Loading the library ..."
        os.write(stderr, note)
        try:
            try:
                yield
            finally:
                os.write(stderr, b"\r%s\r" % (b" " * len(note)) if note else note)
        except Exception:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

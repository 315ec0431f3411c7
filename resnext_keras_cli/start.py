"""What a process needs first: its streams, and TensorFlow, which is kept quiet."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def ready_streams() -> None:
    """Opens what of stdout and stderr is closed, and prints whatever a name holds.

    A stream that is closed, as by `2>&-`, would be None, and its number that of the
    next file that is opened. A letter that stdout's encoding lacks becomes a `?`: it
    would end a command that has done its work.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keeps stderr clean while the library, and with it TensorFlow, is imported.

    TensorFlow tells of its processor and of missing GPUs before its own setting
    could stop it. What is held back is printed if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

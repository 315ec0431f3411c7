"""Errors of engines and converters, shortened to one line."""

import contextlib
import re
from collections.abc import Iterator

# Source locations in messages of OpenVINO and TensorFlow's compiler, and line breaks
# within a message.
PLACES = (
    r"Check '.*' failed at .*\n"
    r"|<unknown>:0: error: loc\(.*\): "
    r"|(?<=with a message:)\n"
)
# First lines of OpenVINO's messages that do not say what is wrong.
PREAMBLE = (
    "Exception from ",
    "FrontEnd API failed",
    "Model wasn't fully converted",
    "Summary:",
)


class NetworkError(ValueError):
    """An error of this package, which `errors_in_one_line` does not change."""


@contextlib.contextmanager
def errors_in_one_line(
    source: str, expected: str, received: str, *others: type[Exception]
) -> Iterator[None]:
    """Context manager: turns any exception into a `ValueError` of one line.

    Except for `others`, `NetworkError`, `ImportError` and `MemoryError`. `source` is
    the engine or converter that raises the exceptions; the message has what it
    `expected` and `received`.
    """
    try:
        yield
    except (NetworkError, ImportError, MemoryError, *others):
        raise
    except Exception as error:  # Engines and converters raise anything.
        raise ValueError(
            f"Expected {expected}. Received: {received}; {source} reports: "
            f"{first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error that says what is wrong, otherwise its type."""
    lines = re.sub(PLACES, " ", str(error)).splitlines()
    trimmed = (" ".join(line.split()).removeprefix("-- ") for line in lines)
    useful = (line for line in trimmed if line and not line.startswith(PREAMBLE))
    return next(useful, type(error).__name__)

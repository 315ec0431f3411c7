"""What engines and converters raise, as one error of one line."""

import contextlib
import re
from collections.abc import Iterator

# Where in their sources OpenVINO and TensorFlow's compiler have found it, and ends of
# lines that go on in the next one.
PLACES = (
    r"Check '.*' failed at .*\n"
    r"|<unknown>:0: error: loc\(.*\): "
    r"|(?<=with a message:)\n"
)
# What OpenVINO says before it comes to the point.
PREAMBLE = (
    "Exception from ",
    "FrontEnd API failed",
    "Model wasn't fully converted",
    "Summary:",
)


class NetworkError(ValueError):
    """What this package says of a network before an engine comes to it."""


@contextlib.contextmanager
def told_briefly(
    who: str, expected: str, received: str, *others: type[Exception]
) -> Iterator[None]:
    """Turns whatever is raised into a `ValueError` that has the first line of it.

    Args:
        who: Name of what raises it.
        expected: What it was to be given.
        received: What it was given.
        others: What else is raised as it is, as are `NetworkError` and the lack of
            a package or of memory.
    """
    try:
        yield
    except (NetworkError, ImportError, MemoryError, *others):
        raise
    except Exception as error:  # They raise anything.
        raise ValueError(
            f"Expected {expected}. Received: {received}, of which {who} says: "
            f"{first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something, or else its type."""
    lines = re.sub(PLACES, " ", str(error)).splitlines()
    trimmed = (" ".join(line.split()).removeprefix("-- ") for line in lines)
    told = (line for line in trimmed if line and not line.startswith(PREAMBLE))
    return next(told, type(error).__name__)

"""Checks of arguments that several functions take."""

import operator


def positive_integer(name: str, value) -> int:
    """The value of an argument, or a `ValueError` that names it."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise ValueError(
            f"Expected `{name}` to be a positive integer. Received: {name}={value!r}"
        )
    return count

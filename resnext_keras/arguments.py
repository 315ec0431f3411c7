"""Checks of arguments that several functions take, and hints for mistyped names."""

import difflib
import operator
from collections.abc import Collection, Iterable


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


def positive_integers(name: str, values) -> tuple[int, ...]:
    """The values of an argument, or a `ValueError` that names it."""
    if not isinstance(values, (tuple, list)) or not values:
        raise ValueError(
            f"Expected `{name}` to be a tuple of positive integers. "
            f"Received: {name}={values!r}"
        )
    return tuple(positive_integer(name, value) for value in values)


def model_name(name) -> str:
    """The name of a model, or a `ValueError`."""
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(
            "Expected `name` to be a non-empty string without '/'. "
            f"Received: name={name!r}"
        )
    return name


def few(names: Iterable, most: int = 3, quoted: bool = True) -> str:
    """The first names and the number of the others, for a message."""
    names = list(names)
    listed = ", ".join(map(repr if quoted else str, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def did_you_mean(name: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """A hint for an error message, or an empty string if no name is similar.

    Args:
        name: The name that was typed.
        names: The names that exist.
        cutoff: Least similarity, from 0 to 1.

    Returns:
        As in `" Did you mean resnext50_32x4d or resnext50d_32x4d?"`.
    """
    for typed in (name, name.lower()):
        if near := difflib.get_close_matches(typed, names, n=3, cutoff=cutoff):
            return f" Did you mean {' or '.join(near)}?"
    return ""

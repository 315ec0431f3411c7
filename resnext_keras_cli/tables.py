"""Prints tables."""

import re
import shutil
import sys

import click
from rich.console import Console
from rich.table import Table

ANY_WIDTH = 100_000

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # C0, DEL and C1

TRAILING_BLANKS = re.compile(r" +(\x1b\[0m)?$")  # before the end of a style too


class _Rows(Table):
    """A table that escapes control characters in names of files and classes."""

    def add_row(self, *cells, **options):
        super().add_row(*map(escaped, cells), **options)


def escaped(text: str) -> str:
    """A text with its control characters escaped, as in a string of Python."""
    return CONTROLS.sub(lambda c: c[0].encode("unicode_escape").decode(), text)


def table(
    *columns: str, right: tuple[str, ...] = (), title: str | None = None
) -> Table:
    """An empty table; `add_row` adds a row of strings.

    Only cells of the last column are wrapped. The columns in `right` are aligned to the
    right.
    """
    title = title and escaped(title)
    empty = _Rows(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for column in columns:
        empty.add_column(
            escaped(column),
            justify="right" if column in right else "left",
            no_wrap=column != columns[-1],
        )
    return empty


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 epoch" and "2 epochs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def print_table(rows: Table, wrap: bool = False) -> None:
    """Prints a table.

    A row is one line, so that names can be copied, unless `wrap` wraps it at the width
    of a terminal. rich's markup is off, since a file's name may look like markup.
    """
    width = ANY_WIDTH
    if wrap and sys.stdout.isatty():
        width = max(80, shutil.get_terminal_size().columns)
    out = Console(markup=False, emoji=False, highlight=False, width=width)
    with out.capture() as printed:
        out.print(rows)
    for line in printed.get().splitlines():
        click.echo(TRAILING_BLANKS.sub(r"\1", line))

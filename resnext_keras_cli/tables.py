"""The look of what is printed."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def table(
    *columns: str, right: tuple[str, ...] = (), title: str | None = None
) -> Table:
    """An empty table.

    Args:
        columns: The headings.
        right: Those of them whose cells are numbers.
        title: What stands above.
    """
    empty = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        if column in right:
            empty.add_column(column, justify="right", no_wrap=True)
        else:
            empty.add_column(column, overflow="fold")
    return empty


def console() -> Console:
    """Stdout: as wide as the terminal, and without bounds in a file or a pipe.

    Text is printed as it is: a file's name may look like rich's markup, or have
    letters that the terminal does not know.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    out = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 100_000
    return out

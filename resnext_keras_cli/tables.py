"""The look of what is printed."""

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
        empty.add_column(column, justify="right" if column in right else "left")
    return empty


def console() -> Console:
    """Stdout: as wide as the terminal, and without bounds in a file or a pipe.

    Without rich's markup, which a file's name may look like.
    """
    out = Console(markup=False, highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 100_000
    return out

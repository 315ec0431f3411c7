"""The look of the tables."""

from rich.box import SIMPLE_HEAD
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

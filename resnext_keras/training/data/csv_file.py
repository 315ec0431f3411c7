"""CSV and TSV files that name images and their classes."""

import csv
import logging
import os
from dataclasses import dataclass

import numpy as np

from resnext_keras.arguments import few
from resnext_keras.images.listing import readable
from resnext_keras.training.data.dataset import (
    SPLITS,
    TRAINING,
    ImageDataset,
    Layout,
)
from resnext_keras.training.data.image_folder import files_dataset

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv")

IMAGE = ("image", "path", "file", "filename", "file_name", "image_path", "filepath")
LABEL = ("label", "labels", "class", "classes")
SPLIT = "split"

ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
"""What a column of a class may hold, in any case; pandas writes all of these."""


def find_csv(path: str) -> Layout | None:
    """Finds the splits of a CSV or TSV file, see `train`.

    Returns:
        The `Layout`; None for a folder, or a file with another ending.

    Raises:
        ValueError: The file is not as `train` describes it. The message gives the line.
    """
    if not (os.path.isfile(path) and path.lower().endswith(ENDINGS)):
        return None
    table = _read(path)
    dataset = _dataset(table)

    def open_splits(splits):
        opened = {name: dataset.subset(rows) for name, rows in splits.items()}
        for name in set(TRAINING) & splits.keys():
            counts = opened[name].class_counts()
            if missing := [dataset.class_names[n] for n in np.flatnonzero(counts == 0)]:
                raise table.error(
                    f"images of each class in the split {name!r}",
                    f"none of {few(missing)}",
                )
        return opened

    return Layout(path, _splits(table), open_splits)


@dataclass(frozen=True)
class _Table:
    """The lines of a file.

    Attributes:
        path: Path of the file.
        columns: Name of each column.
        lines: Number of each line in the file, from 1.
        rows: The cells of each line.
    """

    path: str
    columns: list[str]
    lines: list[int]
    rows: list[list[str]]

    def column(self, *names: str) -> int | None:
        """Number of the first column with one of these names, in any case."""
        found = (n for n, name in enumerate(self.columns) if name.lower() in names)
        return next(found, None)

    def cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]

    def error(self, expected: str, received: str, row: int | None = None) -> ValueError:
        line = "" if row is None else f"line {self.lines[row]} of "
        received = f"{received} in {line}{readable(self.path)!r}"
        return ValueError(f"Expected {expected}. Received: {received}")


def _read(path: str) -> _Table:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            # Some spreadsheets write semicolons.
            delimiter = ";" if ";" in head and "," not in head else ","
            if path.lower().endswith(".tsv"):
                delimiter = "\t"
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [
                (reader.line_num, [cell.strip() for cell in row])
                for row in reader
                if any(row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            "Expected a CSV or TSV file in UTF-8, with closed quotes. Received: "
            f"{readable(path)!r}: {error}"
        ) from error
    columns = lines[0][1] if lines else []
    if any(name.lower() in IMAGE + LABEL for name in columns):
        lines = lines[1:]
    else:
        columns = ["image", "label"]
        _check_header(path, [row for _, row in lines[:2]])
    table = _Table(
        path, columns, [line for line, _ in lines], [row for _, row in lines]
    )
    if not lines:
        raise table.error("a line for each image", "none")
    for number, row in enumerate(table.rows):
        if len(row) != len(columns):
            expected = f"the {len(columns)} cells {', '.join(columns)} in each line"
            raise table.error(expected, f"{len(row)}", number)
        if any("\n" in cell for cell in row):  # often a quote that is not closed
            raise table.error("cells of one line", "a line break up to here,", number)
    return table


def _check_header(path: str, rows: list[list[str]]) -> None:
    """Raises a `ValueError` if the first line is a header with other names."""
    folder = os.path.dirname(os.path.abspath(path))
    exist = [os.path.exists(os.path.join(folder, row[0])) for row in rows]
    if exist == [False, True]:
        raise ValueError(
            f"Expected a header with one of the names {', '.join(IMAGE)}, and one of "
            f"{', '.join(LABEL)}; or no header. Received: {', '.join(rows[0])!r} in "
            f"line 1 of {readable(path)!r}"
        )


def _splits(table: _Table) -> dict[str, np.ndarray]:
    """Numbers of the rows of each split."""
    column = table.column(SPLIT)
    if column is None:
        return {"": np.arange(len(table.rows))}
    splits = {}
    for number, cell in enumerate(table.cells(column)):
        if cell.lower() not in SPLITS:
            expected = f"{', '.join(SPLITS)} in the column {SPLIT!r}"
            raise table.error(expected, repr(cell), number)
        splits.setdefault(cell.lower(), []).append(number)
    return {split: np.array(numbers) for split, numbers in splits.items()}


def _dataset(table: _Table) -> ImageDataset:
    """The images of all lines."""
    label, image = table.column(*LABEL), table.column(*IMAGE)
    split = table.column(SPLIT)
    others = [
        number
        for number, name in enumerate(table.columns)
        if name and number not in (label, image, split)
    ]
    if image is None:
        if len(others) != 1:
            expected = f"a column with one of the names {', '.join(IMAGE)}"
            raise table.error(expected, f"the columns {few(table.columns, 10)}")
        image = others.pop()
    paths = _paths(table, image)
    if label is None:
        names, labels = _class_columns(table, others)
    else:
        names, labels = _label_column(table, label)
        if others:
            ignored = few([table.columns[number] for number in others], 10)
            logger.warning(
                "The classes are in the column %r of %s; not used: %s",
                table.columns[label],
                readable(table.path),
                ignored,
            )
    if labels.ndim == 2 and len(names) == 1:  # an image has the class or not
        names, labels = (f"not {names[0]}", names[0]), labels[:, 0]
        return files_dataset(paths, labels, names, is_binary=True)
    return files_dataset(paths, labels, names)


def _paths(table: _Table, column: int) -> list[str]:
    folder, paths = os.path.dirname(os.path.abspath(table.path)), {}
    for number, cell in enumerate(table.cells(column)):
        path = os.path.normpath(os.path.join(folder, cell))
        if not cell:
            raise table.error("the path of an image in each line", "none", number)
        if path in paths:
            raise table.error(
                "each image once; several classes share a cell, as in cat|dog",
                f"{cell!r} in line {table.lines[paths[path]]} and",
                number,
            )
        paths[path] = number
    return list(paths)


def _label_column(table: _Table, column: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and labels, from a column with the names of classes."""
    cells = table.cells(column)
    if not any("|" in cell for cell in cells):
        if "" in cells:
            expected = (
                f"a class in the column {table.columns[column]!r} of each line, or '|' "
                "for an image without a class"
            )
            raise table.error(expected, "no class", cells.index(""))
        names, labels = np.unique(cells, return_inverse=True)
        return tuple(names.tolist()), labels
    classes = [
        {name for part in cell.split("|") if (name := part.strip())} for cell in cells
    ]
    names = sorted(set().union(*classes))
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.zeros((len(cells), len(names)), bool)
    for row, own in zip(labels, classes, strict=True):
        row[[numbers[name] for name in own]] = True
    return tuple(names), labels


def _class_columns(
    table: _Table, columns: list[int]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and labels, from a column of 0 and 1 for each class."""
    names = tuple(table.columns[column] for column in columns)
    expected = "a column 'label', or a column of 0 and 1 for each class"
    if not names or len(set(names)) < len(names):
        raise table.error(expected, f"the columns {few(table.columns, 10)}")
    labels = np.zeros((len(table.rows), len(columns)), bool)
    for place, column in enumerate(columns):
        cells = table.cells(column)
        values = {cell: ZERO_OR_ONE.get(cell.lower()) for cell in set(cells)}
        if None in values.values():
            number = next(n for n, cell in enumerate(cells) if values[cell] is None)
            received = f"{cells[number]!r} in the column {table.columns[column]!r},"
            raise table.error(expected, received, number)
        labels[:, place] = [values[cell] for cell in cells]
    return names, labels

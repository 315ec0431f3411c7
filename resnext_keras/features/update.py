"""Takes the rows of unchanged images from an earlier file of features."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pooch

from resnext_keras.features.extractor import Batch
from resnext_keras.features.loader import ImageFile
from resnext_keras.features.parquet import (
    Provenance,
    open_features,
    read_provenance,
)
from resnext_keras.images.listing import readable
from resnext_keras.images.threads import in_threads

COLUMNS = [field.name for field in dataclasses.fields(ImageFile)][:-1]


class EarlierRows:
    """The rows of a file from `extract`; all of its paths are in memory."""

    def __init__(self, path: Path):
        self._path = path
        paths, self._hashes = _paths_and_hashes(path)
        self._rows = {name: row for row, name in enumerate(paths.to_pylist())}

    def counts(self, path: Path) -> tuple[int, int]:
        """Number of rows of a new file that were kept, and of earlier ones dropped."""
        names, hashes = (column.to_pylist() for column in _paths_and_hashes(path))
        kept = sum(map(self._is_same, names, hashes))
        return kept, len(self._rows) - len(self._rows.keys() & set(names))

    def read(
        self,
        read: Callable[[Iterable[bytes]], Iterator[Batch]],
        chunk_size: int,
        batch_size: int,
        paths: Iterable[bytes],
    ) -> Iterator[Batch]:
        """Yields what `read` would, which computes only new and changed images."""
        paths = iter(paths)
        with open_features(self._path) as (file, _):
            row = self._reader(file)
            while chunk := list(itertools.islice(paths, chunk_size)):
                rows = list(in_threads(self._row_of, chunk, chunk_size))
                new = [
                    path for path, row in zip(chunk, rows, strict=True) if row is None
                ]
                with contextlib.closing(read(new)) as batches:
                    computed = _one_by_one(batches)
                    results = (
                        next(computed) if number is None else row(number)
                        for number in rows
                    )
                    while batch := list(itertools.islice(results, batch_size)):
                        vectors = [vector for _, vector in batch if vector is not None]
                        yield [file for file, _ in batch], np.array(vectors)

    def _row_of(self, path: bytes) -> int | None:
        """The row of an image that has not changed."""
        name = readable(path)
        if name not in self._rows or not os.path.isfile(path):
            return None
        try:
            sha256 = pooch.file_hash(os.fsdecode(path), "sha256")
        except OSError:  # reading the image again says what is wrong
            return None
        return self._rows[name] if self._is_same(name, sha256) else None

    def _is_same(self, name: str, sha256: str) -> bool:
        row = self._rows.get(name)
        return row is not None and self._hashes[row].as_py() == sha256

    def _reader(self, file) -> Callable[[int], tuple[ImageFile, np.ndarray]]:
        """A function that reads a row; it keeps the row group that it read last."""
        sizes = [
            file.metadata.row_group(number).num_rows
            for number in range(file.num_row_groups)
        ]
        starts = [0, *itertools.accumulate(sizes)]

        @functools.lru_cache(1)
        def group(number):
            table = file.read_row_group(number)
            columns = [table[name].to_pylist() for name in COLUMNS]
            files = [ImageFile(*fields, "") for fields in zip(*columns, strict=True)]
            vectors = table["features"].combine_chunks().flatten().to_numpy()
            return files, vectors.reshape(len(files), -1)

        def row(number):
            index = bisect.bisect_right(starts, number) - 1
            files, vectors = group(index)
            return files[number - starts[index]], vectors[number - starts[index]]

        return row


def check_update(path: Path, provenance: Provenance) -> None:
    """Raises a `ValueError` if the features of a file are of another network."""
    expected, received = (
        one.network | {"dtype": one.dtype}
        for one in (read_provenance(path), provenance)
    )
    if names := [name for name in received if received[name] != expected[name]]:
        wanted, found = (
            ", ".join(f"{name}={values[name]!r}" for name in names)
            for values in (expected, received)
        )
        raise ValueError(
            f"Expected the network and dtype of the features in {str(path)!r}, "
            f"{wanted}. Received: {found}"
        )


def _paths_and_hashes(path: Path):
    with open_features(path) as (file, _):
        return file.read(["path", "sha256"]).itercolumns()


def _one_by_one(
    batches: Iterator[Batch],
) -> Iterator[tuple[ImageFile, np.ndarray | None]]:
    """Each file, with its features if it is an image."""
    for files, features in batches:
        vectors = iter(features)
        for file in files:
            yield file, None if file.reason else next(vectors)

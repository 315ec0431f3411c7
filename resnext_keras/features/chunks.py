"""The chunks of a run of `extract` on disk, from which a stopped run continues.

The folder `features.parquet.chunks` holds

- `listing`, the paths of all images, each followed by a zero byte,
- `plan.json`, the arguments of the run, written when the listing is complete,
- a Parquet file for each finished chunk, with the chunk's errors in its metadata.
"""

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from resnext_keras.features.loader import ImageFile
from resnext_keras.features.parquet import (
    Provenance,
    optional,
    table_of,
    write_tables,
)
from resnext_keras.images.listing import list_images, readable
from resnext_keras.io import atomic_write

Error = tuple[str, str]  # a path, and why it was left out

ERRORS = b"errors"  # key in the metadata of a chunk

PLAN, LISTING, LOCK, RESULT = "plan.json", "listing", "lock", "result"

_OURS = re.compile(rf"{PLAN}|{LISTING}|{LOCK}|{RESULT}\..*|\d+\.parquet|\.writing-.*")

_BLOCK = 2**20  # bytes of the listing that are read at once


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of a run; a run that continues must have the same.

    Attributes:
        provenance: Where the features come from.
        folders: The folders as the user gave them; the paths in the rows begin with
            them.
        places: Their absolute paths.
        shard: `[i, n]`: shard i of n of the listing, i from 1 to n.
        engine: The engine that runs the network.
        batch_size: Number of images that are run at once.
        chunk_size: Number of images of a chunk.
    """

    provenance: Provenance
    folders: list[str]
    places: list[str]
    shard: list[int]
    engine: str
    batch_size: int
    chunk_size: int

    @property
    def run(self) -> dict:
        """The arguments that select the images."""
        return {"folders": self.folders, "shard": self.shard}


class Chunks:
    """The chunks of one run, in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan: Plan | None = None
        self.count = 0  # images
        self._unlisted: list[Error] = []  # folders that could not be listed

    def check_ours(self) -> None:
        """Raises a `ValueError` if anything but chunks is in the folder."""
        if not os.path.lexists(self.folder):
            return
        is_folder = self.folder.is_dir() and not self.folder.is_symlink()
        if not (is_folder and all(map(_OURS.fullmatch, os.listdir(self.folder)))):
            raise ValueError(
                "Expected only the chunks of an earlier run, as nothing else is "
                f"replaced. Received: {str(self.folder)!r}"
            )

    def has_begun(self) -> bool:
        """Whether the folder has a run whose file is not complete yet."""
        return any((self.folder / name).is_file() for name in (PLAN, LISTING))

    def begin(self, plan: Plan, folders: list[str]) -> None:
        """Begins a run: removes earlier files, writes the listing, then the plan."""
        (self.folder / PLAN).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        listing, count = self.folder / LISTING, 0
        with open(listing, "wb") as file:
            for path, reason in list_images(folders):
                if reason is None:
                    file.write(os.fsencode(path) + b"\0")
                    count += 1
                else:
                    self._unlisted.append((readable(path), reason))
        number, shards = plan.shard
        first, end = (n * count // shards for n in (number - 1, number))
        if shards > 1:
            with atomic_write(listing) as share, open(share, "wb") as file:
                file.writelines(path + b"\0" for path in self._paths(first, end))
        self._unlisted = self._unlisted if number == 1 else []
        self.plan, self.count = plan, end - first
        content = {
            "plan": dataclasses.asdict(plan),
            "count": self.count,
            "unlisted": self._unlisted,
        }
        with atomic_write(self.folder / PLAN) as path:
            path.write_text(json.dumps(content, indent=1), "utf-8")

    def resume(self, plan: Plan) -> bool:
        """Continues the run in the folder, and returns whether there is one.

        Raises:
            ValueError: The earlier run has another plan.
        """
        if not (self.folder / PLAN).is_file():
            return False
        content = json.loads((self.folder / PLAN).read_text("utf-8"))
        expected, received = content["plan"], dataclasses.asdict(plan)
        check_same(expected.pop("provenance"), received.pop("provenance"))
        check_same(expected, received)
        self.plan, self.count = plan, content["count"]
        self._unlisted = [tuple(error) for error in content["unlisted"]]
        return True

    def finished(self) -> int:
        """Number of finished chunks, counted up to the first that is missing."""
        parquet = optional("pyarrow.parquet")
        for number in range(len(self)):
            try:
                parquet.read_metadata(self._path(number))
            except (ValueError, OSError):  # missing, or cut off by a power failure
                return number
        return len(self)

    def __len__(self) -> int:
        return -(-self.count // self.plan.chunk_size)

    def paths(self, first_chunk: int) -> Iterator[bytes]:
        """Paths of all images, beginning with those of a chunk."""
        return self._paths(first_chunk * self.plan.chunk_size, self.count)

    def write(self, number: int, files: list[ImageFile], features: np.ndarray) -> None:
        """Writes a finished chunk: all its files, and the features of the images."""
        errors = [(file.path, file.reason) for file in files if file.reason]
        images = [file for file in files if not file.reason]
        table = table_of(images, features, self.plan.provenance)
        metadata = {**table.schema.metadata, ERRORS: json.dumps(errors).encode()}
        table = table.replace_schema_metadata(metadata)
        with atomic_write(self._path(number)) as path:
            optional("pyarrow.parquet").write_table(table, path, compression="none")

    def join(self, target: Path, errors: Path) -> int:
        """Joins all chunks into the file of features and the CSV file of errors.

        Removes the chunks, and returns the number of errors.
        """
        skipped = 0
        features_file = self.folder / f"{RESULT}.parquet"
        errors_file = self.folder / f"{RESULT}.csv"
        with open(errors_file, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("path", "reason"))

            def tables():
                nonlocal skipped
                for table, chunk_errors in self._read():
                    rows.writerows(chunk_errors)
                    skipped += len(chunk_errors)
                    yield table

            rows.writerows(self._unlisted)
            write_tables(features_file, self.plan.provenance, tables(), self.plan.run)
        os.replace(errors_file, errors)
        os.replace(features_file, target)
        # In this order, so that a run that is stopped here counts as finished.
        (self.folder / LISTING).unlink(missing_ok=True)
        (self.folder / PLAN).unlink()
        self.remove()
        return skipped + len(self._unlisted)

    def remove(self) -> None:
        """Removes the folder of chunks."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _read(self):
        """Table and errors of each chunk."""
        parquet = optional("pyarrow.parquet")
        for number in range(len(self)):
            with parquet.ParquetFile(self._path(number)) as file:
                table = file.read()
            yield table, json.loads(table.schema.metadata[ERRORS])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    def _paths(self, first: int, end: int) -> Iterator[bytes]:
        if first < end:
            with open(self.folder / LISTING, "rb") as file:
                yield from itertools.islice(_records(file), first, end)


def _records(file) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole


def check_same(expected: dict, received: dict) -> None:
    """Raises a `ValueError` with the arguments that differ between two runs, if any."""
    if names := [name for name in received if received[name] != expected.get(name)]:
        raise ValueError(
            "Expected the arguments of the earlier run, "
            f"{_listed(expected, names)}; or overwrite=True, to start again. "
            f"Received: {_listed(received, names)}"
        )


def _listed(values: dict, names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values.get(name)!r}" for name in names)

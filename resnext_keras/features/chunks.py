"""A long run in parts on the disk, so that one that was stopped can go on.

In the folder `features.parquet.parts` lie `listing`, the paths of all images of
the run, each ended by a zero byte; `plan.json`, which says for what they are read,
and without which all else counts for nothing; and a Parquet file for each part of
the listing that is finished, with its errors in the metadata.
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

from resnext_keras.features.parquet import (
    Provenance,
    Rows,
    optional,
    table_of,
    write_tables,
)
from resnext_keras.images.listing import list_images, readable
from resnext_keras.io import atomic_write

Error = tuple[str, str]  # a readable path, and why it was left out

ERRORS = b"errors"  # in the metadata of a part

PLAN, LISTING, LOCK, RESULT = "plan.json", "listing", "lock", "result"

_OURS = re.compile(rf"{PLAN}|{LISTING}|{LOCK}|{RESULT}\..*|\d+\.parquet|\.writing-.*")

_BLOCK = 2**20  # bytes of the listing that are read at once


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is for; one that goes on has to be for the same.

    Attributes:
        source: What the features come from.
        folders: As the user named them, which the rows begin with.
        places: Where those are.
        shard: Which of how many shares of the listing, from 1 on.
        engine: What runs the network.
        batch_size: Number of images that are run at once.
        part_size: Number of images of a part.
    """

    source: Provenance
    folders: list[str]
    places: list[str]
    shard: list[int]
    engine: str
    batch_size: int
    part_size: int

    @property
    def run(self) -> dict:
        """What says which images it is for."""
        return {"folders": self.folders, "shard": self.shard}


class Parts:
    """The parts of one run.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan: Plan | None = None
        self.count = 0  # images
        self._unlisted: list[Error] = []  # folders

    def check_ours(self) -> None:
        """Raises a `ValueError` where something else lies in the folder."""
        if not os.path.lexists(self.folder):
            return
        is_ours = self.folder.is_dir() and not self.folder.is_symlink()
        if not is_ours or not all(map(_OURS.fullmatch, os.listdir(self.folder))):
            raise ValueError(
                "Expected the parts of an earlier run alone, as nothing else is "
                f"replaced. Received: {str(self.folder)!r}"
            )

    def has_plan(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.folder / PLAN).is_file()

    def has_begun(self) -> bool:
        """Whether there is a run that has not finished its file."""
        return self.has_plan() or (self.folder / LISTING).is_file()

    def begin(self, plan: Plan, folders: list[str]) -> None:
        """Fixes the listing, then the plan."""
        (self.folder / PLAN).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                _remove(path)
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
        told = {
            "plan": dataclasses.asdict(plan),
            "count": self.count,
            "unlisted": self._unlisted,
        }
        with atomic_write(self.folder / PLAN) as path:
            path.write_text(json.dumps(told, indent=1), "utf-8")

    def resume(self, plan: Plan) -> bool:
        """Takes up the run that the folder holds, if any.

        Raises:
            ValueError: It is for another plan.
        """
        if not self.has_plan():
            return False
        told = json.loads((self.folder / PLAN).read_text("utf-8"))
        expected, given = told["plan"], dataclasses.asdict(plan)
        check_same(expected.pop("source"), given.pop("source"))
        check_same(expected, given)
        self.plan, self.count = plan, told["count"]
        self._unlisted = [tuple(error) for error in told["unlisted"]]
        return True

    def finished(self) -> int:
        """Number of the parts that are whole, one after the other from the first."""
        parquet = optional("pyarrow.parquet")
        numbers = range(len(self))
        for number in numbers:
            try:
                parquet.read_metadata(self._path(number))
            # Not there, or lost with the power.
            except (ValueError, OSError):
                return number
        return len(numbers)

    def __len__(self) -> int:
        return -(-self.count // self.plan.part_size)

    def paths(self, first_part: int) -> Iterator[bytes]:
        """Paths of all images from a part on."""
        return self._paths(first_part * self.plan.part_size, self.count)

    def write(self, number: int, rows: Rows, errors: list[Error]) -> None:
        """Writes a part that is finished."""
        source = self.plan.source
        table = table_of(rows, source)
        told = {**table.schema.metadata, ERRORS: json.dumps(errors).encode()}
        table = table.replace_schema_metadata(told)
        with atomic_write(self._path(number)) as path:
            optional("pyarrow.parquet").write_table(table, path, compression="none")

    def join(self, target: Path, errors: Path) -> int:
        """Makes the two files of all parts, and removes those.

        Returns:
            Number of errors.
        """
        skipped = 0
        written = self.folder / f"{RESULT}.parquet"
        listed = self.folder / f"{RESULT}.csv"
        with open(listed, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("path", "reason"))

            def tables():
                nonlocal skipped
                for table, found in self._parts():
                    rows.writerows(found)
                    skipped += len(found)
                    yield table

            rows.writerows(self._unlisted)
            write_tables(written, self.plan.source, tables(), self.plan.run)
        os.replace(listed, errors)
        os.replace(written, target)
        (self.folder / LISTING).unlink(missing_ok=True)  # as if none had begun
        (self.folder / PLAN).unlink()
        self.remove()
        return skipped + len(self._unlisted)

    def remove(self) -> None:
        """Removes what is left of a run that has finished its file."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _parts(self):
        parquet = optional("pyarrow.parquet")
        for number in range(len(self)):
            with parquet.ParquetFile(self._path(number)) as file:
                table = file.read()
            yield table, json.loads(table.schema.metadata[ERRORS])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    def _paths(self, first: int, end: int) -> Iterator[bytes]:
        if first >= end:
            return
        with open(self.folder / LISTING, "rb") as file:
            yield from itertools.islice(_records(file), first, end)


def _records(file) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole


def check_same(expected: dict, given: dict) -> None:
    """Raises a `ValueError` that names what of a run is not as of the earlier one."""
    if names := [name for name in given if given[name] != expected.get(name)]:
        raise ValueError(
            "Expected what the earlier run was given, or overwrite=True, to begin "
            f"anew: {_some(expected, names)}. Received: {_some(given, names)}"
        )


def _some(values: dict, names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values.get(name)!r}" for name in names)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

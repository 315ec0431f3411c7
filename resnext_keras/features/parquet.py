"""Features of images in a Parquet file, and what they came from."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from resnext_keras import extras

optional = functools.partial(extras.optional, extra="features")

SUFFIXES = (".parquet",)

DTYPES = ("float32", "float16")

KEY = b"resnext_keras"  # in the metadata of the file's schema

RUN = b"resnext_keras_run"  # beside it: which images the rows are of


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What features came from; only those of equal sources can be compared.

    Attributes:
        architecture: Name of the network's spec.
        weights: Full name of the weight set, or absolute path of the file.
        weights_sha256: Of the file, in hexadecimal; None for a set.
        preprocessing: The fields of a `Preprocessing`.
        pooling: How the last maps became a vector, `"avg"`.
        length: Number of features of an image.
        dtype: `"float32"` or `"float16"`, as which they are stored.
        version: Version of this package.
    """

    architecture: str
    weights: str
    weights_sha256: str | None
    preprocessing: dict
    pooling: str
    length: int
    dtype: str
    version: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """Images and their features, in one order.

    Attributes:
        paths: Where they are, readable whatever the bytes of the name.
        sha256: Of the file's bytes, in hexadecimal.
        widths: In pixels, of the upright image.
        heights: In pixels.
        features: (number of images, length), float32 or float16.
    """

    paths: Sequence[str]
    sha256: Sequence[str]
    widths: Sequence[int]
    heights: Sequence[int]
    features: np.ndarray


def read_provenance(path: str | os.PathLike) -> Provenance:
    """What the features in a file came from.

    Args:
        path: A file that `extract` has written.

    Returns:
        The network, its weights and the preprocessing.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: It is no such file; the message says what was found.
    """
    file, source = _open(path)
    file.close()
    return source


def count_rows(path: str | os.PathLike) -> int:
    """Number of images in a file; raises as `read_provenance` does."""
    with _open(path)[0] as file:
        return file.metadata.num_rows


def read_run(path: str | os.PathLike) -> dict:
    """Which images a file's rows are of; raises as `read_provenance` does."""
    with _open(path)[0] as file:
        return json.loads(file.schema_arrow.metadata.get(RUN, b"{}"))


def iterate(
    path: str | os.PathLike, batch_rows: int = 1024
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Reads a file of features a batch at a time, in memory that does not grow.

    Args:
        path: A file that `extract` has written.
        batch_rows: Number of images of a batch; the last may be shorter.

    Yields:
        Paths, and features of shape (images, length), float32 or float16 as
        they are stored.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: It is no such file, or a broken one.
    """
    file, source = _open(path)
    with file:
        batches = file.iter_batches(batch_rows, columns=["path", "features"])
        while True:
            try:
                batch = next(batches, None)
            except (ValueError, OSError) as error:  # what Arrow's errors are
                raise _no_features(path, f"a broken one: {error}") from error
            if batch is None:
                return
            yield batch["path"].to_pylist(), _matrix(batch["features"], source.length)


def schema_of(source: Provenance):
    """The columns of a file, with the source in their metadata."""
    pyarrow = optional("pyarrow")
    vector = pyarrow.list_(
        pyarrow.field(
            "element", pyarrow.from_numpy_dtype(np.dtype(source.dtype)), nullable=False
        ),
        source.length,
    )
    columns = {
        "path": pyarrow.string(),
        "sha256": pyarrow.string(),
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "features": vector,
    }
    fields = [
        pyarrow.field(name, type_, nullable=False) for name, type_ in columns.items()
    ]
    told = json.dumps(dataclasses.asdict(source))
    return pyarrow.schema(fields, {KEY: told.encode()})


def table_of(rows: Rows, source: Provenance):
    """The rows as a `pyarrow.Table`."""
    pyarrow = optional("pyarrow")
    schema = schema_of(source)
    flat = pyarrow.array(np.ascontiguousarray(rows.features, source.dtype).reshape(-1))
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        flat, type=schema.field("features").type
    )
    columns = [rows.paths, rows.sha256, rows.widths, rows.heights]
    types = schema.types[:-1]
    arrays = [
        pyarrow.array(column, type_)
        for column, type_ in zip(columns, types, strict=True)
    ]
    return pyarrow.Table.from_arrays([*arrays, vectors], schema=schema)


def write_tables(
    path: str | os.PathLike, source: Provenance, tables, run: dict | None = None
) -> None:
    """Writes a file of one row group for each table that has rows.

    Args:
        path: The file.
        source: What the features came from.
        tables: As `table_of` gives them.
        run: What `read_run` is to give.
    """
    parquet = optional("pyarrow.parquet")
    # Hashes and features repeat so seldom that a dictionary of them is a loss.
    options = {"compression": "zstd", "use_dictionary": False}
    schema = schema_of(source)
    told = {**schema.metadata, RUN: json.dumps(run or {}).encode()}
    schema = schema.with_metadata(told)
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for table in tables:
            if len(table):
                table = table.replace_schema_metadata(told)
                writer.write_table(table, row_group_size=len(table))


def _open(path):
    """The Parquet file and its source, both checked."""
    parquet = optional("pyarrow.parquet")
    path = os.fspath(path)
    if os.path.isdir(path):  # which Arrow would call no file of Parquet's
        raise _no_features(path, "a folder")
    try:
        # With its buffer Arrow would keep every row group that it has read.
        file = parquet.ParquetFile(path, pre_buffer=False)
    except FileNotFoundError:
        raise _no_features(path, "no such file") from None
    except (ValueError, OSError) as error:
        raise _no_features(path, f"no whole Parquet file: {error}") from error
    schema = file.schema_arrow
    told = (schema.metadata or {}).get(KEY)
    try:
        if told is None:
            raise ValueError("a Parquet file without our metadata")
        source = _source_from(told)
        _check_columns(schema, schema_of(source))
    except ValueError as error:
        file.close()
        raise _no_features(path, str(error)) from None
    return file, source


def _source_from(told: bytes) -> Provenance:
    try:
        source = Provenance(**json.loads(told))
        if type(source.length) is int and source.length > 0 and source.dtype in DTYPES:
            return source
    except (ValueError, TypeError):  # the one for all that is not as we write it
        pass
    raise ValueError(f"metadata that cannot be read, {told[:100]!r}")


def _check_columns(found, expected):
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            raise ValueError(f"no column {field.name!r}")
        if found.field(index).type != field.type:
            raise ValueError(
                f"a column {field.name!r} of {found.field(index).type}, "
                f"not of {field.type}"
            )


def _no_features(path, found: str) -> ValueError:
    first, *_ = found.splitlines()
    return ValueError(
        "Expected a .parquet file that `resnext-keras extract` has written at "
        f"{os.fspath(path)!r}. Found: {first}"
    )


def _matrix(vectors, length: int) -> np.ndarray:
    """A view of (rows, length) on Arrow's numbers."""
    return vectors.flatten().to_numpy(zero_copy_only=True).reshape(-1, length)

"""Parquet files of image features, and the provenance of the features."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from resnext_keras import extras
from resnext_keras.features.loader import ImageFile
from resnext_keras.images.preprocessing import Preprocessing

optional = functools.partial(extras.optional, extra="features")

SUFFIXES = (".parquet",)

DTYPES = ("float32", "float16")

# Keys in the metadata of a file's schema.
PROVENANCE = b"resnext_keras"
RUN = b"resnext_keras_run"

BATCH_ROWS = 1024
"""Rows in memory at once: 8 MB of 2048 float32 numbers each."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where features come from.

    Attributes:
        architecture: Name of the network's spec.
        weights: Full name of the weight set, or absolute path of the weight file.
        weights_sha256: SHA-256 of the file, in hexadecimal; None for a weight set.
        preprocessing: The fields of a `Preprocessing`.
        pooling: Pooling of the last feature maps, `"avg"`.
        length: Number of features of an image.
        dtype: Dtype of the stored features, `"float32"` or `"float16"`.
        version: Version of this package.
        precision: What the network computed in, `"float32"`, `"bfloat16"` or `"int8"`.
        calibrated_sha256: SHA-256 of the calibrated network of int8, in hexadecimal.
    """

    architecture: str
    weights: str
    weights_sha256: str | None
    preprocessing: dict
    pooling: str
    length: int
    dtype: str
    version: str
    precision: str = "float32"
    calibrated_sha256: str | None = None

    def __post_init__(self):  # checks the fields; earlier versions wrote fewer
        fields = Preprocessing(**self.preprocessing).as_json()
        object.__setattr__(self, "preprocessing", fields)

    @property
    def network(self) -> dict:
        """The fields that two files must share for their features to be comparable."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_sha256 or self.weights,  # a file may have moved
            "preprocessing": self.preprocessing,
            "pooling": self.pooling,
            "length": self.length,
            "precision": self.precision,
            "calibrated_sha256": self.calibrated_sha256,
        }


def read_provenance(path: str | os.PathLike) -> Provenance:
    """Reads the provenance of the features in a file.

    Args:
        path: A file from `extract`.

    Returns:
        The `Provenance`: the network, its weights and the preprocessing.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: The file is not from `extract`; the message says what it is.
    """
    with open_features(path) as (_, provenance):
        return provenance


def count_rows(path: str | os.PathLike) -> int:
    """Number of images in a file; raises the errors of `read_provenance`."""
    with open_features(path) as (file, _):
        return file.metadata.num_rows


def read_features(
    path: str | os.PathLike,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Reads a file of features, at most 1024 rows at a time.

    Yields:
        Paths of images, and their features, (images, length), float32 or float16 as
        stored.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: The file is not from `extract`, or is damaged.
    """
    with open_features(path) as (file, provenance):
        batches = file.iter_batches(BATCH_ROWS, columns=["path", "features"])
        while True:
            try:
                batch = next(batches, None)
            except (ValueError, OSError) as error:  # the base classes of Arrow's errors
                raise _not_features(path, f"a damaged one: {error}") from error
            if batch is None:
                return
            vectors = batch["features"].flatten().to_numpy(zero_copy_only=True)
            yield batch["path"].to_pylist(), vectors.reshape(-1, provenance.length)


def schema_of(provenance: Provenance):
    """The columns of a file, with the provenance in their metadata."""
    pyarrow = optional("pyarrow")
    number = pyarrow.from_numpy_dtype(np.dtype(provenance.dtype))
    columns = {
        "path": pyarrow.string(),
        "sha256": pyarrow.string(),
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "features": pyarrow.list_(
            pyarrow.field("element", number, nullable=False), provenance.length
        ),
    }
    fields = [
        pyarrow.field(name, type_, nullable=False) for name, type_ in columns.items()
    ]
    metadata = json.dumps(dataclasses.asdict(provenance)).encode()
    return pyarrow.schema(fields, {PROVENANCE: metadata})


def table_of(files: Sequence[ImageFile], features: np.ndarray, provenance: Provenance):
    """A `pyarrow.Table` with a row for each image; features are (images, length)."""
    pyarrow = optional("pyarrow")
    schema = schema_of(provenance)
    flat = np.ascontiguousarray(features, provenance.dtype).reshape(-1)
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(flat), type=schema.field("features").type
    )
    columns = [
        pyarrow.array([getattr(file, field.name) for file in files], field.type)
        for field in schema
        if field.name != "features"
    ]
    return pyarrow.Table.from_arrays([*columns, vectors], schema=schema)


def write_tables(
    path: str | os.PathLike, provenance: Provenance, tables, run: dict | None = None
) -> None:
    """Writes a file with a row group for each table of `table_of` that has rows.

    `run` has the folders and the shard of the run.
    """
    parquet = optional("pyarrow.parquet")
    # Hashes and features rarely repeat, so dictionary encoding would take more space.
    options = {"compression": "zstd", "use_dictionary": False}
    schema = schema_of(provenance)
    metadata = {**schema.metadata, RUN: json.dumps(run or {}).encode()}
    schema = schema.with_metadata(metadata)
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for table in tables:
            if len(table):
                table = table.replace_schema_metadata(metadata)
                writer.write_table(table, row_group_size=len(table))


@contextlib.contextmanager
def open_features(path: str | os.PathLike):
    """Context manager: opens and checks a file; gives it and its `Provenance`."""
    parquet = optional("pyarrow.parquet")
    path = os.fspath(path)
    if os.path.isdir(path):
        raise _not_features(path, "a folder")
    try:
        # With pre_buffer, Arrow would keep every row group in memory after reading it.
        file = parquet.ParquetFile(path, pre_buffer=False)
    except FileNotFoundError:
        raise _not_features(path, "no such file") from None
    except (ValueError, OSError) as error:
        raise _not_features(path, f"not a whole Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        metadata = (schema.metadata or {}).get(PROVENANCE)
        if metadata is None:
            raise _not_features(path, "a Parquet file without our metadata")
        try:
            provenance = Provenance(**json.loads(metadata))
            expected = schema_of(provenance)
        except (ValueError, TypeError) as error:  # names, types or values of fields
            problem = f"metadata that cannot be read, {metadata[:100]!r}"
            raise _not_features(path, problem) from error
        for field in expected:
            index = schema.get_field_index(field.name)
            if index < 0 or schema.field(index).type != field.type:
                raise _not_features(path, f"no column {field.name!r} of {field.type}")
        yield file, provenance


def _not_features(path, problem: str) -> ValueError:
    first, *_ = problem.splitlines()
    return ValueError(
        "Expected a .parquet file from `resnext-keras extract` at "
        f"{os.fspath(path)!r}. Found: {first}"
    )

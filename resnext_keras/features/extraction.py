"""Features of whole collections of images, in a Parquet file."""

import contextlib
import csv
import dataclasses
import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from resnext_keras.arguments import positive_integer
from resnext_keras.features.chunks import LOCK, Chunks, Plan, check_same
from resnext_keras.features.extractor import Batch, Extractor
from resnext_keras.features.parquet import (
    DTYPES,
    SUFFIXES,
    count_rows,
    optional,
    read_provenance,
    read_run,
)
from resnext_keras.features.ray import check_ray, ray_reader
from resnext_keras.images.listing import SUFFIXES as IMAGES
from resnext_keras.images.listing import list_images, readable
from resnext_keras.io import exclusive_lock, output_file
from resnext_keras.models.specs import ResNeXtSpec

CHUNK = 1024
"""Images of a chunk, rounded up to whole batches: what a stopped run loses at most."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The result of a run.

    Attributes:
        output: The file of features.
        errors: The file that lists what was left out, with the reasons.
        images: Number of rows.
        skipped: Number of files and folders that were left out.
        read: Number of files that this run has read; the rest was read by the run
            that it continued.
        seconds: Duration of reading, without loading the network.
    """

    output: Path
    errors: Path
    images: int
    skipped: int
    read: int
    seconds: float


def chunks_folder(output: str | os.PathLike) -> Path:
    """Where a run writes its chunks until the file is complete."""
    return Path(f"{os.fspath(output)}.chunks")


def errors_file(output: str | os.PathLike) -> Path:
    """Where a run lists what it leaves out."""
    return Path(output).with_suffix(".errors.csv")


def extract(
    folders: Sequence[str | os.PathLike] | str | os.PathLike,
    output: str | os.PathLike = "features.parquet",
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
    *,
    dtype: str = "float32",
    engine: str = "auto",
    batch_size: int = 32,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Extraction:
    """Writes the features of all images in folders into a Parquet file.

    A row has the image's path, the SHA-256 of its file, width and height of the
    upright image in pixels, and its features: the mean of the network's last feature
    maps. The provenance of the features is in the file's metadata
    (`read_provenance`). A file that is not an image or may not be read is left out
    and listed with the reason in `features.errors.csv`; so is a folder that cannot
    be listed.

    The run writes chunks into `features.parquet.chunks`, and joins them into the file
    at the end. A run that was stopped continues with `resume=True`, to the same file
    as one that was not. It also stops when a disk, a network or a machine fails:
    no image is left out for that.

    Args:
        folders: Folders, which are searched with all folders in them, and files.
        output: The file to write; its name ends in `.parquet`.
        model: Name of an architecture, or a spec; None for that of the weights.
        weights: Name of a weight set, or path of a file or of a training run's
            folder, as `load_classifier` takes it.
        dtype: Type of the features, `"float32"`, or `"float16"` for half the size.
        engine: What runs the network, as `Predictor` takes it; or `"ray"` for the
            workers of a Ray cluster, in that of `RAY_ADDRESS` or else on this
            machine. They all use the engine that is the fastest here.
        batch_size: Number of images that are run at once.
        shard: `(i, n)`: only the i-th of n shares of all images, from 1 on. The rows
            of all shards, in their order, are those of one run.
        workers: Number of processes for `"ray"`; None for one on each 4 cores.
        resume: Whether to continue a run that was stopped, if there is one. A
            finished file stays as it is, unless all images were left out.
        overwrite: Whether to start again and replace earlier files.

    Returns:
        The `Extraction`.

    Raises:
        ValueError: An argument is wrong, there are no images, files exist and
            neither `resume` nor `overwrite` is set, or the run to continue had
            other arguments. Nothing was written.
        ImportError: pyarrow, Ray or the engine is not installed.
        ConnectionError: The Ray cluster is missing, or its workers die.
        OSError: A disk is full, or images cannot be read since a disk or a network
            fails. Finished chunks stay for `resume`.
    """
    _check_options(dtype, batch_size, shard, engine, workers)
    output = _checked_output(output, resume, overwrite)
    folders = _checked_folders(folders)
    chunks = Chunks(chunks_folder(output))
    chunks.check_ours()
    kind = "auto" if engine == "ray" else engine
    extractor = Extractor(
        model, weights, dtype=dtype, engine=kind, batch_size=batch_size
    )
    plan = _plan(extractor, folders, shard)
    if resume and output.exists() and not chunks.has_begun():
        finished = _finished(output, plan)
        if finished.images or not finished.skipped:
            chunks.remove()
            return finished
    with contextlib.ExitStack() as stack:
        read = extractor.read
        if engine == "ray":
            options = {"dtype": dtype, "engine": plan.engine, "batch_size": batch_size}
            load = (model, weights), options
            read = stack.enter_context(ray_reader(load, batch_size, folders, workers))
        stack.enter_context(_full_disk(output, chunks))
        chunks.folder.mkdir(exist_ok=True)
        stack.enter_context(exclusive_lock(chunks.folder, LOCK))
        if not (resume and chunks.resume(plan)):
            chunks.begin(plan, folders)
        start = time.perf_counter()
        first = chunks.finished()
        count = _write_chunks(chunks, read(chunks.paths(first)), first)
        seconds = time.perf_counter() - start
        skipped = chunks.join(output, errors_file(output))
    rows = count_rows(output)
    return Extraction(output, errors_file(output), rows, skipped, count, seconds)


def _checked_output(output, resume: bool, overwrite: bool) -> Path:
    """The path of the file, if neither it nor what belongs to it is in the way."""
    if resume and overwrite:
        raise ValueError(
            "Expected `resume` or `overwrite`, not both. "
            "Received: resume=True, overwrite=True"
        )
    output = output_file(output, SUFFIXES, overwrite=True)
    for path in (output, errors_file(output), chunks_folder(output)):
        if os.path.lexists(path) and not (resume or overwrite):
            raise ValueError(
                "Expected paths that do not exist; or resume=True, to continue a run "
                "that was stopped, or overwrite=True, to start again. "
                f"Received: {str(path)!r}"
            )
    return output


def _check_options(dtype, batch_size, shard, engine, workers) -> None:
    optional("pyarrow")
    if dtype not in DTYPES:
        raise ValueError(
            f"Expected `dtype` to be {' or '.join(DTYPES)}. Received: dtype={dtype!r}"
        )
    positive_integer("batch_size", batch_size)
    number, shards = shard
    if not 1 <= number <= shards:
        raise ValueError(
            "Expected `shard` to be (i, n) with i from 1 to n. "
            f"Received: shard={shard!r}"
        )
    if engine == "ray":
        check_ray(workers)
    elif workers is not None:
        raise ValueError(
            "Expected `workers` only with engine='ray'. "
            f"Received: workers={workers!r}, engine={engine!r}"
        )


def _checked_folders(folders) -> list[str]:
    """The paths as strings, if there are images in them."""
    if isinstance(folders, (str, os.PathLike)):
        folders = [folders]
    folders = [os.fsdecode(folder) for folder in folders]
    for folder in folders:
        if not os.path.exists(folder):
            raise ValueError(
                "Expected folders and images that exist. "
                f"Received: {readable(folder)!r}"
            )
    note = ""
    for path, reason in list_images(folders):
        if reason is None:
            return folders
        note = f"; {readable(path)!r} is {reason}"
    raise ValueError(
        f"Expected images ({', '.join(IMAGES)}) in the folders. "
        f"Received: {', '.join(map(repr, map(readable, folders))) or 'no folder'}{note}"
    )


def _plan(extractor: Extractor, folders: list[str], shard) -> Plan:
    batch_size = extractor.predictor.batch_size
    return Plan(
        provenance=extractor.provenance,
        folders=list(map(readable, folders)),
        places=[readable(os.path.abspath(folder)) for folder in folders],
        shard=list(shard),
        engine=extractor.predictor.engine,
        batch_size=batch_size,
        # Whole batches, so that a run that continues has the batches of one that
        # was not stopped.
        chunk_size=-(-CHUNK // batch_size) * batch_size,
    )


def _finished(output: Path, plan: Plan) -> Extraction:
    """The result of an earlier run, from its files."""
    provenance = dataclasses.asdict(read_provenance(output))
    check_same(provenance, dataclasses.asdict(plan.provenance))
    check_same(read_run(output), plan.run)
    errors = errors_file(output)
    try:
        with open(errors, encoding="utf-8", newline="") as file:
            skipped = sum(1 for _ in csv.reader(file)) - 1
    except FileNotFoundError:
        raise ValueError(
            f"Expected the file of errors beside {str(output)!r}, or overwrite=True, "
            f"to start again. Received: no file {str(errors)!r}"
        ) from None
    return Extraction(output, errors, count_rows(output), skipped, 0, 0.0)


@contextlib.contextmanager
def _full_disk(output: Path, chunks: Chunks) -> Iterator[None]:
    """Context manager: says how to continue after an error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"No space left on the disk of {readable(output)!r}. Make room, "
            "then continue with resume=True: finished chunks stay in "
            f"{chunks.folder.name!r}."
        ) from error


def _write_chunks(chunks: Chunks, batches: Iterator[Batch], first: int) -> int:
    """Writes all chunks from one on.

    Args:
        chunks: Those of the run.
        batches: The files of those chunks, with their features.
        first: Number of the first chunk.

    Returns:
        Number of files.
    """
    plan, finished = chunks.plan, min(first * chunks.plan.chunk_size, chunks.count)
    bar = tqdm(
        desc="extracting",
        total=chunks.count,
        initial=finished,
        unit=" images",
        disable=None,
        leave=False,
    )
    with bar, contextlib.closing(batches):
        for number in range(first, len(chunks)):
            files, vectors = [], []
            for batch_files, features in itertools.islice(
                batches, plan.chunk_size // plan.batch_size
            ):
                files += batch_files
                vectors.append(features)
                bar.update(len(batch_files))
            chunks.write(number, files, np.concatenate(vectors))
    return chunks.count - finished

"""Extracts the features of whole collections of images into a Parquet file."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnext_keras import extras
from resnext_keras.arguments import positive_integer
from resnext_keras.features.calibrated import (
    calibrated_file,
    calibrated_network,
    keep_network,
)
from resnext_keras.features.chunks import LOCK, Chunks, Plan, check_same
from resnext_keras.features.extractor import Batch, Extractor, provenance_of
from resnext_keras.features.parquet import (
    DTYPES,
    RUN,
    SUFFIXES,
    count_rows,
    open_features,
    optional,
)
from resnext_keras.features.ray import ray_reader
from resnext_keras.features.update import EarlierRows, check_update
from resnext_keras.images.listing import SUFFIXES as IMAGES
from resnext_keras.images.listing import list_images, readable
from resnext_keras.inference.engines import check_installed
from resnext_keras.inference.predictor import (
    available_precision,
    check_engine,
    check_precision,
)
from resnext_keras.io import exclusive_lock, explained_full_disk, output_file
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.progress import Progress
from resnext_keras.weights.checkpoint import Checkpoint, resolve

CHUNK = 1024
"""Images in a chunk, rounded up to whole batches; a stopped run loses at most one."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The result of a run.

    Attributes:
        output: The file of features.
        errors: The CSV file of the files and folders that were skipped, with reasons.
        images: Number of images, the rows of `output`.
        skipped: Number of files and folders that were skipped.
        read: Number of files that this run has read; the others were read by the run
            that it continued.
        seconds: Time for reading and computing, without loading the network.
        kept: Number of rows that `update` took over from the earlier file.
        dropped: Number of the earlier file's images that are gone or unreadable.
    """

    output: Path
    errors: Path
    images: int
    skipped: int
    read: int
    seconds: float
    kept: int = 0
    dropped: int = 0


def chunks_folder(output: str | os.PathLike) -> Path:
    """The folder for the chunks of a run, until its file is complete."""
    return Path(f"{os.fspath(output)}.chunks")


def errors_file(output: str | os.PathLike) -> Path:
    """The CSV file of the files and folders that a run skips."""
    return Path(output).with_suffix(".errors.csv")


def extract(
    folders: Sequence[str | os.PathLike] | str | os.PathLike,
    output: str | os.PathLike | None = None,
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    *,
    dtype: str = "float32",
    engine: str = "auto",
    precision: str = "float32",
    calibration: str | os.PathLike | None = None,
    batch_size: int = 32,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    update: str | os.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Extraction:
    """Writes the features of all images in folders into a Parquet file.

    A row has the path of an image, the SHA-256 of its file, width and height of the
    upright image in pixels, and its features: the mean of the network's last feature
    maps. The file's metadata hold the provenance of the features (`read_provenance`).
    Files that are not images or cannot be read, and folders that cannot be listed, are
    skipped, and listed with the reason in `features.errors.csv`.

    The run writes chunks into the folder `features.parquet.chunks`, and joins them into
    the file at the end. With `resume=True` a stopped run continues, and gives the same
    file as a run that was not stopped. If a disk, a network or a machine fails, the run
    stops with an error instead of skipping images.

    With `update` only the features of new and changed images are computed. The file is
    then replaced by what a run anew with the same engine would write. The bytes are the
    same with OpenVINO, ONNX Runtime and TensorFlow's oneDNN kernels. TensorFlow's other
    kernels may round the features differently.

    Args:
        folders: Folders, which are searched with their subfolders, and files.
        output: The file to write; its name ends in `.parquet`. None for
            `features.parquet`, or for the file of `update`.
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: Name of a weight set, path of a weight file or folder of a training
            run. None for the default weights of the architecture.
        dtype: Dtype of the features, `"float32"`, or `"float16"` for half the size.
        engine: The engine that runs the network, as `Predictor` takes it. Or `"ray"`
            for the workers of a Ray cluster, that of `RAY_ADDRESS` or one on this
            machine; all workers use the engine that is the fastest here.
        precision: What the network computes in, `"float32"`; `"bfloat16"`, which
            becomes float32 where `Predictor` finds no fast bfloat16; or `"int8"`, on
            one machine and without shards. The calibrated network of int8 is kept in
            `features.parquet.int8.onnx`, for `resume` and `update`. In float32 the
            pixels are those of `read_image`; otherwise large JPEGs are decoded with
            fewer pixels, in half the time.
        calibration: A folder of images, or one image, to calibrate an int8 network
            with. None for the first 256 images of the folders.
        batch_size: Number of images that are run at once, at least 1.
        shard: `(i, n)`: only shard i of n, i from 1 to n. The
            rows of all shards, in this order, are those of a single run.
        workers: Number of processes for `"ray"`; None for one per 4 cores.
        update: A file of features of the same network and dtype, which is replaced.
            Rows of images with the same path and SHA-256 are kept; those of images
            that are gone are dropped. None to compute all.
        resume: Whether to resume an interrupted run, if there is one. A
            finished file is not changed, unless it has no images.
        overwrite: Whether to start again and replace earlier files.

    Returns:
        The `Extraction`.

    Raises:
        ValueError: An argument is wrong, there are no images, files exist and
            neither `resume` nor `overwrite` is set, or the run to continue had
            other arguments. Nothing is written then.
        ImportError: pyarrow, Ray or the engine is not installed.
        ConnectionError: There is no Ray cluster, or its workers die.
        OSError: A disk is full, or images cannot be read because a disk or a network
            fails. The finished chunks remain, for `resume`.
    """
    _check_options(dtype, batch_size, shard, engine, workers)
    _check_precision(precision, calibration, engine, shard)
    precision = available_precision(precision)
    is_int8 = precision == "int8"
    output = _checked_output(output, update, resume, overwrite, is_int8)
    folders = _checked_folders(folders)
    chunks = Chunks(chunks_folder(output))
    chunks.check_ours()
    checkpoint = resolve(weights, model)
    calibrated = None
    if is_int8 and (resume or update is not None):
        has_rows = update is not None or output.exists() or chunks.has_begun()
        calibrated = _kept_network(output, has_rows)
    if update is not None:
        check_update(output, provenance_of(checkpoint, dtype, precision, calibrated))
    with contextlib.ExitStack() as stack:
        is_new = is_int8 and not calibrated
        if is_new:
            network = calibrated_network(
                checkpoint, [calibration] if calibration else folders
            )
            calibrated = stack.enter_context(network)
        extractor = Extractor(
            model,
            weights,
            dtype=dtype,
            engine="auto" if engine == "ray" else engine,
            batch_size=batch_size,
            precision=precision,
            calibrated=calibrated,
        )
        plan = _plan(extractor, folders, shard)
        if resume and update is None and output.exists() and not chunks.has_begun():
            finished = _finished(output, plan)
            if finished.images or not finished.skipped:
                chunks.remove()
                return finished
        read = extractor.read
        if engine == "ray":
            options = {
                "dtype": dtype,
                "engine": plan.engine,
                "batch_size": batch_size,
                "precision": precision,
            }
            load = (model, weights), options
            read = stack.enter_context(ray_reader(load, batch_size, folders, workers))
        kept = f"the finished chunks are in {chunks.folder.name!r}"
        stack.enter_context(explained_full_disk(output, kept))
        earlier = None
        if update is not None:
            earlier = EarlierRows(output)
            sizes = plan.chunk_size, plan.batch_size
            read = functools.partial(earlier.read, read, *sizes)
        chunks.folder.mkdir(exist_ok=True)
        stack.enter_context(exclusive_lock(chunks.folder, LOCK))
        if not (resume and chunks.resume(plan)):
            if is_new:
                keep_network(calibrated, output)
            chunks.begin(plan, folders)
        start = time.perf_counter()
        first = chunks.finished()
        count = _write_chunks(chunks, read(chunks.paths(first)), first)
        seconds = time.perf_counter() - start
        skipped = chunks.join(output, errors_file(output))
        counts = earlier.counts(output) if earlier else ()
    rows, errors = count_rows(output), errors_file(output)
    return Extraction(output, errors, rows, skipped, count, seconds, *counts)


def _kept_network(output: Path, has_rows: bool) -> Path | None:
    """The calibrated network of an earlier run; a `ValueError` if rows are without."""
    kept = calibrated_file(output)
    if kept.is_file():
        return kept
    if has_rows:
        raise ValueError(
            "Expected the calibrated network of the earlier int8 run; or "
            f"overwrite=True, to start again. Received: no file {str(kept)!r}"
        )
    return None


def _checked_output(
    output, update, resume: bool, overwrite: bool, is_int8: bool
) -> Path:
    """The path of the file, or a `ValueError` if earlier files may not be replaced."""
    if resume and overwrite:
        raise ValueError(
            "Expected `resume` or `overwrite`, not both. "
            "Received: resume=True, overwrite=True"
        )
    if update is not None and output is not None:
        raise ValueError(
            "Expected `output` or `update`, not both, since the file of `update` is "
            f"replaced. Received: output={str(output)!r}, update={str(update)!r}"
        )
    output = output_file(
        update or output or "features.parquet", SUFFIXES, overwrite=True
    )
    written = [chunks_folder(output)]
    if update is None:
        written = [output, errors_file(output), *written]
        written += [calibrated_file(output)] * is_int8
    for path in written:
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
    is_pair = isinstance(shard, (tuple, list)) and list(map(type, shard)) == [int, int]
    if not (is_pair and 1 <= shard[0] <= shard[1]):
        raise ValueError(
            "Expected `shard` to be (i, n) with i from 1 to n. "
            f"Received: shard={shard!r}"
        )
    kind = "auto" if engine == "ray" else engine
    check_engine(kind)
    check_installed(kind)
    if engine == "ray":
        extras.optional("ray", "ray")
    elif workers is not None:
        raise ValueError(
            "Expected `workers` only with engine='ray'. "
            f"Received: workers={workers!r}, engine={engine!r}"
        )
    if workers is not None:
        positive_integer("workers", workers)


def _check_precision(precision, calibration, engine, shard) -> None:
    check_precision(precision, calibration, "auto" if engine == "ray" else engine)
    if precision == "auto":
        raise ValueError(
            "Expected `precision` to be 'float32', 'bfloat16' or 'int8', as features "
            "must not depend on a clock. Received: precision='auto'"
        )
    if precision == "int8" and (engine == "ray" or tuple(shard) != (1, 1)):
        raise ValueError(
            "Expected precision='int8' without engine='ray' and `shard`, as all rows "
            "must come from one calibrated network. "
            f"Received: engine={engine!r}, shard={shard!r}"
        )


def _checked_folders(folders) -> list[str]:
    """The paths as strings, or a `ValueError` if there are no images in them."""
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
        # Whole batches, so that a continued run has the same batches as a run that was
        # not stopped.
        chunk_size=-(-CHUNK // batch_size) * batch_size,
    )


def _finished(output: Path, plan: Plan) -> Extraction:
    """The result of an earlier run, from its files."""
    with open_features(output) as (features, provenance):
        of_file, expected = map(dataclasses.asdict, (provenance, plan.provenance))
        check_same(of_file, expected)
        check_same(json.loads(features.schema_arrow.metadata.get(RUN, b"{}")), plan.run)
        rows = features.metadata.num_rows
    errors = errors_file(output)
    try:
        with open(errors, encoding="utf-8", newline="") as file:
            skipped = sum(1 for _ in csv.reader(file)) - 1
    except FileNotFoundError:
        raise ValueError(
            f"Expected the file of errors beside {str(output)!r}, or overwrite=True, "
            f"to start again. Received: no file {str(errors)!r}"
        ) from None
    return Extraction(output, errors, rows, skipped, 0, 0.0)


def _write_chunks(chunks: Chunks, batches: Iterator[Batch], first: int) -> int:
    """Writes the chunks from the `first` on, and returns the number of their files."""
    plan, finished = chunks.plan, min(first * chunks.plan.chunk_size, chunks.count)
    progress = Progress("extracting", chunks.count, finished)
    with progress, contextlib.closing(batches):
        for number in range(first, len(chunks)):
            files, vectors = [], []
            for batch_files, features in batches:
                files += batch_files
                vectors.append(features)
                progress.update(len(batch_files))
                if len(files) == plan.chunk_size:
                    break
            chunks.write(number, files, np.concatenate(vectors))
    return chunks.count - finished

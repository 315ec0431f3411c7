"""Features of whole collections of images, in a file."""

import contextlib
import csv
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from resnext_keras.arguments import positive_integer
from resnext_keras.features.chunks import LOCK, Parts, Plan, check_same
from resnext_keras.features.extractor import Batch, FeatureNetwork, load_network
from resnext_keras.features.loader import ImageFile
from resnext_keras.features.parquet import (
    DTYPES,
    SUFFIXES,
    Rows,
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

PART = 1024
"""Images of a part, about: what a run that is stopped loses at most."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What a run has done.

    Attributes:
        target: The file of features.
        errors: The file of what was left out, with the reasons.
        images: Number of rows.
        skipped: Number of what was left out.
        read: Number of files that this run has read; less than all of them where
            it went on with another.
        seconds: What that took, without loading the network.
    """

    target: Path
    errors: Path
    images: int
    skipped: int
    read: int
    seconds: float


def parts_folder(target: str | os.PathLike) -> Path:
    """Where a run keeps its parts until the file is written."""
    return Path(f"{os.fspath(target)}.parts")


def errors_file(target: str | os.PathLike) -> Path:
    """Where the files that are no images are listed."""
    return Path(target).with_suffix(".errors.csv")


def extract(
    folders: Sequence[str | os.PathLike],
    path: str | os.PathLike,
    spec_or_name: ResNeXtSpec | str | None = None,
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
    upright image in pixels, and its features: the mean of the network's last
    maps. What the features came from is in the file's metadata (`read_provenance`).
    A file that is no image, or may not be read, is left out, and listed with the
    reason in `features.errors.csv`; so is a folder that cannot be listed.

    Images are read and kept in parts, in `features.parquet.parts`, which makes
    way for the file at the end. A run that was stopped goes on with `resume`, and
    gives the same file as one that was not. A disk, a network or a machine that
    fails stops it too: nothing is left out for that.

    Args:
        folders: Folders, which are searched with all folders in them, and files.
        path: The file to be written, whose name ends in `.parquet`.
        spec_or_name: The architecture; None for that of the weights.
        weights: Name of a weight set or path of a file, as `load_classifier`
            takes it; None for the set that ships with the package, or with another
            architecture for its `"imagenet"`.
        dtype: `"float32"`, or `"float16"` for a file of half the size.
        engine: What runs the network, as `Predictor` takes it; or `"ray"` for
            workers of a Ray cluster, that of `RAY_ADDRESS` or else this machine,
            which all take the engine that is the fastest here.
        batch_size: Number of images that are run at once.
        shard: `(i, n)`: of n shares of all images, the i-th alone, from 1 on.
            The rows of all shards, in their order, are those of one run.
        workers: Number of processes, for `"ray"` alone; None for one on each 4 cores.
        resume: Whether to go on with a run that was stopped, where there is one,
            and to leave a file as it is that one has finished, unless all images
            were left out.
        overwrite: Whether to begin anew, in the place of earlier files.

    Raises:
        ValueError: An argument is none of the above, there are no images, files
            exist and neither `resume` nor `overwrite` is set, or a run that is to
            go on was one of other arguments. Nothing has then been written.
        ImportError: pyarrow, or the engine asked for, is not installed.
        ConnectionError: There is no such Ray cluster, or its workers do not live.
        OSError: The files cannot be written, as on a full disk, or images cannot
            be read, as where a network fails. What was finished stays for `resume`.
    """
    target = _checked(path, dtype, batch_size, shard, resume, overwrite)
    folders = _checked_folders(folders)
    parts = Parts(parts_folder(target))
    parts.check_ours()
    _check_workers(engine, workers)
    kind = "auto" if engine == "ray" else engine
    network = load_network(spec_or_name, weights, dtype, kind, batch_size)
    plan = _plan(network, folders, shard)
    if resume and target.exists() and not parts.has_begun():
        done = _finished(target, plan)
        if done.images or not done.skipped:
            parts.remove()
            return done
    with contextlib.ExitStack() as open_:
        read = network.read
        if engine == "ray":
            kind, batch_size = plan.engine, plan.batch_size
            load = spec_or_name, weights, dtype, kind, batch_size
            read = open_.enter_context(ray_reader(load, batch_size, folders, workers))
        parts.folder.mkdir(exist_ok=True)
        open_.enter_context(exclusive_lock(parts.folder, LOCK))
        if not (resume and parts.resume(plan)):
            parts.begin(plan, folders)
        start = time.perf_counter()
        done = parts.finished()
        count = _extract_parts(parts, read(parts.paths(done)), done)
        seconds = time.perf_counter() - start
        skipped = parts.join(target, errors_file(target))
    return Extraction(
        target, errors_file(target), count_rows(target), skipped, count, seconds
    )


def _plan(network: FeatureNetwork, folders: list[str], shard) -> Plan:
    batch_size = network.predictor.batch_size
    return Plan(
        source=network.source,
        folders=list(map(readable, folders)),
        places=[readable(os.path.abspath(folder)) for folder in folders],
        shard=list(shard),
        engine=network.predictor.engine,
        batch_size=batch_size,
        # Whole batches: those of a run that goes on are those of one that does not.
        part_size=-(-PART // batch_size) * batch_size,
    )


def _checked(path, dtype, batch_size, shard, resume, overwrite) -> Path:
    """The path of the file, when all that can be checked of the rest is right."""
    optional("pyarrow")
    if dtype not in DTYPES:
        raise ValueError(
            f"Expected `dtype` to be {' or '.join(DTYPES)}. Received: dtype={dtype!r}"
        )
    positive_integer("batch_size", batch_size)
    try:
        number, shards = (positive_integer("shard", value) for value in shard)
    except (TypeError, ValueError):
        number, shards = 1, 0
    if number > shards:
        raise ValueError(
            "Expected `shard` to be (i, n) with i from 1 to n. "
            f"Received: shard={shard!r}"
        )
    if resume and overwrite:
        raise ValueError(
            "Expected `resume` or `overwrite`, not both. "
            "Received: resume=True, overwrite=True"
        )
    target = output_file(path, SUFFIXES, overwrite=True)
    for taken in (target, errors_file(target), parts_folder(target)):
        if os.path.lexists(taken) and not (resume or overwrite):
            raise ValueError(
                "Expected paths that do not exist; or resume=True, to go on with a "
                "run that was stopped, or overwrite=True, to begin anew. "
                f"Received: {str(taken)!r}"
            )
    return target


def _check_workers(engine, workers):
    if engine == "ray":
        check_ray(workers)
    elif workers is not None:
        raise ValueError(
            "Expected `workers` with engine='ray' alone. "
            f"Received: workers={workers!r}, engine={engine!r}"
        )


def _checked_folders(folders) -> list[str]:
    """The paths as strings, when there are images in them."""
    if isinstance(folders, (str, os.PathLike)):
        folders = [folders]
    folders = [os.fsdecode(folder) for folder in folders]
    for folder in folders:
        if not os.path.exists(folder):
            raise ValueError(
                "Expected folders and images that exist. "
                f"Received: {readable(folder)!r}"
            )
    why = ""
    for path, reason in list_images(folders):
        if reason is None:
            return folders
        why = f"; {readable(path)!r} is {reason}"
    raise ValueError(
        f"Expected images ({', '.join(IMAGES)}) in the folders. "
        f"Received: {', '.join(map(repr, map(readable, folders))) or 'no folder'}{why}"
    )


def _finished(target: Path, plan: Plan) -> Extraction:
    """What there is to say of a file that an earlier run has finished."""
    check_same(
        dataclasses.asdict(read_provenance(target)), dataclasses.asdict(plan.source)
    )
    check_same(read_run(target), plan.run)
    try:
        with open(errors_file(target), encoding="utf-8", newline="") as file:
            skipped = sum(1 for _ in csv.reader(file)) - 1
    except FileNotFoundError:
        raise ValueError(
            f"Expected the list of what was left out of {str(target)!r}, or "
            "overwrite=True, to begin anew. "
            f"Received: no file {str(errors_file(target))!r}"
        ) from None
    return Extraction(target, errors_file(target), count_rows(target), skipped, 0, 0.0)


def _extract_parts(parts: Parts, batches: Iterator[Batch], done: int) -> int:
    """Writes all parts from one on, of their batches; gives the number of files."""
    plan, first = parts.plan, min(done * parts.plan.part_size, parts.count)
    bar = tqdm(
        desc="extracting",
        total=parts.count,
        initial=first,
        unit=" images",
        disable=None,
        leave=False,
    )
    with bar, contextlib.closing(batches):
        for number in range(done, len(parts)):
            files, vectors = [], []
            for found, features in itertools.islice(
                batches, plan.part_size // plan.batch_size
            ):
                files += found
                vectors.append(features)
                bar.update(len(found))
            parts.write(number, *_sorted_out(files, np.concatenate(vectors)))
    return parts.count - first


def _sorted_out(files: list[ImageFile], features: np.ndarray):
    """Rows of the images, and the errors of the rest."""
    good = [file for file in files if not file.reason]
    rows = Rows(
        [file.path for file in good],
        [file.sha256 for file in good],
        [file.width for file in good],
        [file.height for file in good],
        features,
    )
    return rows, [(file.path, file.reason) for file in files if file.reason]

"""Checks output paths, and writes files and folders at once or not at all."""

import contextlib
import csv
import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

WRITING = ".writing-"  # prefix of temporary folders

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a quota


def output_file(
    path: str | os.PathLike,
    suffixes: tuple[str, ...],
    overwrite: bool,
    error: type[ValueError] = ValueError,
    beside: tuple[str, ...] = (),
) -> Path:
    """Checks that a file may be written, and returns its path with `~` expanded.

    Its name has to end in one of `suffixes`. `beside` has the suffixes of files of the
    same name that are written with it, as in `model.bin` beside `model.xml`.

    Raises:
        error: The name ends in something else, the folder does not exist or cannot
            be written to, the path is a folder, or a file exists.
    """
    path = Path(path).expanduser()
    _check_parent(path, error)
    ends = path.name.endswith(suffixes)
    if not ends or path.name in suffixes:
        # Keras and others take the format from the suffix, in lower case alone.
        case = ", in lower case" * (not ends and path.name.lower().endswith(suffixes))
        raise error(
            f"Expected a path that ends in {' or '.join(suffixes)}{case}. "
            f"Received: {str(path)!r}"
        )
    for file in (path, *map(path.with_suffix, beside)):
        if file.is_dir():
            raise error(
                f"Expected the path of a file. Received the folder {str(file)!r}"
            )
        if file.exists() and not overwrite:
            raise error(_exists(file))
    return path


def output_directory(
    path: str | os.PathLike,
    overwrite: bool,
    earlier: Path,
    beside: Collection[str] = (),
    kind: str = "export",
) -> Path:
    """Checks that a folder may be written, and returns its absolute path.

    Only a folder that this package wrote earlier is replaced, so that nobody loses
    a folder of their own by a typo.

    Args:
        path: The folder.
        overwrite: Whether an earlier one may be replaced.
        earlier: A file, relative to the folder, that marks an earlier one.
        beside: Names of what else an earlier one may contain.
        kind: What messages call it.

    Raises:
        ValueError: The folder exists and may not be replaced, or its parent does
            not exist or cannot be written to.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    _check_parent(path, ValueError)
    if not os.path.lexists(path):
        return path
    if not overwrite:
        raise ValueError(_exists(path))
    content = os.listdir(path) if path.is_dir() and not path.is_symlink() else []
    known = {earlier.parts[0], *beside}
    if not known.issuperset(content) or not (path / earlier).is_file():
        raise ValueError(
            f"Expected a folder that contains an earlier {kind} and nothing else, "
            f"since no other is replaced. Received: {str(path)!r}"
        )
    return path


def check_outside(folder: str | os.PathLike, images: str | os.PathLike) -> None:
    """Raises a `ValueError` if an output folder is inside the folder of the images.

    There the next run would take it for a class.
    """
    images = os.path.realpath(images)
    if Path(os.path.realpath(folder)).is_relative_to(images):
        raise ValueError(
            f"Expected a folder outside the image folder {images!r}. "
            f"Received: {str(folder)!r}"
        )


def _check_parent(path: Path, error: type[ValueError]) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise error(
            f"Expected a path in an existing folder. Received: {str(path)!r}; "
            f"the folder {str(folder)!r} does not exist"
        )
    if not os.access(folder, os.W_OK):
        raise error(
            f"Expected a path in a writable folder. Received: {str(path)!r}; "
            f"writing to {str(folder)!r} is not permitted"
        )


def _exists(path: Path) -> str:
    return (
        "Expected a path that does not exist, or overwrite=True. "
        f"Received: {str(path)!r}"
    )


@contextlib.contextmanager
def atomic_write(target: Path, *parts: Path) -> Iterator[Path]:
    """Context manager: gives a temporary path, and renames it to `target` at the end.

    `parts` are files in the same folder that belong to the target. They are written
    beside the temporary path under their own names. After a kill the target is either
    missing or complete with its own parts.
    """
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=target.parent) as folder:
        yield Path(folder, target.name)
        for path in (*parts, target):
            with Path(folder, path.name).open("rb+") as file:
                os.fsync(file.fileno())  # or a power cut may leave an empty file
        if parts:
            target.unlink(missing_ok=True)
        for path in (*parts, target):
            os.replace(Path(folder, path.name), path)


def write_csv(path: Path, heads: Iterable, rows: Iterable[Iterable]) -> None:
    """Writes a CSV file in UTF-8, at once or not at all."""
    with (
        atomic_write(path) as target,
        target.open("w", newline="", encoding="utf-8") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(heads)
        lines.writerows(rows)


@contextlib.contextmanager
def atomic_directory(target: Path, overwrite: bool) -> Iterator[Path]:
    """Context manager: gives a temporary folder, renamed to `target` at the end."""
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=target.parent) as folder:
        written = Path(folder, target.name)
        written.mkdir()
        yield written
        replaced = Path(folder, "replaced")
        try:
            if overwrite and target.exists():
                target.rename(replaced)
            written.rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise


@contextlib.contextmanager
def exclusive_lock(folder: Path, lock: str) -> Iterator[None]:
    """Context manager: no other process takes the same lock file in a folder meanwhile.

    The system frees the lock when a process dies. A `ValueError` if another process has
    it.
    """
    import filelock  # here, since importing the package imports this module

    try:
        with filelock.FileLock(folder / lock, timeout=0):
            yield
    except filelock.Timeout:
        raise ValueError(
            "Expected a folder that no other process is writing to. "
            f"Received: {str(folder)!r}, another process is writing to it"
        ) from None


def clear_unfinished(folder: Path) -> None:
    """Removes what killed processes left in a folder that only one process writes."""
    for path in folder.glob(f"{WRITING}*"):
        shutil.rmtree(path)


@contextlib.contextmanager
def explained_full_disk(path: str | os.PathLike, kept: str) -> Iterator[None]:
    """Context manager: the error of a full disk says how to continue, and what is kept.

    Raises:
        OSError: No space is left, or a quota is exceeded.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"No space left on the disk of {str(path)!r}. Make room, then continue "
            f"with resume=True: {kept}."
        ) from error


def check_space(path: str | os.PathLike, size: int) -> None:
    """Checks that a new file of `size` bytes fits on its disk.

    For libraries that crash on a full disk; does nothing without `posix_fallocate`.

    Raises:
        OSError: No space is left, or a quota is exceeded.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "xb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL:
                raise
        finally:
            os.remove(path)

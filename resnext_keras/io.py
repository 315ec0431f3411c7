"""Files to be written: checked before anything is built, and whole or not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import filelock

WRITING = ".writing-"  # what folders are called in which something is being written


def output_file(
    path: str | os.PathLike,
    suffixes: tuple[str, ...],
    overwrite: bool,
    error: type[ValueError] = ValueError,
) -> Path:
    """The path of a file that may be written.

    Args:
        path: What the user named.
        suffixes: What its name may end in.
        overwrite: Whether an existing file may be replaced.
        error: What is raised.

    Raises:
        error: It has another ending, or exists, or its folder does not or cannot
            be written to.
    """
    path = Path(path).expanduser()
    _check_place(path, error)
    ends = path.name.endswith(suffixes)
    if not ends or path.name in suffixes:
        # Keras and others choose the format by it, and know it in this case alone.
        case = ", in lower case" * (not ends and path.name.lower().endswith(suffixes))
        raise error(
            f"Expected a path that ends in {' or '.join(suffixes)}{case}. "
            f"Received: {str(path)!r}"
        )
    if path.is_dir():
        raise error(f"Expected the path of a file. Received the folder {str(path)!r}")
    if path.exists() and not overwrite:
        raise error(
            "Expected a path that does not exist, or overwrite=True. "
            f"Received: {str(path)!r}"
        )
    return path


def _check_place(path: Path, error: type[ValueError]) -> None:
    """The folder is there that something is to be written into."""
    folder = path.parent
    if not folder.is_dir():
        raise error(
            f"Expected a path in an existing folder. Received: {str(path)!r}; "
            f"there is no folder {str(folder)!r}"
        )
    if not os.access(folder, os.W_OK):
        raise error(
            "Expected a path in a folder that can be written to. "
            f"Received: {str(path)!r}; to write into {str(folder)!r} is not permitted"
        )


@contextlib.contextmanager
def exclusive_lock(folder: Path, lock: str) -> Iterator[None]:
    """A time in which no other process writes to a folder.

    Args:
        folder: The folder, which exists.
        lock: Name of a file in it; the system frees it of a process that is killed.

    Raises:
        ValueError: Another process is at work there.
    """
    try:
        with filelock.FileLock(folder / lock, timeout=0):
            yield
    except filelock.Timeout:
        raise ValueError(
            "Expected a folder that no other process is writing to. "
            f"Received: {str(folder)!r}, where one is at work"
        ) from None


def clear_unfinished(folder: Path) -> None:
    """Removes what killed processes have begun to write in a folder of one writer."""
    for path in folder.glob(f"{WRITING}*"):
        shutil.rmtree(path)


@contextlib.contextmanager
def atomic_write(target: Path, *parts: Path) -> Iterator[Path]:
    """A path to write to, of a file that gets its name when all is written.

    Args:
        target: The file.
        parts: Files that belong to it, in the same folder, and are written beside
            the path that is given. None of them is of use without the target,
            which is never there beside parts of another.
    """
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=target.parent) as folder:
        yield Path(folder, target.name)
        for path in (*parts, target):
            with Path(folder, path.name).open("rb+") as file:
                os.fsync(
                    file.fileno()
                )  # or a name may outlive a power cut, and be empty
        if parts:
            target.unlink(missing_ok=True)
        for path in (*parts, target):
            os.replace(Path(folder, path.name), path)


def output_directory(
    path: str | os.PathLike,
    overwrite: bool,
    earlier: Path,
    beside: Collection[str] = (),
    kind: str = "export",
) -> Path:
    """The path of a folder that may be written.

    Args:
        path: What the user named.
        overwrite: Whether an earlier one may be replaced.
        earlier: A file that an earlier one holds, or a folder in it.
        beside: Names of what else it may hold.
        kind: What it is called in a message.

    Raises:
        ValueError: It exists, and is no earlier one or may not be replaced; or the
            folder that it lies in does not exist or cannot be written to.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    _check_place(path, ValueError)
    if not os.path.lexists(path):
        return path
    if not overwrite:
        raise ValueError(
            "Expected a path that does not exist, or overwrite=True. "
            f"Received: {str(path)!r}"
        )
    # Whoever names a folder of his own by mistake shall not lose it.
    inside = os.listdir(path) if path.is_dir() and not path.is_symlink() else []
    known = {earlier.parts[0], *beside}
    if not known.issuperset(inside) or not (path / earlier).is_file():
        raise ValueError(
            f"Expected the folder of an earlier {kind} alone, as nothing else is "
            f"replaced. Received: {str(path)!r}"
        )
    return path


def check_outside(folder: str | os.PathLike, images: str | os.PathLike) -> None:
    """A folder to be written does not lie among images, as a class of its own.

    Raises:
        ValueError: It does.
    """
    images = os.path.realpath(images)
    if os.path.commonpath([images, os.path.realpath(folder)]) == images:
        raise ValueError(
            f"Expected a folder outside of that of the images, {images!r}. "
            f"Received: {str(folder)!r}"
        )


@contextlib.contextmanager
def atomic_directory(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write to, which gets its name when all is written.

    Args:
        target: The name.
        overwrite: Whether it replaces a folder of this name.
    """
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

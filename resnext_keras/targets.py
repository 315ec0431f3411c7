"""Files to be written: checked before anything is built, and whole or not there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def checked_target(
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
    folder = path.parent
    if (
        not path.name.endswith(suffixes)
        or not folder.is_dir()
        or not os.access(folder, os.W_OK)
    ):
        raise error(
            f"Expected a path that ends in {' or '.join(suffixes)}, in an existing "
            f"folder that can be written to. Received: {str(path)!r}"
        )
    if path.is_dir() or (path.exists() and not overwrite):
        raise error(
            "Expected a path that does not exist, or overwrite=True. "
            f"Received: {str(path)!r}"
        )
    return path


@contextlib.contextmanager
def whole_file(target: Path, *parts: Path) -> Iterator[Path]:
    """A path to write to, of a file that gets its name when all is written.

    Args:
        target: The file.
        parts: Files that belong to it, in the same folder, and are written beside
            the path that is given. None of them is of use without the target,
            which is never there beside parts of another.
    """
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
        yield Path(folder, target.name)
        if parts:
            target.unlink(missing_ok=True)
        for path in (*parts, target):
            os.replace(Path(folder, path.name), path)

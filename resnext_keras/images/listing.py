"""Lists the image files in folders, in a fixed order."""

import os
import re
from collections.abc import Iterable, Iterator

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

CIRCLE = "a link to a folder that contains it; not followed"
IRREGULAR = "not a regular file"  # such as a pipe, which could block for ever


def list_images(
    roots: Iterable[str | os.PathLike],
) -> Iterator[tuple[str, str | None]]:
    """Lists the images in folders and their subfolders, in the order of their names.

    `roots` are folders, and files with any suffix. Links are followed, except for a
    link to a folder that contains it.

    Yields:
        The path of each file with the suffix of an image, and None; or a path that
        cannot be listed or read, and the reason.
    """
    for root in map(os.fspath, roots):
        if os.path.isdir(root):
            yield from _in_folder(root)
        else:
            yield root, None


def _in_folder(
    folder: str, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, str | None]]:
    """Lists one folder; `above` identifies the folders that contain it."""
    try:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in above:
            yield folder, CIRCLE
            return
        with os.scandir(folder) as entries:
            # In the order of bytes, so that it is the same in any locale.
            entries = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield folder, f"a folder that cannot be listed: {error.strerror or error}"
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _in_folder(entry.path, (*above, identity))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path, IRREGULAR if _is_irregular(entry) else None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links
        return False


def _is_irregular(entry: os.DirEntry) -> bool:
    """Whether an entry exists and is not a regular file; broken links do not exist."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def readable(path: str | os.PathLike) -> str:
    """A path as text, with bytes that are not UTF-8 in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def spellings(path: str) -> list[str]:
    """The paths for which `readable` gives this text, the more likely first."""
    raw = re.sub(
        rb"\\x([89a-f][0-9a-f])",
        lambda match: bytes.fromhex(match[1].decode()),
        os.fsencode(path),
    )
    # The name itself may hold a backslash.
    return list(dict.fromkeys((path, os.fsdecode(raw))))

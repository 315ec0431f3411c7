"""Which files are images: folders searched in one order, whatever they hold."""

import os
import re
from collections.abc import Iterable, Iterator

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

CIRCLE = "a link to a folder that it lies in; not followed"
IRREGULAR = "no regular file"  # a pipe, say, which could be waited for without end


def list_images(
    roots: Iterable[str | os.PathLike],
) -> Iterator[tuple[str, str | None]]:
    """The images in folders and all folders within, in the order of their names.

    Links are followed, but not to a folder that they lie in. No more than the
    names in the folders on the way to an image are in memory.

    Args:
        roots: Folders; and files, whatever their names.

    Yields:
        The path of a file that is named as images are, and None; or the path of
        a folder that cannot be listed, or of what is no file, and why.
    """
    for root in map(os.fspath, roots):
        if os.path.isdir(root):
            yield from _in_folder(root)
        else:
            yield root, None


def _in_folder(root: str) -> Iterator[tuple[str, str | None]]:
    """Not recursive, since folders can be deeper than Python's calls."""
    way = []  # of each open folder: its identity, and the entries yet to come
    folders = [root]  # to be opened next, at most one
    while folders or way:
        if folders:
            path = folders.pop()
            try:
                found = os.stat(path)
                identity = found.st_dev, found.st_ino
                if any(identity == above for above, _ in way):
                    yield path, CIRCLE
                    continue
                with os.scandir(path) as entries:
                    way.append((identity, _backwards(entries)))
            except OSError as error:
                yield path, f"a folder that cannot be listed: {error.strerror or error}"
            continue
        _, entries = way[-1]
        if not entries:
            way.pop()
            continue
        entry = entries.pop()
        if _is_folder(entry):
            folders.append(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path, IRREGULAR if _is_irregular(entry) else None


def _backwards(entries) -> list[os.DirEntry]:
    """The last first, by the bytes of the names, which no locale changes."""
    return sorted(entries, key=lambda e: os.fsencode(e.name), reverse=True)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links: no folder, and no image either
        return False


def _is_irregular(entry: os.DirEntry) -> bool:
    """Whether there is something, but no file; a broken link is not even something."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def readable(path: str | os.PathLike) -> str:
    """A path that any file can hold, bytes that are no UTF-8 in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def spellings(path: str) -> list[str]:
    """The paths that `readable` gives as this one, the likelier first."""
    raw = re.sub(
        rb"\\x([89a-f][0-9a-f])",
        lambda found: bytes.fromhex(found[1].decode()),
        os.fsencode(path),
    )
    # The name itself may hold a backslash.
    return list(dict.fromkeys((path, os.fsdecode(raw))))

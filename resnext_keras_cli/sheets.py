"""What commands draw: a sheet in a .png file, and a page in an .html beside it."""

from pathlib import Path

from resnext_keras_cli.options import checked_file


def checked_sheet(output, html: bool, overwrite: bool) -> Path:
    """The .png file, which may be written, and with `html` the page beside it.

    Args:
        output: What was typed.
        html: Whether there is to be a page.
        overwrite: Whether files that exist may be replaced.
    """
    target = checked_file(output, ".png", overwrite)
    if html:
        checked_file(_page(target), ".html", overwrite)
    return target


def write_sheet(drawn, target: Path, html: bool) -> list[Path]:
    """Writes a sheet, and the page if there is to be one; gives the files.

    Args:
        drawn: What has a `sheet()` and a `page()`.
        target: What `checked_sheet` gave.
        html: Whether there is to be a page.
    """
    from resnext_keras.io import atomic_write

    with atomic_write(target) as path:
        drawn.sheet().save(path)
    if not html:
        return [target]
    with atomic_write(_page(target)) as path:
        path.write_text(drawn.page(), encoding="utf-8")
    return [target, _page(target)]


def _page(target: Path) -> Path:
    return target.with_suffix(".html")

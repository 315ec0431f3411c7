"""Writes drawings of images: a contact sheet (.png), and an HTML page beside it.

A page is one file, which a browser opens without a network. Jinja escapes all text
in it, such as file names, and the page forbids scripts and loading.
"""

import base64
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from resnext_keras.extras import optional
from resnext_keras.io import atomic_write, output_file


def checked_outputs(
    output: str | os.PathLike | None, html: bool, overwrite: bool
) -> list[Path]:
    """Paths of a sheet (.png) and of the page (.html) beside it; none without `output`.

    Raises:
        ValueError: A file exists or cannot be written, or a page has no `output`.
        ImportError: A page is asked for without the extra `train`.
    """
    if output is None:
        if html:
            raise ValueError(
                "Expected `output`, a .png file, with html=True. Received: output=None"
            )
        return []
    files = [output_file(output, (".png",), overwrite)]
    if html:
        optional("jinja2", "train")
        page = files[0].with_suffix(".html")
        files.append(output_file(page, (".html",), overwrite))
    return files


def write_outputs(drawing, files: Sequence[Path]) -> None:
    """Writes the files of `checked_outputs`.

    `drawing` has the methods `sheet`, which returns a `PIL.Image`, and `page`, which
    returns HTML.
    """
    for file in files:
        with atomic_write(file) as path:
            if file.suffix == ".png":
                drawing.sheet().save(path)
            else:
                path.write_text(drawing.page(), encoding="utf-8")


def render(template: str, **content) -> str:
    """Fills in a file of the folder `templates`; text in `content` is escaped."""
    return _environment().get_template(template).render(content)


@functools.cache
def _environment():
    jinja2 = optional("jinja2", "train")
    return jinja2.Environment(
        loader=jinja2.PackageLoader("resnext_keras"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(image: Image.Image) -> str:
    """An image as a `data:` URI, which holds its JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

"""HTML pages of one file each, which a browser opens without a network.

Whatever stands in a page passes through Jinja's escaping, file names above all;
and a page forbids its browser to run scripts or to load anything.
"""

import base64
import functools
import io

import jinja2
from PIL import Image


def render(template: str, **content) -> str:
    """Fills in a template of the folder `templates`.

    Args:
        template: Name of its file.
        content: What it names; text is escaped.
    """
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("resnext_keras"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(image: Image.Image) -> str:
    """An image as an address that holds it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

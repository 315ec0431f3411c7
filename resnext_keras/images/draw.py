"""Many small images with their captions on one sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 8
CAPTION_HEIGHT = 18
FONT = Path("fonts", "ttf", "DejaVuSans.ttf")
"""Of matplotlib: it has the letters of most alphabets, that of Pillow only English."""

INK = {True: "#1a7f37", False: "#cf222e", None: "#24292f"}


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    marks: Sequence[bool | None] | None = None,
    *,
    columns: int = 10,
    size: int = 64,
) -> Image.Image:
    """Draws images in rows, each over its caption.

    Args:
        images: uint8 arrays, (H, W) grey or (H, W, 3) RGB, 0 to 255.
        captions: A short text for each, whose end is cut off where it would run
            over its neighbours.
        marks: For each True (caption in green), False (red, with a frame) or
            None (black); None for all black.
        columns: Number of images in a row.
        size: Width and height in pixels that each is scaled to.

    Returns:
        The sheet, an RGB image on white.

    Raises:
        ValueError: There are no images, or not as many captions or marks.
    """
    marks = [None] * len(images) if marks is None else marks
    if not len(images) or not len(images) == len(captions) == len(marks):
        raise ValueError(
            "Expected at least one image, and as many captions and marks. Received: "
            f"{len(images)} images, {len(captions)} captions, {len(marks)} marks"
        )
    if min(columns, size) < 1:
        raise ValueError(
            "Expected `columns` and `size` to be positive. "
            f"Received: columns={columns}, size={size}"
        )
    columns = min(columns, len(images))
    step_x, step_y = size + GAP, size + CAPTION_HEIGHT + GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = _font()
    for place, (image, caption, mark) in enumerate(
        zip(images, captions, marks, strict=True)
    ):
        x = GAP + place % columns * step_x
        y = GAP + place // columns * step_y
        tile = Image.fromarray(np.asarray(image)).convert("RGB")
        sheet.paste(tile.resize((size, size), Image.Resampling.BICUBIC), (x, y))
        mark = None if mark is None else bool(mark)
        if mark is False:
            draw.rectangle(
                (x - 2, y - 2, x + size + 1, y + size + 1), None, INK[mark], 2
            )
        caption = _shortened(caption, font, size)
        draw.text(
            (x + size / 2, y + size + 1), caption, INK[mark], font=font, anchor="ma"
        )
    return sheet


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # here, since most who import this draw nothing

    path = Path(matplotlib.get_data_path(), FONT)
    return ImageFont.truetype(path, CAPTION_HEIGHT - 5)


def _shortened(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A caption on one line of so many pixels, with an ellipsis for what is cut off."""
    caption = " ".join(caption.split())
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption}…") > width:
        caption = caption[:-1]
    return f"{caption.rstrip()}…"

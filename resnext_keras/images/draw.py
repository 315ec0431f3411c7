"""Drawings of images: contact sheets, and heat maps over an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 8
CAPTION_HEIGHT = 18
FONT = Path("fonts", "ttf", "DejaVuSans.ttf")  # has the letters of most alphabets

INK = {True: "#1a7f37", False: "#cf222e", None: "#24292f"}

# matplotlib's inferno at nine equal steps (Smith and van der Walt, 2015, CC0): it is
# perceptually uniform, also for colour-blind people and in grey.
INFERNO = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (228, 90, 49),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ]
)
HEAT_COLOURS = ", ".join("rgb({} {} {})".format(*colour) for colour in INFERNO)
"""The same colours for a CSS gradient."""

OPACITY = 0.75
"""Opacity where the heat is 1; where it is 0 the image is unchanged."""


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    marks: Sequence[bool | None] | None = None,
    *,
    columns: int = 10,
    size: int = 64,
) -> Image.Image:
    """Draws images in rows, each with a caption below it.

    Args:
        images: At least one, uint8, (H, W) grey or (H, W, 3) RGB, 0 to 255.
        captions: A short text for each image. It is cut off if it is wider than the
            image.
        marks: For each image True (green caption), False (red caption and frame) or
            None (black caption); None for all black.
        columns: Number of images in a row, at least 1.
        size: Width and height in pixels that each image is scaled to, at least 1.

    Returns:
        The sheet, a `PIL.Image` of mode RGB with a white background.
    """
    marks = [None] * len(images) if marks is None else marks
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
        if mark is False:
            draw.rectangle(
                (x - 2, y - 2, x + size + 1, y + size + 1), None, INK[mark], 2
            )
        caption = _shortened(caption, font, size)
        draw.text(
            (x + size / 2, y + size + 1), caption, INK[mark], font=font, anchor="ma"
        )
    return sheet


def overlay(image: np.ndarray, heat: np.ndarray, size: int | None = None):
    """Draws a heat map over an image.

    Args:
        image: RGB, 0 to 255, uint8, (H, W, 3), as `read_image` gives it.
        heat: The heat map of the image from `grad_cam`: values from 0 to 1, (h, w), of
            any size.
        size: Length in pixels of the drawing's shorter side; None for that of `image`.

    Returns:
        A `PIL.Image`, RGB, with the aspect of `image`. Higher values are brighter and
        more opaque.

    Raises:
        ValueError: An array has another shape or type.

    Examples:
        >>> image = np.zeros((64, 64, 3), "uint8")
        >>> rk.overlay(image, np.eye(8)).size
        (64, 64)
    """
    image, heat = np.asarray(image), np.asarray(heat, "float32")
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            "Expected `image` to be uint8, (H, W, 3). "
            f"Received: {image.dtype} {image.shape}"
        )
    if heat.ndim != 2 or not heat.size or not ((heat >= 0) & (heat <= 1)).all():
        raise ValueError(
            "Expected `heat` to be (h, w) with values from 0 to 1. "
            f"Received: shape {heat.shape}"
        )
    height, width = image.shape[:2]
    scale = 1 if size is None else size / min(height, width)
    shape = round(width * scale), round(height * scale)
    pixels = np.float32(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC))
    heat = np.asarray(Image.fromarray(heat).resize(shape, Image.Resampling.BICUBIC))
    heat = heat.clip(0, 1)
    steps = np.linspace(0, 1, len(INFERNO))
    colours = np.stack([np.interp(heat, steps, c) for c in INFERNO.T], axis=-1)
    opacity = OPACITY * heat[..., np.newaxis]
    mixed = pixels * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.round().astype("uint8"))


def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's font if it is installed; Pillow's has only Latin letters."""
    size = CAPTION_HEIGHT - 5
    try:
        import matplotlib
    except ImportError:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(matplotlib.get_data_path(), FONT), size)


def _shortened(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A caption in one line of at most `width` pixels, cut off with an ellipsis."""
    caption = " ".join(caption.split())
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption}…") > width:
        caption = caption[:-1]
    return f"{caption.rstrip()}…"

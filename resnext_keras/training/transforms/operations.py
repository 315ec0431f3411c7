"""The operations of TrivialAugment, with the pixels of torchvision on Pillow images."""

from PIL import Image, ImageEnhance, ImageOps


def transformed(image, matrix):
    """Transforms an image affinely, with bilinear interpolation; outside is black.

    Args:
        image: A `PIL.Image`.
        matrix: Two rows of three numbers, one after the other. They map the x and y of
            a pixel, and 1, to the x and y of its source.
    """
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
    )


OPERATIONS = (
    (lambda image, m: image, 0.0),
    # Shears by m pixels per row or column; the upper or left edge stays.
    (lambda image, m: transformed(image, (1, m, 0, 0, 1, 0)), 0.99),
    (lambda image, m: transformed(image, (1, 0, 0, m, 1, 0)), 0.99),
    # Translates by whole pixels to the right or down.
    (lambda image, m: transformed(image, (1, 0, -int(m), 0, 1, 0)), 32.0),
    (lambda image, m: transformed(image, (1, 0, 0, 0, 1, -int(m))), 32.0),
    # Rotates by degrees, counter-clockwise.
    (lambda image, m: image.rotate(m, Image.Resampling.BILINEAR), 135.0),
    (lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Color(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m), 0.99),
    # Clears the m lowest bits.
    (lambda image, m: ImageOps.posterize(image, 8 - round(abs(m))), 6.0),
    # Inverts values from 255 - m on.
    (lambda image, m: ImageOps.solarize(image, 255 - abs(m)), 255.0),
    (lambda image, m: ImageOps.autocontrast(image), 0.0),
    (lambda image, m: ImageOps.equalize(image), 0.0),
)
"""The operations and the largest magnitude of each.

An operation takes an image, a `PIL.Image` of mode RGB, and a magnitude m, a float that
is negative half of the time. It returns an image of the same size.

Source: torchvision's `TrivialAugmentWide`.
"""

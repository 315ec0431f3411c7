"""The operations of TrivialAugment, with the pixels of torchvision on Pillow images.

An operation takes an image, a `PIL.Image` of mode RGB, and a magnitude, a float that is
negative half of the time. It returns an image of the same size.
"""

from PIL import Image, ImageEnhance, ImageOps


def identity(image, magnitude):
    """The image as it is."""
    return image


def shear_x(image, magnitude):
    """Slants by `magnitude` pixels per row; the upper edge stays."""
    return transformed(image, (1, magnitude, 0, 0, 1, 0))


def shear_y(image, magnitude):
    """Slants by `magnitude` pixels per column; the left edge stays."""
    return transformed(image, (1, 0, 0, magnitude, 1, 0))


def translate_x(image, magnitude):
    """Moves by whole pixels to the right."""
    return transformed(image, (1, 0, -int(magnitude), 0, 1, 0))


def translate_y(image, magnitude):
    """Moves by whole pixels down."""
    return transformed(image, (1, 0, 0, 0, 1, -int(magnitude)))


def rotate(image, magnitude):
    """Turns by degrees, counter-clockwise."""
    return image.rotate(magnitude, Image.Resampling.BILINEAR)


def brightness(image, magnitude):
    """Blends with black, or away from it."""
    return ImageEnhance.Brightness(image).enhance(1 + magnitude)


def colour(image, magnitude):
    """Blends with the grey image, or away from it."""
    return ImageEnhance.Color(image).enhance(1 + magnitude)


def contrast(image, magnitude):
    """Blends with the mean grey, or away from it."""
    return ImageEnhance.Contrast(image).enhance(1 + magnitude)


def sharpness(image, magnitude):
    """Blends with the smoothed image, or away from it; the border is not smoothed."""
    return ImageEnhance.Sharpness(image).enhance(1 + magnitude)


def posterize(image, magnitude):
    """Clears the `magnitude` lowest bits."""
    return ImageOps.posterize(image, 8 - round(abs(magnitude)))


def solarize(image, magnitude):
    """Inverts values from 255 - magnitude on."""
    return ImageOps.solarize(image, 255 - abs(magnitude))


def auto_contrast(image, magnitude):
    """Stretches each channel to 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image, magnitude):
    """Spreads the values of each channel, so that all are about equally frequent."""
    return ImageOps.equalize(image)


OPERATIONS = (
    (identity, 0.0),
    (shear_x, 0.99),
    (shear_y, 0.99),
    (translate_x, 32.0),
    (translate_y, 32.0),
    (rotate, 135.0),
    (brightness, 0.99),
    (colour, 0.99),
    (contrast, 0.99),
    (sharpness, 0.99),
    (posterize, 6.0),
    (solarize, 255.0),
    (auto_contrast, 0.0),
    (equalize, 0.0),
)
"""The operations and the largest magnitude of each.

Source: torchvision's `TrivialAugmentWide`.
"""


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

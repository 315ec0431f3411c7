"""The bundled handwritten digits, for the demonstration."""

import os
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from resnext_keras.classifier import load_classifier
from resnext_keras.images.draw import contact_sheet
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import resize_and_crop
from resnext_keras.io import atomic_write, output_file

HELD_OUT_FILE = resources.files("resnext_keras") / "data" / "digits_held_out.npz"

SHEET = "resnext-keras-demo.png"


def demonstrate(
    output: str | os.PathLike | None = None, overwrite: bool = False
) -> tuple[list[tuple[int, str, str, float]], Path]:
    """Classifies the held-out images with the weight set `"digits"`, and draws them.

    Args:
        output: The .png file; None for `resnext-keras-demo.png` in the current folder,
            which is replaced.
        overwrite: Whether an `output` that exists may be replaced.

    Returns:
        Number, label, prediction and score of each image, the mistakes first; and the
        .png file.

    Raises:
        ValueError: The file exists or cannot be written.
    """
    file = output_file(output or SHEET, (".png",), overwrite or output is None)
    classifier = load_classifier(weights="digits")
    images, labels = held_out_digits()
    pixels = as_network_sees(images, classifier.preprocessing)
    digits = [
        (number, str(label), predicted, score)
        for number, (label, ((_, predicted, score),)) in enumerate(
            zip(labels, classifier.predict(pixels, top=1), strict=True)
        )
    ]
    right = [label == predicted for _, label, predicted, _ in digits]
    captions = [
        predicted if label == predicted else f"{predicted}, is {label}"
        for _, label, predicted, _ in digits
    ]
    sheet = contact_sheet(images, captions, right, columns=20)
    with atomic_write(file) as path:
        sheet.save(path)
    return sorted(digits, key=lambda digit: digit[1] == digit[2]), file


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images that were held out of the training of the weight set `"digits"`.

    Returns uint8 (n, 8, 8), 0 to 255, white ink on black, and their digits, (n,).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998, CC BY 4.0; a fifth of
    scikit-learn's `load_digits`, see weights/README.md.
    """
    with HELD_OUT_FILE.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return data["images"], data["labels"]


def as_network_sees(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes grey images, uint8 (n, H, W), as `read_image` does.

    Returns RGB, uint8 (n, size, size, 3), 0 to 255.
    """
    return np.stack(
        [
            resize_and_crop(Image.fromarray(image).convert("RGB"), preprocessing)
            for image in images
        ]
    )

"""The bundled handwritten digits, for the demonstration."""

import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ClassifiedDigit:
    """The label of a held-out image, and the network's prediction, 0 to 1."""

    number: int
    label: str
    predicted: str
    score: float

    @property
    def is_correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predicted == self.label

    @property
    def caption(self) -> str:
        """The prediction, and the label if that is another."""
        if self.is_correct:
            return self.predicted
        return f"{self.predicted}, is {self.label}"


@dataclass(frozen=True)
class Demonstration:
    """The predictions for all images, the mistakes first, and a .png file of them."""

    digits: list[ClassifiedDigit]
    correct: int
    file: Path


def demonstrate(
    output: str | os.PathLike | None = None, overwrite: bool = False
) -> Demonstration:
    """Classifies the held-out images with the weight set `"digits"`, and draws them.

    Args:
        output: The .png file; None for `resnext-keras-demo.png` in the current folder,
            which is replaced.
        overwrite: Whether an `output` that exists may be replaced.

    Returns:
        The `Demonstration`.

    Raises:
        ValueError: The file exists or cannot be written.
    """
    file = output_file(output or SHEET, (".png",), overwrite or output is None)
    classifier = load_classifier(weights="digits")
    images, labels = held_out_digits()
    pixels = as_network_sees(images, classifier.preprocessing)
    predictions = classifier.predict(pixels, top=1)
    digits = [
        ClassifiedDigit(number, str(label), name, score)
        for number, (label, ((_, name, score),)) in enumerate(
            zip(labels, predictions, strict=True)
        )
    ]
    sheet = contact_sheet(
        images,
        [digit.caption for digit in digits],
        [digit.is_correct for digit in digits],
        columns=20,
    )
    with atomic_write(file) as path:
        sheet.save(path)
    correct = sum(digit.is_correct for digit in digits)
    return Demonstration(sorted(digits, key=lambda d: d.is_correct), correct, file)


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

"""The bundled handwritten digits, for the demonstration."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
from PIL import Image

from resnext_keras.classifier import load_classifier
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import resize_and_crop

HELD_OUT_FILE = resources.files("resnext_keras") / "data" / "digits_held_out.npz"

BATCH_SIZE = 64


@dataclass(frozen=True)
class ClassifiedDigit:
    """An image with its label and the network's prediction.

    Attributes:
        image: uint8 (8, 8), 0 to 255, white ink on black.
        truth: The label.
        predicted: The class with the highest score.
        score: That score, 0 to 1.
    """

    image: np.ndarray
    truth: str
    predicted: str
    score: float

    @property
    def right(self) -> bool:
        """Whether the prediction is the truth."""
        return self.predicted == self.truth


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images that were held out of the training of the weight set `"digits"`.

    Returns:
        uint8 (n, 8, 8), 0 to 255, white ink on black, and their digits, (n,).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998, CC BY 4.0; a fifth of
    scikit-learn's `load_digits`, see weights/README.md.
    """
    with HELD_OUT_FILE.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return data["images"], data["labels"]


def as_network_sees(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes grey images as `read_image` does.

    Args:
        images: uint8 (n, H, W), 0 to 255.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, uint8 (n, size, size, 3), 0 to 255.
    """
    return np.stack(
        [
            resize_and_crop(Image.fromarray(image).convert("RGB"), preprocessing)
            for image in images
        ]
    )


def classify_held_out_digits() -> Iterator[ClassifiedDigit]:
    """Classifies the held-out images with the weight set `"digits"`.

    Yields:
        A `ClassifiedDigit` for each image, in order.
    """
    classifier = load_classifier(weights="digits")
    images, labels = held_out_digits()
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        seen = as_network_sees(batch, classifier.preprocessing)
        predictions = classifier.predict(seen, top=1)
        for image, label, ((_, name, score),) in zip(
            batch, labels[start:], predictions, strict=False
        ):
            yield ClassifiedDigit(image, str(label), name, score)

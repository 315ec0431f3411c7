"""Writes the images that the weight set "digits" is trained on, as an image folder.

    python weights/digits.py digits

The data are the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships
(UCI optdigits), white ink on black. 360 of them, each digit in its share and drawn by
seed 0, are held out; they ship with the package too, as digits_held_out.npz.
README.md beside this has the command that trains on them.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HELD_OUT = 360


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets train and val")
    folder = parser.parse_args().folder

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype("uint8")
    splits = train_test_split(
        np.arange(len(images)),
        test_size=HELD_OUT,
        stratify=data.target,
        random_state=0,
    )
    for split, numbers in zip(("train", "val"), splits, strict=True):
        for number in numbers:
            path = folder / split / str(data.target[number]) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(path)


if __name__ == "__main__":
    main()

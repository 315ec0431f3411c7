"""Writes resnext_keras/data/imagenet_validation.npz from TensorFlow Datasets.

The classes of the 50,000 validation images of ILSVRC2012, in the order of their
names, as the package tensorflow-datasets has them (Apache-2.0,
`datasets/imagenet2012/validation_labels.txt`: a WordNet id a line).

    python tests/golden/make_imagenet_validation.py validation_labels.txt
"""

import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "resnext_keras" / "data"


def main():
    classes = (DATA / "imagenet_classes.csv").read_text(encoding="utf-8").split()
    numbers = {line.split(",")[0]: number for number, line in enumerate(classes)}
    ids = Path(sys.argv[1]).read_text(encoding="utf-8").split()
    labels = np.array([numbers[wordnet_id] for wordnet_id in ids], "uint16")
    if (np.bincount(labels) != 50).any() or len(labels) != 50_000:
        raise ValueError("Expected 50 images of each of the 1000 classes.")
    np.savez_compressed(DATA / "imagenet_validation.npz", labels=labels)


if __name__ == "__main__":
    main()

"""Writes resnext_keras/data/imagenet_classes.csv from timm and torchvision.

The WordNet ids are those of timm (`imagenet_synsets.txt`, Apache-2.0), sorted
as the class numbers of ImageNet-1k are; the names are those of torchvision
(`_IMAGENET_CATEGORIES`, BSD-3-Clause) with underscores for spaces, as
`decode_predictions` of keras.applications spells them. keras.applications
itself has "crane" and "maillot" twice; in torchvision all names differ.

    python tests/golden/make_imagenet_classes.py
"""

import importlib.resources
from pathlib import Path

from torchvision.models._meta import _IMAGENET_CATEGORIES

TABLE = Path(__file__).parents[2] / "resnext_keras" / "data" / "imagenet_classes.csv"


def main():
    synsets = importlib.resources.files("timm.data") / "_info/imagenet_synsets.txt"
    ids = synsets.read_text(encoding="utf-8").split()
    names = [name.replace(" ", "_") for name in _IMAGENET_CATEGORIES]
    if ids != sorted(ids) or not len(set(ids)) == len(set(names)) == 1000:
        raise ValueError("Expected 1000 sorted ids and 1000 distinct names.")
    lines = [
        f"{wordnet_id},{name}\n" for wordnet_id, name in zip(ids, names, strict=True)
    ]
    TABLE.write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()

"""Writes tfds/shapes/1.0.0: a small data set as TensorFlow Datasets prepares it.

    python tests/golden/make_tfds.py

needs tensorflow-datasets. Image i is filled with i, or 200 + i where its label
is 1; the first ten are for training, four for testing.
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds


class Shapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
            "id": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(10)),
            "test": self._generate_examples(range(10, 14)),
        }

    def _generate_examples(self, numbers):
        for i in numbers:
            pixels = np.full((8, 8, 3), i % 2 * 200 + i, np.uint8)
            yield i, {"image": pixels, "label": i % 2, "id": str(i)}


if __name__ == "__main__":
    Shapes(data_dir=str(Path(__file__).parent / "tfds")).download_and_prepare()

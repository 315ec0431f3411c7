"""A SavedModel that is served as it is: encoded images in, named classes out."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from resnext_keras.arguments import positive_integer
from resnext_keras.export.model_card import make_model_card
from resnext_keras.export.signatures import build_signatures, with_features
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.inference.engines import CARD_FILE, check_backend
from resnext_keras.inference.fold import fold_batch_norm, plain_graph
from resnext_keras.io import atomic_directory, output_directory
from resnext_keras.weights.checkpoint import Checkpoint

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

VERSION = "1"  # of TF Serving, which serves the highest number that it finds

EARLIER = Path(VERSION, "assets", CARD_FILE)
"""What the folder of an earlier export holds, and nothing beside."""


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    weights: str | os.PathLike | Checkpoint | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
    top: int = 5,
    overwrite: bool = False,
) -> None:
    """Writes a SavedModel that TensorFlow and TF Serving run without this package.

    ```python
    export_saved_model(model, "flowers", class_names=["daisy", "rose", "tulip"])
    ```

    writes `flowers/1`, in the layout that TF Serving expects. Batch norm is
    folded. These are the signatures, of batches of one row and more:

    - `serving_default`: `image_bytes`, contents of image files, a string each,
      gives `classes`, `indices` and `scores` of the `top` best classes, (batch,
      top) by falling score, and `valid`, (batch,). A row that is no image is
      not `valid` and has empty names, indices of -1 and scores of 0. Of a
      backbone it gives `features`, zeros where not `valid`. The `scores` are what
      the model gives, logits where it ends in them.
    - `predict`: `images` as `preprocess_input` gives them, float32, gives
      `predictions`, or the outputs by their keys or the names of their layers.
    - `predict_uint8`: the same for `pixels` in RGB, uint8 (batch, H, W, 3), as
      `read_image` gives them.
    - `features`: `images` give `features`, (batch, channels): what the classifier
      sees, or the mean of a backbone's last map.
    - `pyramid`, of a backbone: `images` give the last map of each stage, or the
      outputs where the model has several, by their keys or the names of their layers.

    Images are read as `read_image` does it, but for the EXIF rotation, which is
    left to who sends them: JPEG, PNG, BMP of 8, 24 or 32 bits, and from TensorFlow
    2.20 on WebP. `serve`, which
    `keras.layers.TFSMLayer` and `Predictor` look for, is the network itself.
    `assets/model.json` tells of preprocessing, classes, weights and licence.

    Args:
        model: A functional or built `Sequential` model of what `preprocess_input`
            gives: square RGB images, of any size or a fixed one. One whose only
            output comes from a dense layer is a classifier. It stays as it is.
        path: The folder to be written, whose name is the model's in TF Serving.
        weights: The weights that the model was built with, as `ResNeXt` takes them,
            for the defaults of the next three; None for other weights.
            That the model was built with it is not checked.
        preprocessing: How images are read; None for what the weights want, or
            else `IMAGENET`, or a square of the model's size.
        class_names: Name of each class, of any model with one vector of as many
            scores; None for those of the weights, or ImageNet's for 1000 classes,
            or else the numbers of the classes.
        licence: SPDX identifier of the weights' licence; None for the weight set's.
        top: Number of classes that `serving_default` gives.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        ValueError: An argument is none of the above, or the folder exists.
            Nothing has then been written.
        OSError: The disk is full, say; an earlier export is still there. What is
            killed leaves a folder `.writing-...` beside, which may be removed.
    """
    check_backend()
    target = output_directory(path, overwrite, EARLIER)
    top = positive_integer("top", top)
    model = plain_graph(model)
    card = make_model_card(model, weights, preprocessing, class_names, licence)
    network = fold_batch_norm(with_features(model, card))
    try:
        with (
            tempfile.TemporaryDirectory() as elsewhere,
            atomic_directory(target, overwrite) as folder,
        ):
            file = Path(elsewhere, CARD_FILE)
            file.write_text(json.dumps(card.as_json(), indent=2), encoding="utf-8")
            module, functions = build_signatures(network, card, top)
            module.card = tf.saved_model.Asset(str(file))
            tf.saved_model.save(module, folder / VERSION, functions)
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"{target} could not be written: {error}") from error

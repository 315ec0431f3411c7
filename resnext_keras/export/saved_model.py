"""Exports SavedModels for TF Serving, from encoded images to named classes."""

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
from resnext_keras.inference.engines import CARD_FILE
from resnext_keras.inference.fold import fold_batch_norm
from resnext_keras.io import atomic_directory, output_directory
from resnext_keras.models.graph import plain_graph
from resnext_keras.models.runtime import check_backend
from resnext_keras.weights.checkpoint import Checkpoint

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

VERSION = "1"  # name of a folder; TF Serving serves the highest number

EARLIER = Path(VERSION, "assets", CARD_FILE)
"""A file that identifies an earlier export, relative to its folder."""


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
    """Writes a SavedModel that runs without this package.

    ```python
    export_saved_model(model, "flowers", class_names=["daisy", "rose", "tulip"])
    ```

    This writes `flowers/1`, the layout that TF Serving expects. Batch norm is folded.
    The signatures take batches of one or more images:

    - `serving_default`: `image_bytes`, encoded image files, (batch,). A classifier
      gives `classes`, `indices` and `scores` of the best classes, (batch, top),
      highest score first; a backbone gives `features`. `valid`, bool (batch,), is
      False for a row that cannot be decoded: its classes are empty, its indices -1
      and its other numbers 0. `scores` are the model's outputs: logits if it gives
      logits. A single sigmoid with two class names gives the scores of both.
    - `predict`: `images`, float32 from `preprocess_input`. It gives `predictions`, or
      each output by its key or the name of its layer.
    - `predict_uint8`: `pixels`, RGB, uint8 (batch, height, width, 3), as from
      `read_image`. It gives the same as `predict`.
    - `features`: `images`. It gives `features`, (batch, channels): the input of the
      classifier, or the average of a backbone's last feature maps.
    - `pyramid`, for a backbone: `images`. It gives the last feature maps of each stage,
      or each of the model's outputs if there are several, by key or layer name.

    Files are decoded like `read_image` does, except that EXIF rotation is not applied:
    the client has to send upright images. The formats are JPEG, PNG, BMP of 8, 24 or
    32 bits and, from TensorFlow 2.20 on, WebP. The endpoint `serve`, which
    `keras.layers.TFSMLayer` and `Predictor` use, is the network itself.
    `assets/model.json` describes preprocessing, classes, activation, weights and
    licence; for sigmoid scores also `threshold`, the score from which an image has a
    class.

    Args:
        model: A functional or built `Sequential` model that takes square RGB images
            from `preprocess_input`, of any size or a fixed one. It is a classifier if
            its only output comes from a dense layer. It is not changed.
        path: The folder to write. Its name is the model's name in TF Serving.
        weights: The weights that the model was built with: full name of a weight set,
            path of a file of a listed architecture, or folder of a training run,
            which give the defaults of `preprocessing`, `class_names` and `licence`;
            None for other weights. It is not checked that the model has these weights.
        preprocessing: How images are read. None for that of the weights. Without
            weights: 224 pixels from a short side of 256 for a model of that size or of
            any size; otherwise the short side is resized to the model's size.
        class_names: Name of each class, for any model with one output (batch,
            classes); two for a single sigmoid, the score of the second. None for those
            of the weights; without weights ImageNet's for 1000 classes, otherwise the
            numbers of the classes.
        licence: SPDX identifier of the weights' licence; None for that of `weights`.
        top: Number of classes that `serving_default` gives, at least 1; of sigmoid
            scores it gives all.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        ValueError: An argument is not as described, or the folder exists. Nothing is
            written then.
        OSError: Writing failed, as on a full disk. An earlier export is not changed. A
            killed process leaves a folder `.writing-...` beside the export, which may
            be removed.

    Examples:
        >>> spec = rk.ResNeXtSpec("mine", (1,), 2, 4, stem="cifar")
        >>> network = rk.ResNeXt(spec, weights=None, classes=2)
        >>> rk.export_saved_model(network, "mine", class_names=["cat", "dog"], top=1)
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

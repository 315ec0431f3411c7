"""Grad-CAM: which places of an image speak for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, section 3.
"""

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from resnext_keras.inference.engines import check_backend
from resnext_keras.inference.fold import plain_graph
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import classifier_head

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    classes: int | Sequence[int] | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Shows which places of images speak for a class.

    Each map of a layer is weighed with the mean gradient of the class' logit, that
    is before any softmax, with respect to it; of the sum the positive part counts.
    One thread at a time, since the model's layers are listened to.

    Args:
        model: A classifier that ends in a dense layer, whatever its activation; the
            rest may be within other models, as in `Sequential([backbone, Dense(5)])`.
        images: A batch as the model takes it, (batch, H, W, channels) from
            `preprocess_input`.
        classes: Number of the class to explain, or one for each image; None for the
            one that the model ranks highest in each.
        layer: Name of the layer whose maps are taken; None for the last that has
            some, `conv5_block3_out` in ResNeXt-50.

    Returns:
        Heat maps, (batch, h, w), float32, with the height and width of the layer's
        maps: 1 where most speaks for the class, 0 where nothing does, and all 0
        where nothing in the image does.

    Raises:
        ValueError: The model has no such classifier, there is no such layer, it has
            no height and width or the classifier does not depend on it, a class is
            out of range, or Keras runs on another backend than TensorFlow.

    Provenance: Selvaraju et al., ICCV 2017, equations 1 and 2.
    """
    check_backend()
    dense = classifier_of(model)
    target = layer_with_maps(model, layer)
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            "Expected `images` to be a batch, (batch, H, W, channels). "
            f"Received: images.shape={images.shape}"
        )
    classes = _checked_classes(classes, len(images), dense.units)

    seen = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def keep_maps(_, outputs):
            tape.watch(outputs)
            seen["maps"] = outputs

        def keep_logits(inputs, _):
            # A bias has no gradient with respect to maps, but a say in the ranking.
            bias = dense.bias if dense.use_bias else 0.0
            inputs = tf.cast(inputs, "float32")
            seen["logits"] = inputs @ tf.cast(dense.kernel, "float32") + bias

        with _listening(target, keep_maps), _listening(dense, keep_logits):
            model(images, training=False)
        logits = seen["logits"]
        chosen = tf.argmax(logits, axis=1) if classes is None else classes
        # Images do not depend on each other, so one sum has all their gradients.
        logit = tf.reduce_sum(tf.gather(logits, chosen, axis=1, batch_dims=1))
    gradients = tape.gradient(logit, seen["maps"])
    if gradients is None:
        raise ValueError(
            "Expected a layer that the classifier depends on. "
            f"Received: layer={target.name!r}"
        )
    return _heat(seen["maps"], gradients)


def _heat(maps, gradients) -> np.ndarray:
    """Equations 1 and 2, and what is largest in each image becomes 1."""
    maps, gradients = np.float32(maps), np.float32(gradients)
    if channels_first():
        maps, gradients = np.moveaxis(maps, 1, -1), np.moveaxis(gradients, 1, -1)
    weights = gradients.mean(axis=(1, 2))
    heat = np.maximum(np.einsum("bhwc,bc->bhw", maps, weights), 0)
    largest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, largest, out=np.zeros_like(heat), where=largest > 0)


@contextlib.contextmanager
def _listening(layer: keras.Layer, told: Callable) -> Iterator[None]:
    """Has a layer tell of its input and output, wherever in a model it is called."""
    call = layer.call

    def telling(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        told(inputs, outputs)
        return outputs

    layer.call = telling
    try:
        yield
    finally:
        del layer.call


def classifier_of(model: keras.Model) -> keras.layers.Dense:
    """The dense layer that a model ends in, or a `ValueError`."""
    head = classifier_head(plain_graph(model))
    if head is None:
        raise ValueError(
            "Expected a classifier, a model that ends in one dense layer, as with "
            f"include_top=True. Received: model={model.name!r} without one"
        )
    return head[0]


def layer_with_maps(model: keras.Model, name: str | None = None) -> keras.Layer:
    """A layer of a model, or of models within it, whose output has height and width.

    Args:
        model: A functional or `Sequential` model.
        name: Name of the layer; None for the last one.

    Raises:
        ValueError: There is none; the error lists names that are near.
    """
    layers = {layer.name: layer for layer in _layers(model)}
    able = [layer.name for layer in layers.values() if _has_maps(layer)]
    if name is None and able:
        return layers[able[-1]]
    if name in able:
        return layers[name]
    near = difflib.get_close_matches(str(name), able, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " * bool(near)
    if name in layers:
        shape = getattr(getattr(layers[name], "output", None), "shape", "unknown")
        raise ValueError(
            "Expected a layer that gives maps with height and width, as the last one, "
            f"{able[-1]!r}. Received: layer={name!r}, with the output shape {shape}"
            if able
            else f"Expected a model with maps. Received: model={model.name!r}"
        )
    raise ValueError(
        f"Expected the name of one of the {len(able)} layers with maps. {hint}"
        f"Received: layer={name!r}"
    )


def _layers(model) -> Iterator[keras.Layer]:
    """All layers, a model before those within it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _has_maps(layer) -> bool:
    # A layer that was called several times has no one `output`.
    output = getattr(layer, "output", None)
    is_input = isinstance(layer, keras.layers.InputLayer)
    return not is_input and len(getattr(output, "shape", ())) == 4


def _checked_classes(classes, count, units) -> np.ndarray | None:
    """One class for each image."""
    if classes is None:
        return None
    numbers = np.asarray(classes)
    if (
        numbers.dtype.kind not in "iu"
        or numbers.shape not in ((), (count,))
        or not ((numbers >= 0) & (numbers < units)).all()
    ):
        raise ValueError(
            f"Expected `classes` to be a number from 0 to {units - 1}, or one for each "
            f"of the {count} images. Received: classes={classes!r}"
        )
    return np.broadcast_to(numbers.astype("int64"), (count,))

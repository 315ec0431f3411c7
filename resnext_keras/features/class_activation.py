"""Grad-CAM: which places of an image are evidence for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, section 3.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from resnext_keras.arguments import did_you_mean
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import all_layers, classifier_head, plain_graph
from resnext_keras.models.runtime import check_backend

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    classes: int | Sequence[int] | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Computes which places of images are evidence for a class, by Grad-CAM.

    Each feature map of a layer is weighted with the mean gradient of the class's logit
    (the score before any softmax) with respect to this map. The evidence is the
    positive part of the weighted sum. Only one thread may call this function at a
    time, since it replaces the `call` method of two layers during a forward pass.

    Args:
        model: A classifier that ends in a dense layer, with any activation. The other
            layers may be inside nested models, as in `Sequential([backbone,
            Dense(5)])`.
        images: A batch from `preprocess_input`, (batch, H, W, channels).
        classes: Number of the class, or a number for each image; None for the class
            with the highest score in each image. With one output, it is the logit of
            the second of two classes.
        layer: Name of a layer that outputs feature maps; None for the last such layer,
            `conv5_block3_out` in ResNeXt-50.

    Returns:
        Heat maps, (batch, h, w), float32, 0 to 1, with the height and width of the
        layer's maps. The strongest evidence in each image is 1. If there is no
        evidence, all values are 0.

    Raises:
        ValueError: The model is not such a classifier, the layer is unknown, has no
            height and width or does not lead to the classifier, a class is out of
            range, or Keras does not run on TensorFlow.

    Source: Selvaraju et al., ICCV 2017, equations 1 and 2.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", weights="digits", classes=10)
        >>> rk.grad_cam(network, np.ones((2, 32, 32, 3), "float32")).shape
        (2, 8, 8)
    """
    check_backend()
    head = classifier_head(plain_graph(model))
    if head is None:
        raise ValueError(
            "Expected a classifier: a model that ends in one dense layer, as with "
            f"include_top=True. Received: model={model.name!r} without one"
        )
    dense, _ = head
    target = layer_with_maps(model, layer)
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            "Expected `images` to be a batch, (batch, H, W, channels). "
            f"Received: images.shape={images.shape}"
        )
    classes = _checked_classes(classes, len(images), max(dense.units, 2))

    seen = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def keep_maps(_, outputs):
            tape.watch(outputs)
            seen["maps"] = outputs

        def keep_logits(inputs, _):
            # The bias does not change the gradient, but the ranking of the classes.
            bias = dense.bias if dense.use_bias else 0.0
            inputs = tf.cast(inputs, "float32")
            logits = inputs @ tf.cast(dense.kernel, "float32") + bias
            # Of two classes, evidence against one class is evidence for the other.
            is_single = dense.units == 1
            seen["logits"] = tf.concat([-logits, logits], 1) if is_single else logits

        with _listening(target, keep_maps), _listening(dense, keep_logits):
            model(images, training=False)
        logits = seen["logits"]
        chosen = tf.argmax(logits, axis=1) if classes is None else classes
        # Images are independent, so the gradient of the sum holds all their gradients.
        logit = tf.reduce_sum(tf.gather(logits, chosen, axis=1, batch_dims=1))
    gradients = tape.gradient(logit, seen["maps"])
    if gradients is None:
        raise ValueError(
            "Expected a layer that the classifier depends on. "
            f"Received: layer={target.name!r}"
        )
    return _heat(seen["maps"], gradients)


def _heat(maps, gradients) -> np.ndarray:
    """Equations 1 and 2, then each image divided by its largest value."""
    maps, gradients = np.float32(maps), np.float32(gradients)
    if channels_first():
        maps, gradients = np.moveaxis(maps, 1, -1), np.moveaxis(gradients, 1, -1)
    weights = gradients.mean(axis=(1, 2))
    heat = np.maximum(np.einsum("bhwc,bc->bhw", maps, weights), 0)
    largest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, largest, out=np.zeros_like(heat), where=largest > 0)


@contextlib.contextmanager
def _listening(layer: keras.Layer, listener: Callable) -> Iterator[None]:
    """Context manager: passes input and output of a layer to a function.

    A new model with another output would not work: the layer may be in a nested
    model, and its output there is not part of the outer graph.
    """
    call = layer.call

    def listened(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        listener(inputs, outputs)
        return outputs

    layer.call = listened
    try:
        yield
    finally:
        del layer.call


def layer_with_maps(model: keras.Model, name: str | None = None) -> keras.Layer:
    """Finds a layer that outputs feature maps, in a model or in nested models.

    The last one if `name` is None. A `ValueError` lists similar names.
    """
    layers = {layer.name: layer for layer in all_layers(model)}
    names = [layer.name for layer in layers.values() if _has_maps(layer)]
    if not names:
        raise ValueError(
            f"Expected a model with feature maps. Received: model={model.name!r}"
        )
    if name is None:
        return layers[names[-1]]
    if name in names:
        return layers[name]
    if name in layers:
        shape = getattr(getattr(layers[name], "output", None), "shape", "unknown")
        raise ValueError(
            "Expected a layer with feature maps, (batch, H, W, channels), such as "
            f"{names[-1]!r}. Received: layer={name!r}, with the output shape {shape}"
        )
    raise ValueError(
        f"Expected the name of one of the {len(names)} layers with feature maps."
        f"{did_you_mean(name, names, cutoff=0.5)} Received: layer={name!r}"
    )


def _has_maps(layer) -> bool:
    # A layer that was called several times has no `output`.
    output = getattr(layer, "output", None)
    is_input = isinstance(layer, keras.layers.InputLayer)
    return not is_input and len(getattr(output, "shape", ())) == 4


def _checked_classes(classes, images, count) -> np.ndarray | None:
    """One class for each image."""
    if classes is None:
        return None
    numbers = np.asarray(classes).astype("int64")
    in_range = ((numbers >= 0) & (numbers < count)).all()
    if numbers.shape not in ((), (images,)) or not in_range:
        raise ValueError(
            f"Expected `classes` to be a number from 0 to {count - 1}, or one for each "
            f"of the {images} images. Received: classes={classes!r}"
        )
    return np.broadcast_to(numbers, (images,))

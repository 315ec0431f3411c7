"""The functions of an exported model, as TensorFlow saves and serves them."""

import re

import keras

from resnext_keras.deploy.card import ModelCard, classes_of, logits_layer
from resnext_keras.deploy.decoding import decode_pictures
from resnext_keras.layout import channels_first
from resnext_keras.preprocessing import preprocess_input

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


def with_features(model: keras.Model) -> keras.Model:
    """The model with all that the signatures give, in a dict.

    Under `predict` are the outputs of the model, under `features` one vector an
    image, where there is one, and under `pyramid` the maps of a backbone.
    """
    outputs = {"predict": _named_outputs(model)}
    features = _features(model)
    if features is not None:
        outputs["features"] = {"features": features}
    if classes_of(model) is None:
        pyramid = outputs["predict"] if len(model.outputs) > 1 else _stages(model)
        if pyramid:
            outputs["pyramid"] = pyramid
    return keras.Model(model.inputs[0], outputs, name=model.name)


def _named_outputs(model) -> dict:
    if isinstance(model.output, dict):
        return dict(model.output)
    if classes_of(model) is not None:
        return {"predictions": model.outputs[0]}
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    if len(set(names)) < len(names):
        names = [f"output_{number}" for number in range(len(names))]
    return dict(zip(names, model.outputs, strict=True))


def _features(model):
    """What a classifier's last layer sees, or a backbone's last map, averaged."""
    if classes_of(model) is not None:
        logits = logits_layer(model)
        return logits.input if logits in model.layers else None
    last = model.outputs[-1]
    if len(last.shape) == 2:
        return last
    if len(last.shape) != 4:
        return None
    return keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(last)


def _stages(model) -> dict:
    """The last map of each stage of a network of this family."""
    last = {}
    for layer in model.layers:
        if stage := re.fullmatch(r"(conv\d+)_block\d+_out", layer.name):
            last[stage[1]] = layer
    return {layer.name: layer.output for layer in last.values()}


def signatures(network: keras.Model, card: ModelCard, top: int):
    """The functions of a model, of batches of any length.

    Args:
        network: What `with_features` gives, folded or not.
        card: What is known of the model.
        top: Number of classes that are named for a picture.

    Returns:
        A `tf.Module` that holds the variables and, under `serve`, what
        `keras.Model.export` has there; and the signatures by name.
    """
    module = tf.Module()
    # Keras' own stay trainable for TensorFlow, whatever their layers say, and then a
    # `TFSMLayer` lets optimizers at copies that nothing reads.
    module.frozen, module.others = (
        [tf.Variable(v, trainable=False, name=v.name) for v in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    )
    image = network.inputs[0]

    # One graph of the network, which all signatures call.
    @tf.function(input_signature=[tf.TensorSpec(image.shape, tf.float32, "images")])
    def run(images):
        outputs, _ = network.stateless_call(
            module.frozen, module.others, tf.cast(images, image.dtype), training=False
        )
        return keras.tree.map_structure(lambda x: tf.cast(x, tf.float32), outputs)

    def of_images(name):
        return tf.function(
            lambda images: run(images)[name], input_signature=run.input_signature
        )

    def of_pixels(name):
        sides = image.shape[2:] if channels_first() else image.shape[1:3]
        spec = tf.TensorSpec([None, *sides, 3], tf.uint8, "pixels")
        return tf.function(
            lambda pixels: run(_normalised(pixels))[name], input_signature=[spec]
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def of_pictures(image_bytes):
        pixels, valid = decode_pictures(image_bytes, card.preprocessing)
        outputs = run(_normalised(pixels))
        if card.class_names is None:
            found = {"features": outputs["features"]["features"]}
        else:
            found = _named(outputs["predict"]["predictions"], card.class_names, top)
        rows = valid[:, tf.newaxis]
        found = {
            name: tf.where(rows, value, _NOTHING.get(name, tf.zeros([], value.dtype)))
            for name, value in found.items()
        }
        return found | {"valid": valid}

    module.serve = tf.function(
        lambda images: _only(run(images)["predict"]),
        input_signature=run.input_signature,
    )
    found = {"predict_uint8": of_pixels("predict")}
    found |= {name: of_images(name) for name in network.output}
    if card.class_names is not None or "features" in network.output:
        found["serving_default"] = of_pictures
    return module, found


_NOTHING = {"indices": -1, "classes": ""}  # of a row that is no picture; else zeros


def _named(scores, names, top: int):
    """The best classes by falling score; among equal ones the lower comes first."""
    best = tf.math.top_k(scores, min(top, len(names)))
    return {
        "classes": tf.gather(tf.constant(names), best.indices),
        "indices": best.indices,
        "scores": best.values,
    }


def _normalised(pixels):
    images = preprocess_input(tf.cast(pixels, tf.float32), "channels_last")
    return tf.transpose(images, (0, 3, 1, 2)) if channels_first() else images


def _only(outputs: dict):
    """The one tensor of a dict, or all of several."""
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))

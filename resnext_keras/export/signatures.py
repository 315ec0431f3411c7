"""The functions of an exported model, as TensorFlow saves and serves them."""

import keras

from resnext_keras.export.model_card import ModelCard
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.inference.engines import output_names
from resnext_keras.models.backbone import stage_outputs
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import classifier_head, source_of

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from resnext_keras.images.decode import decode_images


def with_features(model: keras.Model, card: ModelCard) -> keras.Model:
    """The model with all that the signatures give, in a dict.

    Under `predict` are the outputs of the model, under `features` one vector an
    image, where there is one, and under `pyramid` the maps of a backbone.
    """
    outputs = {"predict": _named_outputs(model, card)}
    features = _features(model, card)
    if features is not None:
        outputs["features"] = {"features": features}
    if card.class_names is None:
        several = len(_maps(model)) == len(model.outputs) > 1
        if pyramid := outputs["predict"] if several else _stages(model):
            outputs["pyramid"] = pyramid
    return keras.Model(model.inputs[0], outputs, name=model.name)


def _named_outputs(model, card) -> dict:
    if card.class_names is not None:
        return {"predictions": model.outputs[0]}
    return dict(zip(output_names(model), model.outputs, strict=True))


def _features(model, card):
    """What a classifier's last layer sees, or a backbone's last map, averaged."""
    if card.class_names is not None:
        head = classifier_head(model)
        return head[1] if head and head[0] in model.layers else None
    if maps := _maps(model):
        order = [id(operation) for operation in model.operations]
        last = max(maps, key=lambda tensor: order.index(id(source_of(tensor)[0])))
        return keras.layers.GlobalAveragePooling2D(dtype="float32")(last)
    is_vector = len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    return model.outputs[0] if is_vector else None


def _maps(model) -> list:
    return [tensor for tensor in model.outputs if len(tensor.shape) == 4]


def _stages(model) -> dict:
    """The last map of each stage of a network of this family."""
    return {layer.name: layer.output for layer in stage_outputs(model).values()}


def build_signatures(network: keras.Model, card: ModelCard, top: int):
    """The functions of a model, of batches of any length.

    Args:
        network: What `with_features` gives, folded or not.
        card: What is known of the model.
        top: Number of classes that are named for an image.

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
        # oneDNN ends the process, and with it a server, on too few axes.
        images = tf.ensure_shape(images, image.shape)
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

        @tf.function(input_signature=[spec])
        def call(pixels):
            return run(_normalised(tf.ensure_shape(pixels, spec.shape)))[name]

        return call

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def of_files(image_bytes):
        pixels, valid = decode_images(image_bytes, card.preprocessing)
        outputs = run(_normalised(pixels))
        if card.class_names is None:
            found = outputs.get("features", outputs["predict"])
        else:
            found = _named(outputs["predict"]["predictions"], card.class_names, top)
        return {
            name: tf.where(
                tf.reshape(valid, [-1] + [1] * (len(values.shape) - 1)),
                values,
                tf.constant(_NOTHING.get(name, 0), values.dtype),
            )
            for name, values in found.items()
        } | {"valid": valid}

    module.serve = tf.function(
        lambda images: _only(run(images)["predict"]),
        input_signature=run.input_signature,
    )
    found = {"predict_uint8": of_pixels("predict")}
    found |= {name: of_images(name) for name in network.output}
    found["serving_default"] = of_files
    return module, found


_NOTHING = {"indices": -1, "classes": ""}  # of a row that is no image; else zeros


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

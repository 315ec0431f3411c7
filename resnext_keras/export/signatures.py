"""The signatures of an exported SavedModel."""

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
    """A model of the same weights with the outputs of all signatures, by signature.

    `predict` has the model's outputs; `features` one vector for each image, if the
    model has one; `pyramid` the feature maps of a backbone.
    """
    predictions = {"predictions": model.outputs[0]}
    if card.class_names is None:
        predictions = dict(zip(output_names(model), model.outputs, strict=True))
    outputs = {"predict": predictions}
    features = _features(model, card)
    if features is not None:
        outputs["features"] = {"features": features}
    if card.class_names is None:
        several = len(_maps(model)) == len(model.outputs) > 1
        stages = {last.name: last.output for last in stage_outputs(model).values()}
        if pyramid := predictions if several else stages:
            outputs["pyramid"] = pyramid
    return keras.Model(model.inputs[0], outputs, name=model.name)


def _features(model, card):
    """The input of a classifier's last layer, or a backbone's last maps, averaged."""
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


def build_signatures(network: keras.Model, card: ModelCard, top: int):
    """Builds the signatures of a model from `with_features`, folded or not.

    Returns a `tf.Module` with the variables and the endpoint `serve`, as
    `keras.Model.export` has it; and the signatures by name.
    """
    module = tf.Module()
    # For TensorFlow, Keras' variables stay trainable even in frozen layers. A
    # `TFSMLayer` would then train copies that are never used.
    module.frozen, module.others = (
        [tf.Variable(v, trainable=False, name=v.name) for v in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    )
    image = network.inputs[0]

    # All signatures call one graph of the network.
    @tf.function(input_signature=[tf.TensorSpec(image.shape, tf.float32, "images")])
    def run(images):
        # With too few axes oneDNN would abort the process of the server.
        images = tf.ensure_shape(images, image.shape)
        outputs, _ = network.stateless_call(
            module.frozen, module.others, tf.cast(images, image.dtype), training=False
        )
        return keras.tree.map_structure(lambda x: tf.cast(x, tf.float32), outputs)

    def normalised(pixels):
        pixels = tf.cast(pixels, tf.float32)
        images = preprocess_input(pixels, "channels_last", card.preprocessing)
        return tf.transpose(images, (0, 3, 1, 2)) if channels_first() else images

    def of_images(name):
        return tf.function(
            lambda images: run(images)[name], input_signature=run.input_signature
        )

    def of_pixels(name):
        sides = image.shape[2:] if channels_first() else image.shape[1:3]
        spec = tf.TensorSpec([None, *sides, 3], tf.uint8, "pixels")

        @tf.function(input_signature=[spec])
        def call(pixels):
            return run(normalised(tf.ensure_shape(pixels, spec.shape)))[name]

        return call

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def of_files(image_bytes):
        pixels, valid = decode_images(image_bytes, card.preprocessing)
        outputs = run(normalised(pixels))
        if card.class_names is None:
            results = outputs.get("features", outputs["predict"])
        else:
            names = card.class_names
            # Any number of classes may be present if each has a sigmoid.
            count = len(names) if card.activation == "sigmoid" else top
            results = _named(outputs["predict"]["predictions"], names, count)
        return {
            name: tf.where(
                tf.reshape(valid, [-1] + [1] * (len(values.shape) - 1)),
                values,
                tf.constant(_NOTHING.get(name, 0), values.dtype),
            )
            for name, values in results.items()
        } | {"valid": valid}

    def serve(images):
        outputs = run(images)["predict"]
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    module.serve = tf.function(serve, input_signature=run.input_signature)
    signatures = {"predict_uint8": of_pixels("predict")}
    signatures |= {name: of_images(name) for name in network.output}
    signatures["serving_default"] = of_files
    return module, signatures


_NOTHING = {"indices": -1, "classes": ""}  # for rows that are not images; others are 0


def _named(scores, names, top: int):
    """The best classes, highest score first; of equal scores the lower index first."""
    if scores.shape[1] < len(names):  # the score of the second of two classes
        scores = tf.concat([1 - scores, scores], 1)
    best = tf.math.top_k(scores, min(top, len(names)))
    return {
        "classes": tf.gather(tf.constant(names), best.indices),
        "indices": best.indices,
        "scores": best.values,
    }

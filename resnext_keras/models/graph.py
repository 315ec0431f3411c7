"""Finds layers in the graph of any functional Keras model."""

from collections.abc import Iterator

import keras


def all_layers(model) -> Iterator[keras.Layer]:
    """The layers of a model; a nested model is followed by its own layers."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from all_layers(layer)


def classifier_head(model: keras.Model):
    """The dense layer of a classifier and its input; None for another model.

    A classifier is a model with one output that comes from a dense layer, directly or
    through element-wise layers such as activations.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        return None
    tensor = model.outputs[0]
    while True:
        layer, sources = source_of(tensor)
        if isinstance(layer, keras.Model):
            return classifier_head(layer) if isinstance(layer, keras.Function) else None
        if isinstance(layer, keras.layers.Dense):
            return layer, sources[0]
        if len(sources) != 1 or sources[0].shape != tensor.shape:
            return None
        (tensor,) = sources


def source_of(tensor):
    """The layer or operation that outputs a tensor of a model, and its inputs."""
    # Private, but functional models have no public way from a tensor to its layer.
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors

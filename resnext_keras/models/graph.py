"""Finds layers in the graph of any functional Keras model."""

from collections.abc import Iterator

import keras


def is_graph(layer) -> bool:
    """Whether a layer is a functional or built `Sequential` model."""
    if isinstance(layer, keras.Sequential):
        return hasattr(layer, "inputs")
    return isinstance(layer, keras.Model) and isinstance(layer, keras.Function)


def plain_graph(model: keras.Model) -> keras.Model:
    """A plain functional model of the same layers, or a `ValueError`."""
    if not is_graph(model):
        raise ValueError(
            "Expected a functional model, or a `Sequential` one that has been built. "
            f"Received: model={model!r}"
        )
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


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
    layers = _last_layers(model)
    return layers[-1] if layers else None


def head_activation(model: keras.Model) -> str | None:
    """Name of a classifier's activation, such as `"softmax"`; None if it is not known.

    It is that of the dense layer, or of an element-wise layer after it.
    """
    for layer, _ in _last_layers(model):
        if isinstance(layer, keras.layers.Softmax):
            return "softmax"
        activation = getattr(layer, "activation", keras.activations.linear)
        if activation is not keras.activations.linear:
            return getattr(activation, "__name__", None)
    return "linear" if classifier_head(model) else None


def _last_layers(model) -> list:
    """A classifier's layers from the output back to the dense layer, and their inputs.

    Empty for another model.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        return []
    tensor, layers = model.outputs[0], []
    while True:
        layer, sources = source_of(tensor)
        if isinstance(layer, keras.Model):
            is_known = isinstance(layer, keras.Function)
            inner = _last_layers(layer) if is_known else []
            return layers + inner if inner else []
        layers.append((layer, sources[0] if sources else None))
        if isinstance(layer, keras.layers.Dense):
            return layers
        if len(sources) != 1 or sources[0].shape != tensor.shape:
            return []
        (tensor,) = sources


def source_of(tensor):
    """The layer or operation that outputs a tensor of a model, and its inputs."""
    # Private, but functional models have no public way from a tensor to its layer.
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors

"""Folds batch norm into convolutions, for prediction."""

import inspect
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from resnext_keras.models.backbone import Functional
from resnext_keras.models.batch_norm import BatchNormalization
from resnext_keras.models.graph import is_graph, plain_graph
from resnext_keras.models.layers import Conv2D, GroupedConv2D


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Builds the same network with batch norm folded into its convolutions.

    In prediction, batch norm scales and shifts each channel, which the kernel and
    bias of the convolution before it can do as well. A batch norm is folded if it is
    the only layer that uses the output of a `Conv2D` or `GroupedConv2D` without
    activation. Nested models are folded too.

    The result is for prediction and export, and all of its weights are frozen. It can
    be a frozen backbone under trainable layers.

    Args:
        model: A functional or built `Sequential` model with any inputs and outputs.
            It is not changed.

    Returns:
        A functional `keras.Model` with its own weights, not compiled. Inputs, outputs,
        layer names and `pyramid_outputs` are those of the model, without the folded
        batch norms.

    Raises:
        ValueError: The model is neither functional nor a built `Sequential`.

    Source: Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", weights="digits", classes=10)
        >>> folded = rk.fold_batch_norm(network)
        >>> any(layer.name.endswith("_bn") for layer in folded.layers)
        False
    """
    graph = plain_graph(model)
    if isinstance(model, Functional):
        graph = Functional(graph.input, graph.output, name=graph.name)
    return _folded(graph, bfloat16=False)


def in_bfloat16(model: keras.Model) -> keras.Model:
    """Builds the same network, folded, with its feature maps in bfloat16.

    Convolutions take their inputs and kernels in bfloat16, and add up in float32. What
    is before the first one, pooling to vectors and dense layers stay in float32.
    """
    return _folded(plain_graph(model), bfloat16=True)


def _folded(graph, bfloat16: bool):
    calls, norms = _calls_and_norms(graph)
    maps = _feature_maps(graph, calls) if bfloat16 else set()
    folded_norms = {norm.name for norm in norms.values()}

    def is_folded(layer):
        return is_graph(layer) and not _always_trains(calls[layer.name])

    def clone(layer):
        if is_folded(layer):
            return _folded(plain_graph(layer), bfloat16)
        config = layer.get_config()
        if layer.name in maps:
            is_convolution = isinstance(layer, layers.Conv2D)
            # The kernels are constant; the statistics of batch norm stay in float32.
            config["dtype"] = "bfloat16" if is_convolution else "mixed_bfloat16"
        if isinstance(layer, layers.Lambda):  # Not every function is serializable.
            return layers.Lambda(**config | {"function": layer.function})
        if layer.name in norms:
            # Zeros, since random numbers for 25 million kernel values take time.
            config |= {"use_bias": True, "kernel_initializer": "zeros"}
            config.pop("lora_rank", None)  # LoRA is merged into the folded kernel.
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        if layer.name in folded_norms:
            return args[0]
        return layer(*args, **_predicting(layer, args, kwargs))

    folded = keras.models.clone_model(graph, _new_inputs(graph), clone, call)
    for layer in folded.layers:
        source = graph.get_layer(layer.name)
        if layer.name in norms:
            layer.set_weights(_folded_weights(source, norms[layer.name]))
        elif not is_folded(source):
            layer.set_weights(source.get_weights())
            if hasattr(source, "lora_alpha"):  # not in the config of a dense layer
                layer.lora_alpha = source.lora_alpha
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # Only this call makes it use new weights.
        # A frozen batch norm uses its moving statistics even with `training=True`.
        if not _always_trains(calls[layer.name]):
            layer.trainable = False
    return folded


def _new_inputs(graph):
    """New inputs like those of a model; `clone_model` alone would rename them."""
    configs = {
        id(layer.output): layer.get_config()
        for layer in graph.layers
        if isinstance(layer, layers.InputLayer)
    }
    return keras.tree.map_structure(
        lambda tensor: layers.InputLayer.from_config(configs[id(tensor)]).output,
        graph.input,
    )


def _calls_and_norms(graph):
    """The calls of each layer, and the norm to fold into each convolution, by name.

    The calls come from the model's configuration, the only public place that shows
    which layer uses which output.
    """
    config = graph.get_config()
    calls = {layer["name"]: layer["inbound_nodes"] for layer in config["layers"]}
    uses = Counter(_sources([*calls.values(), config["output_layers"]]))
    by_name = {layer.name: layer for layer in graph.layers}  # without operations
    norms = {}
    for norm in graph.layers:
        if type(norm) not in (layers.BatchNormalization, BatchNormalization):
            continue
        sources = list(_sources(calls[norm.name]))
        name = sources[0]
        if (
            len(sources) == len(calls[name]) == uses[name] == 1
            and calls[norm.name][0]["args"]
            and not _always_trains(calls[norm.name])
            and _fits(by_name.get(name), norm)
        ):
            norms[name] = norm
    return calls, norms


def _feature_maps(graph, calls) -> set[str]:
    """Names of the layers that output feature maps, from the first convolution on."""
    names = set()
    for layer in graph.layers:  # in the order of their calls
        is_first = isinstance(layer, layers.Conv2D) or is_graph(layer)
        follows = not names.isdisjoint(_sources(calls[layer.name]))
        outputs = keras.tree.flatten(layer.output)
        if (is_first or follows) and all(len(x.shape) == 4 for x in outputs):
            names.add(layer.name)
    return names


def _sources(part) -> Iterator[str]:
    """Names of the layers that a part of a configuration refers to.

    It refers to an output by a list of the layer's name and two numbers.
    """
    if isinstance(part, dict):
        part = list(part.values())
    if not isinstance(part, (list, tuple)):
        return
    if [type(item) for item in part] == [str, int, int]:
        yield part[0]
        return
    for item in part:
        yield from _sources(item)


def _always_trains(calls) -> bool:
    """Whether a layer is called with `training=True` even in prediction."""
    return any(call["kwargs"].get("training") for call in calls)


def _predicting(layer, args, kwargs) -> dict:
    """The keyword arguments of a call, with `training=False` unless it is set.

    An exported model is called without `training`. The default of Keras' augmentation
    layers is True, so they would augment images in the exported model.
    """
    training = inspect.signature(layer.call).parameters.get("training")
    if training is None or len(args) > 1:
        return kwargs
    is_set = training.default is not True and kwargs.get("training") is not None
    return kwargs if is_set else kwargs | {"training": False}


def _fits(layer, norm) -> bool:
    """Whether a layer is a convolution that the norm can be folded into."""
    if type(layer) not in (layers.Conv2D, Conv2D, GroupedConv2D):
        return False
    channels = 1 if layer.data_format == "channels_first" else 3
    if channels == 1 and type(layer) is layers.Conv2D:
        return False  # Keras adds the bias along the wrong axis for some image sizes.
    return (
        norm.axis % 4 == channels
        and layer.activation is keras.activations.linear
        and layer.compute_dtype == norm.compute_dtype
    )


def _folded_weights(convolution, norm) -> list[np.ndarray]:
    """Kernel and bias of a convolution with the norm folded in."""

    def value(variable, default):
        if variable is None:
            return np.float64(default)
        return keras.ops.convert_to_numpy(variable).astype("float64")

    variance = value(norm.moving_variance, 1) + norm.epsilon
    scale = value(norm.gamma, 1) / np.sqrt(variance)  # (filters,)
    bias = value(convolution.bias, 0) - value(norm.moving_mean, 0)
    kernel = value(convolution.kernel, 0) * scale
    return [kernel, value(norm.beta, 0) + bias * scale]

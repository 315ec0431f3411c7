"""The networks: a row of the table in, a `keras.Model` out."""

import contextlib
import operator
import re
from numbers import Integral, Real

import keras
from keras import layers

from resnext_keras.arguments import positive_integer
from resnext_keras.models.blocks import resnext_features
from resnext_keras.models.data_format import channels_first, image_shape
from resnext_keras.models.specs import MIN_IMAGE_SIZE, ResNeXtSpec, get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.loading import assign

POOLING_LAYERS = {
    "avg": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


def ResNeXt(
    model: ResNeXtSpec | str,
    include_top: bool = True,
    weights="imagenet",
    input_tensor=None,
    input_shape=None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation="softmax",
    name: str | None = None,
    *,
    output_stride: int | None = None,
    drop_path_rate: float = 0.0,
) -> keras.Model:
    """Builds a ResNeXt, a member of the table or one of your own.

    Images go in as `preprocess_input` gives them.

    Args:
        model: A name that `list_models()` gives, as in
            `"resnext50_32x4d"`, or a `ResNeXtSpec`. The other arguments are
            those of `keras.applications.ResNet50`.
        include_top: Whether the classifier, `avg_pool` and `predictions`,
            stands at the end.
        weights: None for a random start, the name of a weight set of this
            architecture, which is downloaded once, or the path of a file:
            `.weights.h5`, `.h5` of keras-applications, or the `state_dict` of
            torchvision, timm or mmpretrain in `.pth` or `.safetensors`.
            `"imagenet"` is the default set of the architecture: torchvision's
            second generation where there is one, else the most accurate one
            that does not forbid commercial use. A classifier of another size
            is replaced by a new one, and a first convolution for RGB adapted
            to other channels, as timm does it.
        input_tensor: Keras tensor to build the network on, (batch, H, W,
            channels); None for an input of the network's own.
        input_shape: (H, W, channels), or (channels, H, W) under
            `channels_first`; H and W are 32 or more, or None for any size.
            Without it: the size the architecture was made for with the
            classifier, any size without.
        pooling: What follows the last feature maps without the classifier:
            None for the (batch, H / 32, W / 32, channels) maps themselves,
            `"avg"` or `"max"` for one (batch, channels) vector an image.
        classes: Number of outputs of the classifier.
        classifier_activation: Activation of the classifier; None gives the
            logits. With weights only None or `"softmax"`.
        name: Name of the model; None for the architecture's.
        output_stride: By how much the last feature maps are smaller than the
            images: 32, 16, 8 or 4, for CIFAR 4, 2 or 1. Below the first of them,
            which None stands for, strides become dilations, for the same weights
            and finer maps, as `replace_stride_with_dilation` of torchvision and
            `output_stride` of timm do it.
        drop_path_rate: From 0 to below 1, the share of the images for which
            training leaves out the last block; earlier blocks are left out less,
            the first never (stochastic depth, Huang et al., ECCV 2016).

    Returns:
        A functional `keras.Model`. Its layers are named as in
        keras.applications, as in `conv3_block2_out`.

    Raises:
        ValueError: An argument is outside what is described above, or the
            weights do not fit (`WeightsError`) or cannot be had; nothing has
            been built then.

    Source: Xie et al., "Aggregated Residual Transformations for Deep Neural
    Networks", CVPR 2017, Table 1.
    """
    spec = get_spec(model)
    name = _checked_name(spec.name if name is None else name)
    classes = positive_integer("classes", classes)
    _check_choices(pooling, classifier_activation, weights, include_top)
    _check_blocks(spec, output_stride, drop_path_rate)
    shape = _input_shape(spec, include_top, input_tensor, input_shape)
    channels = shape[0 if channels_first() else -1]
    shapes = variable_shapes(spec, channels, classes if include_top else None)
    opened = contextlib.nullcontext({})
    if weights is not None:
        opened = resolve(weights, spec).open(shapes)
    with opened as tensors:
        image = layers.Input(shape) if input_tensor is None else input_tensor
        x = resnext_features(image, spec, output_stride, drop_path_rate)
        if include_top:
            x = _classifier(x, classes, classifier_activation)
        elif pooling is not None:
            x = POOLING_LAYERS[pooling](name=f"{pooling}_pool")(x)
        # The tensor may come from layers of the caller's own; they belong to it.
        sources = keras.utils.get_source_inputs(image)
        inputs = sources[0] if len(sources) == 1 else sources
        network = keras.Model(inputs, x, name=name)
        assign(network, tensors)
    return network


def _classifier(x, classes, activation):
    """One vector an image, and from it the scores of the classes."""
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    # Under a mixed policy the scores are computed in the variables' type: half
    # precision would round a softmax over 1000 classes to a few steps.
    return layers.Dense(
        classes,
        activation=activation,
        dtype=keras.config.dtype_policy().variable_dtype,
        name="predictions",
    )(x)


def _checked_name(name):
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(
            "Expected `name` to be a non-empty string without '/'. "
            f"Received: name={name!r}"
        )
    return name


def _check_choices(pooling, classifier_activation, weights, include_top):
    if pooling is not None and not _is_one_of(pooling, str, POOLING_LAYERS):
        raise ValueError(
            "Expected `pooling` to be None, 'avg' or 'max'. "
            f"Received: pooling={pooling!r}"
        )
    activation = keras.activations.get(classifier_activation)
    allowed = (keras.activations.linear, keras.activations.softmax)
    if include_top and weights is not None and activation not in allowed:
        raise ValueError(
            "Expected `classifier_activation` to be None or 'softmax' with trained "
            f"weights. Received: classifier_activation={classifier_activation!r}"
        )


def _check_blocks(spec, output_stride, drop_path_rate):
    if output_stride is not None and not _is_one_of(
        output_stride, Integral, spec.strides
    ):
        *first, last = map(str, reversed(spec.strides))
        raise ValueError(
            f"Expected `output_stride` to be None, {', '.join(first)} or {last}, the "
            f"strides of the stages of {spec.name}. "
            f"Received: output_stride={output_stride!r}"
        )
    if not isinstance(drop_path_rate, Real) or not 0 <= drop_path_rate < 1:
        raise ValueError(
            "Expected `drop_path_rate` to be a number from 0 to below 1. "
            f"Received: drop_path_rate={drop_path_rate!r}"
        )


def _is_one_of(value, kind, choices):
    """Not by `in` alone, which takes True for 1 and breaks on lists and arrays."""
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    return is_kind and value in choices


def _input_shape(spec, include_top, input_tensor, input_shape):
    """Shape of one image: of the tensor, as given, or the default."""
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            raise ValueError(
                "Expected `input_tensor` to be a Keras tensor, as keras.Input gives. "
                f"Received: input_tensor={input_tensor!r}"
            )
        shape = _checked_shape(tuple(input_tensor.shape[1:]), "input_tensor")
        given = shape
        if input_shape is not None:
            given = _checked_shape(input_shape, "input_shape")
        if any(a != b for a, b in zip(given, shape, strict=True) if None not in (a, b)):
            raise ValueError(
                f"Expected `input_shape` to be None or {shape}, that of the "
                f"`input_tensor`. Received: input_shape={input_shape!r}"
            )
        return shape
    if input_shape is not None:
        return _checked_shape(input_shape, "input_shape")
    size = spec.image_size if include_top else None
    return image_shape(size, size)


def _checked_shape(shape, argument):
    layout = "(channels, H, W)" if channels_first() else "(H, W, channels)"
    error = ValueError(
        f"Expected the shape of one image, {layout} under the present "
        f"keras.config.image_data_format(), with H and W of at least {MIN_IMAGE_SIZE} "
        "pixels or None. "
        f"Received: {argument}={shape!r}"
    )
    try:
        sizes = tuple(n if n is None else operator.index(n) for n in shape)
    except TypeError:
        raise error from None
    if len(sizes) != 3:
        raise error
    channels = sizes[0] if channels_first() else sizes[-1]
    sides = sizes[1:] if channels_first() else sizes[:-1]
    too_small = any(side is not None and side < MIN_IMAGE_SIZE for side in sides)
    if too_small or channels is None or channels < 1:
        raise error
    return sizes


def _member(function_name: str, architecture: str):
    """The public function of one row of the table."""
    spec, model_name = get_spec(architecture), function_name.lower()

    def build(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=model_name,
        *,
        output_stride=None,
        drop_path_rate=0.0,
    ):
        return ResNeXt(
            spec,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name,
            output_stride=output_stride,
            drop_path_rate=drop_path_rate,
        )

    build.__name__ = build.__qualname__ = function_name
    # What `ResNeXt` says after its first line, but for its first argument.
    described = (ResNeXt.__doc__ or "").partition("\n")[2]
    described = re.sub(r" +model:[^:]*?\n(?= +\w+:)", "", described)
    build.__doc__ = (
        f"Builds `{architecture}`; called as `keras.applications.ResNet50`.\n\n"
        f"    Made for images of {spec.image_size} x {spec.image_size} pixels and "
        f"{spec.classes} classes.\n{described}"
    )
    return build


ResNeXt50 = _member("ResNeXt50", "resnext50_32x4d")
ResNeXt50D_32x4d = _member("ResNeXt50D_32x4d", "resnext50d_32x4d")
ResNeXt101 = _member("ResNeXt101", "resnext101_32x4d")
ResNeXt101_32x8d = _member("ResNeXt101_32x8d", "resnext101_32x8d")
ResNeXt101_32x16d = _member("ResNeXt101_32x16d", "resnext101_32x16d")
ResNeXt101_32x32d = _member("ResNeXt101_32x32d", "resnext101_32x32d")
ResNeXt101_32x48d = _member("ResNeXt101_32x48d", "resnext101_32x48d")
ResNeXt101_64x4d = _member("ResNeXt101_64x4d", "resnext101_64x4d")
ResNeXt152 = _member("ResNeXt152", "resnext152_32x4d")
SEResNeXt26D_32x4d = _member("SEResNeXt26D_32x4d", "seresnext26d_32x4d")
SEResNeXt26T_32x4d = _member("SEResNeXt26T_32x4d", "seresnext26t_32x4d")
SEResNeXt50_32x4d = _member("SEResNeXt50_32x4d", "seresnext50_32x4d")
SEResNeXt101_32x4d = _member("SEResNeXt101_32x4d", "seresnext101_32x4d")
SEResNeXt101_32x8d = _member("SEResNeXt101_32x8d", "seresnext101_32x8d")
SEResNeXt101_64x4d = _member("SEResNeXt101_64x4d", "seresnext101_64x4d")
SEResNeXt101D_32x8d = _member("SEResNeXt101D_32x8d", "seresnext101d_32x8d")
SEResNeXtAA101D_32x8d = _member("SEResNeXtAA101D_32x8d", "seresnextaa101d_32x8d")
SEResNeXtAA201D_32x8d = _member("SEResNeXtAA201D_32x8d", "seresnextaa201d_32x8d")
ResNeXt29_8x64d = _member("ResNeXt29_8x64d", "resnext29_8x64d")
ResNeXt29_16x64d = _member("ResNeXt29_16x64d", "resnext29_16x64d")

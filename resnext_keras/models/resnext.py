"""Builds a `keras.Model` from a row of the table of architectures."""

import contextlib
import inspect
import operator
import os
from collections.abc import Callable
from typing import Protocol

import keras
from keras import layers

from resnext_keras.arguments import model_name, positive_integer
from resnext_keras.models.backbone import Functional
from resnext_keras.models.blocks import resnext_features
from resnext_keras.models.data_format import channels_first, image_shape
from resnext_keras.models.specs import MIN_IMAGE_SIZE, ResNeXtSpec, get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.loading import assign

POOLING_LAYERS = {
    "avg": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


Weights = str | os.PathLike | Checkpoint | None
Shape = tuple[int | None, ...]
Activation = str | Callable | None


def ResNeXt(
    model: ResNeXtSpec | str,
    include_top: bool = True,
    weights: Weights = "imagenet",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    output_stride: int | None = None,
    drop_path_rate: float = 0.0,
) -> keras.Model:
    """Builds a ResNeXt: an architecture of the table, or one of your own.

    Its inputs are images as `preprocess_input` returns them. `output_stride` and
    `drop_path_rate` are additions to the arguments of `keras.applications.ResNet50`.

    Args:
        model: A name from `list_models()`, such as `"resnext50_32x4d"`, or a
            `ResNeXtSpec`.
        include_top: Whether to add the classifier, the layers `avg_pool` and
            `predictions`.
        weights: One of:

            - `"imagenet"`, the default weight set of the architecture: torchvision's
              second generation if there is one, otherwise the most accurate set that
              allows commercial use. It is downloaded once.
            - The name of a weight set of this architecture, from `list_weights()`.
            - The path of a file: `.weights.h5`, `.h5` of keras-applications, or a
              `state_dict` of torchvision, timm or mmpretrain in `.pth` or
              `.safetensors`.
            - The folder of a training run.
            - `"hf://OWNER/NAME"`, a network of timm's on the Hugging Face hub, or the
              folder of such files; see `load_classifier`.
            - None for random weights.

            If the weights have another number of classes, the classifier is new and
            untrained. If the images are not RGB, the first convolution is adapted to
            their channels, as in timm.
        input_tensor: Keras tensor to build the network on, (batch, H, W,
            channels); None for an input of its own.
        input_shape: (H, W, channels), or (channels, H, W) under
            `channels_first`; H and W are 32 or more, or None for any size. None
            for the size that the architecture was made for, or without the
            classifier for any size.
        pooling: Output of a network without classifier: None for the last feature
            maps, (batch, ceil(H / stride), ceil(W / stride), channels) with the stride
            of `output_stride`; `"avg"` or `"max"` for one vector per image, (batch,
            channels).
        classes: Number of outputs of the classifier.
        classifier_activation: Activation of the classifier; None gives the logits.
            With a trained classifier only None or the activation that it was trained
            with: `"softmax"`, or `"sigmoid"` for a training run of several labels an
            image.
        name: Name of the model; None for the architecture's.
        output_stride: Ratio of the image size to the size of the last feature maps:
            32, 16, 8 or 4, in CIFAR networks 4, 2 or 1. None for the largest. With a
            smaller one, strides become dilations: the weights are the same and the
            maps finer, as with `replace_stride_with_dilation` of torchvision and
            `output_stride` of timm.
        drop_path_rate: Fraction of the images for which training skips the last
            block, at least 0 and below 1. Earlier blocks are skipped less often, the
            first never (stochastic depth, Huang et al., ECCV 2016).

    Returns:
        A functional `keras.Model`. Its layers have the names of keras.applications,
        such as `conv3_block2_out`. Without the classifier it has `pyramid_outputs`,
        which KerasHub's detectors and segmenters read: the last feature maps of each
        stride by the keys of KerasHub, `"P2"` to `"P5"` for the strides 4 to 32 (in
        CIFAR networks `"P0"` to `"P2"`). With an `output_stride` of 8, `"P3"` is the
        last, the output of conv5.

    Raises:
        ValueError: An argument is outside what is described above, or the weights
            do not fit or cannot be downloaded (`WeightsError`). No model is returned
            then.

    Source: Xie et al., "Aggregated Residual Transformations for Deep Neural
    Networks", CVPR 2017, Table 1.

    Examples:
        >>> network = rk.ResNeXt("resnext11_8x4d", weights="digits", classes=10)
        >>> network.input_shape, network.output_shape
        ((None, 32, 32, 3), (None, 10))
    """
    spec = get_spec(model)
    name = model_name(spec.name if name is None else name)
    classes = positive_integer("classes", classes)
    _check_options(
        spec,
        pooling,
        classifier_activation,
        output_stride,
        drop_path_rate,
    )
    shape = _input_shape(spec, include_top, input_tensor, input_shape)
    channels = shape[0 if channels_first() else -1]
    shapes = variable_shapes(spec, channels, classes if include_top else None)
    opened = contextlib.nullcontext({})
    if weights is not None:
        checkpoint = resolve(weights, spec)
        if include_top and checkpoint.classes == classes:
            _check_activation(checkpoint, classifier_activation)
        opened = checkpoint.open(shapes)
    with opened as tensors:
        image = layers.Input(shape) if input_tensor is None else input_tensor
        x = resnext_features(image, spec, output_stride, drop_path_rate)
        if include_top:
            x = _classifier(x, classes, classifier_activation)
        elif pooling is not None:
            x = POOLING_LAYERS[pooling](name=f"{pooling}_pool")(x)
        # The input tensor may come from the caller's own layers: the model includes
        # them.
        sources = keras.utils.get_source_inputs(image)
        inputs = sources[0] if len(sources) == 1 else sources
        make = keras.Model if include_top else Functional
        network = make(inputs, x, name=name)
        assign(network, tensors)
    return network


def _classifier(x, classes, activation):
    """Adds the classifier: global average pooling and a dense layer."""
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    # Under a mixed policy the scores are computed in the variables' type: half
    # precision would round a softmax over 1000 classes to a few steps.
    return layers.Dense(
        classes,
        activation=activation,
        dtype=keras.config.dtype_policy().variable_dtype,
        name="predictions",
    )(x)


def _check_activation(checkpoint, activation):
    """Checks the activation of a trained classifier."""
    trained = checkpoint.activation
    allowed = [None, trained] if trained else [None, "softmax", "sigmoid"]
    if keras.activations.get(activation) not in map(keras.activations.get, allowed):
        raise ValueError(
            f"Expected `classifier_activation` to be {' or '.join(map(repr, allowed))} "
            f"with the trained classifier of {checkpoint.name}. Received: "
            f"classifier_activation={activation!r}"
        )


def _check_options(spec, pooling, activation, output_stride, drop_path_rate):
    keras.activations.get(activation)  # raises a ValueError for an unknown name
    if pooling not in (None, *POOLING_LAYERS):
        raise ValueError(
            "Expected `pooling` to be None, 'avg' or 'max'. "
            f"Received: pooling={pooling!r}"
        )
    if output_stride not in (None, *spec.strides):
        raise ValueError(
            f"Expected `output_stride` to be None or one of the strides of the stages "
            f"of {spec.name}, {', '.join(map(str, spec.strides))}. "
            f"Received: output_stride={output_stride!r}"
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(
            "Expected `drop_path_rate` to be a number from 0 to below 1. "
            f"Received: drop_path_rate={drop_path_rate!r}"
        )


def _input_shape(spec, include_top, input_tensor, input_shape):
    """Shape of one image: that of `input_tensor`, `input_shape` or the default."""
    if input_shape is not None:
        input_shape = _checked_shape(input_shape, "input_shape")
    if input_tensor is None:
        size = spec.image_size if include_top else None
        return input_shape or image_shape(size, size)
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            "Expected `input_tensor` to be a Keras tensor, as keras.Input gives. "
            f"Received: input_tensor={input_tensor!r}"
        )
    shape = _checked_shape(tuple(input_tensor.shape[1:]), "input_tensor")
    pairs = zip(input_shape or shape, shape, strict=True)
    if any(a != b for a, b in pairs if None not in (a, b)):
        raise ValueError(
            f"Expected `input_shape` to be None or {shape}, the shape of "
            f"`input_tensor`. Received: input_shape={input_shape!r}"
        )
    return shape


def _checked_shape(shape, argument):
    error = ValueError(
        f"Expected the shape of one image, "
        f"{'(channels, H, W)' if channels_first() else '(H, W, channels)'} under the "
        "current keras.config.image_data_format(), with H and W of at least "
        f"{MIN_IMAGE_SIZE} pixels or None. Received: {argument}={shape!r}"
    )
    try:
        sizes = tuple(n if n is None else operator.index(n) for n in shape)
    except TypeError:
        raise error from None
    if len(sizes) != 3:
        raise error
    channels, *sides = sizes if channels_first() else sizes[::-1]
    too_small = any(side is not None and side < MIN_IMAGE_SIZE for side in sides)
    if too_small or channels is None or channels < 1:
        raise error
    return sizes


class ResNeXtBuilder(Protocol):
    """Signature and docstring that editors show for the functions below."""

    def __call__(
        self,
        include_top: bool = True,
        weights: Weights = "imagenet",
        input_tensor: keras.KerasTensor | None = None,
        input_shape: Shape | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Activation = "softmax",
        name: str = ...,
        *,
        output_stride: int | None = None,
        drop_path_rate: float = 0.0,
    ) -> keras.Model:
        """Builds a ResNeXt; called as `keras.applications.ResNet50`.

        Args:
            include_top: Whether to add the classifier.
            weights: `"imagenet"`, the name of a weight set, the path of a file, the
                folder of a training run, `"hf://OWNER/NAME"` on the Hugging Face hub,
                or None for random weights.
            input_tensor: Keras tensor to build the network on.
            input_shape: (H, W, channels), or (channels, H, W) under
                `channels_first`; H and W are 32 or more, or None for any size.
            pooling: Output of a network without classifier: None for feature maps,
                `"avg"` or `"max"` for one vector per image.
            classes: Number of outputs of the classifier.
            classifier_activation: `"softmax"`, or None for the logits.
            name: Name of the model.
            output_stride: Ratio of the image size to the size of the last feature
                maps; None for 32 (in CIFAR networks 4).
            drop_path_rate: Rate of stochastic depth, at least 0 and below 1.

        Returns:
            A functional `keras.Model`. The docstring of `ResNeXt` has the details.

        Examples:
            >>> network = rk.ResNeXt50(include_top=False, weights=None, pooling="avg")
            >>> network.output_shape
            (None, 2048)
        """
        ...


def _builder(function_name: str) -> ResNeXtBuilder:
    """Makes the public function that builds one architecture of the table."""
    spec, default_name = get_spec(function_name), function_name.lower()

    def build(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=default_name,
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
    build.__annotations__ = ResNeXtBuilder.__call__.__annotations__
    details = (inspect.getdoc(ResNeXtBuilder.__call__) or "").partition("\n")[2]
    build.__doc__ = (
        f"Builds `{spec.name}`; called as `keras.applications.ResNet50`.\n\n"
        f"Made for images of {spec.image_size} x {spec.image_size} pixels and "
        f"{spec.classes} classes.\n{details}"
    )
    return build


ResNeXt50 = _builder("ResNeXt50")
ResNeXt50D_32x4d = _builder("ResNeXt50D_32x4d")
ResNeXt101 = _builder("ResNeXt101")
ResNeXt101_32x8d = _builder("ResNeXt101_32x8d")
ResNeXt101_32x16d = _builder("ResNeXt101_32x16d")
ResNeXt101_32x32d = _builder("ResNeXt101_32x32d")
ResNeXt101_32x48d = _builder("ResNeXt101_32x48d")
ResNeXt101_64x4d = _builder("ResNeXt101_64x4d")
ResNeXt152 = _builder("ResNeXt152")
SEResNeXt26D_32x4d = _builder("SEResNeXt26D_32x4d")
SEResNeXt26T_32x4d = _builder("SEResNeXt26T_32x4d")
SEResNeXt50_32x4d = _builder("SEResNeXt50_32x4d")
SEResNeXt101_32x4d = _builder("SEResNeXt101_32x4d")
SEResNeXt101_32x8d = _builder("SEResNeXt101_32x8d")
SEResNeXt101_64x4d = _builder("SEResNeXt101_64x4d")
SEResNeXt101D_32x8d = _builder("SEResNeXt101D_32x8d")
SEResNeXtAA101D_32x8d = _builder("SEResNeXtAA101D_32x8d")
SEResNeXtAA201D_32x8d = _builder("SEResNeXtAA201D_32x8d")
LegacySEResNeXt26_32x4d = _builder("LegacySEResNeXt26_32x4d")
LegacySEResNeXt50_32x4d = _builder("LegacySEResNeXt50_32x4d")
LegacySEResNeXt101_32x4d = _builder("LegacySEResNeXt101_32x4d")
ResNeXt29_8x64d = _builder("ResNeXt29_8x64d")
ResNeXt29_16x64d = _builder("ResNeXt29_16x64d")

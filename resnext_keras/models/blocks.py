"""ResNeXt blocks: residual bottlenecks with a grouped 3x3 convolution.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, https://arxiv.org/abs/1611.05431, Figure 3, form (c).

The functions take and return Keras tensors in the layout of
`keras.config.image_data_format()`, and name their layers as keras.applications does.
Shapes in comments are (height, width, channels) for a 224 x 224 image.
"""

import keras
from keras import layers

from resnext_keras.models.batch_norm import BatchNormalization
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.layers import Conv2D, GroupedConv2D, MaxPooling2D, ReLU
from resnext_keras.models.specs import SE_REDUCTION


def conv_bn(x, filters, kernel_size, *, name, stride=1, groups=1, dilation=1):
    """A convolution without bias, then batch norm; H and W become ceil(H / stride).

    Args:
        x: Feature maps, (batch, H, W, channels).
        filters: Number of output channels.
        kernel_size: Side of the square kernel, an odd number.
        name: Prefix of the layers' names: `{name}_conv` and `{name}_bn`.
        stride: Step of the kernel in pixels, along both sides.
        groups: Number of groups that the channels are split into.
        dilation: Distance in pixels between neighbouring values of the kernel; 1
            where there is a stride.

    Returns:
        Feature maps, (batch, ceil(H / stride), ceil(W / stride), filters).
    """
    padding = "same"
    if max(stride, dilation) > 1 and kernel_size > 1:
        # With stride 2, "same" pads 0 before and 1 after, but the published weights
        # expect 1 on both sides. With dilation and images of any size, "same" would
        # become a padding in ONNX that ONNX Runtime refuses.
        border = kernel_size // 2 * dilation
        x = layers.ZeroPadding2D(border, name=f"{name}_pad")(x)
        padding = "valid"
    conv = Conv2D if groups == 1 else GroupedConv2D
    x = conv(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        groups=groups,
        use_bias=False,
        kernel_initializer=conv_initializer(),
        name=f"{name}_conv",
    )(x)
    # PyTorch's momentum 0.1 is the weight of the new batch; Keras' 0.9 is that of the
    # running average.
    return BatchNormalization(
        axis=1 if channels_first() else -1,
        momentum=0.9,
        epsilon=1e-5,
        name=f"{name}_bn",
    )(x)


def conv_initializer():
    """He's normal initializer by fan-out, as in the authors' Torch code."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )


def squeeze_and_excite(x, filters, parts, *, name):
    """Weighs the channels by their averages over the image (Hu et al., Figure 2).

    Args:
        x: Feature maps, (batch, H, W, filters).
        filters: Number of channels, a multiple of 16.
        parts: Names of the two convolutions, in most networks "reduce" and "expand"
            as in Keras' EfficientNet.
        name: Prefix of the layers' names.

    Returns:
        Feature maps of the shape of `x`, each channel times a weight in (0, 1).
    """
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    for part, width, activation in zip(
        parts, (filters // SE_REDUCTION, filters), ("relu", "sigmoid"), strict=True
    ):
        weights = Conv2D(
            width,
            1,
            activation=activation,
            kernel_initializer=conv_initializer(),
            name=f"{name}_{part}",
        )(weights)
    return layers.Multiply(name=f"{name}_excite")([x, weights])


def residual_branch(x, spec, stage, *, name, stride=1, dilation=1):
    """1x1 reduce, 3x3 in groups, 1x1 expand, and the squeeze-and-excitation if any.

    Arguments and result are as for `conv_block`.
    """
    width, filters = spec.widths(stage)
    pooled = spec.anti_aliased and stride > 1
    x = conv_bn(x, width, 1, name=f"{name}_1")
    x = ReLU(name=f"{name}_1_relu")(x)
    # The 3x3 convolution has the stride, as in the authors' Torch code. In ResNet50
    # of keras.applications the first 1x1 convolution has it.
    x = conv_bn(
        x,
        width,
        3,
        stride=1 if pooled else stride,
        groups=spec.cardinality,
        dilation=dilation,
        name=f"{name}_2",
    )
    x = ReLU(name=f"{name}_2_relu")(x)
    if pooled:
        x = average_pool(x, stride, name=f"{name}_2_pool")
    x = conv_bn(x, filters, 1, name=f"{name}_3")
    if spec.excitation:
        x = squeeze_and_excite(x, filters, spec.excitation, name=f"{name}_se")
    return x


def average_pool(x, stride, *, name):
    """Average pooling of 2x2 pixels; H and W become ceil(H / stride)."""
    if stride == 1:
        # timm pads with zeros here, and they count in the average.
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
        return layers.AveragePooling2D(2, strides=1, name=name)(x)
    # Pixels beyond the border do not count: PyTorch's ceil_mode=True with
    # count_include_pad=False.
    return layers.AveragePooling2D(2, strides=stride, padding="same", name=name)(x)


def add_relu(shortcut, branch, name, drop_path_rate=0.0):
    """Adds the two branches of a block: `relu(shortcut + branch)`.

    In training the branch is dropped for some of the images (stochastic depth;
    Huang et al., ECCV 2016), and scaled up for the others.
    """
    if drop_path_rate:
        branch = layers.Dropout(
            drop_path_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop_path"
        )(branch)
    x = layers.Add(name=f"{name}_add")([shortcut, branch])
    return ReLU(name=f"{name}_out")(x)


def identity_block(x, spec, stage, *, name, dilation=1, drop_path_rate=0.0):
    """Adds the residual branch to `x` itself; the shape stays as it is.

    Args:
        x: Feature maps, (batch, H, W, 256 * 2 ** (stage - 2)).
        spec: The `ResNeXtSpec` that is being built.
        stage: Number of the stage, counted as in the paper: 2 for conv2.
        name: Prefix of the layers' names, as in `"conv3_block2"`.
        dilation: Dilation of the 3x3 convolution.
        drop_path_rate: Fraction of the images for which training drops the branch.

    Returns:
        Feature maps of the shape of `x`.
    """
    branch = residual_branch(x, spec, stage, name=name, dilation=dilation)
    return add_relu(x, branch, name, drop_path_rate)


def conv_block(x, spec, stage, *, name, stride=1, dilation=1, drop_path_rate=0.0):
    """Adds the residual branch to a 1x1 projection of `x`: the first block of a stage.

    Args:
        x: Feature maps, (batch, H, W, channels).
        spec: The `ResNeXtSpec` that is being built.
        stage: Number of the stage, counted as in the paper: 2 for conv2.
        name: Prefix of the layers' names, as in `"conv3_block1"`.
        stride: Stride of the 3x3 convolution and of the projection.
        dilation: Dilation of the 3x3 convolution.
        drop_path_rate: Fraction of the images for which training drops the branch.

    Returns:
        Feature maps, (batch, ceil(H / stride), ceil(W / stride),
        256 * 2 ** (stage - 2)).
    """
    branch = residual_branch(
        x, spec, stage, name=name, stride=stride, dilation=dilation
    )
    shortcut = x
    # timm averages even where dilation replaces the stride.
    if spec.pooled_shortcut and stage > 2:
        shortcut = average_pool(shortcut, stride, name=f"{name}_0_pool")
        stride = 1
    filters = spec.widths(stage)[1]
    shortcut = conv_bn(shortcut, filters, 1, stride=stride, name=f"{name}_0")
    return add_relu(shortcut, branch, name, drop_path_rate)


def stem(x, spec):
    """conv1, and in ImageNet networks its pooling (Table 1; for CIFAR section 5.3).

    Args:
        x: Preprocessed images, (batch, H, W, channels).
        spec: The `ResNeXtSpec` that is being built.

    Returns:
        Feature maps of a quarter of the height and width (in CIFAR networks of the
        full size), with the filters of the last convolution as channels.
    """
    stride = 2 if spec.stem == "imagenet" else 1
    for name, kernel_size, filters in spec.stem_convolutions:
        x = conv_bn(x, filters, kernel_size, stride=stride, name=name)
        x = ReLU(name=f"{name}_relu")(x)  # 112, 112, 64
        stride = 1
    if spec.stem == "cifar":
        return x
    if spec.anti_aliased:
        return layers.AveragePooling2D(2, name="pool1_pool")(x)  # 56, 56, 64
    # ReLU outputs are never below 0, so padding with 0 equals PyTorch's -inf. Caffe's
    # pooling (ceil_mode=True without padding) lets windows end 1 pixel outside.
    border = ((0, 1), (0, 1)) if spec.caffe_form else 1
    x = layers.ZeroPadding2D(border, name="pool1_pad")(x)
    return MaxPooling2D(3, strides=2, name="pool1_pool")(x)  # 56, 56, 64


def resnext_features(x, spec, output_stride=None, drop_path_rate=0.0):
    """From an image batch to the last feature maps, (7, 7, 2048) in ResNeXt-50.

    Args:
        x: Preprocessed images, (batch, H, W, channels).
        spec: The `ResNeXtSpec` that is being built.
        output_stride: Ratio of the image size to the size of the last feature maps,
            one of `spec.strides`; None for the largest. Strides beyond it become
            dilations, so that the same weights see the same pixels.
        drop_path_rate: Fraction of the images for which training drops the branch
            of the last block; earlier ones are dropped less, the first never.

    Returns:
        The output of the last stage's last block.

    Source: Yu et al., "Dilated Residual Networks", CVPR 2017, section 2.
    """
    rates = iter(linear_decay(drop_path_rate, sum(spec.depths)))
    dilation = 1
    x = stem(x, spec)
    for stage, reduction, depth in zip(
        spec.stages, spec.strides, spec.depths, strict=True
    ):
        stride = 1 if stage == 2 else 2
        before = dilation
        if reduction > (output_stride or reduction):
            stride, dilation = 1, dilation * stride
        x = conv_block(
            x,
            spec,
            stage,
            name=f"conv{stage}_block1",
            stride=stride,
            # The stride comes with the 3x3 convolution, so its input still has the
            # pixel distance of the stage before.
            dilation=before,
            drop_path_rate=next(rates),
        )
        for block in range(2, depth + 1):
            x = identity_block(
                x,
                spec,
                stage,
                name=f"conv{stage}_block{block}",
                dilation=dilation,
                drop_path_rate=next(rates),
            )
    return x


def linear_decay(rate, blocks):
    """Rates from 0 for the first block to `rate` for the last (Huang et al.)."""
    return [rate * block / max(1, blocks - 1) for block in range(blocks)]

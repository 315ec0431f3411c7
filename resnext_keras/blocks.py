"""ResNeXt: residual bottlenecks whose 3x3 convolution runs in groups.

Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, https://arxiv.org/abs/1611.05431; this is form (c) of its Figure 3.
Shapes in comments are (height, width, channels) for a 224 x 224 image. The
builders take and return Keras tensors in the layout of
`keras.config.image_data_format()`, and name their layers as
keras.applications does.
"""

import keras
from keras import layers

from resnext_keras.layers import GroupedConv2D


def channel_axis() -> int:
    """Axis of the channels in a batch of feature maps."""
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def conv_bn(x, filters, kernel_size, *, name, stride=1, groups=1):
    """Convolves without bias, then normalises; H and W become ceil(H / stride).

    Args:
        x: Feature maps, (batch, H, W, channels).
        filters: Number of output channels.
        kernel_size: Side of the square kernel, an odd number.
        name: Prefix of the layers' names: `{name}_conv` and `{name}_bn`.
        stride: Step of the kernel in pixels, along both sides.
        groups: Number of groups that the channels are split into.

    Returns:
        Feature maps, (batch, ceil(H / stride), ceil(W / stride), filters).
    """
    padding = "same"
    if stride > 1 and kernel_size > 1:
        # At stride 2 "same" pads 0 and 1, and the published weights expect 1
        # on either side.
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    conv = layers.Conv2D if groups == 1 else GroupedConv2D
    x = conv(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=conv_initializer(),
        name=f"{name}_conv",
    )(x)
    # PyTorch's momentum 0.1 weighs the new batch; Keras' 0.9 the running average.
    return layers.BatchNormalization(
        axis=channel_axis(), momentum=0.9, epsilon=1e-5, name=f"{name}_bn"
    )(x)


def conv_initializer():
    """He's normal distribution over the outputs, as in the authors' Torch code."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )


def residual_branch(x, width, filters, *, stride, cardinality, name):
    """1x1 reduce, 3x3 in `cardinality` groups, 1x1 expand.

    Args:
        x: Feature maps, (batch, H, W, channels).
        width: Channels of the bottleneck, a multiple of `cardinality`.
        filters: Number of output channels.
        stride: Stride of the 3x3 convolution.
        cardinality: Groups of the 3x3 convolution (the paper's C).
        name: Prefix of the layers' names.

    Returns:
        Feature maps, (batch, ceil(H / stride), ceil(W / stride), filters).
    """
    x = conv_bn(x, width, 1, name=f"{name}_1")
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    # The stride sits on the 3x3, as in the authors' Torch code; ResNet50 of
    # keras.applications has it on the first 1x1.
    x = conv_bn(x, width, 3, stride=stride, groups=cardinality, name=f"{name}_2")
    x = layers.Activation("relu", name=f"{name}_2_relu")(x)
    return conv_bn(x, filters, 1, name=f"{name}_3")


def add_relu(shortcut, branch, name):
    """Joins the two ways of a block: `relu(shortcut + branch)`."""
    x = layers.Add(name=f"{name}_add")([shortcut, branch])
    return layers.Activation("relu", name=f"{name}_out")(x)


def identity_block(x, width, filters, *, cardinality, name):
    """Adds the residual branch to `x` itself; the shape stays as it is.

    Args:
        x: Feature maps, (batch, H, W, filters).
        width: Channels of the bottleneck, a multiple of `cardinality`.
        filters: Number of output channels, which is also that of `x`.
        cardinality: Groups of the 3x3 convolution (the paper's C).
        name: Prefix of the layers' names, as in `"conv3_block2"`.

    Returns:
        Feature maps of the shape of `x`.
    """
    branch = residual_branch(
        x, width, filters, stride=1, cardinality=cardinality, name=name
    )
    return add_relu(x, branch, name)


def conv_block(x, width, filters, *, stride, cardinality, name):
    """Adds the residual branch to a 1x1 projection of `x`; opens a stage.

    Args:
        x: Feature maps, (batch, H, W, channels).
        width: Channels of the bottleneck, a multiple of `cardinality`.
        filters: Number of output channels.
        stride: Stride of the 3x3 convolution and of the projection.
        cardinality: Groups of the 3x3 convolution (the paper's C).
        name: Prefix of the layers' names, as in `"conv3_block1"`.

    Returns:
        Feature maps, (batch, ceil(H / stride), ceil(W / stride), filters).
    """
    branch = residual_branch(
        x, width, filters, stride=stride, cardinality=cardinality, name=name
    )
    shortcut = conv_bn(x, filters, 1, stride=stride, name=f"{name}_0")
    return add_relu(shortcut, branch, name)


def residual_stage(x, spec, stage):
    """Stacks the blocks of conv`stage`; only the first changes the shape.

    Args:
        x: Feature maps, (batch, H, W, channels).
        spec: The `ResNeXtSpec` that is being built.
        stage: Number of the stage in the paper's count, 2 for conv2.

    Returns:
        Feature maps with `256 * 2 ** (stage - 2)` channels; from conv3 on
        with half the height and width, rounded up.
    """
    width, filters = spec.widths(stage)
    x = conv_block(
        x,
        width,
        filters,
        stride=1 if stage == 2 else 2,
        cardinality=spec.cardinality,
        name=f"conv{stage}_block1",
    )
    for block in range(2, spec.depths[stage - 2] + 1):
        x = identity_block(
            x,
            width,
            filters,
            cardinality=spec.cardinality,
            name=f"conv{stage}_block{block}",
        )
    return x


def imagenet_stem(x):
    """conv1 and its max-pool (Table 1): a quarter of the resolution, 64 channels."""
    x = conv_bn(x, 64, 7, stride=2, name="conv1")  # 112, 112, 64
    x = layers.Activation("relu", name="conv1_relu")(x)
    # A border of 0 never beats a ReLU output, so it equals PyTorch's -inf.
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)  # 56, 56, 64


def cifar_stem(x):
    """The single 3x3 convolution of section 5.3: the full resolution, 64 channels."""
    x = conv_bn(x, 64, 3, name="conv1")  # 32, 32, 64 for a 32 x 32 image
    return layers.Activation("relu", name="conv1_relu")(x)


STEM_BUILDERS = {"imagenet": imagenet_stem, "cifar": cifar_stem}


def resnext_features(x, spec):
    """From an image batch to the last feature maps, (7, 7, 2048) in ResNeXt-50.

    Args:
        x: Preprocessed images, (batch, H, W, channels).
        spec: The `ResNeXtSpec` that is being built.

    Returns:
        The output of the last stage's last block.
    """
    x = STEM_BUILDERS[spec.stem](x)
    for stage in spec.stages:
        x = residual_stage(x, spec, stage)
    return x

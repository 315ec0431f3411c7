"""Names and layout of the ResNeXt files of keras-applications.

A grouped convolution is a depthwise one there, with several outputs a channel,
which are summed within the group: by a `Lambda` layer, or in the code that grew
out of it by a 1x1 convolution with a constant kernel of zeros and ones.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnext_keras.weights.tensors import LazyTensor, LazyTensors, WeightsError

HEADS = {"probs": "predictions"}

# Batch normalisation has an epsilon of 1.001e-5 there and of 1e-5 here: the same
# numbers come out if the variance takes up the difference, and a file that is
# saved again needs no epsilon of its own.
MORE_EPSILON = 1e-8


def resnext_tensors(state: LazyTensors, path: Path) -> Iterator[tuple[str, LazyTensor]]:
    """The tensors of a file of keras-applications as this package has them.

    Args:
        state: What the file holds, by `"{layer}/{variable}"`, as in
            `"conv2_block1_2_conv/depthwise_kernel"`.
        path: The file, for errors.

    Yields:
        Name and tensor, by this package's names: kernels of grouped convolutions
        in place of the depthwise ones, and no constants.

    Raises:
        WeightsError: The file is of another network.
    """
    if not any(name.endswith("/depthwise_kernel") for name in state):
        raise WeightsError(
            "Expected a file in the HDF5 format of Keras 2 to be a ResNeXt of "
            f"keras-applications; {path} has no depthwise kernel. If it is of a model "
            "of this package, load it into that and save it with Keras 3: "
            "model.save_weights('model.weights.h5')."
        )
    sums = {name: state[name] for name in state if name.endswith("_gconv/kernel")}
    for name, tensor in state.items():
        layer, _, variable = name.rpartition("/")
        if variable == "depthwise_kernel":
            total = sums.pop(f"{layer.removesuffix('conv')}gconv/kernel", None)
            yield f"{layer}/kernel", _grouped(name, tensor, total)
        elif variable == "moving_variance":
            yield name, _with_more_epsilon(tensor)
        elif not name.endswith("_gconv/kernel"):
            yield f"{HEADS.get(layer, layer)}/{variable}", tensor
    if sums:
        raise WeightsError(
            f"Expected a depthwise convolution before each sum in {path}, found none "
            f"before {next(iter(sums))!r:.100}."
        )


def _grouped(name: str, depthwise: LazyTensor, total: LazyTensor | None) -> LazyTensor:
    """The kernel of the grouped convolution that two layers make up.

    The depthwise kernel is (height, width, filters, channels of a group): input
    channel i has output m, which goes to filter m of the group of i.
    """
    shape, path = depthwise.shape, depthwise.path
    if len(shape) != 4 or not shape[3] or shape[2] % shape[3]:
        raise WeightsError(
            f"Expected {name!r:.100} of {path} to be (height, width, filters, channels "
            f"of a group), found {shape}."
        )
    height, width, filters, channels = shape
    if total is not None and total.shape != (1, 1, filters * channels, filters):
        raise WeightsError(
            f"Expected the sum after {name!r:.100} of {path} to be of shape "
            f"{(1, 1, filters * channels, filters)}, found {total.shape}."
        )

    def read() -> np.ndarray:
        if total is not None and not _sums_groups(total.read(), channels):
            raise WeightsError(
                f"Expected constant zeros and ones that sum up the groups after "
                f"{name!r:.100} of {path}, found other numbers."
            )
        groups = depthwise.read().reshape(height, width, -1, channels, channels)
        return groups.transpose(0, 1, 3, 2, 4).reshape(height, width, channels, filters)

    return LazyTensor((height, width, channels, filters), depthwise.dtype, path, read)


def _sums_groups(kernel: np.ndarray, channels: int) -> bool:
    """Whether a 1x1 kernel sends output m of each channel to filter m of its group."""
    rows = np.arange(kernel.shape[2])  # channel by channel, all outputs of each
    filters = rows // channels**2 * channels + rows % channels
    ones = kernel[0, 0, rows, filters]
    return bool((ones == 1).all()) and np.count_nonzero(kernel) == rows.size


def _with_more_epsilon(variance: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        data = variance.read()
        return data + data.dtype.type(MORE_EPSILON)

    return LazyTensor(variance.shape, variance.dtype, variance.path, read)

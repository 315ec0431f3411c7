"""A network's state drawn from a seed, the same wherever NumPy runs.

The goldens hold outputs only; whoever reads them draws the weights again.
"""

import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws one tensor of a torchvision `state_dict`, batch statistics included.

    The seed is the tensor's name. Kernels follow He's rule, so that the
    activations of a deep network stay within float32; means, variances,
    scales and offsets all differ, so that none can be taken for another.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = rng.uniform(0.5, 2.0, shape)
    elif name.endswith("running_mean"):
        value = rng.normal(0.0, 0.3, shape)
    elif len(shape) == 1 and name.endswith("weight"):
        value = rng.uniform(0.3, 1.0, shape)
    elif len(shape) == 1:
        value = rng.normal(0.0, 0.2, shape)
    else:
        value = rng.normal(0.0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return value.astype("float32")


def draw_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draws all tensors of a `state_dict`, its batch counters left out."""
    return {
        name: draw(name, tuple(shape))
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def draw_images(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a batch of preprocessed images, (batch, H, W, 3)."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def sample(array: np.ndarray, count: int = 2000) -> np.ndarray:
    """The values at `count` places spread over an array, or all of a small one."""
    flat = np.ravel(array)
    if flat.size <= count:
        return flat
    return flat[np.random.default_rng(flat.size).integers(0, flat.size, count)]

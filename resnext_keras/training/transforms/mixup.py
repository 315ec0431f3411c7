"""Mixup and CutMix: mix each image of a batch with the one before it."""

import numpy as np


def mix(
    images: np.ndarray,
    labels: np.ndarray,
    mixup: float,
    cutmix: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes a batch by mixup or CutMix; with both, by one of them at random.

    As in torchvision all images of a batch are mixed in the same way: each with the one
    before it, and the first with the last.

    Args:
        images: RGB, 0 to 255, uint8, of shape (batch, size, size, 3).
        labels: One-hot, float32, of shape (batch, classes).
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        rng: Generator of random numbers.

    Returns:
        Images, rounded, and soft labels, of the same shapes and types.

    Source: torchvision's `MixUp`, `CutMix` and `RandomChoice`.
    """
    ways = [(_mixup, mixup), (_cutmix, cutmix)]
    ways = [(way, alpha) for way, alpha in ways if alpha]
    if not ways:
        return images, labels
    way, alpha = ways[rng.integers(len(ways))]
    images, share = way(images, rng.beta(alpha, alpha), rng)
    share = np.float32(share)
    return images, share * labels + (1 - share) * np.roll(labels, 1, 0)


def _mixup(images, share: float, rng) -> tuple[np.ndarray, float]:
    """Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018."""
    own = round(256 * share)  # in 256ths, so that 16 bits suffice: batches may be large
    wide = images.astype("uint16")
    mixed = own * wide + (256 - own) * np.roll(wide, 1, 0) + 128
    return (mixed >> 8).astype("uint8"), own / 256


def _cutmix(images, share: float, rng) -> tuple[np.ndarray, float]:
    """Yun et al., "CutMix", ICCV 2019, algorithm A1."""
    size = images.shape[1]
    reach = int(0.5 * np.sqrt(1 - share) * size)
    middle = rng.integers(0, size, 2)
    top, left = np.maximum(middle - reach, 0)
    bottom, right = np.minimum(middle + reach, size)
    mixed = images.copy()
    mixed[:, top:bottom, left:right] = np.roll(images, 1, 0)[:, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / size**2

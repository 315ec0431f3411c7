"""What a step of training needs of memory, before a system ends the process for it.

A GPU refuses what it has not got. Linux promises it, and ends the process later.
"""

import os

from resnext_keras.specs import STEMS, ResNeXtSpec
from resnext_keras.training.checkpoint import TrainingError

# Bytes a step keeps for each number that a convolution gives: its own and that of
# batch norm, and part of the gradients. Measured for ResNeXt-50 at 224 pixels: 125 MB
# for each picture that a batch has more, of 14 million numbers.
BYTES = 8.7


def numbers_per_image(spec: ResNeXtSpec, size: int) -> int:
    """How many numbers the convolutions of a network give for an image.

    Args:
        spec: The architecture.
        size: Height and width of the image in pixels.
    """
    reduction = STEMS[spec.stem][2]
    places = (size // reduction) ** 2
    stem_places = places * (4 if reduction == 4 else 1)
    count = stem_places * sum(spec.stem_filters)
    for stage, depth in enumerate(spec.depths):
        width = spec.cardinality * spec.group_width * 2**stage
        filters = 256 * 2**stage
        before = places if stage == 0 else 4 * places
        count += before * width + places * (width + 2 * filters)
        count += (depth - 1) * places * (2 * width + filters)
        places //= 4
    return count


def check_memory(spec: ResNeXtSpec, size: int, rows: int, half: bool) -> None:
    """Refuses a step that this machine's memory cannot hold.

    Args:
        spec: The architecture.
        size: Height and width of the images in pixels.
        rows: Number of images of the step on this machine.
        half: Whether its numbers have 16 bits.

    Raises:
        TrainingError: It cannot; the message says what to lower.
    """
    needed = numbers_per_image(spec, size) * BYTES / (2 if half else 1)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = int(total // needed)
    if rows > most:
        raise TrainingError(
            f"A step of {rows} images of {size} x {size} pixels needs about "
            f"{rows * needed / 1e9:.0f} GB, and there are {total / 1e9:.0f} GB of "
            f"memory, enough for {most}. Lower --batch, or take it in parts by "
            "--accumulate, or lower --size"
        )

"""What a step of training needs of memory, before a system ends the process for it.

A GPU refuses what it has not got. Linux promises it, and ends the process later.
"""

from resnext_keras.models.runtime import main_memory
from resnext_keras.models.specs import STEMS, ResNeXtSpec
from resnext_keras.training.checkpoint import TrainingError
from resnext_keras.training.settings import Settings

# Bytes a step keeps for each number that a convolution gives: its own and that of
# batch norm, and part of the gradients. Measured for ResNeXt-50 at 224 pixels: 125 MB
# for each image that a batch has more, of 14 million numbers.
BYTES = 8.7

# Bytes a step holds at once for each number of the stem while an image passes through
# stages that do not learn, of which nothing is kept. Measured likewise: 15 MB for each
# image where the classifier alone learns, 45 MB where conv4 and conv5 do too.
PASSING = 19


def numbers_per_image(spec: ResNeXtSpec, size: int, frozen: int = 0) -> int:
    """How many numbers the convolutions of a network give for an image.

    Args:
        spec: The architecture.
        size: Height and width of the image in pixels.
        frozen: The last stage that does not count, as that of conv1 is 1.
    """
    places = (size // STEMS[spec.stem][2]) ** 2
    count = 0 if frozen else _stem_places(spec, size) * sum(spec.stem_filters)
    for stage, depth in enumerate(spec.depths):
        width = spec.cardinality * spec.group_width * 2**stage
        filters = 256 * 2**stage
        before = places if stage == 0 else 4 * places
        if stage + 2 > frozen:
            count += before * width + places * (width + 2 * filters)
            count += (depth - 1) * places * (2 * width + filters)
        places //= 4
    return count


def _stem_places(spec: ResNeXtSpec, size: int) -> int:
    return (size // (2 if STEMS[spec.stem][2] == 4 else 1)) ** 2


def bytes_per_image(spec: ResNeXtSpec, size: int, half: bool, frozen: int = 0) -> float:
    """What a step needs of memory for each image.

    Args:
        spec: The architecture.
        size: Height and width of the image in pixels.
        half: Whether numbers have 16 bits.
        frozen: As of `numbers_per_image`.
    """
    needed = numbers_per_image(spec, size, frozen) * BYTES
    if frozen:
        needed += _stem_places(spec, size) * spec.stem_filters[-1] * PASSING
    return needed / (2 if half else 1)


def check_run_memory(settings: Settings, size: int, workers: int) -> None:
    """Refuses a run of which this machine's memory cannot hold a step.

    Args:
        settings: What it is set to.
        size: Height and width of the images of evaluation in pixels.
        workers: Number of machines that share a step.

    Raises:
        TrainingError: As of `check_memory`.
    """
    half = settings.precision != "float32"
    for phase in settings.phases:
        rows = -(-settings.step_size(phase) // workers)
        frozen = int((phase.frozen or "conv0").removeprefix("conv"))
        train_size = phase.recipe.train_size or size
        check_memory(settings.spec, train_size, rows, half, frozen)
    check_memory(settings.spec, size, 1, half)


def check_memory(
    spec: ResNeXtSpec, size: int, rows: int, half: bool, frozen: int = 0
) -> None:
    """Refuses a step that this machine's memory cannot hold.

    Args:
        spec: The architecture.
        size: Height and width of the images in pixels.
        rows: Number of images of the step on this machine.
        half: Whether its numbers have 16 bits.
        frozen: As of `numbers_per_image`.

    Raises:
        TrainingError: It cannot; the message says what to lower.
    """
    total = main_memory()
    if total is None:
        return
    needed = bytes_per_image(spec, size, half, frozen)
    most = int(total // needed)
    if rows > most:
        remedy = "lower --batch, or take it in parts by --accumulate, or lower --size"
        raise TrainingError(
            f"Expected a step that fits into {total / 1e9:.0f} GB of memory, which are "
            f"enough for {most} images of {size} x {size} pixels. Received: {rows}, "
            f"which need about {rows * needed / 1e9:.0f} GB; "
            f"{remedy if most else 'lower --size'}"
        )

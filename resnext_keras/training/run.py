"""Opens a training run: checks its data, devices and folder, or resumes it."""

import contextlib
import csv
import dataclasses
import json
import logging
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from resnext_keras.arguments import few
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, default_preprocessing
from resnext_keras.images.read import ImageError
from resnext_keras.io import (
    atomic_directory,
    atomic_write,
    check_outside,
    output_directory,
    write_csv,
)
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    read_progress,
    step_of_phase,
)
from resnext_keras.training.data.dataset import ImageDataset, Unreadable
from resnext_keras.training.data.pipeline import TrainingBatches, ValidationBatches
from resnext_keras.training.data.splits import decodable, open_dataset, open_splits
from resnext_keras.training.distribution import (
    Devices,
    check_deterministic,
    find_devices,
)
from resnext_keras.training.losses import weights_of_classes
from resnext_keras.training.optimizers import learning_rate
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.weights.registry import is_registered
from resnext_keras.weights.run_folder import (
    IMAGES,
    RUN,
    data_folder,
    read_run,
    relative_names,
)

SKIPPED = "skipped.csv"

SPLITS = ("training", "validation")

logger = logging.getLogger(__name__)

MAX_EVALUATION_ROWS = 64

PACKAGES = (
    *("resnext-keras", "keras", "tensorflow", "jax", "torch"),
    *("numpy", "pillow", "pillow-heif"),
)


@dataclass(frozen=True)
class Run:
    """A training run that is ready to start or to resume.

    Attributes:
        settings: The settings.
        folder: The folder of its files.
        training: The images to train on.
        validation: The images to validate on.
        epoch_images: Number of images to train on when the run began.
        skipped: Name of each skipped file, and the reason.
        preprocessing: How images are read for evaluation.
        class_weights: The weight of each class in the loss, float32 (classes,); None
            if all are 1.
        devices: The devices that it runs on.
        unreadable: The images of either split that could not be read while training;
            the batches fill it.
        extensions: A dict for each time that the run was given more epochs: `after`,
            the number of epochs done by then; `epochs`, their new total; and
            `learning_rate`, that of the next epoch by the old and the new schedule.
    """

    settings: Settings
    folder: Path
    training: ImageDataset
    validation: ImageDataset
    epoch_images: int
    skipped: list[tuple[str, str]]
    preprocessing: Preprocessing
    class_weights: np.ndarray | None
    devices: Devices
    unreadable: tuple[Unreadable, Unreadable]
    extensions: tuple[dict, ...] = ()

    def steps(self, phase: Phase) -> int:
        """Number of steps of an epoch.

        These are its whole batches, at least one, times `accumulate`, in a multiple of
        `steps_per_execution`. Images that went missing later still count.
        """
        batches = max(self.epoch_images // phase.recipe.batch_size, 1)
        steps = batches * self.settings.accumulate
        # A larger `steps_per_execution` is refused.
        return steps - steps % self.settings.steps_per_execution or steps

    @property
    def evaluation_rows(self) -> int:
        """Number of images that a device evaluates at once.

        Four times those of a training step: an image needs an eighth of the memory.
        """
        settings = self.settings
        step = min(map(settings.step_size, settings.phases)) // self.devices.replicas
        return min(MAX_EVALUATION_ROWS, 4 * max(step, 1))

    def training_batches(self, number: int, first_step: int) -> TrainingBatches:
        """The batches of a phase, from a step to the end."""
        phase, devices = self.settings.phases[number], self.devices
        return TrainingBatches(
            self.training,
            phase.recipe,
            self.preprocessing,
            seed=self.settings.seed + number,
            steps=phase.recipe.epochs * self.steps(phase) - first_step,
            first_step=first_step,
            batch_size=self.settings.step_size(phase),
            worker=devices.worker,
            workers=devices.workers,
            unreadable=self.unreadable[0],
        )

    def validation_batches(self) -> ValidationBatches:
        """The batches of the validation images."""
        devices = self.devices
        return ValidationBatches(
            self.validation,
            self.preprocessing,
            self.evaluation_rows * devices.replicas // devices.workers,
            pad=devices.replicas > 1,
            worker=devices.worker,
            workers=devices.workers,
            unreadable=self.unreadable[1],
        )


def open_run(
    settings: Settings,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    allow_changed: bool = False,
) -> Run:
    """Checks everything that a run needs, then creates its folder.

    Args:
        settings: The settings of the run.
        folder: The folder to create.
        resume: Whether to resume the run in the folder, if there is one.
        allow_changed: Whether to resume although images are missing or new; both are
            left out.

    Raises:
        ValueError: The folder exists, holds another run, or its images changed; or the
            devices, the data or the weights are refused. Nothing is written then.
    """
    folder, devices = Path(folder).expanduser(), find_devices()
    if settings.deterministic:
        check_deterministic()
    devices.check(settings)
    if devices.is_chief:
        resume = _check_folder(folder, resume)
    else:  # the chief may be creating it just now, all at once
        resume = resume and (folder / RUN).is_file()
    check_outside(folder, settings.data)
    if resume:
        skipped = [
            (os.path.normpath(os.path.join(data_folder(settings.data), name)), reason)
            for name, reason in _read_rows(folder / SKIPPED)
        ]
        earlier = _read_rows(folder / IMAGES)
        training, validation = _reopened(settings.data, earlier, skipped, allow_changed)
        epoch_images = sum(split == SPLITS[0] for _, split, _ in earlier)
    else:
        skipped = []

        def keep(dataset):
            # After the quick checks of the data, before the slow one.
            weights_of_classes(dataset, settings.class_weights)
            if settings.weights:
                settings.weights.fetch()
            kept, broken = decodable(dataset)
            skipped.extend(broken)
            return kept

        training, validation = open_dataset(
            settings.data, settings.validation_split, settings.seed, keep
        )
        epoch_images = len(training)
    run = Run(
        settings,
        folder,
        training,
        validation,
        epoch_images,
        skipped,
        _evaluation_preprocessing(settings),
        weights_of_classes(training, settings.class_weights),
        devices,
        (Unreadable(len(training)), Unreadable(len(validation))),
    )
    steps = min(map(run.steps, settings.phases))
    if settings.steps_per_execution > steps:
        raise ValueError(
            f"Expected `steps_per_execution` to be at most {steps}, the steps of an "
            f"epoch of {epoch_images} images. Received: "
            f"steps_per_execution={settings.steps_per_execution}"
        )
    if resume:
        content = read_run(folder)
        run = _extended(run, content)
        if devices.is_chief:
            _check_same(run, content)
    elif devices.is_chief:
        _create_folder(run)
    return run


def _check_folder(folder: Path, resume: bool) -> bool:
    """Checks the folder of a run, and returns whether there is one to resume."""
    if not os.path.lexists(folder):
        if is_registered(str(folder)):
            raise ValueError(
                "Expected another name for the folder, since `weights` takes this for "
                f"published weights. Received: {str(folder)!r}"
            )
        output_directory(folder, overwrite=False, earlier=Path(RUN))
        return False
    if not resume:
        raise ValueError(
            "Expected the name of a folder that does not exist, or resume=True, which "
            f"continues the run in it. Received: {str(folder)!r}"
        )
    if not (folder / RUN).is_file():
        raise ValueError(
            f"Expected the folder of a run, with a {RUN} in it. "
            f"Received: {str(folder)!r}"
        )
    return True


def _evaluation_preprocessing(settings: Settings) -> Preprocessing:
    """How images are read for evaluation: as for the weights, in the run's size."""
    preprocessing = (
        settings.weights.preprocessing
        if settings.weights
        else default_preprocessing(settings.spec.image_size)
    )
    size = settings.size or preprocessing.size
    # Without the first resize of the digits' weights, which is only for their images.
    resize = round(size * preprocessing.short_sides[-1] / preprocessing.size)
    return dataclasses.replace(preprocessing, size=size, resize=resize)


def _describe(run: Run) -> dict:
    """The part of `run.json` that must be equal to resume the run."""
    return {
        "settings": run.settings.as_dict(),
        "class_names": run.training.class_names,
        "outputs": run.training.outputs,
        "activation": run.training.activation,
        "preprocessing": run.preprocessing.as_json(),
    }


def _create_folder(run: Run) -> None:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    versions["python"] = platform.python_version()
    weights = run.settings.weights
    content = _describe(run) | {
        "licence": weights and weights.licence,
        "backend": keras.config.backend(),
        "versions": versions,
    }
    relative = relative_names(run.settings.data)
    images = [
        (relative(name), split, dataset.label(number))
        for split, dataset in zip(SPLITS, (run.training, run.validation), strict=True)
        for number, name in enumerate(dataset.names)
    ]
    with atomic_directory(run.folder, overwrite=False) as folder:
        (folder / RUN).write_text(json.dumps(content, indent=1))
        write_csv(folder / IMAGES, ("image", "split", "class"), images)
        skipped = [(relative(name), reason) for name, reason in run.skipped]
        write_csv(folder / SKIPPED, ("image", "reason"), skipped)


def write_run(folder: Path, content: dict) -> None:
    """Writes `run.json` in the folder of a run."""
    with atomic_write(folder / RUN) as file:
        file.write_text(json.dumps(content, indent=1))


def _read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _extended(run: Run, content: dict) -> Run:
    """A resumed run, which may have more epochs than its `run.json` says.

    Phases that are finished keep their epochs, and the others get all that are left;
    the last phase may go on after its end.
    """
    settings, folder = run.settings, run.folder
    earlier = [phase["recipe"]["epochs"] for phase in content["settings"]["phases"]]
    epochs = [phase.recipe.epochs for phase in settings.phases]
    progress = read_progress(folder / CHECKPOINT)
    number, step, history = (progress[key] for key in ("phase", "step", "history"))
    total = sum(epochs)
    if total < sum(earlier):
        raise ValueError(
            f"Expected at least the {sum(earlier)} epochs of the run in {folder}, to "
            f"resume it; {len(history)} are done. Received: epochs={total}"
        )
    extensions = tuple(content.get("extensions", ()))
    if len(epochs) < len(earlier):  # another command, which `_check_same` refuses
        return run
    steps = run.steps(settings.phases[number])
    finished = number + (step >= earlier[number] * steps)
    finished = min(finished, len(epochs) - 1)
    epochs[:finished] = earlier[:finished]
    epochs[-1] += total - sum(epochs)
    phases = tuple(
        dataclasses.replace(
            phase, recipe=dataclasses.replace(phase.recipe, epochs=count)
        )
        for phase, count in zip(settings.phases, epochs, strict=True)
    )
    if total > sum(earlier):
        recipe = phases[finished].recipe
        is_new = finished == len(earlier)  # a second phase of fine-tuning
        before = recipe.epochs if is_new else earlier[finished]
        step = step_of_phase(progress, steps) if finished == number else 0
        rates = [
            learning_rate(
                dataclasses.replace(recipe, epochs=count),
                step,
                steps_per_epoch=run.steps(phases[finished]),
                accumulate=settings.accumulate,
            )
            for count in (before, recipe.epochs)
        ]
        extension = {"after": len(history), "epochs": total, "learning_rate": rates}
        extensions += (extension,)
    settings = dataclasses.replace(settings, phases=phases)
    return dataclasses.replace(run, settings=settings, extensions=extensions)


def write_extension(run: Run) -> None:
    """Says that a resumed run has more epochs, and writes it into `run.json`."""
    content = read_run(run.folder)
    if len(run.extensions) == len(content.get("extensions", ())):
        return
    extension = run.extensions[-1]
    before, after = extension["learning_rate"]
    logger.warning(
        "The run goes on to %d epochs. Its schedule is stretched: epoch %d begins with "
        "a learning rate of %.3g instead of %.3g",
        extension["epochs"],
        extension["after"] + 1,
        after,
        before,
    )
    content["settings"]["phases"] = run.settings.as_dict()["phases"]
    # `end` is that of the shorter run.
    write_run(run.folder, content | {"extensions": run.extensions, "end": None})


def _check_same(run: Run, earlier: dict) -> None:
    current = json.loads(json.dumps(_describe(run)))
    for content in (earlier, current):  # the images may have been moved
        del content["settings"]["data"]
    # Epochs may be added, even a second phase; `_extended` has checked their number.
    phases, now = (c["settings"]["phases"] for c in (earlier, current))
    for one, other in zip(phases, now, strict=False):
        one["recipe"]["epochs"] = other["recipe"]["epochs"]
    phases += now[len(phases) :]
    # What an earlier version did not have is as it was then.
    earlier["settings"] = current["settings"] | earlier["settings"]
    earlier = current | earlier
    for key, value in current.items():
        if earlier[key] != value:
            raise ValueError(
                f"Expected the {key} of the run in {run.folder}, to resume it. "
                f"Received: {_difference(earlier[key], value, key)}"
            )


def _reopened(
    data: str,
    earlier: list[list[str]],
    skipped: list[tuple[str, str]],
    allow_changed: bool,
) -> tuple[ImageDataset, ...]:
    """The images of an earlier run, which may have been moved together.

    `earlier` are the rows of its `images.csv`, `skipped` the files it has skipped.
    """
    opened, relative = open_splits(data), relative_names(data)
    numbers = [
        {relative(name): number for number, name in enumerate(split.names)}
        for split in opened
    ]
    labels = {
        image: split.label(number)
        for split, of_split in zip(opened, numbers, strict=True)
        for image, number in of_split.items()
    }
    missing = [image for image, _, _ in earlier if image not in labels]
    changed = {image for image, _, own in earlier if labels.get(image, own) != own}
    known = {image for image, _, _ in earlier} | {relative(n) for n, _ in skipped}
    new = [
        image
        for split, of_split in zip(opened, numbers, strict=True)
        for image, number in of_split.items()
        if image not in known and _is_image(split, number)
    ]
    if missing or new or changed:
        kinds = ("missing", missing), ("new", new), ("of another class", changed)
        changes = "; ".join(
            f"{len(names)} {kind}: {few(sorted(names), 10)}"
            for kind, names in kinds
            if names
        )
        if not allow_changed:
            raise ValueError(
                "Expected the images of the run, to resume it. Received: "
                f"{readable(data)!r} with {changes}. Restore the data, or pass "
                "allow_changed=True to leave these images out"
            )
        logger.warning("The run goes on without these images: %s", changes)
    splits = []
    for number, split in enumerate(SPLITS):
        of_split = numbers[-number]  # the validation split is the last, or all are one
        kept = [
            of_split[image]
            for image, name, _ in earlier
            if name == split and image in of_split and image not in changed
        ]
        if not kept:
            raise ValueError(
                f"Expected images of the run's {split} split. Received: none in "
                f"{readable(data)!r}"
            )
        splits.append(opened[-number].subset(kept))
    return tuple(splits)


def _is_image(dataset: ImageDataset, number: int) -> bool:
    try:
        dataset.image(number)
    except ImageError:
        return False
    return True


def _difference(earlier, received, name: str) -> str:
    """The first difference between two JSON values, as text."""
    if isinstance(earlier, dict) and isinstance(received, dict):
        for key in received:
            if earlier.get(key) != received[key]:
                return _difference(earlier.get(key), received[key], key)
    if isinstance(earlier, list) and isinstance(received, list):
        if len(earlier) != len(received):
            return f"{len(received)} {name} instead of {len(earlier)}"
        for one, other in zip(earlier, received, strict=True):
            if one != other:
                return _difference(one, other, name)
    return f"{name}={received!r} instead of {earlier!r}"

"""The folder of a training run: checks it, creates it, resumes the run in it."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing, default_preprocessing
from resnext_keras.io import atomic_directory, check_outside, output_directory
from resnext_keras.training.callbacks import CHECKPOINT
from resnext_keras.training.data.dataset import ImageDataset, decodable, open_dataset
from resnext_keras.training.distribution import (
    Devices,
    check_deterministic,
    find_devices,
)
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.weights.checkpoint import RUN

SKIPPED = "skipped.csv"

EVALUATION_ROWS = 64  # at most

PACKAGES = ("resnext-keras", "keras", "tensorflow", "numpy", "jax", "torch")


@dataclass(frozen=True)
class Run:
    """A training run that can start, or resume.

    Attributes:
        settings: Its settings.
        folder: Its folder.
        training: The images to train on.
        validation: The images to validate on.
        skipped: Name of each file that is skipped, and the reason.
        preprocessing: How images are read for evaluation.
        resume: Whether it resumes.
        devices: The devices that it runs on.
    """

    settings: Settings
    folder: Path
    training: ImageDataset
    validation: ImageDataset
    skipped: list[tuple[str, str]]
    preprocessing: Preprocessing
    resume: bool
    devices: Devices

    def steps(self, phase: Phase) -> int:
        """Number of steps of an epoch: its whole batches, but at least one step."""
        batches = max(len(self.training) // phase.recipe.batch_size, 1)
        return batches * self.settings.accumulate

    @property
    def evaluation_rows(self) -> int:
        """Number of images that a device evaluates at once.

        Evaluation needs an eighth of the memory of training, so this needs no more
        memory than a training step.
        """
        settings = self.settings
        step = min(map(settings.step_size, settings.phases)) // self.devices.replicas
        return min(EVALUATION_ROWS, 4 * max(step, 1))


def open_run(
    settings: Settings,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
) -> Run:
    """Checks everything that a run needs, and creates its folder.

    Args:
        settings: The settings of the run.
        folder: The folder to create.
        resume: Whether to resume the run in the folder, if there is one.

    Returns:
        The `Run`.

    Raises:
        ValueError: The folder exists, or holds another run; or see `find_devices`, the
            checks of `Devices`, `check_deterministic`, `open_dataset` and
            `Checkpoint.fetch`. Nothing is written then.
    """
    folder, devices = Path(folder).expanduser(), find_devices()
    if settings.deterministic:
        check_deterministic()
    devices.check_options(settings.accumulate, settings.steps_per_execution)
    for phase in settings.phases:
        devices.check_batch_size(settings.step_size(phase))
    if devices.is_chief:
        resume = _check_folder(folder, resume)
    else:  # the chief may be creating it just now
        resume = resume and (folder / CHECKPOINT).is_file()
    check_outside(folder, settings.data)
    skipped = _read_skipped(folder, settings.data) if resume else []

    def keep(dataset):
        # Download after the quick checks of the data set, before the slow one.
        if settings.weights:
            settings.weights.fetch()
        if resume:
            return _without(dataset, skipped)
        kept, left_out = decodable(dataset)
        skipped.extend(left_out)
        return kept

    training, validation = open_dataset(
        settings.data, settings.validation_share, settings.seed, keep
    )
    run = Run(
        settings,
        folder,
        training,
        validation,
        skipped,
        _evaluation_preprocessing(settings),
        resume,
        devices,
    )
    _check_executions(run)
    if devices.is_chief:
        (_check_same if resume else _write_run)(run)
    return run


def _check_folder(folder: Path, resume: bool) -> bool:
    """Whether there is a run to resume."""
    if not os.path.lexists(folder):
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


def _check_executions(run: Run) -> None:
    """Raises an error if one execution has more steps than an epoch."""
    per_execution = run.settings.steps_per_execution
    steps = min(map(run.steps, run.settings.phases))
    if per_execution > steps:
        raise ValueError(
            f"Expected `steps_per_execution` to be at most {steps}, the steps of an "
            f"epoch of {len(run.training)} images. Received: "
            f"steps_per_execution={per_execution}"
        )


def _describe(run: Run) -> dict:
    """The content of `run.json` that has to be equal for a run to be resumed."""
    digest = hashlib.sha256()
    for split in (run.training, run.validation):
        digest.update(np.ascontiguousarray(split.labels, "<i4"))
        for name in split.names:
            digest.update(os.path.basename(name).encode() + b"\0")
    return {
        "settings": run.settings.as_dict(),
        "class_names": run.training.class_names,
        "preprocessing": run.preprocessing.as_json(),
        "images": {
            "training": len(run.training),
            "validation": len(run.validation),
            "skipped": len(run.skipped),
            "sha256_of_names": digest.hexdigest(),
        },
    }


def _write_run(run: Run) -> None:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    versions["python"] = platform.python_version()
    content = _describe(run) | {"backend": keras.config.backend(), "versions": versions}
    with atomic_directory(run.folder, overwrite=False) as folder:
        (folder / RUN).write_text(json.dumps(content, indent=1))
        with (folder / SKIPPED).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "reason"), *run.skipped])


def _check_same(run: Run) -> None:
    earlier = json.loads((run.folder / RUN).read_text())
    current = json.loads(json.dumps(_describe(run)))
    for content in (earlier, current):  # the images may have been moved
        del content["settings"]["data"]
    for key, value in current.items():
        if earlier[key] != value:
            raise ValueError(
                f"Expected the {key} of the run in {run.folder}, to resume it. "
                f"Received: {_difference(earlier[key], value)}"
            )


def _without(dataset: ImageDataset, skipped: list[tuple[str, str]]) -> ImageDataset:
    left_out = {name for name, _ in skipped}
    if not left_out:
        return dataset
    return dataset.subset(
        np.array([n for n, name in enumerate(dataset.names) if name not in left_out])
    )


def _read_skipped(folder: Path, data: str) -> list[tuple[str, str]]:
    """The files that were skipped when the run began, by their current names."""
    before = json.loads((folder / RUN).read_text())["settings"]["data"]
    before, now = (readable(path).rstrip(os.sep) for path in (before, data))
    with (folder / SKIPPED).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(now + name.removeprefix(before), reason) for name, reason in rows]


def _difference(earlier, received, name: str = "") -> str:
    """The first difference between two JSON values."""
    if isinstance(earlier, dict) and isinstance(received, dict):
        for key in received:
            if earlier.get(key) != received[key]:
                return _difference(earlier.get(key), received[key], key)
    if isinstance(earlier, list) and isinstance(received, list):
        for one, other in zip(earlier, received, strict=False):
            if one != other:
                return _difference(one, other, name)
    return f"{name}={received!r} instead of {earlier!r}"

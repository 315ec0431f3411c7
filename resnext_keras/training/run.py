"""The folder of a run: what it was set to, what it is for, what came of it."""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from resnext_keras.classifier import default_preprocessing
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.io import atomic_directory, check_outside
from resnext_keras.models.runtime import on_accelerator
from resnext_keras.training.data.dataset import decodable, open_dataset
from resnext_keras.training.data.dataset_types import ImageDataset
from resnext_keras.training.determinism import check_deterministic
from resnext_keras.training.distribution import Devices, find_devices
from resnext_keras.training.keeper import CHECKPOINT
from resnext_keras.training.memory import check_run_memory
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.weights.download import fetch
from resnext_keras.weights.lookup import find_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.runs import RUN, trained

SKIPPED = "skipped.csv"

EVALUATION_ROWS = 64  # at most

PACKAGES = ("resnext-keras", "keras", "tensorflow", "numpy", "jax", "torch")


@dataclass(frozen=True)
class Run:
    """A run that can begin, or go on.

    Attributes:
        settings: What it is set to.
        folder: Where it is kept.
        training: The images that it learns from.
        validation: Those that it is judged by.
        skipped: Name of each file that is left out, and why.
        preprocessing: How images are read for evaluation.
        resume: Whether it goes on.
        devices: What it runs on.
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
        """Number of steps of an epoch: those of its whole batches, at least one."""
        batches = max(len(self.training) // phase.recipe.batch_size, 1)
        return batches * self.settings.accumulate

    @property
    def evaluation_rows(self) -> int:
        """Images that a device evaluates at once, in no more memory than a step has.

        Each needs an eighth of what it does in training.
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
    """Checks all that a run needs, and makes its folder.

    Args:
        settings: What it is set to.
        folder: The folder to be made.
        resume: Whether to go on with the run in the folder, if there is one.

    Raises:
        ValueError: The folder exists, or holds another run; a step does not fit in
            memory; or as of `find_devices`, `Devices.check_batch_size`,
            `check_deterministic`, `open_dataset` and `fetch`. Nothing is written
            then.
    """
    folder, devices = Path(folder).expanduser(), find_devices()
    if settings.deterministic:
        check_deterministic()
    for phase in settings.phases:
        devices.check_batch_size(settings.step_size(phase))
    if devices.is_chief:
        resume = _check_folder(folder, resume)
    else:  # the chief may be making it just now
        resume = resume and (folder / CHECKPOINT).is_file()
    check_outside(folder, settings.data)
    reading = run_preprocessing(settings)
    # TensorFlow's need of memory, by which a GPU that has too little refuses itself.
    if keras.config.backend() == "tensorflow" and not on_accelerator():
        check_run_memory(settings, reading.size, devices.workers)
    found = settings.weights and find_weights(settings.weights, settings.spec.name)
    skipped = _read_skipped(folder, settings.data) if resume else []
    fetch_once = functools.cache(fetch)  # which verifies the file, for both splits

    def keep(dataset):
        # After the quick checks of the data set, before the long one.
        if isinstance(found, WeightSet):
            fetch_once(found)
        if resume:
            return _without(dataset, skipped)
        kept, left_out = decodable(dataset)
        skipped.extend(left_out)
        return kept

    training, validation = open_dataset(
        settings.data, settings.validation_share, settings.seed, keep
    )
    run = Run(settings, folder, training, validation, skipped, reading, resume, devices)
    _check_executions(run)
    if devices.is_chief:
        (_check_same if resume else _write_run)(run)
    return run


def _check_folder(folder: Path, resume: bool) -> bool:
    """Whether there is a run to go on with."""
    if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
        raise ValueError(
            "Expected the name of a folder in an existing one that can be written to. "
            f"Received: {str(folder)!r}"
        )
    if not os.path.lexists(folder):
        return False
    if not resume:
        raise ValueError(
            "Expected the name of a folder that does not exist, or resume=True, which "
            f"goes on with the run in it. Received: {str(folder)!r}"
        )
    if not (folder / RUN).is_file():
        raise ValueError(
            f"Expected the folder of a run, with a {RUN} in it. "
            f"Received: {str(folder)!r}"
        )
    return True


def _check_executions(run: Run) -> None:
    """Steps that are run at once are no more than those of an epoch."""
    together = run.settings.steps_per_execution
    steps = min(map(run.steps, run.settings.phases))
    if together > steps:
        raise ValueError(
            f"Expected `steps_per_execution` to be at most {steps}, the steps of an "
            f"epoch of {len(run.training)} images. Received: "
            f"steps_per_execution={together}"
        )


def _describe(run: Run) -> dict:
    """All that two runs have to agree in, if one is to go on with the other."""
    digest = hashlib.sha256()
    for split in (run.training, run.validation):
        digest.update(np.ascontiguousarray(split.labels, "<i4"))
        for name in split.names:
            digest.update(os.path.basename(name).encode() + b"\0")
    return {
        "settings": run.settings.as_dict(),
        "class_names": run.training.class_names,
        "preprocessing": dataclasses.asdict(run.preprocessing),
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
    found = json.loads((run.folder / RUN).read_text())
    wanted = json.loads(json.dumps(_describe(run)))
    for content in (found, wanted):  # the same images may have been moved
        del content["settings"]["data"]
    for what, value in wanted.items():
        if found[what] != value:
            told = _difference(found[what], value)
            raise ValueError(
                f"Expected the {what} of the run in {run.folder}, to go on with it. "
                f"Received: {told}"
            )


def _without(dataset: ImageDataset, skipped: list[tuple[str, str]]) -> ImageDataset:
    left_out = {name for name, _ in skipped}
    if not left_out:
        return dataset
    return dataset.subset(
        np.array([n for n, name in enumerate(dataset.names) if name not in left_out])
    )


def _read_skipped(folder: Path, data: str) -> list[tuple[str, str]]:
    """What was left out when the run began, under the names that it has now."""
    before = json.loads((folder / RUN).read_text())["settings"]["data"]
    before, now = (readable(path).rstrip(os.sep) for path in (before, data))
    with (folder / SKIPPED).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(now + name.removeprefix(before), reason) for name, reason in rows]


def _difference(found, received, name: str = "") -> str:
    """Where two things of JSON differ first, and in what."""
    if isinstance(found, dict) and isinstance(received, dict):
        for key in received:
            if found.get(key) != received[key]:
                return _difference(found.get(key), received[key], key)
    if isinstance(found, list) and isinstance(received, list):
        for one, other in zip(found, received, strict=False):
            if one != other:
                return _difference(one, other, name)
    return f"{name}={received!r} instead of {found!r}"


def run_preprocessing(settings: Settings) -> Preprocessing:
    """How the images of a run are read for evaluation."""
    found = settings.weights and find_weights(settings.weights, settings.spec.name)
    if isinstance(found, Path):
        found = trained(found)  # None of a file that is no run's
    reading = found.preprocessing if found else default_preprocessing(settings.spec)
    size = settings.size or reading.size
    # Without the first resize of the digits, which fits their tiny images alone.
    resize = round(size * reading.short_sides[-1] / reading.size)
    return dataclasses.replace(reading, size=size, resize=resize)

"""Keras callbacks of a training run, and the checkpoint that it resumes from."""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from resnext_keras.arguments import few
from resnext_keras.io import atomic_write, write_csv
from resnext_keras.progress import Progress
from resnext_keras.training.data.dataset import Unreadable
from resnext_keras.weights.loading import save_weights
from resnext_keras.weights.run_folder import BEST

if TYPE_CHECKING:
    from resnext_keras.training.run import Run

logger = logging.getLogger(__name__)

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"


class TrainingError(ValueError):
    """A run cannot continue; the message gives the reason."""


class EMA(keras.callbacks.Callback):
    """Callback: the exponential moving average of a network's weights and statistics.

    Keras' optimizers average only trainable weights. But the statistics of batch norm
    belong to the weights of the last steps, so this callback averages them too, like
    torchvision (`use_buffers=True`).

    Validation uses the average. It begins as the plain mean of all steps, so that the
    random weights do not count. With `steps_per_execution` above 1 it is updated once
    per execution, with the decay of all its steps.

    Args:
        network: The network.
        decay: Decay of the average in one step, 0 to 1.
    """

    def __init__(self, network: keras.Model, decay: float):
        super().__init__()
        self.weights, self.decay = network.weights, decay
        # Copies, since JAX reuses the memory of the weights.
        self.averages = [
            keras.Variable(keras.ops.copy(weight), trainable=False, name="average")
            for weight in self.weights
        ]
        self.seen = keras.Variable(0, trainable=False, dtype="int32", name="seen")
        self._batch = -1

    @property
    def variables(self) -> list:
        """The variables that change with each step."""
        return [*self.averages, self.seen]

    def on_epoch_begin(self, epoch, logs=None):
        """Restarts the count of steps; Keras numbers them from 0 in each epoch."""
        self._batch = -1

    def on_train_batch_end(self, batch, logs=None):
        """Adds the weights after a step, or after several in one execution."""
        _ = self.model  # on JAX this updates the network's weights
        steps, self._batch = batch - self._batch, batch
        seen = int(self.seen.numpy())
        rate = max(1 - self.decay**steps, steps / (seen + steps))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(average + rate * (weight - average))
        self.seen.assign_add(steps)

    def on_test_begin(self, logs=None):
        """Puts the average into the network for validation."""
        self._swap()

    def on_test_end(self, logs=None):
        """Puts the weights back."""
        self._swap()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Context manager: the network has the averages as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for average, weight in zip(self.averages, self.weights, strict=True):
            value = keras.ops.copy(weight.value)
            weight.assign(average)
            average.assign(value)


class UnreadableImages(keras.callbacks.Callback):
    """Callback: names the images that can no longer be read, and stops on too many.

    Args:
        splits: The unreadable images of each split; the batches fill them.
    """

    def __init__(self, splits: Sequence[Unreadable]):
        super().__init__()
        self.splits, self._named = splits, [0] * len(splits)

    def on_train_batch_end(self, batch, logs=None):
        """Ends the run if too many images cannot be read."""
        self._check()

    def on_epoch_end(self, epoch, logs=None):
        """Names the images that could not be read since the last epoch."""
        self._check()  # validation may have found some
        for number, split in enumerate(self.splits):
            items = list(split.items())[self._named[number] :]
            self._named[number] += len(items)
            if items:
                logger.warning(
                    "These images can no longer be read; others take their place: %s",
                    _listed(items),
                )

    def _check(self):
        for split in self.splits:
            if split.failure:
                remedy = "Then continue from the last checkpoint with resume=True."
                raise OSError(f"{split.failure} {remedy}") from split.failure
            if split.must_end:
                raise TrainingError(
                    f"Expected at most {split.most} images to become unreadable. "
                    f"Received: {_listed(split.items())}. Restore or remove them, then "
                    "resume from the last checkpoint; after removing, with "
                    "allow_changed=True"
                )


def _listed(items) -> str:
    return few((f"{name}: {reason}" for name, reason in list(items)), 10)


def step_of_phase(progress: dict, steps_per_epoch: int) -> int:
    """Number of steps that the current phase has really trained.

    The progress of a phase that ended early has the step of its planned end.
    """
    step, phase = progress["step"], progress["phase"] + 1
    if step % steps_per_epoch:
        return step
    epochs = sum(row["phase"] == phase for row in progress["history"])
    return epochs * steps_per_epoch


class EpochProgress(keras.callbacks.Callback):
    """Callback: prints lines within long epochs, between those of Keras' `verbose=2`.

    Args:
        progress: The progress of the run, see `read_progress`.
        steps_per_epoch: Number of steps of an epoch.
        step_size: Number of images of a step.
    """

    def __init__(self, progress: dict, steps_per_epoch: int, step_size: int):
        super().__init__()
        self.progress, self.step_size = progress, step_size
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Begins to count; a resumed epoch has images that are done."""
        self._batch = -1
        self._shown = Progress(
            f"Epoch {epoch + 1}/{self.params['epochs']}",
            self.steps_per_epoch * self.step_size,
            self.progress["step"] % self.steps_per_epoch * self.step_size,
            log=functools.partial(print, flush=True),
        )

    def on_train_batch_end(self, batch, logs=None):
        """Counts the images of a step, or of several in one execution."""
        steps, self._batch = batch - self._batch, batch
        self._shown.update(steps * self.step_size)

    def on_epoch_end(self, epoch, logs=None):
        """Removes the bar before Keras prints the epoch."""
        self._shown.close()


class TrainingState(keras.callbacks.Callback):
    """Callback: checkpoints, the best weights, early stopping, and an end on NaN.

    The best weights are those with the highest validation accuracy (for multi-label
    data, area under the precision-recall curve); if several epochs have it, as often
    with few images, those with the lowest validation loss.

    Early stopping uses the same order, within this phase. It is not Keras'
    `EarlyStopping`, whose count would start again when a run resumes.

    Args:
        run: The run; only its first process writes files and decides.
        network: The network within the model; its best weights are saved, averaged if
            the recipe of the phase has an `ema_span`.
        progress: The progress, see `read_progress`; it is updated. The phase is resumed
            from the checkpoint in the folder if steps of it are finished.
        metrics: The metrics of the loss and of the images, to save in checkpoints.
        seconds: Time between two checkpoints; there is also one after each epoch.
    """

    def __init__(
        self,
        run: "Run",
        network: keras.Model,
        progress: dict,
        metrics: list[keras.metrics.Metric],
        seconds: float,
    ):
        super().__init__()
        phase = run.settings.phases[progress["phase"]]
        self.folder, self.network, self.progress = run.folder, network, progress
        self.devices, self.writes = run.devices, run.devices.is_chief
        self.seconds, self.patience = seconds, run.settings.patience
        self.steps_per_epoch = run.steps(phase)
        self.steps = phase.recipe.epochs * self.steps_per_epoch
        self.ema = None
        if phase.recipe.ema_span:
            self.ema = EMA(network, phase.recipe.ema_decay(self.steps))
        # Early stopping does not count the epochs before the run was given more.
        self.extended_after = run.extensions[-1]["after"] if run.extensions else 0
        # Each of several processes has the metrics of its own images, but only the
        # chief writes. So there a resumed epoch starts its metrics again.
        self.metrics = metrics if run.devices.workers == 1 else []
        self.resume = progress["step"] > 0
        self._end = ""

    def on_epoch_begin(self, epoch, logs=None):
        """Restores the checkpoint, since Keras has reset the metrics before."""
        if self.resume:
            restore(self.folder / CHECKPOINT, self._variables())
            if self.progress["step"] % self.steps_per_epoch == 0:
                for metric in self.metrics:  # they were saved after validation
                    metric.reset_state()
            self.resume = False
        self._began = self._saved = time.monotonic()
        self._first = self.progress["step"]

    def on_train_batch_end(self, batch, logs=None):
        """Saves a checkpoint when it is due."""
        self.progress["step"] = self._first + batch + 1
        self._check_finite("the loss", float((logs or {}).get("loss", 0)))
        # After the last step of an epoch, `on_epoch_end` saves a checkpoint.
        is_last = self.progress["step"] % self.steps_per_epoch == 0
        if time.monotonic() - self._saved >= self.seconds and not is_last:
            self._save(self._arrays())

    def on_epoch_end(self, epoch, logs=None):
        """Adds a row to the history, and saves the weights if they are the best."""
        val_loss = float((logs or {}).get("val_loss", 0))
        self._check_finite("the validation loss", val_loss)
        arrays = self._arrays()  # first, as the last step may have made weights NaN
        history, best = self.progress["history"], self.progress["best"]
        row = {
            "epoch": len(history) + 1,
            "phase": self.progress["phase"] + 1,
            **{name: float(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        history.append(row)
        of_phase = [one for one in history if one["phase"] == row["phase"]]
        best_of_phase = max(of_phase, key=_merit)  # the first of several
        row["since_best"] = row["epoch"] - best_of_phase["epoch"]
        if best is None or _merit(row) > _merit(best):
            self.progress["best"] = row
            self._save_best()
        waited = min(row["since_best"], row["epoch"] - self.extended_after)
        has_waited = 0 < self.patience <= waited
        if has_waited and self.progress["step"] < self.steps:
            self._end = (
                f"Phase {row['phase']} ends early, after epoch {row['epoch']}: its "
                f"best was epoch {best_of_phase['epoch']} (patience: {self.patience})"
            )
        # Another callback may end the phase too. If processes disagreed, some would
        # wait for the others forever.
        stop = self.devices.of_chief(self.model.stop_training or has_waited)
        self.model.stop_training = stop
        if stop:
            self.progress["step"] = self.steps
        if self.writes:
            names = list(dict.fromkeys(name for row in history for name in row))
            rows = ([row.get(name) for name in names] for row in history)
            write_csv(self.folder / HISTORY, names, rows)
        self._save(arrays)

    def on_train_end(self, logs=None):
        """Says that the phase ended early, below the progress bar."""
        if self._end and self.writes:
            logger.warning(self._end)

    def _variables(self) -> list:
        """All variables that a training step changes, in a fixed order."""
        return [
            *self.model.variables,
            *self.model.optimizer.variables,
            # `model.metrics_variables` lacks some before the first step.
            *(variable for metric in self.metrics for variable in metric.variables),
            *(self.ema.variables if self.ema else ()),
        ]

    def _arrays(self) -> dict[str, np.ndarray]:
        """The values of all variables, which are finite, for a checkpoint."""
        variables = self._variables()
        arrays = checkpoint_arrays(variables)
        for variable, array in zip(variables, arrays.values(), strict=True):
            self._check_finite(variable.path, array)
        return arrays

    def _save(self, arrays):
        if self.writes:
            save_checkpoint(self.folder / CHECKPOINT, arrays, self.progress)
        self._saved = time.monotonic()

    def _save_best(self):
        with self.ema.in_place() if self.ema else contextlib.nullcontext():
            if self.writes:
                with atomic_write(self.folder / BEST) as file:
                    save_weights(self.network, file)

    def _check_finite(self, name: str, values) -> None:
        """Ends the run if a value is NaN or infinite."""
        if np.isfinite(values).all():
            return
        step, steps = self.progress["step"], self.steps_per_epoch
        path = self.folder / CHECKPOINT
        last = "no checkpoint has been saved yet"
        if path.exists():
            saved = read_progress(path)
            last = (
                f"the last checkpoint, of step {saved['step']} of phase "
                f"{saved['phase'] + 1}, is {path}"
            )
        raise TrainingError(
            f"Step {step}, in epoch {(step - 1) // steps + 1} of phase "
            f"{self.progress['phase'] + 1}: {name} is NaN or infinite; "
            f"{last}. "
            "In most cases a new run with a lower learning rate or in float32 helps"
        )


def _merit(row: dict) -> tuple[float, float]:
    metric = row["val_pr_auc"] if "val_pr_auc" in row else row["val_accuracy"]
    return metric, -row["val_loss"]


def checkpoint_arrays(variables: list) -> dict[str, np.ndarray]:
    """The values of variables by their keys in a checkpoint."""
    return {
        _key(number, variable): np.array(variable)
        for number, variable in enumerate(variables)
    }


def save_checkpoint(path: Path, arrays: dict[str, np.ndarray], progress: dict) -> None:
    """Writes a checkpoint; an earlier one stays until the new one is complete."""
    with atomic_write(path) as file:
        # Not `save_file`, which raises no OSError when the disk is full.
        file.write_bytes(save(arrays, {"progress": json.dumps(progress)}))


def read_progress(path: Path) -> dict:
    """Reads the progress of a run from its checkpoint, if there is one.

    Returns:
        A dict: `"phase"`, the number of finished phases; `"step"`, the number of
        finished steps in the current phase; `"history"`, a row of numbers for each
        epoch; and `"best"`, the row of the epoch with the best weights.

    Raises:
        TrainingError: The file is not a checkpoint.
    """
    if not path.exists():
        return {"phase": 0, "step": 0, "history": [], "best": None}
    with _opened(path) as file:
        return json.loads(file.metadata()["progress"])


def restore(path: Path, variables: list) -> None:
    """Assigns the values of a checkpoint to all variables, or to the first of them.

    Raises:
        TrainingError: The file is not a checkpoint of these variables. No variable is
            changed then.
    """
    with _opened(path) as file:
        keys = [_key(*item) for item in enumerate(variables)]
        if sorted(file.keys())[: len(keys)] != keys:
            raise TrainingError(
                "Expected a checkpoint of the same network and optimizer, written by "
                f"the same version of Keras. Received: {path}"
            )
        arrays = [file.get_tensor(key) for key in keys]
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _key(number: int, variable) -> str:
    # Without prefixes such as "sgd_1/", whose numbers change between processes.
    name, shape = variable.path.split("/")[-1], "x".join(map(str, variable.shape))
    return f"{number:05} {name} {shape}"


def _opened(path: Path):
    try:
        return safe_open(path, "numpy")
    except Exception as error:  # SafetensorError has no base but Exception
        raise TrainingError(
            f"Expected a checkpoint. Received: {path} ({error})"
        ) from error

"""What is kept of a run while it trains: its state, its history, its best weights."""

import contextlib
import csv
import math
import time
from pathlib import Path

import keras

from resnext_keras.io import atomic_write
from resnext_keras.training.averaging import MovingAverage
from resnext_keras.training.checkpoint import (
    NotFiniteError,
    TrainingError,
    read_progress,
    restore,
    save_checkpoint,
    variables_of,
)
from resnext_keras.weights.runs import BEST

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.csv"

MEASURE = "val_accuracy"


def new_progress() -> dict:
    """Of a run that has not begun.

    Returns:
        `"phase"` and `"step"`, how many are done; `"history"`, a row of numbers for
        each epoch; and `"best"`, the row of which the best weights are.
    """
    return {"phase": 0, "step": 0, "history": [], "best": None}


class Keeper(keras.callbacks.Callback):
    """Keeps the state of a run, begins with an earlier one, and ends a run in NaN.

    Args:
        folder: Of the run.
        network: The part of the model whose weights are kept.
        progress: As `new_progress` has it; is kept up to date.
        steps_per_epoch: Of this phase.
        metrics: Those whose state is kept.
        average: Of the weights, if there is one; the best are of it then.
        seconds: From one checkpoint to the next.
        resume: Whether there is a checkpoint of this phase to begin with.
        writes: Whether files are written, which one of several processes does.
    """

    def __init__(
        self,
        folder: Path,
        network: keras.Model,
        progress: dict,
        steps_per_epoch: int,
        metrics: list[keras.metrics.Metric],
        average: MovingAverage | None,
        seconds: float,
        resume: bool,
        writes: bool,
    ):
        super().__init__()
        self.folder, self.network, self.progress = folder, network, progress
        self.steps_per_epoch, self.metrics = steps_per_epoch, metrics
        self.average, self.seconds = average, seconds
        self.resume, self.writes = resume, writes

    def on_epoch_begin(self, epoch, logs=None):
        """Takes up the state of the run; Keras has set the metrics back by now."""
        if self.resume:
            restore(self.folder / CHECKPOINT, self._variables())
            if self.progress["step"] % self.steps_per_epoch == 0:
                self._reset_metrics()  # they are of a validation
            self.resume = False
        self._began = self._saved = time.monotonic()
        self._first = self.progress["step"]

    def on_train_batch_end(self, batch, logs=None):
        """Writes a checkpoint when it is time."""
        self.progress["step"] = self._first + batch + 1
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise self._ended("the loss is NaN or infinite")
        # The end of an epoch has a checkpoint of its own, after the validation.
        is_last = self.progress["step"] % self.steps_per_epoch == 0
        if time.monotonic() - self._saved >= self.seconds and not is_last:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the row of the history, and the weights if they are the best."""
        history, best = self.progress["history"], self.progress["best"]
        row = {
            "epoch": len(history) + 1,
            "phase": self.progress["phase"] + 1,
            **{name: float(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        history.append(row)
        if best is None or _merit(row) > _merit(best):
            self.progress["best"] = row
            self._save_best()
        if self.writes:
            write_history(self.folder / HISTORY, history)
        self._save()

    def _reset_metrics(self):
        for metric in self.metrics:
            metric.reset_state()

    def _variables(self):
        return variables_of(self.model, self.metrics, self.average)

    def _save(self):
        if self.writes:
            try:
                save_checkpoint(
                    self.folder / CHECKPOINT,
                    self._variables(),
                    self.progress,
                )
            except NotFiniteError as error:
                raise self._ended(str(error)) from error
        self._saved = time.monotonic()

    def _save_best(self):
        with self.average.in_place() if self.average else contextlib.nullcontext():
            if self.writes:
                with atomic_write(self.folder / BEST) as file:
                    self.network.save_weights(file)

    def _ended(self, why: str) -> TrainingError:
        step, steps = self.progress["step"], self.steps_per_epoch
        kept = self.folder / CHECKPOINT
        last = (
            f"the last good state, of step {read_progress(kept)['step']}, is in {kept}"
            if kept.exists()
            else "nothing has been kept yet"
        )
        return TrainingError(
            f"Step {step}, in epoch {(step - 1) // steps + 1} of phase "
            f"{self.progress['phase'] + 1}: {why}; {last}. "
            "A new run with a lower learning rate or in float32 helps in most cases"
        )


def _merit(row: dict) -> tuple[float, float]:
    """What is larger for better weights: few images often give equal accuracies."""
    return row[MEASURE], -row["val_loss"]


def write_history(path: Path, history: list[dict]) -> None:
    """Writes the rows of a history as CSV."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_write(path) as target, target.open("w", newline="") as file:
        rows = csv.DictWriter(file, names)
        rows.writeheader()
        rows.writerows(history)

"""Training on several devices and machines, on TensorFlow and JAX.

A replica is a copy of the network on one device. On TensorFlow one process uses all
GPUs of its machine. On JAX several processes, on one machine or many, train together:
each reads its own share of a batch, all replicas apply the same sum of gradients, and
only the first process writes files.
"""

import contextlib
import gc
import json
import logging
import os
import traceback
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resnext_keras.models.runtime import has_fast_bfloat16
from resnext_keras.training.settings import Settings

if keras.config.backend() == "tensorflow":
    import tensorflow as tf
elif keras.config.backend() == "jax":
    import jax
    from jax.experimental.multihost_utils import process_allgather
elif keras.config.backend() == "torch":
    import torch

logger = logging.getLogger(__name__)

# Environment variables that `keras.distribution.initialize` reads.
PROCESSES = tuple(
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)

XLA_FLAG = "--xla_gpu_deterministic_ops=true"


@dataclass(frozen=True)
class Devices:
    """The devices and processes of a training run.

    Attributes:
        worker: Number of this process, from 0.
        workers: Number of processes.
        replicas: Number of copies of the network, in all processes.
        strategy: A `tf.distribute.MirroredStrategy`, a
            `keras.distribution.DataParallel`, or None for one device.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files and prints the progress."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Context manager: networks are built and compiled for these devices."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check(self, settings: Settings) -> None:
        """Checks that a run with these settings can be trained on these devices.

        Logs a warning where they are slow in its precision.

        Raises:
            ValueError: An option does not work here, or the replicas would not get the
                same number of images in each step.
        """
        if (
            settings.precision == "mixed_bfloat16"
            and keras.config.backend() == "tensorflow"
            and not has_fast_bfloat16()
        ):
            logger.warning(
                "No fast bfloat16 was found here; float32 may take less time than "
                "mixed_bfloat16."
            )
        if self.replicas > 1 and keras.config.backend() == "tensorflow":
            # Neither works with `MirroredStrategy`: Keras applies accumulated gradients
            # in a branch, in which TensorFlow allows no exchange between replicas.
            for name in ("accumulate", "steps_per_execution"):
                if (value := getattr(settings, name)) > 1:
                    raise ValueError(
                        f"Expected `{name}` of 1 on {self.replicas} devices of "
                        f"TensorFlow. Received: {name}={value}; set KERAS_BACKEND=jax, "
                        "or make one device visible (CUDA_VISIBLE_DEVICES)"
                    )
        accumulate = settings.accumulate
        unit = self.replicas * accumulate
        for phase in settings.phases:
            batch_size = phase.recipe.batch_size
            if batch_size % unit:
                below = max(batch_size // unit, 1) * unit
                parts = f" in {accumulate} parts" if accumulate > 1 else ""
                option = f", accumulate={accumulate}" if accumulate > 1 else ""
                raise ValueError(
                    f"Expected a batch that {self.replicas} replicas share evenly"
                    f"{parts}, such as {below} or {below + unit}. "
                    f"Received: batch_size={batch_size}{option}"
                )

    def check_progress(self, phase: int, step: int) -> None:
        """Checks that all processes begin at the same step.

        Raises:
            ValueError: They do not. All processes raise it.
        """
        if self.workers == 1:
            return
        places = np.unique(process_allgather(np.int32([phase, step])), axis=0)
        if len(places) > 1:
            received = " and ".join(str(tuple(place)) for place in places.tolist())
            raise ValueError(
                "Expected a folder on a file system that all processes share, so that "
                "all resume from one checkpoint. Received: (phase, step) of "
                f"{received}"
            )

    def of_chief(self, value: bool) -> bool:
        """The value of the first process; all processes have to call this."""
        if self.workers == 1:
            return value
        return bool(process_allgather(np.int32(value))[0])

    def fit(self, model: keras.Model, batches: Any, **options: Any):
        """Runs Keras' `fit`; the result is that of one device, up to rounding.

        Batch norm takes its statistics from the images of all replicas, and each
        replica has its own dropout seeds.

        Args:
            model: A model that was built and compiled in `scope`.
            batches: The `TrainingBatches` of this process.
            **options: As Keras' `fit` takes them; `validation_data` are padded
                `ValidationBatches`.

        Returns:
            Keras' `History`, the same in all processes.
        """
        scope = self.scope()
        if self.strategy is not None and keras.config.backend() == "tensorflow":
            _synchronise_batch_norm(model)
            _seed_replicas(model, self.strategy)
            # `fit` enters the scope, and callbacks may make variables outside of it.
            scope = contextlib.nullcontext()
        try:
            with scope:
                return model.fit(batches, **options)
        except BaseException as error:
            _clear_frames(error)
            raise
        finally:
            # Keras' iterators are in cycles. TensorFlow's threads would read on, and
            # wait forever for a Python that ends before them.
            gc.collect()

    def shutdown(self) -> None:
        """Disconnects the processes of JAX, when all of them have called it.

        Otherwise the others would wait for the first one, and fail if its evaluation
        takes more than five minutes.
        """
        if self.workers > 1:
            jax.distributed.shutdown()


def _clear_frames(error: BaseException) -> None:
    """Frees what `fit` used when it raised an error, and keeps the traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for outer, _ in traceback.walk_stack(frame):  # Keras hides its own
            with contextlib.suppress(RuntimeError):  # it still runs
                outer.clear()


def find_devices() -> Devices:
    """Finds the devices to train on, before anything is built.

    On TensorFlow `MirroredStrategy` uses all visible GPUs. On JAX
    `keras.distribution.DataParallel` uses all devices, and those of several processes
    if a variable of `PROCESSES` is in the environment. A single device is used without
    a strategy.

    Returns:
        The `Devices`.

    Raises:
        ValueError: The environment describes several processes, and the backend is not
            JAX; or it describes several workers of TensorFlow.
    """
    backend = keras.config.backend()
    names = ", ".join(name for name in PROCESSES if os.environ.get(name))
    if (workers := _tensorflow_workers()) > 1:
        raise ValueError(
            "Expected one process of TensorFlow; several train together on JAX alone "
            f"(KERAS_BACKEND=jax, {PROCESSES[0]} and others). Received: TF_CONFIG of "
            f"{workers} workers; unset it"
        )
    if names and backend != "jax":
        raise ValueError(
            f"Expected one process, as Keras runs on {backend}. Received: {names} in "
            "the environment; set KERAS_BACKEND=jax or unset it"
        )
    if backend == "jax":
        if names:
            keras.distribution.initialize()
        if jax.device_count() > 1:
            strategy = keras.distribution.DataParallel(auto_shard_dataset=False)
            worker, workers = jax.process_index(), jax.process_count()
            return Devices(worker, workers, jax.device_count(), strategy)
    elif backend == "tensorflow":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        # CPUs too, since a program may have made virtual ones.
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        if len(devices) > 1:
            return Devices(0, 1, len(devices), tf.distribute.MirroredStrategy(devices))
    return Devices()


def check_deterministic() -> None:
    """Checks that training can be deterministic.

    Raises:
        ValueError: JAX runs on a GPU without the necessary flag of XLA.
    """
    if keras.config.backend() != "jax" or jax.default_backend() != "gpu":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if XLA_FLAG not in flags:
        raise ValueError(
            f"Expected {XLA_FLAG} in the environment's XLA_FLAGS; without it JAX adds "
            f"numbers in any order on a GPU. Received: XLA_FLAGS={flags!r}"
        )


def make_deterministic() -> None:
    """Makes this process compute exactly the same numbers in each run.

    JAX does so on CPUs anyway. On torch, an operation that is not deterministic raises
    an error.
    """
    if keras.config.backend() == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif keras.config.backend() == "torch":
        # Required by torch; cuBLAS reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _tensorflow_workers() -> int:
    """Number of workers that `TF_CONFIG` describes; 0 without it."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster") or {}
    return sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))


def _synchronise_batch_norm(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _synchronise_batch_norm(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def _seed_replicas(model: keras.Model, strategy) -> None:
    """Gives each replica its own dropout seeds, since Keras starts all with the same.

    They follow from the seeds of the first replica, which are in checkpoints, so that a
    resumed run draws the same numbers.
    """
    states = [
        variable.value
        for variable in model.non_trainable_variables
        if variable.name == "seed_generator_state"
    ]

    @tf.function
    def draw():
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        for state in states:
            first = tf.where(replica == 0, state, tf.zeros_like(state))
            first = context.all_reduce(tf.distribute.ReduceOp.SUM, first)
            state.assign(first + tf.cast(tf.stack([replica, 0]), state.dtype))

    if states:
        strategy.run(draw)

"""Training on several devices and machines, by what TensorFlow and JAX have for it.

A replica is a copy of the network on one device; a worker is a process with one replica
or several. Each worker reads its own share of a batch, all replicas apply the same sum
of gradients, and the first worker, the chief, alone writes files.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.callbacks import History

from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.replicas import (
    accumulating,
    all_of,
    as_fit_needs,
    draw_apart,
    is_multi_worker,
    synchronised,
)

if keras.config.backend() == "jax":
    import jax
    from jax.experimental.multihost_utils import process_allgather


# What `keras.distribution.initialize` reads in the environment.
PROCESSES = tuple(
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


@dataclass(frozen=True)
class Devices:
    """What one training runs on, over all its workers.

    Attributes:
        worker: Number of this process among them, from 0.
        workers: How many processes there are.
        replicas: Copies of the network, over all workers.
        strategy: A `tf.distribute.Strategy`, a `keras.distribution.DataParallel`, or
            None for one device.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files and tells of progress."""
        return self.worker == 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """In it a network is built and compiled."""
        with (
            contextlib.nullcontext() if self.strategy is None else self.strategy.scope()
        ):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """In it the chief may write a compiled model, in a callback of `fit`.

        Keras makes variables for that, as examples; JAX would ask the other workers
        whether theirs are the same.
        """
        if keras.config.backend() != "jax":
            yield
            return
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)

    def check_batch_size(self, batch_size: int) -> None:
        """Checks that every replica gets as many images of a batch.

        Raises:
            ValueError: The number of replicas is no divisor of the batch size.
        """
        if batch_size % self.replicas:
            below = max(batch_size // self.replicas, 1) * self.replicas
            near = f"{below} or {below + self.replicas}"
            raise ValueError(
                f"Expected a batch that {self.replicas} replicas on {self.workers} "
                f"workers share evenly, such as {near}. "
                f"Received: batch_size={batch_size}"
            )

    def check_progress(self, phase: int, step: int) -> None:
        """Checks that all workers begin at one step, if there are several.

        Raises:
            ValueError: They do not, on all of them.
        """
        if self.workers == 1:
            return
        if keras.config.backend() == "jax":
            places = process_allgather(np.int32([phase, step]))
        else:
            places = all_of(self.strategy, [[phase, step]])
        different = sorted({tuple(map(int, place)) for place in places})
        if len(different) > 1:
            raise ValueError(
                "Expected a folder on a file system that all workers share, for all to "
                "go on from one checkpoint. Received: (phase, step) of "
                f"{' and '.join(map(str, different))}"
            )

    def fit(self, model: keras.Model, batches: Any, **options: Any) -> History:
        """Keras' `fit`, which this lets run on several machines, and there as on one.

        Batch norm takes its statistics from the images of all replicas, and dropout
        draws for each apart. All workers call this, with the same arguments but for
        their share of the images and the callbacks of the chief, see `alone`.

        Args:
            model: Built and compiled in `scope`.
            batches: A `tf.data.Dataset` of this worker's share of each batch, all of
                them whole.
            **options: As Keras' `fit` takes them. `validation_data` is what `evenly`
                gives.

        Returns:
            What Keras' `fit` returns, the same on all workers.

        Raises:
            ValueError: A batch is not whole, or not all replicas get as much of it.
        """
        if self.strategy is None:
            return model.fit(batches, **options)
        # Keras warns that it shuffles no datasets.
        options = {"x": batches, "validation_data": None, "shuffle": False} | options
        for name in ("x", "validation_data"):
            if options[name] is not None:
                self._check_whole(options[name])
        if keras.config.backend() == "jax":
            with self.scope():
                return model.fit(**options)
        # Not in the scope, where who makes a variable waits for the other workers, as
        # Keras does when the chief writes a file.
        for name in ("x", "validation_data"):
            options[name] = _shared_out(self.strategy, options[name])
        draw_apart(model, self.strategy)
        with (
            as_fit_needs(model, self.strategy, batches),
            accumulating(model.optimizer, self.strategy),
            synchronised(model),
        ):
            return model.fit(**options)

    def share(self, dataset: ImageDataset) -> ImageDataset:
        """Every `workers`-th of the images, which this worker validates on."""
        own = slice(self.worker, None, self.workers)
        return dataclasses.replace(
            dataset,
            labels=dataset.labels[own],
            names=dataset.names[own],
            read=lambda number: dataset.read(number * self.workers + self.worker),
        )

    def evenly(self, batches: Any, dataset: int, rows: int) -> Any:
        """Batches to validate on, as many and as long for each replica.

        What is missing is filled in with images of zeros and weight 0. The others'
        weights make up for that in Keras' mean of the losses, so that it and all
        `weighted_metrics` are those of the images alone.

        Args:
            batches: A `tf.data.Dataset` of images and labels of this worker's `share`,
                of which the last may be partial.
            dataset: How many images there are, over all workers.
            rows: Images of a whole batch of this worker.

        Returns:
            A dataset of images, labels and float32 weights (rows,); on one device what
            it was given.
        """
        if self.strategy is None:
            return batches
        steps = -(-dataset // (rows * self.workers))
        weight = steps * rows * self.workers / dataset

        def fill(images, labels):
            count = tf.shape(images)[0]
            filled = [
                tf.pad(value, [(0, rows - count)] + [(0, 0)] * (value.shape.rank - 1))
                for value in (images, labels, tf.fill([count], weight))
            ]
            return tuple(tf.ensure_shape(v, (rows, *v.shape[1:])) for v in filled)

        nothing = tree.map_structure(
            lambda spec: tf.zeros((0, *spec.shape[1:]), spec.dtype),
            batches.element_spec,
        )
        empty = tf.data.Dataset.from_tensors(nothing).repeat()
        filled = batches.concatenate(empty).take(steps).map(fill)
        return filled.prefetch(tf.data.AUTOTUNE)

    def part(self) -> None:
        """Ends what workers have in common, when all of them come to this.

        JAX's otherwise end together or with an error, after five minutes in which the
        chief evaluates alone.
        """
        if self.workers > 1 and keras.config.backend() == "jax":
            jax.distributed.shutdown()

    def _check_whole(self, batches) -> None:
        rows = tree.flatten(batches.element_spec)[0].shape[0]
        if rows is None:
            raise ValueError(
                "Expected batches of one size on several devices: "
                "`batch(..., drop_remainder=True)`, and `Devices.evenly` of those to "
                f"validate on. Received: batches={batches.element_spec}"
            )
        self.check_batch_size(rows * self.workers)


def find_devices() -> Devices:
    """What there is to train on, and how: asked once, before anything is built.

    On TensorFlow, `TF_CONFIG` tells of workers, all of whose GPUs are used by
    `MultiWorkerMirroredStrategy`; without it several GPUs are used by
    `MirroredStrategy`. On JAX `keras.distribution.DataParallel` uses all devices, and
    those of several processes where one of `PROCESSES` is set in the environment. One
    device is used as if there were no strategies.

    Raises:
        ValueError: `TF_CONFIG` does not describe a cluster and a worker of it, or the
            environment tells of several processes what this backend does not read.
    """
    worker, workers = _place_in_cluster(os.environ.get("TF_CONFIG", ""))
    backend = keras.config.backend()
    if backend != "tensorflow":
        # Which reads the images there, and would take the memory of the GPUs.
        tf.config.set_visible_devices([], "GPU")
    told = {
        "tensorflow": f"TF_CONFIG of {workers} workers" if workers > 1 else "",
        "jax": ", ".join(name for name in PROCESSES if os.environ.get(name)),
    }
    for other, names in told.items():
        if names and other != backend:
            raise ValueError(
                f"Expected one process, or several by what {backend} reads. Received: "
                f"{names} in the environment; take KERAS_BACKEND={other} or unset it"
            )
    if backend == "jax":
        if told["jax"]:
            keras.distribution.initialize()
        worker, workers = jax.process_index(), jax.process_count()
        if jax.device_count() > 1:
            strategy = keras.distribution.DataParallel(auto_shard_dataset=False)
            return Devices(worker, workers, jax.device_count(), strategy)
    elif workers > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return Devices(worker, workers, strategy.num_replicas_in_sync, strategy)
    elif backend == "tensorflow":
        # Virtual CPUs too, if a program has made any.
        names = [device.name for device in _peers(tf.config.list_logical_devices())]
        if len(names) > 1:
            return Devices(0, 1, len(names), tf.distribute.MirroredStrategy(names))
    return Devices()


def _place_in_cluster(config: str) -> tuple[int, int]:
    """This worker's number and how many there are, by the text of `TF_CONFIG`."""
    if not config.strip():
        return 0, 1
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        settings = json.loads(config)
        cluster, task = settings.get("cluster", {}), settings.get("task", {})
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
        tasks = [
            (k, i) for k in ("chief", "worker") for i in range(len(cluster.get(k, [])))
        ]
        if not cluster:
            return 0, 1
        return tasks.index((kind, index)), len(tasks)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected TF_CONFIG to hold JSON of a cluster of workers and of the one "
            f"that this is, such as {example}. Received: TF_CONFIG={config!r} ({error})"
        ) from error


def _peers(devices: list) -> list:
    """The GPUs, or the CPUs where there are none."""
    gpus = [device for device in devices if device.device_type == "GPU"]
    return gpus or [device for device in devices if device.device_type == "CPU"]


def _shared_out(strategy, batches):
    """The dataset of a worker among several, a part of each batch for each replica."""
    if batches is None or not is_multi_worker(strategy):
        return batches  # Keras splits what it gives the replicas of one worker.
    replicas = len(strategy.extended.worker_devices)
    if replicas > 1:
        rows = tree.flatten(batches.element_spec)[0].shape[0]
        batches = batches.rebatch(rows // replicas, drop_remainder=True)
    return strategy.distribute_datasets_from_function(lambda context: batches)

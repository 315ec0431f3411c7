"""Computes features with the workers of a Ray cluster, in the order of the files.

The workers are plain actors, not a `ray.data.Dataset`. A dataset needs all of its
blocks before it begins, so the driver would hold a hundred million paths in memory;
here workers get their paths from the listing. A dataset would also give neither the
order nor the chunks.
"""

import contextlib
import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
from PIL import Image

from resnext_keras.extras import optional
from resnext_keras.features.extractor import Batch, Extractor
from resnext_keras.images.listing import readable

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

logger = logging.getLogger(__name__)

CORES = 4
"""Largest number of cores of a worker: more workers use a machine better than larger
ones."""

UNIT = 8
"""Number of batches that a worker gets at a time. They are whole batches, as in a run
without Ray, and several, since a worker reads ahead only within a unit."""

TRIES = 4
"""Number of times that a unit is tried if its worker dies."""


@contextlib.contextmanager
def ray_reader(
    load: tuple, batch_size: int, folders: Sequence[str], workers: int | None = None
) -> Iterator[Callable[[Iterable[bytes]], Iterator[Batch]]]:
    """Context manager: starts workers, and stops them at the end.

    They run in the cluster that this process has joined, or in that of `RAY_ADDRESS`,
    or in a new one on this machine, which stops with them. The workers open the files
    themselves, at the same paths.

    Args:
        load: Positional and keyword arguments of `Extractor`.
        batch_size: Number of images that are run at once.
        folders: Folders that each worker must be able to open.
        workers: Number of workers; None for one per 4 cores, but at least one.

    Yields:
        A function like `Extractor.read`.
    """
    ray = optional("ray", "ray")
    with _joined(ray):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [int(resources.get("CPU", 0)) for resources in nodes]
        workers, cores = share_cores(machines, workers)
        worker = ray.remote(_Worker).options(
            num_cpus=cores, max_restarts=-1, max_task_retries=TRIES - 1
        )
        place = os.getcwd(), [os.path.abspath(folder) for folder in folders]
        limit = Image.MAX_IMAGE_PIXELS
        actors = [worker.remote(cores, load, place, limit) for _ in range(workers)]
        starting = {actor.start.remote(): actor for actor in actors}
        started, _ = ray.wait(list(starting), timeout=60)
        if not started:
            logger.warning("Waiting for %d free cores on a machine of Ray.", cores)
            started, _ = ray.wait(list(starting))
        _get(ray, *started)  # raises before anything is written

        def read(paths):
            paths = iter(paths)
            units = iter(lambda: [*itertools.islice(paths, UNIT * batch_size)], [])
            for batches in _in_order(ray, dict(starting), units):
                yield from batches

        yield read


def share_cores(machines: Sequence[int], workers: int | None) -> tuple[int, int]:
    """Number of workers, and of cores for each, at most `CORES`.

    Each worker is on one machine; `machines` are the numbers of their cores. Without
    `workers` there are as many as fit.
    """
    for cores in range(CORES, 0, -1):
        room = sum(machine // cores for machine in machines)
        if room >= (workers or 1):
            return workers or room, cores
    raise ValueError(
        f"Expected `workers` to be at most {sum(machines)}, the number of cores of the "
        f"cluster. Received: workers={workers}"
    )


class _Worker:
    """A network in a separate process, on some of a machine's cores."""

    def __init__(self, cores, load, place, max_image_pixels):
        self._cores, self._load, self._place = cores, load, place
        Image.MAX_IMAGE_PIXELS = max_image_pixels

    def start(self):
        """Loads the network. Unlike in a constructor, Ray reports errors here."""
        _ = self._extractor

    def read(self, paths: list[bytes]) -> list[Batch]:
        return list(self._extractor.read(paths, self._cores))

    @functools.cached_property  # loaded again in a process that replaces a dead one
    def _extractor(self) -> Extractor:
        here, folders = self._place
        if missing := [path for path in (here, *folders) if not os.path.exists(path)]:
            raise ValueError(
                "Expected a file system that all machines of the cluster share. "
                f"Received: {readable(missing[0])!r}, which a machine does not have"
            )
        os.chdir(here)  # where relative paths begin
        # All engines use this setting; it works before TensorFlow's first operation.
        tf.config.threading.set_intra_op_parallelism_threads(self._cores)
        tf.config.threading.set_inter_op_parallelism_threads(self._cores)
        arguments, options = self._load
        return Extractor(*arguments, **options)


def _in_order(ray, running: dict, units: Iterator[list[bytes]]) -> Iterator:
    """Yields the results of the units in order; free actors compute them.

    Args:
        ray: The package.
        running: The actor of each running task; at first the tasks start the actors.
        units: The paths of each unit, taken when an actor becomes free. Only a few
            units are ahead of the slowest, since their results wait in memory.
    """
    ahead_at_most = 4 * len(running)
    starting = set(running)
    free, ahead = deque(), deque()
    while True:
        while free and len(ahead) < ahead_at_most and (unit := next(units, None)):
            actor = free.popleft()
            ahead.append(actor.read.remote(unit))
            running[ahead[-1]] = actor
        if ahead and ahead[0] not in running:
            yield _get(ray, ahead.popleft())
            continue
        if free and not ahead:
            return
        (done,), _ = ray.wait(list(running))
        actor = running.pop(done)
        if done in starting:
            _get(ray, done)
            free.append(actor)  # twice, so that each worker has a unit waiting
        free.append(actor)


def _get(ray, reference):
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        first, *_ = str(error).splitlines()
        raise ConnectionError(
            "Expected workers that stay alive, with enough memory for the network and "
            "this package installed. The finished chunks remain, for resume=True. "
            f"Received: {first}"
        ) from error


@contextlib.contextmanager
def _joined(ray) -> Iterator[None]:
    """Context manager: joins the cluster, unless this process is in one already."""
    if ray.is_initialized():
        yield
        return
    # Otherwise Ray would send usage statistics to its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RuntimeError, OSError) as error:
        first, *_ = str(error).splitlines()
        raise ConnectionError(
            "Expected RAY_ADDRESS to be the address of a cluster, or not set. "
            f"Received: RAY_ADDRESS={address!r}; {first}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()

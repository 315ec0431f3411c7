"""Features computed by the machines of a Ray cluster, in the order of the files.

Plain actors, not a `ray.data.Dataset`: that wants to know all of its blocks before it
begins, a hundred million paths in the driver's memory, where paths here are read from
the listing as workers ask for them; and it brings neither the order nor the parts.
"""

import contextlib
import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras

from resnext_keras.arguments import positive_integer
from resnext_keras.extras import optional
from resnext_keras.features.extractor import Batch, FeatureNetwork, load_network
from resnext_keras.images.listing import readable

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

logger = logging.getLogger(__name__)

CORES = 4
"""Of a worker, at most: more workers then make more of a machine than larger ones."""

UNIT = 8
"""Batches that a worker is given at once. Whole ones, so that they are those of a run
without Ray; several, for reading is ahead of the network within a unit alone."""

TRIES = 4
"""How often a unit is begun at most, when each time the worker dies of it."""


def check_ray(workers: int | None) -> None:
    """Raises where Ray is not installed, or `workers` is no number of them."""
    _ray()
    if workers is not None:
        positive_integer("workers", workers)


@contextlib.contextmanager
def ray_reader(
    load: tuple, batch_size: int, folders: Sequence[str], workers: int | None = None
) -> Iterator[Callable[[Iterable[bytes]], Iterator[Batch]]]:
    """Workers, as long as they are needed, and what has them read files.

    They are in the cluster that `RAY_ADDRESS` names, or that this process has
    joined, or in one of this machine alone, which ends with them. They open the
    files themselves, at the paths that these have here.

    Args:
        load: Arguments of `load_network`.
        batch_size: Number of images that are run at once.
        folders: What has to be there for each worker.
        workers: Number of them; None for as many as there are 4 cores for, and at
            least one.

    Yields:
        What `FeatureNetwork.read` is here: from paths to files and features of each
        batch, in order.

    Raises:
        ValueError: There are fewer cores than workers, or a worker does not see the
            folders or cannot load the network.
        ImportError: Ray is not installed.
        ConnectionError: There is no such cluster, or workers die again and again.
    """
    ray = _ray()
    with _joined(ray):
        workers, cores = share_cores(_cores_of_machines(ray), workers)
        worker = ray.remote(_Worker).options(
            num_cpus=cores, max_restarts=-1, max_task_retries=TRIES - 1
        )
        place = os.getcwd(), [os.path.abspath(folder) for folder in folders]
        actors = [worker.remote(cores, load, place) for _ in range(workers)]
        starting = {actor.start.remote(): actor for actor in actors}
        started, _ = ray.wait(list(starting), timeout=60)
        if not started:
            logger.warning("Waiting for %d free cores on a machine of Ray.", cores)
            started, _ = ray.wait(list(starting))
        _get(ray, *started)  # what they cannot do, told before anything is written

        def read(paths):
            paths = iter(paths)
            units = iter(lambda: [*itertools.islice(paths, UNIT * batch_size)], [])
            for batches in _in_order(ray, dict(starting), units):
                yield from batches

        yield read


def share_cores(machines: Sequence[int], workers: int | None) -> tuple[int, int]:
    """Divides machines among workers, none of which is on two of them.

    Args:
        machines: Number of cores of each.
        workers: How many are wanted; None for as many as there is room for.

    Returns:
        Number of workers and of the cores of each, which is at most `CORES`.

    Raises:
        ValueError: There are more workers than cores.
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
    """A network in a process of its own, on some of a machine's cores."""

    def __init__(self, cores, load, place):
        self._cores, self._load, self._place = cores, load, place

    def start(self):
        """Loads the network; what raises here, unlike in a constructor, is told."""
        _ = self._network

    def read(self, paths: list[bytes]) -> list[Batch]:
        return list(self._network.read(paths, self._cores))

    @functools.cached_property  # a process that takes a dead one's place begins anew
    def _network(self) -> FeatureNetwork:
        here, folders = self._place
        if missing := [path for path in (here, *folders) if not os.path.exists(path)]:
            raise ValueError(
                "Expected a file system that all machines of the cluster share. "
                f"Received: {readable(missing[0])!r}, which one of them does not have"
            )
        os.chdir(here)  # where relative paths begin
        # All engines heed it; before TensorFlow's first operation.
        tf.config.threading.set_intra_op_parallelism_threads(self._cores)
        tf.config.threading.set_inter_op_parallelism_threads(self._cores)
        return load_network(*self._load)


def _in_order(ray, running: dict, units: Iterator[list[bytes]]) -> Iterator:
    """What free workers make of the units, in their order.

    Args:
        ray: The package.
        running: What each actor is about, which is in the way of its first unit.
        units: Paths, taken as actors become free; so many that of the results that
            wait for an earlier one few are in memory.
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
            free.append(actor)  # twice: a unit lies ready when another is done
        free.append(actor)


def _get(ray, reference):
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        first, *_ = str(error).splitlines()
        raise ConnectionError(
            "Expected workers that stay alive, with memory enough for the network and "
            "this package installed. What is finished stays for resume=True. "
            f"Received: {first}"
        ) from error


@contextlib.contextmanager
def _joined(ray) -> Iterator[None]:
    """In the cluster that this process is in, or else that the user has named."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's, to its makers
    address = os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RuntimeError, OSError) as error:
        first, *_ = str(error).splitlines()
        raise ConnectionError(
            "Expected RAY_ADDRESS to be that of a cluster, or not to be set. "
            f"Received: RAY_ADDRESS={address!r}; {first}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _cores_of_machines(ray) -> list[int]:
    return [
        int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]
    ]


def _ray():
    return optional("ray", "ray")

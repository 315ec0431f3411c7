"""The rounds: one process a contender, in turn, since the speed of machines drifts."""

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from resnext_keras.benchmark.contenders import MATRIX_PRODUCT, Contender
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.verify import for_torch_reference

WORKER = Path(__file__).with_name("worker")

SLOW = 10
"""Seconds of a call above which a contender has one turn alone."""

FAR_BEHIND = 3
"""By how much a contender is slower than the fastest if it has one turn alone."""


@dataclass(frozen=True)
class Settings:
    """What all the contenders are given alike.

    Attributes:
        spec: The network.
        size: Height and width of the images in pixels.
        device: `"cpu"` or `"gpu"`.
        calls: Number of calls that each process counts, if they are not too slow.
        seconds: Seconds that the counted calls of a process take at least.
        time_limit: Seconds after which a process is ended.
        threads: Number of threads; without it that of the processors at hand.
    """

    spec: ResNeXtSpec
    size: int
    device: str = "cpu"
    calls: int = 5
    seconds: float = 2
    time_limit: float = 300
    threads: int = field(default_factory=lambda: _processors())


@dataclass(frozen=True)
class Run:
    """One process: a contender at a task, `"predict"` or `"train"`, and a batch."""

    contender: Contender
    task: str
    batch: int


@dataclass
class Series:
    """What the processes of one contender, task and batch gave.

    Attributes:
        run: The contender, task and batch.
        calls: Seconds of each counted call.
        first: Seconds that building and the first call took in each process.
        memory: Most bytes of memory that each process held, where it is known.
        reason: Why it could not go on; empty if it could.
    """

    run: Run
    calls: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    reason: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of a call; None where there was none."""
        return statistics.median(self.calls) if self.calls else None


def schedule(
    contenders: Iterable[Contender],
    tasks: Iterable[str],
    batches: Iterable[int],
    rounds: int,
) -> list[Run]:
    """The processes in their order.

    Args:
        contenders: Those that can run here.
        tasks: `"predict"`, `"train"`.
        batches: Numbers of images.
        rounds: How often all of them have their turn.

    Returns:
        In each round the matrix product, then for each task and batch every
        contender that can do it.
    """
    one_round = [Run(MATRIX_PRODUCT, MATRIX_PRODUCT.name, 1)] + [
        Run(contender, task, batch)
        for task in tasks
        for batch in batches
        for contender in contenders
        if task in contender.tasks
    ]
    return one_round * rounds


def measure(runs: Iterable[Run], settings: Settings) -> list[Series]:
    """Runs the processes one after another.

    Args:
        runs: What `schedule` gives.
        settings: What all of them are given alike.

    Returns:
        A `Series` for each contender, task and batch, in the order of the runs.
        One that fails or takes too long says why; the others go on. One that is
        slow or far behind is not run again: its noise changes nothing.
    """
    found = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for run in runs:
            key = run.contender.name, run.task, run.batch
            series = found.setdefault(key, Series(run))
            if not _has_ended(series, found.values()):
                _measure_once(series, settings, folder)
    return list(found.values())


def _has_ended(series, others):
    """Whether no more turns follow, since it failed or is slow."""
    if series.reason or not series.calls:
        return bool(series.reason)
    fastest = min(
        other.median
        for other in others
        if other.calls
        and (other.run.task, other.run.batch) == (series.run.task, series.run.batch)
    )
    return series.median > min(SLOW, FAR_BEHIND * fastest)


def _measure_once(series, settings, folder):
    """Adds to a series what one process gives."""
    try:
        answer = _answer(
            [sys.executable, str(WORKER), json.dumps(_request(series.run, settings))],
            _environment(series.run.contender, settings, folder),
            settings.time_limit,
        )
    except subprocess.TimeoutExpired:
        answer = {"reason": f"took longer than {settings.time_limit:g} s"}
    if "reason" in answer:
        series.reason = answer["reason"]
        return
    series.calls += answer["calls"]
    series.first.append(answer["first"])
    if answer["memory"] is not None:
        series.memory.append(answer["memory"])


def _request(run, settings):
    module, function = run.contender.maker.split(":")
    spec = settings.spec
    return {
        "module": module,
        "function": function,
        "options": run.contender.options,
        "spec": dataclasses.asdict(spec),
        "network": for_torch_reference(spec, spec.classes),
        "classes": spec.classes,
        "task": run.task,
        "batch": run.batch,
        "size": settings.size,
        "device": settings.device,
        "threads": settings.threads,
        "calls": settings.calls,
        "seconds": settings.seconds,
    }


def _environment(contender, settings, folder):
    """The same for all: no settings of the user's, no compiled code of before."""
    return os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": folder,
        "OMP_NUM_THREADS": str(settings.threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TORCHINDUCTOR_CACHE_DIR": folder,
        **contender.environment,
    }


def _answer(command, environment, time_limit):
    """What a process prints at last; it leaves no other process behind."""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=time_limit)
        finally:
            # A compiler that it has started, say; those hold its output open.
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):  # It was killed for want of memory, say.
        told = (err.splitlines() or [""])[-1]
        return {"reason": f"ended with code {process.returncode} {told}".strip()[:200]}


def _processors():
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Times this package's networks beside their peers, on this machine.

python benchmarks/run.py resnext50_32x4d --peers all --batch 1 8 --train
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from tables import markdown

HERE = Path(__file__).parent

PACKAGES = (
    *("keras", "tensorflow", "jax", "numpy", "onnxruntime", "openvino"),
    *("torch", "torchvision", "timm", "keras-applications", "tf-keras"),
)

MEASURED = ("seconds", "first_seconds", "peak_bytes", "device_peak_bytes")


@dataclass(frozen=True)
class Contender:
    """One way to run a network; README.md says what each one is.

    Attributes:
        name: For `--peers`, the tables and the JSON file.
        kind: `"ours"`; `"torch"`, whose best is the base of the ratios;
            `"other"`; or `"floor"`.
        maker: The worker's module and its function, as `"module:function"`.
        options: Keyword arguments of that function.
        packages: Packages that it needs.
        only: The tasks, devices, backends, precisions or models it is for, by the
            name of the fact; no entry where it takes all.
        environment: Environment variables of its process.
    """

    name: str
    kind: str
    maker: str
    options: dict = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def obstacle(self, facts: dict) -> str | None:
        """Why it cannot run with these facts, or None."""
        for package in self.packages:
            if not importlib.util.find_spec(package):
                return f"needs {package}"
        for fact, allowed in self.only.items():
            if fact in facts and facts[fact] not in allowed:
                return f"is for {fact} {' or '.join(allowed)}"
        return None


def ours(name, engine=None, packages=(), environment=None, jit_compile=None, **only):
    """This package's model, or its `Predictor` on an engine."""
    maker = "ours:predictor" if engine else "ours:model"
    options = {"engine": engine, "jit_compile": jit_compile}
    options = {k: v for k, v in options.items() if v}
    return Contender(name, "ours", maker, options, packages, only, environment or {})


def peer(name, kind, maker, packages, only=(), **options):
    """A network of another package."""
    return Contender(name, kind, f"peers:{maker}", options, packages, dict(only))


CPU, FLOAT32 = {"device": ("cpu",)}, {"precision": ("float32",)}
ON_TENSORFLOW = {"backend": ("tensorflow",)}
PREDICT, TRAIN = {"task": ("predict",)}, {"task": ("train",)}
RUNTIME = {**PREDICT, **CPU}
WITHOUT_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
ONNX = ("onnxruntime", "onnx", "tf2onnx")
TORCH = ("torch", "torchvision")
KERAS_APPLICATIONS = {"model": ("resnext50_32x4d", "resnext101_32x4d"), **FLOAT32}

CONTENDERS = (
    ours("ours"),
    ours("ours-without-onednn", environment=WITHOUT_ONEDNN, **CPU, **ON_TENSORFLOW),
    ours("ours-jit-compile", jit_compile=True, **TRAIN, **ON_TENSORFLOW),
    ours("ours-torch-compile", jit_compile=True, backend=("torch",)),
    ours("predictor-tensorflow", "tensorflow", **PREDICT, **ON_TENSORFLOW),
    ours(
        "predictor-onnxruntime",
        "onnxruntime",
        ONNX,
        **RUNTIME,
        **FLOAT32,
        **ON_TENSORFLOW,
    ),
    ours("predictor-openvino", "openvino", ("openvino",), **RUNTIME, **ON_TENSORFLOW),
    peer("torch", "torch", "torch_model", TORCH),
    peer("torch-channels-last", "torch", "torch_model", TORCH, channels_last=True),
    peer("torch-compile", "torch", "torch_model", TORCH, compiled=True),
    peer(
        "torch-onnxruntime",
        "other",
        "onnxruntime_model",
        (*TORCH, ONNX[0]),
        {**RUNTIME, **FLOAT32},
    ),
    peer("torch-openvino", "other", "openvino_model", (*TORCH, "openvino"), RUNTIME),
    Contender("keras", "other", "ours:model", {"stock": True}),
    peer(
        "keras-applications",
        "other",
        "keras_applications_model",
        ("keras_applications", "tf_keras"),
        KERAS_APPLICATIONS,
    ),
)

PEERS = tuple(c.name for c in CONTENDERS if c.kind != "ours")


def floor(device: str) -> Contender:
    """Large matrix products, whose rate bounds that of convolutions."""
    # A processor without bfloat16 takes minutes for a product of larger ones.
    side = 16384 if device == "gpu" else 2048
    return Contender("floor", "floor", "ours:matrix_product", {"side": side})


def schedule(
    contenders: Iterable[Contender],
    facts: dict,
    tasks: Iterable[str],
    batches: Iterable[int],
    rounds: int,
) -> list[tuple[Contender, str, int]]:
    """The contender, task and batch of each process, in order.

    Every contender has one turn a round, because the speed of a machine drifts.
    """
    turns = [
        (contender, task, batch)
        for task in tasks
        for batch in batches
        for contender in contenders
        if not contender.obstacle({**facts, "task": task})
    ]
    return [(floor(facts["device"]), "floor", 1), *turns] * rounds


def race(turns: list[tuple], facts: dict, time_limit: float = 300) -> list[dict]:
    """Runs one process after the other.

    Args:
        turns: What `schedule` returns.
        facts: What all contenders share; see `worker.main`.
        time_limit: Seconds until a process is killed.

    Returns:
        A dict for each contender, task and batch: the seconds of its calls, of
        building it with the first call, and the peak memory, of all its
        processes; and why it failed. After a failure it has no further turn.
    """
    results = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for number, (contender, task, batch) in enumerate(turns, 1):
            shared = {"options": contender.options, "task": task, "batch": batch}
            result = results.setdefault(
                (contender.name, task, batch),
                {"contender": contender.name, "kind": contender.kind, **shared}
                | {name: [] for name in MEASURED}
                | {"reason": ""},
            )
            if result["reason"]:
                continue
            print(
                f"{number} of {len(turns)}: {contender.name}, {task} {batch}",
                file=sys.stderr,
            )
            environment = {
                "KERAS_BACKEND": facts["backend"],
                "KERAS_HOME": cache,  # without the user's settings
                "OMP_NUM_THREADS": str(facts["threads"]),
                "TF_ENABLE_ONEDNN_OPTS": "1",
                "TORCHINDUCTOR_CACHE_DIR": cache,  # without what was compiled before
            }
            answer = ask(
                [
                    "worker.py",
                    json.dumps({**facts, **shared, "maker": contender.maker}),
                ],
                environment | contender.environment,
                time_limit,
            )
            result["reason"] = answer.get("reason", "")
            for name in MEASURED:
                result[name] += answer.get(name, [])
    return list(results.values())


def ask(command: list[str], environment: dict, time_limit: float = 300) -> dict:
    """The JSON on the last line of what a script prints, or the reason why not.

    Args:
        command: A script of this folder and its arguments.
        environment: Added to the environment of this process.
        time_limit: Seconds until it is killed with all that it has started.
    """
    with subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=time_limit)
        except subprocess.TimeoutExpired:
            return {"reason": f"took longer than {time_limit:g} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):  # killed for lack of memory, for example
        message = (err.strip().splitlines() or [""])[-1]
        return {
            "reason": f"ended with code {process.returncode} {message}".strip()[:300]
        }


def describe_machine(device_name: str) -> dict:
    """What the times depend on besides the networks."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    flags = facts.get("flags", facts.get("Features", "")).split()
    vectors = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return {
        "processor": facts.get("model name") or platform.machine(),
        "vectors": next((vectors[flag] for flag in vectors if flag in flags), ""),
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "accelerator": device_name,
    }


def count_processors() -> int:
    """Number of processors that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()


def versions() -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="resnext50_32x4d")
    parser.add_argument(
        "--peers", nargs="+", default=["all"], choices=("all", "none", *PEERS)
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--size", type=int, default=0, help="pixels; the network's own")
    parser.add_argument("--train", action="store_true", help="training steps too")
    parser.add_argument(
        "--backend", default="tensorflow", choices=("tensorflow", "jax", "torch")
    )
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bfloat16")
    )
    parser.add_argument("--cpu", action="store_true", help="hide the GPU")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--calls", type=int, default=5, help="at least, a turn")
    parser.add_argument("--time-limit", type=float, default=300, help="seconds a turn")
    parser.add_argument("--json", type=Path, help="a new file for all times")
    options = parser.parse_args(arguments)
    if options.json and (options.json.exists() or not options.json.parent.is_dir()):
        parser.error(
            f"--json: Expected a new file in a folder. Received: {options.json}"
        )
    return options


def main(
    arguments: list[str] | None = None, contenders: Iterable[Contender] = CONTENDERS
) -> None:
    """Prints Markdown tables, and writes all times as JSON."""
    options = parse_arguments(arguments)
    if options.cpu:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    network = ask(
        ["ours.py", options.model, str(options.size)],
        {"KERAS_BACKEND": options.backend},
    )
    if "reason" in network:
        sys.exit(f"{options.model} on {options.backend} {network['reason']}")
    facts = {
        **network,
        "backend": options.backend,
        "precision": options.precision,
        "threads": count_processors(),
        "calls": options.calls,
        "seconds": 2,
    }
    entrants = []
    for contender in contenders:
        is_chosen = contender.name in options.peers or "all" in options.peers
        if contender.kind != "ours" and not is_chosen:
            continue
        if obstacle := contender.obstacle(facts):
            print(f"Left out: {contender.name}, which {obstacle}", file=sys.stderr)
        else:
            entrants.append(contender)
    tasks = ("predict", "train") if options.train else ("predict",)
    turns = schedule(entrants, facts, tasks, options.batch, options.rounds)
    report = {
        **facts,
        "rounds": options.rounds,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(
            ["python", "benchmarks/run.py", *(arguments or sys.argv[1:])]
        ),
        "machine": describe_machine(network["device_name"]),
        "versions": versions(),
        "results": race(turns, facts, options.time_limit),
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


if __name__ == "__main__":
    main()

"""Times this package's networks beside their peers, on this machine.

python benchmarks/run.py --precision float32 bfloat16 --batch 1 8 --train
"""

import argparse
import contextlib
import datetime
import importlib.util
import itertools
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from tables import agreement_line, draw, markdown

HERE = Path(__file__).parent

PACKAGES = (
    *("keras", "tensorflow", "jax", "numpy", "onnxruntime", "openvino"),
    *("torch", "torchvision", "timm", "keras-applications", "tf-keras"),
)

BACKENDS = ("tensorflow", "jax", "torch")

PRECISIONS = ("float32", "bfloat16", "float16", "tf32")
ON_GPU = ("float16", "tf32")
"""Precisions that processors do not have, or that frameworks compute slowly there."""

TOLERANCES = {"logits": 1e-4, "gradients": 5e-3}
"""Largest relative errors beside torch in float32."""

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
PREDICTOR = {"precision": ("float32", "bfloat16")}
ON_TENSORFLOW = {"backend": ("tensorflow",)}
PREDICT, TRAIN = {"task": ("predict",)}, {"task": ("train",)}
RUNTIME = {**PREDICT, **CPU}
WITHOUT_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
ONNX = ("onnxruntime", "onnx", "tf2onnx")
TORCH = ("torch", "torchvision")
KERAS_APPLICATIONS = {"model": ("resnext50_32x4d", "resnext101_32x4d"), **FLOAT32}

CONTENDERS = (
    ours("ours"),
    ours(
        "ours-without-onednn",
        environment=WITHOUT_ONEDNN,
        **CPU,
        **FLOAT32,
        **ON_TENSORFLOW,
    ),
    ours("ours-jit-compile", jit_compile=True, **TRAIN, **FLOAT32, **ON_TENSORFLOW),
    ours("ours-torch-compile", jit_compile=True, backend=("torch",)),
    ours("predictor-tensorflow", "tensorflow", **PREDICT, **PREDICTOR, **ON_TENSORFLOW),
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
        "torch-channels-last-compile",
        "torch",
        "torch_model",
        TORCH,
        channels_last=True,
        compiled=True,
    ),
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
    precisions: Iterable[str],
    rounds: int,
) -> list[tuple[Contender, str, int, str]]:
    """The contender, task, batch and precision of each process, in order.

    Every contender has one turn a round, because the speed of a machine drifts.
    """
    turns = [
        (contender, task, batch, precision)
        for task in tasks
        for batch in batches
        for precision in precisions
        for contender in contenders
        if not contender.obstacle({**facts, "task": task, "precision": precision})
    ]
    floors = [(floor(facts["device"]), "floor", 1, p) for p in precisions]
    return [*floors, *turns] * rounds


def race(turns: list[tuple], facts: dict, time_limit: float = 300) -> list[dict]:
    """Runs one process after the other.

    Args:
        turns: What `schedule` returns.
        facts: What all contenders share; see `worker.main`.
        time_limit: Seconds until a process is killed.

    Returns:
        A dict for each contender, task, batch and precision: the seconds of its
        calls, of building it with the first call, and the peak memory, of all its
        processes; and why it failed. After a failure it has no further turn.
    """
    results = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for number, (contender, *case) in enumerate(turns, 1):
            case = dict(zip(("task", "batch", "precision"), case, strict=True))
            result = results.setdefault(
                (contender.name, *case.values()),
                {"contender": contender.name, "kind": contender.kind}
                | {"options": contender.options, **case}
                | {name: [] for name in MEASURED}
                | {"reason": ""},
            )
            if result["reason"]:
                continue
            place = f"{number} of {len(turns)}: {contender.name}"
            print(place, *case.values(), sep=", ", file=sys.stderr)
            answer = ask_worker(contender, {**facts, **case}, cache, time_limit)
            result["reason"] = answer.get("reason", "")
            for name in MEASURED:
                result[name] += answer.get(name, [])
    return list(results.values())


def compare(facts: dict, time_limit: float = 300, ours: str = "ours:agreement") -> dict:
    """Compares our network with torch's of the same random weights, on this device.

    Args:
        facts: As for `race`.
        time_limit: Seconds until a process is killed.
        ours: The worker's module and function that compare.

    Returns:
        The library, the relative errors of logits and gradients, and the variable
        with the largest; or the reason why they were not compared.

    Raises:
        RuntimeError: There is an error above its tolerance.
    """
    case = {"task": "check", "batch": 8, "precision": "float32"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        where = {"folder": folder}
        reference = peer("reference", "torch", "reference", TORCH, **where)
        if obstacle := reference.obstacle(facts):
            return {"reason": obstacle}
        found = ask_worker(reference, {**facts, **case}, folder, time_limit)
        if "reason" in found:
            return found
        agreement = Contender("ours", "ours", ours, where)
        found |= ask_worker(agreement, {**facts, **case}, folder, time_limit)
    if "reason" in found:
        return found
    # Written so that NaN is an error too.
    if not all(found[name] <= most for name, most in TOLERANCES.items()):
        limits = " and ".join(map("{:g}".format, TOLERANCES.values()))
        raise RuntimeError(f"expected at most {limits}. {agreement_line(found)}")
    return found


def ask_worker(
    contender: Contender, facts: dict, cache: str, time_limit: float = 300
) -> dict:
    """What worker.py answers; `cache` is a folder for what frameworks store."""
    environment = {
        "KERAS_BACKEND": facts["backend"],
        "KERAS_HOME": cache,  # without the user's settings
        "OMP_NUM_THREADS": str(facts["threads"]),
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TORCHINDUCTOR_CACHE_DIR": cache,  # without what was compiled before
    }
    request = {**facts, "maker": contender.maker, "options": contender.options}
    command = ["worker.py", json.dumps(request)]
    return ask(command, environment | contender.environment, time_limit)


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
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], choices=PRECISIONS
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--size", type=int, default=0, help="pixels; the network's own")
    parser.add_argument("--train", action="store_true", help="training steps too")
    installed = next(filter(importlib.util.find_spec, BACKENDS), BACKENDS[0])
    parser.add_argument(
        "--backend",
        default=installed,
        choices=BACKENDS,
        help="of Keras, for this package's network; here %(default)s",
    )
    parser.add_argument("--cpu", action="store_true", help="hide the GPU")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each contender")
    parser.add_argument("--calls", type=int, default=5, help="at least, a turn")
    parser.add_argument("--time-limit", type=float, default=300, help="seconds a turn")
    parser.add_argument("--json", type=Path, help="a new file, not here")
    options = parser.parse_args(arguments)
    if options.json and not (options.json.parent.is_dir() and is_new(options.json)):
        parser.error(
            f"--json: Expected a new file in a folder. Received: {options.json}"
        )
    return options


def is_new(path: Path) -> bool:
    """Whether neither a .json file nor the plot beside it is there."""
    return not (path.exists() or path.with_suffix(".png").exists())


def new_file(report: dict) -> Path:
    """A new .json file in the present folder, named by date, model and device."""
    device = report["device_name"] or report["device"]
    words = report["date"], report["model"], report["backend"], device
    name = re.sub(r"[^\w-]+", "-", "-".join(words)).strip("-").lower()
    paths = (Path(f"{name}{f'-{n}' if n else ''}.json") for n in itertools.count())
    return next(filter(is_new, paths))


def main(
    arguments: list[str] | None = None, contenders: Iterable[Contender] = CONTENDERS
) -> None:
    """Prints Markdown tables, writes all times as JSON, and draws them."""
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
        "threads": count_processors(),
        "calls": options.calls,
        "seconds": 2,
    }
    precisions = options.precision
    if facts["device"] != "gpu":
        precisions = [p for p in options.precision if p not in ON_GPU]
        for precision in options.precision:
            if precision in ON_GPU:
                print(f"Left out: {precision}, which is for a GPU", file=sys.stderr)
    if not precisions:
        sys.exit("No precision is left.")
    entrants = []
    for contender in contenders:
        is_chosen = contender.name in options.peers or "all" in options.peers
        if contender.kind != "ours" and not is_chosen:
            continue
        obstacles = [contender.obstacle({**facts, "precision": p}) for p in precisions]
        if not all(obstacles):
            entrants.append(contender)
        for precision, obstacle in zip(precisions, obstacles, strict=True):
            if obstacle:
                left = f"Left out: {contender.name} in {precision}, which {obstacle}"
                print(left, file=sys.stderr)
    try:
        agreement = compare(facts, options.time_limit)
    except RuntimeError as error:
        sys.exit(f"Nothing is timed, since our network is not torch's: {error}")
    print(agreement_line(agreement), file=sys.stderr)
    tasks = ("predict", "train") if options.train else ("predict",)
    turns = schedule(entrants, facts, tasks, options.batch, precisions, options.rounds)
    report = {
        **facts,
        "rounds": options.rounds,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(
            ["python", "benchmarks/run.py", *(arguments or sys.argv[1:])]
        ),
        "machine": describe_machine(network["device_name"]),
        "versions": versions(),
        "agreement": agreement,
        "results": race(turns, facts, options.time_limit),
    }
    print(markdown(report))
    path = options.json or new_file(report)
    path.write_text(json.dumps(report, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        draw(report, path.with_suffix(".png"))
    print(f"All times: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()

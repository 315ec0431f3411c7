"""What one process of the benchmark does: builds one network and times its calls.

A folder that is a program, `python worker REQUEST`, and no part of the package
around it: importing that loads TensorFlow, which would count as memory of the
torch networks, and with torch, where it finds triton, crash the process.

A module beside this file has a function a contender, which takes the request and
the contender's options and gives a function without arguments: one prediction or
training step, which has ended when it returns.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

# Where this package lies, if it is used without being installed.
ROOT = str(Path(__file__).parents[3])
if ROOT not in sys.path:
    sys.path.insert(1, ROOT)

MOST_SECONDS = 10
"""Seconds after which no more calls follow."""


def main(request: str) -> None:
    """Prints what was measured, as JSON on the last line, or a reason.

    Args:
        request: A JSON object: `module` and `function` that make the network
            with these `options`; the `spec`, the `network` as torch_reference.py
            takes it, and its `classes`; `task`, "predict" or "train"; `batch`
            and `size` of the images; `device`, "cpu" or "gpu"; `threads`; and
            how many `calls` are counted, more while they take fewer `seconds`.
    """
    try:
        answer = measured(SimpleNamespace(**json.loads(request)))
    except Exception as error:  # Libraries raise anything at what they miss.
        lines = [line for line in str(error).splitlines() if line.strip()]
        answer = {"reason": f"{type(error).__name__}: {' '.join(lines[:1])}"[:200]}
    print()  # Libraries leave lines open.
    print(json.dumps(answer))


def measured(work):
    """Seconds of the first call, which comes with building, and of those after it."""
    make = getattr(importlib.import_module(work.module), work.function)
    call, first = timed(lambda: started(make(work, **work.options)))
    calls = []
    while len(calls) < work.calls or sum(calls) < work.seconds:
        calls.append(timed(call)[1])
        if sum(calls) > MOST_SECONDS:
            break
    return {"first": first, "calls": calls, "memory": peak_memory()}


def started(call):
    """The function, called once: what is compiled or allocated is so now."""
    call()
    return call


def timed(call):
    """What a function gives, and the seconds that it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held, None where it cannot know."""
    try:
        # Not `ru_maxrss`: on Linux that begins with the memory of the process that
        # started this one.
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


if __name__ == "__main__":
    main(sys.argv[1])

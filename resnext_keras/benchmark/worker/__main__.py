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

SLOW = 10
"""Seconds of a call that is not repeated."""


def main(request: str) -> None:
    """Prints what was measured, as JSON on the last line.

    Args:
        request: A JSON object: `module` and `function` that make the network
            with these `options`; the `spec`, the `network` as torch_reference.py
            takes it, and its `classes`; `task`, "predict" or "train"; `batch`
            and `size` of the images; `device`, "cpu" or "gpu"; `threads`; `calls`
            and `seconds` that are counted at least.
    """
    work = SimpleNamespace(**json.loads(request))
    make = getattr(importlib.import_module(work.module), work.function)
    call, first = timed(lambda: started(make(work, **work.options)))
    durations = []
    while len(durations) < work.calls or sum(durations) < work.seconds:
        durations.append(timed(call)[1])
        if durations[-1] > SLOW:
            break
    print()  # Libraries leave lines open.
    print(json.dumps({"first": first, "calls": durations, "memory": peak_memory()}))


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

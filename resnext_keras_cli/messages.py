"""Rewrites the library's error messages for the command line."""

import re

WORDS = (
    (re.compile(r"\b(\w+)=True\b"), lambda match: "--" + match[1].replace("_", "-")),
    (re.compile(r"\blist_models\(\)"), "`resnext-keras list`"),
    (re.compile(r"\blist_weights\(\)"), "`resnext-keras weights list`"),
    # No option of a command.
    (re.compile(r", or (include_top=False|None for random weights)"), ""),
    # An argument of Python may be an option or an argument of the command.
    (re.compile(r"\bReceived: (?:model|weights)="), "Received: "),
    (re.compile(r"\b(model|weights)='([^']*)'"), r"--\1 \2"),
)


# What TensorFlow writes before and after the cause of an error in a graph.
AROUND_CAUSE = re.compile(
    r"\s*$|Graph execution error|Detected at node|<stack traces|Original stack trace"
    r"|\s*File \"|\d+ root error|\s*\[\["
)


def in_one_line(error: BaseException) -> str:
    """The message of an error in one line, with its type if it is not for users."""
    lines = str(error).splitlines() or [""]
    if lines[0].startswith("Graph execution error"):
        causes = [line for line in lines if not AROUND_CAUSE.match(line)]
        lines = [causes[0].strip(), ""] if causes else lines
    is_for_users = isinstance(error, (ValueError, OSError, ImportError))
    if is_for_users and len(lines) == 1 and lines[0]:
        message = lines[0]
        for of_python, of_command in WORDS:
            message = of_python.sub(of_command, message)
        return message
    kind = type(error).__name__
    message = f"{kind}: {lines[0]}" if lines[0] else kind
    return f"{message} (--traceback shows more)"

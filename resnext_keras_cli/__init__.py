"""The command `resnext-keras`.

It is a separate package, since importing any part of the library loads Keras and its
backend. Each command imports what it needs when it runs, so that `--help` is fast.
"""

from resnext_keras_cli.main import main

__all__ = ["main"]

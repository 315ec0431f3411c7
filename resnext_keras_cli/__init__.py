"""The command `resnext-keras`.

A package beside the library, since importing anything of the library loads
TensorFlow: each command imports what it needs when it runs, so that `--help`
answers at once.
"""

from resnext_keras_cli.main import main

__all__ = ["main"]

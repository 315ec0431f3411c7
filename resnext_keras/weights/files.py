"""Until callers resolve once: the old second way to identify a file."""

from resnext_keras.weights.checkpoint import resolve


def identify(path, specs):  # until callers resolve once
    """Spec, input channels and classes of a file."""
    specs = list(specs)
    checkpoint = resolve(path, specs[0] if len(specs) == 1 else None)
    return checkpoint.spec, checkpoint.channels, checkpoint.classes

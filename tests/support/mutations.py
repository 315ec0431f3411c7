"""Spoilt copies of good weight files, and what each has to give."""

import os
import random

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import CLASSES, assert_same, build, numbers

from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError

WORDS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**63, *(2**64 - n for n in (1, 2, 8, 16))]

# What is done, and the seed of where and with what: most of hypothesis' own numbers
# would lie at the beginning.
KINDS = ("flip", "replace", "word", "copy", "insert", "delete", "cut")
mutations = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**32 - 1)), min_size=1, max_size=3
)


def mutate(data, places, steps):
    """Applies mutations at some of the places."""
    data = bytearray(data)
    for kind, seed in steps:
        rng = random.Random(seed)
        here, there = (min(int(rng.choice(places)), len(data) - 1) for _ in range(2))
        length = rng.randint(1, 16)
        if kind == "flip":
            data[here] ^= 1 << rng.randrange(8)
        elif kind == "replace":
            data[here] = rng.randrange(256)
        elif kind == "word":
            data[here : here + 8] = rng.choice(WORDS).to_bytes(8, "little")
        elif kind == "copy":
            data[here : here + length] = data[there : there + length]
        elif kind == "insert":
            data[here:here] = rng.randbytes(length)
        elif kind == "delete":
            del data[max(here, 1) : here + length]  # one byte stays
        else:
            del data[max(here, 1) :]
    return bytes(data)


class Target:
    """A network, and a file in a folder of its own that is loaded into it.

    `values` are the only numbers that may be loaded, where the format has checksums.
    """

    def __init__(self, path, spec, values=None):
        self.path, self.values = path, values
        self.model = build(spec=spec)
        self.shapes = variable_shapes(spec, 3, CLASSES)

    def loads(self, data):
        """Whether a file of these bytes loads; if not, for the one error."""
        self.path.write_bytes(data)
        before, environment = numbers(self.model), dict(os.environ)
        message = None
        try:
            with open_weights(self.path, self.shapes) as tensors:
                assign(self.model, tensors)
        except WeightsError as error:
            message = str(error)
        after = numbers(self.model)
        if message is None:
            if self.values is not None:
                assert_same(after, self.values)
            assert all(np.isfinite(value).all() for value in after.values())
        else:
            assert str(self.path) in message
            assert len(message) < 1000
            assert_same(after, before)
        assert self.path.read_bytes() == data
        assert [*self.path.parent.iterdir()] == [self.path]
        assert dict(os.environ) == environment
        return message is None


def fuzz(strategy, loads, examples, **options):
    """Whether each of so many examples loads."""
    outcomes = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(strategy)
    def run(example):
        outcomes.append(loads(example))

    run()
    return outcomes


def fuzz_mutations(whole, spoilt, target, examples, **options):
    """Loads so many spoilt copies; the good file loads before and after."""
    assert target.loads(whole)
    outcomes = fuzz(
        mutations, lambda steps: target.loads(spoilt(whole, steps)), examples, **options
    )
    assert target.loads(whole)
    # Either happens, or the changes are of the wrong kind; few pickles survive one.
    assert examples // 200 <= sum(outcomes) <= examples * 19 / 20

"""Whatever is done to the bytes of a safetensors file: the one error, or numbers."""

import numpy as np
import pytest
from mutations import Target, fuzz_mutations, mutate
from weight_files import TINY


def header_or_anywhere(whole, steps):
    header = 8 + int.from_bytes(whole[:8], "little")
    anywhere = np.linspace(0, len(whole) - 1, header).astype(int)
    return mutate(whole, np.concatenate([np.arange(header), anywhere]), steps)


def fuzz(good_weights, folder, examples, **options):
    whole = good_weights[".safetensors"].read_bytes()
    target = Target(folder.mktemp("fuzz") / "mutated.safetensors", TINY)
    fuzz_mutations(whole, header_or_anywhere, target, examples, **options)


def test_a_hundred_mutated_files(good_weights, tmp_path_factory):
    fuzz(good_weights, tmp_path_factory, 100, derandomize=True)


@pytest.mark.long
def test_a_thousand_mutated_files(good_weights, tmp_path_factory):
    fuzz(good_weights, tmp_path_factory, 1000)

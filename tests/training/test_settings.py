"""Settings of a run that have no test elsewhere."""

import pytest
from weight_files import SMALLEST

from resnext_keras.training.recipes import Recipe
from resnext_keras.training.settings import Phase, Settings


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_out_of_range_is_refused(seed):
    phases = (Phase(Recipe("", "", 1, 8, 0.1)),)
    with pytest.raises(ValueError, match=f"Expected `seed` .*Received: seed={seed}"):
        Settings("data", SMALLEST, None, phases, seed=seed)

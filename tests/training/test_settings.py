"""Settings of a run, and errors of a step, that have no test elsewhere."""

import keras
import pytest
from weight_files import SMALLEST

from resnext_keras import ResNeXt, train
from resnext_keras.training.distribution import Devices
from resnext_keras.training.recipes import Recipe
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import Batches, run_phases

PHASES = (Phase(Recipe("", "", 1, 8, 0.1)),)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"Expected `seed` .*Received: seed={seed}"):
        Settings("data", SMALLEST, None, PHASES, seed=seed)


def test_changes_of_a_recipe_may_name_every_field(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `epochs` of a recipe .*epochs=0"):
        train(tmp_path, tmp_path / "run", SMALLEST, recipe_changes={"epochs": 0})


def test_only_errors_of_memory_are_said_to_be_such(tmp_path, monkeypatch):
    def fit(*_, **__):
        raise ValueError("bedroom/1.jpg")

    monkeypatch.setattr(keras.Model, "fit", fit)
    network = ResNeXt(SMALLEST, weights=None, classes=2, classifier_activation=None)
    batches = Batches(lambda phase, first_step: None, None, lambda phase: 1)
    settings = Settings("data", SMALLEST, None, PHASES)
    with pytest.raises(ValueError, match=r"^bedroom"):
        run_phases(network, settings, batches, tmp_path, devices=Devices())

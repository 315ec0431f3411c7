"""Recipes have the numbers of their sources, and wrong values are refused."""

import dataclasses
import json

import pytest
from command import error_of, row_of, run
from weight_files import SMALLEST

import resnext_keras as rk
from resnext_keras.models.specs import get_spec
from resnext_keras.training.recipes import (
    RECIPES,
    Recipe,
    adjusted,
    all_changes,
    field_meanings,
    get_recipe,
)
from resnext_keras.training.settings import PRECISIONS, Phase, Settings, finetune_phases

PLAIN = Recipe("plain", "nowhere", epochs=2, batch_size=8, learning_rate=0.1)

# Of ImageNet, and a batch of torchvision's command: 8 processes of 128 images.
IMAGES, BATCH = 1281167, 8 * 128

# Options of the command in torchvision's blog, which `source` of the recipe names.
EPOCHS, WARMUP_EPOCHS, EMA_DECAY = 600, 5, 0.99998


# What the papers and torchvision have


SOURCES = {
    # Section 4 of Xie et al., and where it names fb.resnet.torch, ResNeXt's version of
    # that: train.lua and opts.lua. The paper says that the rate falls three times.
    "paper": {
        "batch_size": 256,
        "weight_decay": 0.0001,
        "momentum": 0.9,
        "learning_rate": 0.1,
        "crop": "random_resized",
        "least_area": 0.08,
        "flip": True,
        "epochs": 100,
        "milestones": (0.3, 0.6, 0.9),
        "nesterov": True,
    },
    # Appendix A, and train.lua.
    "cifar": {
        "batch_size": 128,
        "weight_decay": 0.0005,
        "momentum": 0.9,
        "learning_rate": 0.1,
        "epochs": 300,
        "milestones": (150 / 300, 225 / 300),
        "crop": "pad",  # 4 pixels of 32
        "flip": True,
        "nesterov": True,
    },
    "torchvision2": {
        "batch_size": BATCH,
        "weight_decay": 0.00002,
        "norm_weight_decay": False,
        "momentum": 0.9,
        "learning_rate": 0.5,
        "epochs": EPOCHS,
        "warmup": WARMUP_EPOCHS / EPOCHS,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "augment": "trivial",
        "random_erase": 0.1,
        "crop": "random_resized",
        "least_area": 0.08,
        "train_size": 176,
        "flip": True,
        # Its script averages each 32nd step, at a rate that follows batch and epochs.
        "ema_span": pytest.approx(
            EPOCHS / (1 - EMA_DECAY) / BATCH / (IMAGES // BATCH * EPOCHS), rel=0.03
        ),
    },
    # What the bundled weights were trained by: weights/digits.py. Its SGD is
    # Keras', which decays once where ours decays ten times.
    "digits": {
        "batch_size": 32,
        "weight_decay": pytest.approx(5e-4 * (1 - 0.9)),
        "momentum": 0.9,
        "learning_rate": 0.05,
        "epochs": 60,
        "warmup": 1 / 20,
        "nesterov": True,
        "crop": "center",
        "flip": False,
        "augment": "ink",
    },
}


def test_recipes_have_the_numbers_of_their_sources():
    assert RECIPES.keys() == SOURCES.keys()
    for name, values in SOURCES.items():
        recipe = dataclasses.asdict(get_recipe(name))
        assert recipe.pop("name") == name
        assert recipe.pop("source")
        numbers = {"epochs": 1, "batch_size": 1, "learning_rate": 0.1}
        defaults = dataclasses.asdict(Recipe("", "", **numbers))
        assert recipe == {key: defaults[key] for key in recipe} | values, name


def test_the_command_prints_each_field_with_its_value_and_meaning():
    fields = [field.name for field in dataclasses.fields(Recipe)]
    printed = run("recipes", "torchvision2").stdout
    assert all(line.split() for line in printed.splitlines())
    for field in fields[2:]:
        assert row_of(printed, field)
    assert row_of(printed, "cutmix")[1:4] == ["1", "Alpha", "of"]
    assert row_of(printed, "augment")[1] == "'trivial'"
    listed = run("recipes").stdout
    for recipe in rk.list_recipes():
        assert row_of(listed, recipe.name)[1] == str(recipe.epochs)
    (one, *_) = json.loads(run("recipes", "--json").stdout)
    assert list(one) == fields
    assert json.loads(run("recipes", "paper", "--json").stdout) == one
    assert "Did you mean paper?" in error_of("recipes", "papers")


def test_each_field_has_a_meaning():
    assert list(field_meanings()) == [f.name for f in dataclasses.fields(Recipe)]


# get_recipe and adjusted


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("torchvision", " Did you mean torchvision2"),
        ("Cifar", " Did you mean cifar"),
        ("nothing", ""),
        (None, ""),
    ],
)
def test_an_unknown_recipe_lists_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"paper, .*digits.{hint}.*recipe={name!r}"):
        get_recipe(name)


def test_the_learning_rate_follows_the_batch_unless_it_is_named():
    assert adjusted(PLAIN, batch_size=32).learning_rate == pytest.approx(0.4)
    assert adjusted(PLAIN, batch_size=2).learning_rate == pytest.approx(0.025)
    named = adjusted(PLAIN, batch_size=32, learning_rate=0.3)
    assert (named.batch_size, named.learning_rate) == (32, 0.3)
    assert adjusted(PLAIN, epochs=5).learning_rate == PLAIN.learning_rate
    assert adjusted(PLAIN, flip=False, mixup=0.5) == dataclasses.replace(
        PLAIN, flip=False, mixup=0.5
    )


def test_arguments_of_none_are_not_changes_but_values_of_recipe_changes_are():
    changes = all_changes({"train_size": None}, epochs=None, batch_size=16)
    assert changes == {"train_size": None, "batch_size": 16}
    assert adjusted(RECIPES["torchvision2"], **changes).train_size is None
    (head, _) = finetune_phases(SMALLEST, **all_changes({"mixup": 0.1}, epochs=None))
    assert head.recipe.mixup == 0.1


def test_an_unknown_field_lists_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean mixup\?.*mixupp=0.2"):
        adjusted(PLAIN, mixupp=0.2)


# Ranges

WRONG = {
    "epochs": [0, 2.5, "2", True],
    "batch_size": [0, 8.5, "eight"],
    "learning_rate": [0, -0.1, float("nan"), float("inf"), "0.1"],
    "milestones": [(0.5, 0.2), (1.0,), (-0.1,), 0.5, ("a",), ""],
    "warmup": [1, -0.1, "x"],
    "momentum": [1.0, -0.9],
    "nesterov": [1, "yes"],
    "weight_decay": [-1e-4, float("inf"), "x"],
    "norm_weight_decay": [0],
    "label_smoothing": [1.0, -0.1],
    "mixup": [-0.2],
    "cutmix": [-1.0],
    "crop": ["middle", ""],
    "least_area": [0.0, 1.1],
    "flip": ["no"],
    "augment": ["auto"],
    "random_erase": [1.0],
    "ema_span": [1.0, -0.1],
    "train_size": [0, 176.5, "176"],
    "drop_path": [1.0],
}


@pytest.mark.parametrize("field", WRONG)
def test_a_value_outside_its_range_is_refused(field):
    for value in WRONG[field]:
        with pytest.raises(ValueError, match=f"Expected `{field}` of .*{field}="):
            dataclasses.replace(PLAIN, **{field: value})
    if field == "batch_size":  # is refused before the learning rate follows it
        with pytest.raises(ValueError, match=r"Expected `batch_size`.*'eight'"):
            adjusted(PLAIN, batch_size="eight")


def test_every_field_with_a_range_is_tried():
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert names - WRONG.keys() == {"name", "source"}


# Settings


def settings(recipe=PLAIN, **options):
    return Settings("data", SMALLEST, None, (Phase(recipe, "conv2"),), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "`accumulate` to be a positive integer.*accumulate=0"),
        ({"accumulate": 3}, "`accumulate` to divide the batch of 8 .*accumulate=3"),
        ({"steps_per_execution": 0}, "steps_per_execution=0"),
        ({"precision": "float16"}, "one of float32, mixed_bfloat16.*='float16'"),
        ({"validation_split": 0}, "between 0 and 1.*validation_split=0"),
        ({"validation_split": 1.0}, "between 0 and 1.*validation_split=1.0"),
        ({"seed": -1}, "`seed` to be an integer from 0 .*seed=-1"),
        ({"seed": 2**32}, "`seed` to be an integer from 0 .*seed=4294967296"),
        ({"seed": 0.5}, "`seed` to be an integer from 0 .*seed=0.5"),
        ({"size": 31}, "`size` to be at least 32 pixels.*size=31"),
        ({"size": "64"}, "`size` to be a positive integer.*size='64'"),
        (
            {"recipe": dataclasses.replace(PLAIN, train_size=16)},
            "`train_size` to be at least 32 pixels.*train_size=16",
        ),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        settings(**options)


def test_settings_are_complete_as_json():
    one = settings(accumulate=4, size=32, precision=PRECISIONS[1])
    assert one.step_size(one.phases[0]) == 2
    content = json.loads(json.dumps(one.as_dict()))
    assert content["phases"][0]["recipe"]["learning_rate"] == PLAIN.learning_rate
    assert content["phases"][0]["frozen"] == "conv2"
    assert content["spec"]["name"] == SMALLEST.name
    assert content["precision"] == "mixed_bfloat16"
    assert content.keys() == {field.name for field in dataclasses.fields(Settings)}


def test_fine_tuning_trains_a_classifier_then_two_stages_at_a_tenth_of_the_rate():
    head, stages = finetune_phases(
        get_spec("resnext50_32x4d"), epochs=10, learning_rate=0.2
    )
    assert (head.frozen, stages.frozen) == ("conv5", "conv3")
    assert (head.recipe.epochs, stages.recipe.epochs) == (4, 6)
    assert head.recipe.learning_rate == 0.2
    assert stages.recipe.learning_rate == pytest.approx(0.02)
    head, stages = finetune_phases(get_spec("resnext50_32x4d"))
    rate = head.recipe.learning_rate / 10
    assert stages.recipe.learning_rate == pytest.approx(rate)
    (only,) = finetune_phases(get_spec("resnext29_8x64d"), epochs=1)
    assert only.frozen == "conv4"


def test_the_average_spans_a_share_of_the_steps():
    recipe = dataclasses.replace(PLAIN, ema_span=0.04)
    assert recipe.ema_decay(1000) == pytest.approx(1 - 1 / 40)
    assert recipe.ema_decay(10) == 0  # less than a step: the last weights

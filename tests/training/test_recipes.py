"""Recipes have the numbers of what they name, and wrong ones are refused."""

import dataclasses
import json

import pytest
from weight_files import SMALLEST

from resnext_keras.models.specs import get_spec
from resnext_keras.training.recipes import (
    FINETUNE_HEAD,
    FINETUNE_STAGES,
    RECIPES,
    Recipe,
    adjusted,
    get_recipe,
)
from resnext_keras.training.settings import PRECISIONS, Phase, Settings, finetune_phases

PLAIN = Recipe("plain", "nowhere", epochs=2, batch_size=8, learning_rate=0.1)

# Of ImageNet, and a batch of torchvision's command: 8 processes of 128 images.
IMAGES, BATCH = 1281167, 8 * 128

# Options of the command in torchvision's blog, which `source` of the recipe names.
COMMAND = {
    "lr": 0.5,
    "epochs": 600,
    "lr_warmup_epochs": 5,
    "weight_decay": 0.00002,
    "norm_weight_decay": 0.0,
    "label_smoothing": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "auto_augment": "ta_wide",
    "random_erase": 0.1,
    "train_crop_size": 176,
    "model_ema_decay": 0.99998,  # its script's defaults, as are those below
    "model_ema_steps": 32,
    "lr_warmup_decay": 0.01,
    "momentum": 0.9,
}


def fields(recipe, *names):
    return {name: getattr(recipe, name) for name in names}


# What the papers and torchvision have


def test_the_paper_is_xie_et_al_on_imagenet():
    """Section 4, and where it names fb.resnet.torch, ResNeXt's version of that."""
    recipe = get_recipe("paper")
    assert dataclasses.asdict(recipe) == dataclasses.asdict(
        Recipe(
            name="paper",
            source=recipe.source,
            batch_size=256,
            weight_decay=0.0001,
            momentum=0.9,
            learning_rate=0.1,
            crop="random_resized",
            least_area=0.08,
            flip=True,
            # train.lua and opts.lua: "three times", of which the paper speaks.
            epochs=100,
            milestones=(0.3, 0.6, 0.9),
            nesterov=True,
        )
    )


def test_cifar_is_xie_et_al_on_cifar():
    """Appendix A, and where it names fb.resnet.torch, ResNeXt's version of that."""
    recipe = get_recipe("cifar")
    assert dataclasses.asdict(recipe) == dataclasses.asdict(
        Recipe(
            name="cifar",
            source=recipe.source,
            batch_size=128,
            weight_decay=0.0005,
            momentum=0.9,
            learning_rate=0.1,
            epochs=300,
            milestones=(150 / 300, 225 / 300),
            crop="pad",  # 4 pixels of 32
            flip=True,
            nesterov=True,  # train.lua
        )
    )


def test_torchvision2_is_torchvisions_command():
    recipe = get_recipe("torchvision2")
    assert fields(
        recipe, "epochs", "learning_rate", "weight_decay", "momentum", "batch_size"
    ) == {
        "epochs": COMMAND["epochs"],
        "learning_rate": COMMAND["lr"],
        "weight_decay": COMMAND["weight_decay"],
        "momentum": COMMAND["momentum"],
        "batch_size": BATCH,
    }
    assert recipe.warmup * COMMAND["epochs"] == COMMAND["lr_warmup_epochs"]
    assert recipe.norm_weight_decay is False
    assert COMMAND["norm_weight_decay"] == 0.0
    assert recipe.label_smoothing == COMMAND["label_smoothing"]
    assert recipe.mixup == COMMAND["mixup_alpha"]
    assert recipe.cutmix == COMMAND["cutmix_alpha"]
    assert recipe.augment == "trivial"
    assert COMMAND["auto_augment"] == "ta_wide"
    assert recipe.random_erase == COMMAND["random_erase"]
    assert recipe.train_size == COMMAND["train_crop_size"]
    # torchvision's steplr has milestones, its cosineannealinglr none.
    assert (recipe.milestones, recipe.nesterov) == ((), False)
    assert (recipe.crop, recipe.flip, recipe.least_area) == (
        "random_resized",
        True,
        0.08,
    )


def test_the_moving_average_of_torchvision2_spans_as_many_steps_as_torchvisions():
    """Its script averages each 32nd step, at a rate that follows batch and epochs."""
    recipe = get_recipe("torchvision2")
    every = COMMAND["model_ema_steps"]
    rate = (1 - COMMAND["model_ema_decay"]) * BATCH * every / COMMAND["epochs"]
    steps = IMAGES // BATCH * recipe.epochs
    assert recipe.ema_span * steps == pytest.approx(every / rate, rel=0.03)


def test_digits_is_what_the_bundled_weights_were_trained_by():
    """weights/train_digits.py, whose SGD is Keras': it decays once, ours ten times."""
    recipe = get_recipe("digits")
    assert fields(recipe, "epochs", "batch_size", "learning_rate", "warmup") == {
        "epochs": 60,
        "batch_size": 32,
        "learning_rate": 0.05,
        "warmup": 1 / 20,
    }
    assert (recipe.momentum, recipe.nesterov) == (0.9, True)
    assert recipe.weight_decay / (1 - recipe.momentum) == pytest.approx(5e-4)
    assert (recipe.crop, recipe.flip, recipe.augment) == ("center", False, "ink")


def test_every_recipe_has_its_own_name_and_a_source():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.source
    assert FINETUNE_STAGES.learning_rate == pytest.approx(
        FINETUNE_HEAD.learning_rate / 10
    )


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
    assert adjusted(PLAIN, batch_size=None, mixup=None) == PLAIN
    assert adjusted(PLAIN, flip=False, mixup=0.5) == dataclasses.replace(
        PLAIN, flip=False, mixup=0.5
    )


def test_an_unknown_field_lists_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean mixup\?.*mixupp=0.2"):
        adjusted(PLAIN, mixupp=0.2)


# Ranges

WRONG = {
    "epochs": [0, -1, 2.5, 2.0, "2", True],
    "batch_size": [0, 8.5, "eight", False],
    "learning_rate": [0, -0.1, float("nan"), float("inf"), "0.1"],
    "milestones": [(0.5, 0.2), (1.0,), (-0.1,), 0.5, ("a",), ""],
    "warmup": [1, -0.1, "x"],
    "momentum": [1.0, -0.9],
    "nesterov": [1, None, "yes"],
    "weight_decay": [-1e-4, float("inf"), "x"],
    "norm_weight_decay": [0],
    "label_smoothing": [1.0, -0.1],
    "mixup": [-0.2],
    "cutmix": [-1.0, None],
    "crop": ["middle", "", None],
    "least_area": [0.0, 1.1],
    "flip": ["no"],
    "augment": ["auto", None],
    "random_erase": [1.0],
    "ema_span": [1.0, -0.1],
    "train_size": [0, 176.5, "176"],
    "drop_path": [1.0],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
)
def test_a_value_outside_its_range_is_refused(field, value):
    with pytest.raises(ValueError, match=f"Expected `{field}` of .*{field}="):
        dataclasses.replace(PLAIN, **{field: value})


@pytest.mark.parametrize("batch_size", ["eight", 0, 8.5])
def test_a_batch_that_is_no_number_is_refused_before_the_rate_follows_it(batch_size):
    with pytest.raises(ValueError, match=f"Expected `batch_size`.*{batch_size!r}"):
        adjusted(PLAIN, batch_size=batch_size)


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
        ({"accumulate": 2.0}, "`accumulate` to be a positive integer.*=2.0"),
        ({"accumulate": 3}, "`accumulate` to divide the batch of 8 .*accumulate=3"),
        ({"steps_per_execution": 0}, "steps_per_execution=0"),
        ({"precision": "float16"}, "one of float32, mixed_bfloat16.*='float16'"),
        ({"validation_share": 0}, "between 0 and 1.*validation_share=0"),
        ({"validation_share": 1.0}, "between 0 and 1.*validation_share=1.0"),
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


def test_settings_say_all_that_they_are_as_json():
    one = settings(accumulate=4, size=32, precision=PRECISIONS[1])
    assert one.step_size(one.phases[0]) == 2
    found = json.loads(json.dumps(one.as_dict()))
    assert found["phases"][0]["recipe"]["learning_rate"] == PLAIN.learning_rate
    assert found["phases"][0]["frozen"] == "conv2"
    assert found["spec"]["name"] == SMALLEST.name
    assert found["precision"] == "mixed_bfloat16"
    assert found.keys() == {field.name for field in dataclasses.fields(Settings)}


def test_fine_tuning_trains_a_classifier_then_two_stages_at_a_tenth_of_the_rate():
    head, stages = finetune_phases(
        get_spec("resnext50_32x4d"), epochs=10, learning_rate=0.2
    )
    assert (head.frozen, stages.frozen) == ("conv5", "conv3")
    assert (head.recipe.epochs, stages.recipe.epochs) == (4, 6)
    assert head.recipe.learning_rate == 0.2
    assert stages.recipe.learning_rate == pytest.approx(0.02)
    (only,) = finetune_phases(get_spec("resnext29_8x64d"), epochs=1)
    assert only.frozen == "conv4"

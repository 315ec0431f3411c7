"""Training, fine-tuning and evaluation of networks of this family."""

from resnext_keras.training.evaluation import Evaluation, evaluate, open_evaluation
from resnext_keras.training.finetune import finetune_phases, starting_point
from resnext_keras.training.optimizers import SGD
from resnext_keras.training.recipes import RECIPES, Recipe, adjusted, get_recipe
from resnext_keras.training.report import report_run, write_report
from resnext_keras.training.run import Run, open_run
from resnext_keras.training.settings import Phase, Settings
from resnext_keras.training.trainer import train

__all__ = [
    "RECIPES",
    "SGD",
    "Evaluation",
    "Phase",
    "Recipe",
    "Run",
    "Settings",
    "adjusted",
    "evaluate",
    "finetune_phases",
    "get_recipe",
    "open_evaluation",
    "open_run",
    "report_run",
    "starting_point",
    "train",
    "write_report",
]

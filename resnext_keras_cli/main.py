"""The group of all commands, which prints each error in one line."""

import warnings

import click

from resnext_keras_cli.demo import demo
from resnext_keras_cli.evaluate import evaluate
from resnext_keras_cli.explain import explain
from resnext_keras_cli.export import export
from resnext_keras_cli.extract import extract
from resnext_keras_cli.finetune import finetune
from resnext_keras_cli.listing import list_
from resnext_keras_cli.messages import in_one_line
from resnext_keras_cli.options import examples
from resnext_keras_cli.predict import predict
from resnext_keras_cli.push import push
from resnext_keras_cli.recipes import recipes
from resnext_keras_cli.search import search
from resnext_keras_cli.start import print_progress, ready_streams
from resnext_keras_cli.summary import summary
from resnext_keras_cli.train import train
from resnext_keras_cli.weights import weights


class ErrorsInOneLine(click.Group):
    """Prints any error of a command in one line, unless --traceback is given."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:  # as with `| head`; click then exits silently
            raise
        except Exception as error:
            if ctx.meta.get("traceback"):
                raise
            raise click.ClickException(in_one_line(error)) from error


def _keep_traceback(ctx, _, value):
    ctx.meta["traceback"] = ctx.meta.get("traceback", False) or value


TRACEBACK = click.Option(
    ["--traceback"],
    is_flag=True,
    expose_value=False,
    callback=_keep_traceback,
    help="Show the traceback of an error.",
)


@click.group(
    cls=ErrorsInOneLine,
    params=[TRACEBACK],
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("demo", "predict cat.jpg", "finetune flowers/ -o flowers-run"),
)
@click.version_option(package_name="resnext-keras")
def group():
    """Classify images, extract features, train and export with ResNeXt networks."""


for command in (
    demo,
    predict,
    explain,
    extract,
    search,
    finetune,
    train,
    evaluate,
    summary,
    list_,
    recipes,
    export,
    push,
    weights,
):
    group.add_command(command)
    leaves = getattr(command, "commands", {}).values()
    for leaf in leaves or [command]:
        leaf.params.append(TRACEBACK)
    for one in (command, *leaves):
        # Otherwise click cuts it with "..." to one line of the terminal.
        one.short_help = one.help.partition("\n\n")[0]


def main():
    """Runs the command line."""
    ready_streams()
    print_progress()
    warnings.formatwarning = lambda message, *_: f"Warning: {message}\n"
    group(prog_name="resnext-keras")
